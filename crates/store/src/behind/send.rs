//! Sends what waits.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dcbuild_model::BlobDigest;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::queue::Item;
use super::{Backlog, Behind, GLIMPSE, Policy, story};
use crate::{BlobStore as _, ByteRange, StoreError};

/// How much is sent at once; of each blob the far store has a bounded number of bytes under way.
const SENT_AT_ONCE: usize = 8;
/// The pauses of a far store that fails.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long one that has answered, and fails now, has to do better before it is taken for dead, and how often it is asked.
const REVIVAL: Duration = Duration::from_secs(1);
const REVIVAL_PAUSE: Duration = Duration::from_millis(200);

/// An object that need not be there.
const PROBE: &str = "check/alive";

/// Whoever waits for what is under way waits no longer than it is.
struct Stopped<'a>(&'a Behind);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.queue().stop_sending();
        self.0.inner.ended.notify_waiters();
    }
}

/// How a try ended.
type Ended = (u64, Result<(), StoreError>);

impl Behind {
    /// Sends one blob; one that the folder lost, or never had whole, is not waited for any more.
    pub(super) async fn send_blob(&self, blob: &BlobDigest) -> Result<(), StoreError> {
        let content = match self.inner.folder.get(blob, ByteRange::ALL).await {
            Ok(content) => content,
            Err(error) if error.is_miss() => {
                lost(blob);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match self.inner.far.blobs.put(blob, content).await {
            Ok(_) => Ok(()),
            Err(StoreError::DigestMismatch { .. } | StoreError::Corrupt { .. }) => {
                lost(blob);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn send_item(&self, number: u64, item: Item) -> Ended {
        let sent = match &item {
            Item::Blob(blob, _) => self.send_blob(blob).await,
            Item::Document(name, bytes) => self.inner.far.objects.put(name, bytes.clone()).await,
        };
        (number, sent)
    }

    /// Sends what waits and what comes, until `stop` is cancelled; what is under way then is dropped whole. Finds out
    /// whether a far store that could not be read can be read again, also where nothing is ever sent.
    pub async fn send(&self, stop: CancellationToken) {
        let sends = self.inner.policy != Policy::Never;
        let _stopped = Stopped(self);
        let mut sending = FuturesUnordered::new();
        let (mut pause, mut rest) = (PAUSE_FIRST, None);
        loop {
            // One thing at a time finds out whether a store that failed does better.
            let at_once = if self.is_failing() { 1 } else { SENT_AT_ONCE };
            // What is sent leaves the folder: not for a store that takes blobs and gives none back.
            let sends = sends && !self.is_blind();
            while sends && rest.is_none() && sending.len() < at_once {
                let Some((number, item)) = self.queue().take() else { break };
                sending.push(self.send_item(number, item));
            }
            let ails = self.is_unreadable() || self.is_blind();
            if rest.is_none() && sending.is_empty() && ails {
                let again = tokio::select! {
                    () = stop.cancelled() => return,
                    again = self.probe() => again,
                };
                if again {
                    continue;
                }
                rest = Some(Instant::now() + pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some((number, sent)) = sending.next() => match sent {
                    Ok(()) => {
                        pause = PAUSE_FIRST;
                        self.sent(number).await;
                    }
                    Err(error) => {
                        self.queue().end(number, false);
                        self.inner.ended.notify_waiters();
                        self.write_failed(&error);
                        rest = Some(Instant::now() + pause);
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                },
                () = at(rest), if rest.is_some() => rest = None,
                () = self.inner.came.notified() => {}
            }
        }
    }

    /// Asks for something small, to see whether a store that nothing waits for can be read again.
    async fn probe(&self) -> bool {
        let alive = match self.ask_for_blob().await {
            Ok(()) => self.ask_alive().await,
            Err(error) => Err(error),
        };
        match alive {
            Ok(()) => {
                self.reads_again();
                true
            }
            Err(error) => {
                self.read_failed(&error);
                false
            }
        }
    }

    /// Whether the far store answers at all.
    pub(super) async fn ask_alive(&self) -> Result<(), StoreError> {
        let name = PROBE.parse().map_err(|source| StoreError::Name { source })?;
        self.inner.far.objects.get(&name, 1 << 10).await.map(drop)
    }

    /// Whether the far store gives the blob that it would not give, or says at least that it has it no more; or gives
    /// another, so that the one is a trouble by itself.
    async fn ask_for_blob(&self) -> Result<(), StoreError> {
        let (suspect, had) = {
            let sight = self.sight();
            (sight.suspect, sight.had.clone())
        };
        let Some(suspect) = suspect else { return Ok(()) };
        let mut asked = self.ask_for(&suspect).await;
        if asked.is_err() {
            match had.iter().find(|blob| **blob != suspect) {
                Some(other) if self.ask_for(other).await.is_ok() => asked = Ok(()),
                // Of a store that nothing is known of it is not said.
                None if had.is_empty() => asked = Ok(()),
                Some(_) | None => {}
            }
        }
        if asked.is_ok() {
            let mut sight = self.sight();
            sight.suspect = sight.suspect.filter(|now| *now != suspect);
        }
        asked
    }

    async fn ask_for(&self, blob: &BlobDigest) -> Result<(), StoreError> {
        let first = ByteRange::new(0, 1);
        let read = async { self.inner.far.blobs.get(blob, first).await?.try_next().await };
        match read.await {
            Err(error) if !error.is_miss() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Asks the far store for something small before anybody needs it, so that what is wrong with it is told at once.
    pub async fn greet(&self) {
        if let Err(error) = self.ask_alive().await {
            self.read_failed(&error);
        } else {
            self.answers();
        }
    }

    /// Begins with a store that gave an earlier process no answer a moment ago: one that does not answer at once is taken
    /// for empty until it does, and nobody waits for it.
    pub async fn doubt(&self) {
        self.inner.doubted.store(true, Ordering::Relaxed);
        match timeout(GLIMPSE, self.ask_alive()).await {
            Ok(Ok(())) => self.answers(),
            Ok(Err(error)) => self.read_failed(&error),
            Err(_late) => {
                let source = "it gave no answer a moment ago, and gives none now".into();
                let store = self.inner.far.name.clone();
                self.read_failed(&StoreError::Unavailable { store, source });
            }
        }
    }

    /// Whether a store that fails answers something at least: one that has done so before gets a moment for it.
    async fn is_alive(&self) -> bool {
        if self.given_up_on() {
            return false;
        }
        if !self.inner.answered.load(Ordering::Relaxed) {
            return self.ask_alive().await.is_ok();
        }
        let until = Instant::now() + REVIVAL;
        loop {
            match timeout(REVIVAL, self.ask_alive()).await {
                Ok(Ok(())) => return true,
                Ok(Err(_)) if Instant::now() + REVIVAL_PAUSE < until => sleep(REVIVAL_PAUSE).await,
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }

    async fn sent(&self, number: u64) {
        let item = self.queue().end(number, true);
        self.inner.ended.notify_waiters();
        if let Some(item) = &item {
            if let Err(error) = self.note(item) {
                tracing::warn!(error = story(&error), "what was sent will be sent again");
            }
            if let Item::Blob(blob, _) = item {
                self.sight().has(blob);
            }
            if let (Item::Blob(blob, _), Policy::Failing) = (item, self.inner.policy) {
                self.remove(blob).await;
            }
        }
        self.tell(Some(item.map_or(0, |item| item.bytes())));
    }

    /// Waits until nothing waits any more, or the far store has failed for so long; says what is left. For one that is
    /// dead or silent, or that somebody has to look after, nobody waits.
    pub async fn drained(&self, patience: Duration) -> Backlog {
        if self.inner.policy == Policy::Never {
            return Backlog::default();
        }
        let mut backlog = self.backlog();
        loop {
            let now = backlog.borrow_and_update().clone();
            if now.items == 0 {
                return now;
            }
            let fails = now.failure.is_some();
            if now.needs_hand || (fails && !self.is_alive().await) {
                return self.inner.backlog.borrow().clone();
            }
            let turned = |it: &Backlog| it.items == 0 || it.failure.is_some() != fails;
            let turn = backlog.wait_for(turned);
            let turned = if fails {
                timeout(patience, turn).await.is_ok_and(|turn| turn.is_ok())
            } else {
                turn.await.is_ok()
            };
            if !turned {
                return self.inner.backlog.borrow().clone();
            }
        }
    }
}

fn lost(blob: &BlobDigest) {
    tracing::warn!(%blob, "a blob was lost before it was sent; who needs it makes it again");
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

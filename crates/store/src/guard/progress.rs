//! Deadlines that a request which gets on does not meet.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a try may be silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Until it ends, or its first bytes move.
    pub first: Duration,
    /// From then on, until it ends or further bytes move.
    pub stall: Duration,
    /// Whether it is asked once more while nothing has come.
    pub hedge: Hedge,
}

/// What is done while a request is silent: its connection may be lost, and no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hedge {
    /// It is waited for.
    Never,
    /// After half of the time it is made a second time beside the first, and the first answer counts.
    Once,
}

impl Patience {
    /// For requests that are small both ways.
    pub const SMALL: Patience = Patience {
        first: Duration::from_secs(2),
        stall: Duration::from_secs(2),
        hedge: Hedge::Never,
    };

    /// For reads, of whatever size.
    pub const READ: Patience = Patience {
        first: Duration::from_secs(2),
        stall: Duration::from_secs(10),
        hedge: Hedge::Once,
    };

    /// For requests that move bulk bytes: the machine's own buffers take some of them long before the store does.
    pub const BULK: Patience = Patience {
        first: Duration::from_secs(2),
        stall: Duration::from_secs(10),
        hedge: Hedge::Never,
    };

    /// For requests with which the store itself has much to do.
    pub const SLOW: Patience = Patience {
        first: Duration::from_secs(30),
        stall: Duration::from_secs(30),
        hedge: Hedge::Never,
    };

    /// The same for a request that may be silent for longer.
    #[must_use]
    pub fn and(self, longer: Duration) -> Patience {
        let (first, stall) = (self.first + longer, self.stall + longer);
        Patience { first, stall, ..self }
    }
}

/// Tells the guard that a request gets on; clones are the same request's.
#[derive(Clone, Debug)]
pub struct Progress {
    own: Arc<Mutex<Option<Moved>>>,
    /// Of all requests of the guard.
    all: Moment,
    /// From when on bytes that move are the store's doing, and not those that this machine's buffers took.
    counts_from: Instant,
}

/// So long the machine's own buffers may take what is written.
const BUFFERED: Duration = Duration::from_millis(500);

/// When bytes of one request have moved.
#[derive(Clone, Copy, Debug)]
struct Moved {
    first: Instant,
    last: Instant,
}

/// When bytes have moved last.
pub(super) type Moment = Arc<Mutex<Option<Instant>>>;

/// What a moment says.
pub(super) fn last(moment: &Moment) -> Option<Instant> {
    *moment.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    pub(super) fn new(all: &Moment, patience: Patience) -> Progress {
        let now = Instant::now();
        let counts_from = match patience.hedge {
            Hedge::Once => now,
            Hedge::Never => now + BUFFERED,
        };
        Progress { own: Arc::default(), all: all.clone(), counts_from }
    }

    /// Bytes have moved just now.
    pub fn made(&self) {
        let now = Instant::now();
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let first = own.map_or(now, |moved| moved.first);
        *own = Some(Moved { first, last: now });
        if now >= self.counts_from {
            *self.all.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
    }

    fn moved(&self) -> Option<Moved> {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the first bytes moved.
    pub(super) fn first(&self) -> Option<Instant> {
        self.moved().map(|moved| moved.first)
    }

    fn last(&self) -> Option<Instant> {
        self.moved().map(|moved| moved.last)
    }
}

/// A store that others found to be silent: whoever waits for it waits no longer than this.
pub(super) type Silent = watch::Receiver<Option<Duration>>;

/// Waits for work as long as it gets on; fails with the limit that it met.
pub(super) async fn watched<T>(
    work: impl Future<Output = T>,
    progress: &Progress,
    patience: Patience,
    mut silent: Silent,
) -> Result<T, Duration> {
    let began = Instant::now();
    let mut work = std::pin::pin!(work);
    loop {
        let (since, limit) = match progress.last() {
            None => (began, patience.first),
            Some(last) => (last, patience.stall),
        };
        let limit = silent.borrow_and_update().map_or(limit, |quick| limit.min(quick));
        let until = since + limit;
        if until <= Instant::now() {
            return Err(limit);
        }
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = sleep_until(until) => {}
            Ok(()) = silent.changed() => {}
        }
    }
}

/// Does work, and does it a second time beside that if it has not ended by then and `may` allows it.
pub(super) async fn hedged<T, W: Future<Output = T>>(
    work: impl Fn() -> W,
    after: Duration,
    may: impl FnOnce() -> bool,
) -> T {
    let mut first = std::pin::pin!(work());
    tokio::select! {
        biased;
        done = &mut first => return done,
        () = sleep(after) => {}
    }
    if !may() {
        return first.await;
    }
    tokio::select! {
        done = first => done,
        done = work() => done,
    }
}

//! A far store that nobody waits for: what is written lies in a folder, and goes there behind the writer's back.
//!
//! Documents go behind the blobs that were held when they came, so whoever finds a record in the far store finds its
//! blobs there too. What could not be sent is noted on disk, and sent by the next process. A far store that fails is
//! asked now and then whether it does better.

mod disk;
mod documents;
mod queue;
mod send;

use std::collections::HashSet;
use std::mem::Discriminant;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcbuild_model::BlobDigest;
use futures::StreamExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use self::disk::Disk;
use self::queue::{Item, Queue};
use crate::{
    BlobStore, BlobStream, ByteRange, FolderStore, Grant, Grants, Objects, StoreError, WriteGrant,
    Written,
};

/// More bytes than these do not wait: who writes then is told that the store failed.
const HELD_BYTES_MAX: u64 = 32 << 30;

/// Granted writes that are remembered.
const GRANTED_MAX: usize = 10_000;

/// How long a writer waits for a far store that may do well: what takes longer goes there behind its back.
const HURRY: Duration = Duration::from_millis(1_200);
/// A writer who has waited for so long has the store asked for something small as well: one that answers is busy with what is
/// written, one that does not is silent, and nobody need wait for it.
const DOUBTED: Duration = Duration::from_millis(150);
/// How long a store is waited for at all that was silent a moment ago.
const GLIMPSE: Duration = Duration::from_millis(300);
/// What is longer may take its time, as long as it gets on.
const HURRIED_BYTES_MAX: u64 = 1 << 20;

/// When something is kept in the folder instead of being sent at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// While the far store fails; the folder is this store's own, and what was sent leaves it.
    Failing,
    /// Always: nobody waits. The folder is others' too, and keeps what was sent.
    Always,
    /// For good: nothing is sent at all.
    Never,
}

/// What the far store can do.
#[derive(Clone)]
pub struct Far {
    /// As messages name it.
    pub name: String,
    /// Its blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// Its documents.
    pub objects: Arc<dyn Objects>,
    /// Its grants, if it gives any.
    pub grants: Option<Arc<dyn Grants>>,
}

/// How far the sending is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    /// Blobs and documents that wait.
    pub items: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes that were sent so far.
    pub sent_bytes: u64,
    /// Why nothing is sent at the moment.
    pub failure: Option<String>,
    /// Whether nothing is read either: the far store is taken for empty then.
    pub unreadable: bool,
    /// Whether it goes on like this until somebody makes space or mends the configuration.
    pub needs_hand: bool,
}

/// What is known of the blobs of a far store.
#[derive(Default)]
struct Sight {
    /// The one that it would not give last.
    suspect: Option<BlobDigest>,
    /// The last ones that it gave or took.
    had: Vec<BlobDigest>,
}

impl Sight {
    /// It gave or took a blob.
    fn has(&mut self, blob: &BlobDigest) {
        if self.suspect == Some(*blob) {
            self.suspect = None;
        }
        if !self.had.contains(blob) {
            self.had.truncate(1);
            self.had.insert(0, *blob);
        }
    }
}

struct Inner {
    far: Far,
    folder: FolderStore,
    policy: Policy,
    disk: Disk,
    queue: Mutex<Queue>,
    backlog: watch::Sender<Backlog>,
    /// Something came, or what was held back may go.
    came: Notify,
    /// A document is not under way any more.
    ended: Notify,
    /// The kind of trouble that was told last.
    told: Mutex<Option<Discriminant<StoreError>>>,
    /// Whether the far store has answered anything yet.
    answered: AtomicBool,
    /// Whether an earlier process got no answer a moment ago.
    doubted: AtomicBool,
    /// Which blobs it gave, and which it did not.
    sight: Mutex<Sight>,
    /// Blobs whose writers were to take them to the far store themselves.
    granted: Mutex<HashSet<BlobDigest>>,
}

/// A far store behind a folder; clones share it.
#[derive(Clone)]
pub struct Behind {
    inner: Arc<Inner>,
}

impl Behind {
    /// Puts a folder before a far store; `notes` is where it is noted what waits. [`Behind::send`] does the sending.
    pub fn open(
        folder: FolderStore,
        notes: &Path,
        far: Far,
        policy: Policy,
    ) -> Result<Behind, StoreError> {
        let disk = Disk::open(notes)?;
        let mut queue = Queue::default();
        if policy != Policy::Never {
            disk.left()?.into_iter().for_each(|item| queue.add(item));
        }
        if policy == Policy::Failing {
            remove_strays(&folder, &queue)?;
        }
        let backlog = Backlog { items: queue.len(), bytes: queue.bytes(), ..Backlog::default() };
        let (backlog, came, ended) = (watch::Sender::new(backlog), Notify::new(), Notify::new());
        let queue = Mutex::new(queue);
        let (told, answered, doubted) =
            (Mutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        let inner = Inner {
            far,
            folder,
            policy,
            disk,
            queue,
            backlog,
            came,
            ended,
            told,
            answered,
            doubted,
            sight: Mutex::default(),
            granted: Mutex::default(),
        };
        Ok(Behind { inner: Arc::new(inner) })
    }

    /// How far the sending is, now and from now on.
    pub fn backlog(&self) -> watch::Receiver<Backlog> {
        self.inner.backlog.subscribe()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn granted(&self) -> MutexGuard<'_, HashSet<BlobDigest>> {
        self.inner.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sight(&self) -> MutexGuard<'_, Sight> {
        self.inner.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the far store may give no blob at all, though it does well with small things: until that is known, nothing is
    /// handed over for good.
    fn is_blind(&self) -> bool {
        self.sight().suspect.is_some()
    }

    fn is_failing(&self) -> bool {
        self.inner.backlog.borrow().failure.is_some()
    }

    fn is_unreadable(&self) -> bool {
        self.inner.backlog.borrow().unreadable
    }

    /// Notes that something could not be written; a store that is full or refuses writes may still be read.
    fn write_failed(&self, error: &StoreError) {
        use StoreError::{Misplaced, Unavailable};
        self.fails(error, matches!(error, Unavailable { .. } | Misplaced { .. }));
    }

    /// Notes that something could not be read, if that says something of the store as a whole.
    fn read_failed(&self, error: &StoreError) {
        if says_all(error) {
            self.fails(error, true);
        }
    }

    /// A store that does not answer has nothing: what was to be read is made again.
    fn missed(&self, blob: &BlobDigest, error: StoreError) -> StoreError {
        if !says_all(&error) {
            return error;
        }
        self.sight().suspect = Some(*blob);
        self.read_failed(&error);
        StoreError::NotFound { blob: *blob }
    }

    fn fails(&self, error: &StoreError, unreadable: bool) {
        let (text, kind) = (story(error), std::mem::discriminant(error));
        let before = {
            let mut told = self.inner.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.replace(kind)
        };
        // What one request is answered differs a little from what another is: it is one trouble, told once.
        if before == Some(kind) {
            tracing::debug!(error = text, "the store still fails");
        } else if error.is_of_configuration() {
            tracing::error!(
                error = text,
                "the store is not used; `dcbuild doctor` says what is wrong"
            );
        } else if matches!(error, StoreError::Full { .. }) {
            tracing::warn!(
                error = text,
                "the store takes nothing more: what is made waits here until there is space, and what it has is read as before"
            );
        } else {
            tracing::warn!(error = text, "builds go on without the store until it does better");
        }
        self.inner.backlog.send_modify(|backlog| {
            backlog.failure = Some(text);
            backlog.unreadable |= unreadable;
            backlog.needs_hand =
                error.is_of_configuration() || matches!(error, StoreError::Full { .. });
        });
        self.inner.came.notify_one();
    }

    /// Notes that the store can be read again; if nothing waits, all is well.
    fn reads_again(&self) {
        self.answers();
        if self.is_blind() {
            return;
        }
        let all = self.queue().is_empty();
        self.inner.backlog.send_modify(|backlog| {
            backlog.unreadable = false;
            if all {
                (backlog.failure, backlog.needs_hand) = (None, false);
            }
        });
        if all {
            self.is_well();
        }
    }

    /// Notes that the far store has answered.
    fn answers(&self) {
        self.inner.answered.store(true, Ordering::Relaxed);
    }

    /// Whether it was silent before this process and in all its time.
    fn given_up_on(&self) -> bool {
        let Inner { answered, doubted, .. } = &*self.inner;
        doubted.load(Ordering::Relaxed) && !answered.load(Ordering::Relaxed)
    }

    /// Whatever goes wrong next is told.
    fn is_well(&self) {
        *self.inner.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Says how much waits now, and what was just sent.
    fn tell(&self, sent: Option<u64>) {
        let (items, bytes) = {
            let queue = self.queue();
            (queue.len(), queue.bytes())
        };
        let blind = self.is_blind();
        self.inner.backlog.send_modify(|backlog| {
            (backlog.items, backlog.bytes) = (items, bytes);
            backlog.sent_bytes += sent.unwrap_or(0);
            if sent.is_some() && !blind {
                (backlog.failure, backlog.unreadable, backlog.needs_hand) = (None, false, false);
            }
        });
        if sent.is_some() && !blind {
            self.answers();
            self.is_well();
        }
    }

    /// Has something wait to be sent.
    async fn hold(&self, item: Item) {
        self.queue().add(item.clone());
        self.tell(None);
        self.inner.came.notify_one();
        if self.inner.policy == Policy::Never {
            return;
        }
        let behind = self.clone();
        let noted = tokio::task::spawn_blocking(move || behind.note(&item));
        if let Ok(Err(error)) = noted.await {
            let error = story(&error);
            tracing::warn!(
                error,
                "what waits to be sent to the store will not be sent after a restart"
            );
        }
    }

    /// Notes on disk whether something waits: it may have been sent meanwhile, replaced, or deleted.
    fn note(&self, item: &Item) -> Result<(), StoreError> {
        self.inner.disk.set(item, || {
            let queue = self.queue();
            match item {
                Item::Blob(blob, _) => queue.has_blob(blob).then(|| item.clone()),
                Item::Document(name, _) => {
                    queue.document(name).map(|bytes| Item::Document(name.clone(), bytes))
                }
            }
        })
    }

    /// Of blobs that the far store lacks, those that the folder lacks too; who wants the others wants them sent.
    async fn find_here(&self, blobs: Vec<BlobDigest>) -> Result<Vec<BlobDigest>, StoreError> {
        let missing = self.inner.folder.find_missing(&blobs).await?;
        for blob in blobs.into_iter().filter(|blob| !missing.contains(blob)) {
            let size = std::fs::metadata(self.inner.folder.path_of(&blob)).map_or(0, |it| it.len());
            self.hold(Item::Blob(blob, size)).await;
        }
        Ok(missing)
    }

    /// Whether the far store is to be asked before anything is kept: not where others wait for it already.
    fn tries_first(&self) -> bool {
        self.inner.policy == Policy::Failing && !self.is_failing() && self.queue().is_empty()
    }

    /// Sends something of so many bytes while its writer waits; none if that takes too long, or failed, and it is to be kept.
    async fn hurry<T>(
        &self,
        bytes: u64,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Option<T> {
        let doubted = async {
            sleep(DOUBTED).await;
            drop(self.ask_alive().await);
            std::future::pending::<()>().await;
        };
        let work = async {
            tokio::select! {
                done = work => done,
                () = doubted => unreachable!("whoever doubts waits for the work"),
            }
        };
        let ended = if bytes > HURRIED_BYTES_MAX {
            Ok(work.await)
        } else {
            tokio::time::timeout(HURRY, work).await
        };
        match ended {
            Ok(Ok(value)) => Some(value),
            Ok(Err(error)) => {
                self.write_failed(&error);
                None
            }
            Err(_late) => None,
        }
    }

    async fn remove(&self, blob: &BlobDigest) {
        let (folder, path) = (self.inner.folder.clone(), self.inner.folder.path_of(blob));
        let removed = tokio::task::spawn_blocking(move || {
            let _folder = folder;
            std::fs::remove_file(path)
        });
        if let Ok(Err(error)) = removed.await {
            tracing::debug!(%error, %blob, "a blob that was sent stays in the folder");
        }
    }

    fn kept_here(&self) -> StoreError {
        let source = "it fails, and keeps things back".into();
        StoreError::Unavailable { store: self.inner.far.name.clone(), source }
    }

    /// Whoever gets no grant comes here with the bytes.
    fn grants(&self, fails: bool) -> Result<&Arc<dyn Grants>, StoreError> {
        if fails {
            return Err(self.kept_here());
        }
        self.inner.far.grants.as_ref().ok_or(StoreError::Stopped)
    }
}

/// Whether an error of one question says something of the store as a whole.
fn says_all(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. }) || error.is_of_configuration()
}

/// Removes blobs of which nobody noted that they wait: a process that wrote them died just then.
fn remove_strays(folder: &FolderStore, queue: &Queue) -> Result<(), StoreError> {
    for entry in folder.entries()? {
        let waits = dcbuild_model::Digest::from_hex(&entry.id)
            .is_ok_and(|digest| queue.has_blob(&BlobDigest(digest)));
        if entry.kind == crate::EntryKind::Blob && !waits {
            folder.remove_entry(&entry)?;
        }
    }
    Ok(())
}

/// An error and its causes in one line.
fn story(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[async_trait::async_trait]
impl BlobStore for Behind {
    /// A far store that does not answer has nothing: at worst a blob is made once more.
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        let open: Vec<BlobDigest> = {
            let queue = self.queue();
            blobs.iter().filter(|blob| !queue.has_blob(blob)).copied().collect()
        };
        // An index may still know what the store has; but nobody could read it.
        let missing = if open.is_empty() || self.is_unreadable() {
            open
        } else {
            match self.inner.far.blobs.find_missing(&open).await {
                Ok(missing) => missing,
                Err(error) => {
                    self.read_failed(&error);
                    open
                }
            }
        };
        match self.inner.policy {
            Policy::Failing => Ok(missing),
            Policy::Always | Policy::Never => self.find_here(missing).await,
        }
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        match self.inner.folder.get(blob, range).await {
            Ok(content) => return Ok(content),
            Err(error) if error.is_miss() => {}
            Err(error) => tracing::debug!(error = story(&error), %blob, "the folder failed"),
        }
        let content = self.inner.far.blobs.get(blob, range).await;
        let content = content.map_err(|error| self.missed(blob, error))?;
        self.sight().has(blob);
        let (behind, blob) = (self.clone(), *blob);
        let pieces = content.map(move |piece| piece.map_err(|error| behind.missed(&blob, error)));
        Ok(pieces.boxed())
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        let size = self.inner.folder.put(blob, content).await?;
        // Who could have taken it there himself, and comes here with it, has found the store wanting.
        let tries = !self.granted().remove(blob) && self.tries_first();
        if tries && self.hurry(size, self.send_blob(blob)).await.is_some() {
            self.sight().has(blob);
            self.remove(blob).await;
            return Ok(size);
        }
        if self.queue().bytes().saturating_add(size) > HELD_BYTES_MAX {
            if self.inner.policy == Policy::Failing {
                self.remove(blob).await;
            }
            let source = "what waits to be sent would be more than 32 GiB".into();
            return Err(StoreError::Full { store: self.inner.far.name.clone(), source });
        }
        self.hold(Item::Blob(*blob, size)).await;
        Ok(size)
    }
}

#[async_trait::async_trait]
impl Grants for Behind {
    async fn read(&self, blob: &BlobDigest) -> Result<Grant, StoreError> {
        if self.queue().has_blob(blob) {
            return Err(self.kept_here());
        }
        self.grants(self.is_unreadable())?.read(blob).await
    }

    async fn write(&self, blob: &BlobDigest, size: u64) -> Result<WriteGrant, StoreError> {
        let grant = self.grants(self.is_failing())?.write(blob, size).await?;
        let mut granted = self.granted();
        if granted.len() >= GRANTED_MAX {
            granted.clear();
        }
        granted.insert(*blob);
        Ok(grant)
    }

    async fn finish(&self, blob: &BlobDigest, written: &Written) -> Result<(), StoreError> {
        self.grants(false)?.finish(blob, written).await?;
        self.granted().remove(blob);
        Ok(())
    }
}

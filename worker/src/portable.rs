//! Cache mounts that follow their builds: brought from the store before a RUN, written back behind it.
//!
//! A version is a whole tree, and versions are never merged: the last one that was written back is the one that is brought.
//! What goes wrong here costs time and never a build; a mount then starts from what this worker has, or empty.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcbuild_context::{Context, ContextReader, LocalContext, LocalError, OpenError, Owners};
use dcbuild_layer::ReadContent;
use dcbuild_model::{
    BlobDigest, BuildId, ContentDigest, Scope, Selection, SelectionForm, TreePath, UnixTime,
};
use dcbuild_remote::{SendError, Sender, Sent};
use dcbuild_snapshot::write_tree;
use dcbuild_store::{CacheVersion, CacheVersions, KeyLock, LockMode, StoreError, inherited};
use dcbuild_tree::{FileBody, Ignore, Kind};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{Failed, blocking, story};
use crate::layers::Layers;
use crate::parcel;
use crate::report::Progress;
use crate::shared::Shared;
use crate::steps::cache::Begins;

/// How long a RUN waits to hear which version is the latest.
const LATEST_MAX: Duration = Duration::from_secs(5);
/// How long a RUN waits for a write-back that holds the lock that it needs.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a mount that others write to is read again.
const TRIES: u32 = 3;

/// The folder of a cache mount on this worker. In it `fs` holds the files, `version` names the version that they were the
/// same as when they were last compared, and `changed` is there while they may be another.
#[derive(Clone, Debug)]
pub(crate) struct Portable {
    pub(crate) folder: PathBuf,
    /// The name of its lock.
    pub(crate) lock: String,
    /// How a RUN may share it, and so a write-back.
    pub(crate) mode: LockMode,
    pub(crate) scope: Scope,
    pub(crate) id: String,
    pub(crate) root: Root,
    /// What this worker knows the id by.
    pub(crate) key: String,
    /// Which build had the mount begin empty the last time.
    pub(crate) emptied: Option<Emptied>,
}

/// A build that had a mount begin empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Emptied {
    pub(crate) build: BuildId,
    /// Whether it does so for the RUN that asks.
    pub(crate) begins: Begins,
}

impl Emptied {
    /// Whether a version may be brought: where the mount begins empty only one that the same build has begun.
    fn takes(self, version: &CacheVersion) -> bool {
        self.begins == Begins::AsItWasLeft || version.emptied == Some(self.build)
    }
}

/// Says why a cache mount was not written back.
#[derive(Debug, thiserror::Error)]
enum WriteBackError {
    /// Its folder could not be opened.
    #[error("could not open the mount's folder")]
    Folder(#[from] OpenError),
    /// Its folder could not be listed.
    #[error("could not list the mount's folder")]
    List(#[from] LocalError),
    /// Its files did not get to the store.
    #[error("could not send its files")]
    Send(#[from] SendError),
    /// The version could not be named.
    #[error("could not make it the latest version")]
    Name(#[from] StoreError),
    /// This worker could not note which version its folder is of.
    #[error("could not note the version of the mount's folder")]
    Note(#[source] io::Error),
    /// The worker ends.
    #[error("the worker ends")]
    Stopped(#[source] JoinError),
}

/// What a cache mount's folder itself looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

impl Root {
    /// Makes a folder that looks like this, unless it is there.
    pub(crate) fn make(self, path: &Path) -> io::Result<()> {
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => self.dress(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn dress(self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.owner.0), Some(self.owner.1))?;
        std::fs::set_permissions(path, Permissions::from_mode(self.mode))
    }
}

/// The write-backs that are under way, each of which gives way to a RUN that needs its lock.
#[derive(Debug, Default)]
pub(crate) struct WriteBacks(Mutex<HashMap<String, CancellationToken>>);

impl WriteBacks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &str) -> CancellationToken {
        let token = CancellationToken::new();
        self.lock().insert(name.to_owned(), token.clone());
        token
    }

    fn end(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Waits a while, then has the write-back under this name give way, if there is one.
    pub(crate) async fn hurry(&self, name: &str) {
        sleep(PATIENCE).await;
        if let Some(token) = self.lock().get(name) {
            token.cancel();
        }
    }
}

/// A whole folder.
fn everything() -> Selection {
    let sources = vec![".".to_owned()];
    Selection { form: SelectionForm::Copy, sources, exclude: Vec::new(), parents: false }
}

/// Removes a folder with all that is in it; one that is not there is removed already.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Portable {
    fn files(&self) -> PathBuf {
        self.folder.join("fs")
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.join(name)).ok()
    }

    /// The version that the files were last the same as.
    fn version(&self) -> Option<BlobDigest> {
        self.read("version")?.parse().ok()
    }

    /// Who changed the files last, if that is not written back yet.
    fn changed(&self) -> Option<String> {
        self.read("changed")
    }

    /// Notes that the files may change from now on; `by` names who does it.
    pub(crate) fn will_change(&self, by: &str) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        std::fs::write(self.folder.join("changed"), by)
    }

    /// Brings the latest version, unless this worker's is newer or the same. The lock is exclusive, and given back.
    pub(crate) async fn refresh(
        &self,
        shared: &Arc<Shared>,
        progress: &Progress,
        lock: KeyLock,
    ) -> Result<KeyLock, Failed> {
        let Some(versions) = &shared.parts.caches else { return Ok(lock) };
        if self.changed().is_some() {
            return Ok(lock);
        }
        let latest = match timeout(LATEST_MAX, inherited(&**versions, &self.scope, &self.id)).await
        {
            Ok(Ok(Some(latest))) => latest,
            Ok(Ok(None)) => return Ok(lock),
            Ok(Err(error)) => {
                let error = story(&error);
                tracing::warn!(id = self.id, error, "a cache mount starts from what is here");
                return Ok(lock);
            }
            Err(_) => {
                tracing::warn!(
                    id = self.id,
                    "the store is slow; a cache mount starts from what is here"
                );
                return Ok(lock);
            }
        };
        let may_be_brought = self.emptied.is_none_or(|emptied| emptied.takes(&latest));
        if !may_be_brought || self.version() == Some(latest.parcel) {
            return Ok(lock);
        }
        let line = progress.begin(format!("restoring cache mount {}", self.id), Some(latest.bytes));
        let (own, layers) = (self.clone(), shared.layers.clone());
        let (tmp, now) = (shared.tmp(), shared.parts.clock.now());
        let id = self.id.clone();
        // The thread has the lock: it goes on with the folder even if the RUN is stopped meanwhile.
        let lock = blocking(move || {
            if let Err(error) = own.bring(&layers, &latest, (tmp, now)) {
                let error = story(&error);
                tracing::warn!(
                    id,
                    error,
                    "a cache mount could not be brought, and starts from what is here"
                );
            }
            Ok(lock)
        })
        .await?;
        line.done();
        Ok(lock)
    }

    /// Makes the files those of a version; blocks.
    fn bring(
        &self,
        layers: &Arc<Layers>,
        version: &CacheVersion,
        (tmp, now): (PathBuf, UnixTime),
    ) -> Result<(), Failed> {
        let failed = |error: io::Error| Failed::sandbox(&error);
        let opened = parcel::open(layers, &version.parcel, tmp)?;
        let (new, old) = (self.folder.join("new"), self.folder.join("old"));
        remove(&new).map_err(failed)?;
        remove(&old).map_err(failed)?;
        std::fs::create_dir_all(&new).map_err(failed)?;
        let contents = Nearest { here: self.here(now), far: opened.contents };
        write_tree(&new, &opened.tree.as_changes(), &contents)?;
        let fresh = new.join("fs");
        self.root.dress(&fresh).map_err(failed)?;
        // Between the two the folder is of no version and empty, and so it is after a crash.
        self.is_of_none().map_err(failed)?;
        let files = self.files();
        if files.exists() {
            std::fs::rename(&files, &old).map_err(failed)?;
        }
        std::fs::rename(&fresh, &files).map_err(failed)?;
        self.is_now(&version.parcel).map_err(failed)?;
        remove(&new).and_then(|()| remove(&old)).map_err(failed)
    }

    fn is_now(&self, parcel: &BlobDigest) -> io::Result<()> {
        let partial = self.folder.join("version.new");
        std::fs::write(&partial, parcel.to_string())?;
        std::fs::rename(partial, self.folder.join("version"))
    }

    fn is_of_none(&self) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join("version")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn open(&self, now: UnixTime) -> Result<LocalContext, OpenError> {
        let files = Context::open(&self.files(), 0)?.owned(Owners::Kept);
        Ok(LocalContext::new(files, Ignore::default(), &self.folder, now))
    }

    /// What this worker has of the files already: their bytes need not be fetched.
    fn here(&self, now: UnixTime) -> Option<Here> {
        let context = self.open(now).ok()?;
        let tree = context.tree(&everything()).ok()?;
        let paths = tree.walk().filter_map(|(path, entry)| match &entry.kind {
            Kind::File(body) => Some((body.content, path)),
            _ => None,
        });
        Some(Here { paths: paths.collect(), reader: context.reader() })
    }

    /// Writes the files back behind the build, if they may have changed.
    pub(crate) fn write_back(self, shared: &Arc<Shared>) {
        let Some(versions) = shared.parts.caches.clone() else { return };
        // Another build had it begin empty meanwhile: the next one goes on from that.
        let last = shared.caches.emptied(&self.key).first().copied();
        if last != self.emptied.map(|emptied| emptied.build) {
            return;
        }
        let owner = shared.clone();
        shared.tasks.spawn(async move {
            let Ok(_turn) = owner.writing_back.acquire().await else { return };
            let give_way = owner.write_backs.begin(&self.lock);
            let sent = tokio::select! {
                () = give_way.cancelled() => Ok(None),
                sent = self.send(&owner) => sent,
            };
            owner.write_backs.end(&self.lock);
            let named = match sent {
                Ok(Some(sent)) => self.name(&*versions, sent).await,
                Ok(None) => return,
                Err(error) => Err(error),
            };
            match named {
                Ok(bytes) => tracing::debug!(id = self.id, bytes, "a cache mount was written back"),
                Err(error) => {
                    let error = story(&error);
                    tracing::warn!(id = self.id, error, "a cache mount was not written back");
                }
            }
        });
    }

    /// Sends the files; none where there was nothing to write back, or somebody is using the mount, whose end writes it
    /// back.
    async fn send(&self, shared: &Arc<Shared>) -> Result<Option<WrittenBack>, WriteBackError> {
        let Ok(Some(lock)) = shared.locks.try_lock(&self.lock, self.mode) else { return Ok(None) };
        let Some(by) = self.changed() else { return Ok(None) };
        let sender =
            Sender { blobs: shared.parts.blobs.clone(), layers: shared.parts.layers.clone() };
        let written = shared.parts.clock.now();
        for tried in 1.. {
            let context = Arc::new(self.open(written)?);
            let (entries, bytes) = size(&context).await?;
            let most = shared.config.cache_mount_bytes_max;
            if bytes > most {
                let id = &self.id;
                tracing::warn!(id, bytes, most, "a cache mount is too large to be written back");
                return Ok(None);
            }
            let sent = match sender.send(context, everything()).await {
                // Others write to a shared mount as they please; a file of it is sent whole, or not at all.
                Err(error) if tried < TRIES && has_changed(&error) => continue,
                sent => sent?,
            };
            let Sent { parcel, packs, pieces, uploaded_bytes: sent_bytes, .. } = sent;
            let id = self.id.clone();
            let emptied = self.emptied.map(|emptied| emptied.build);
            let version =
                CacheVersion { id, parcel, packs, pieces, entries, bytes, written, emptied };
            return Ok(Some(WrittenBack { version, by, sent_bytes, _lock: lock }));
        }
        Ok(None)
    }

    /// Makes what was sent the latest version, and says how many bytes went.
    async fn name(
        &self,
        versions: &dyn CacheVersions,
        sent: WrittenBack,
    ) -> Result<u64, WriteBackError> {
        let WrittenBack { version, by, sent_bytes, _lock } = sent;
        if self.version() == Some(version.parcel) {
            self.settle(&by)?;
            // Long unused, it may have been swept; what others have written since stands.
            if inherited(versions, &self.scope, &version.id).await?.is_none() {
                versions.put(&self.scope, &version).await?;
            }
            return Ok(sent_bytes);
        }
        // Before the store knows: a worker that dies in between loses this version, where else it would hold its own to be
        // newer than all that others write after it.
        self.is_now(&version.parcel).map_err(WriteBackError::Note)?;
        let alone = self.settle(&by)?;
        let put = versions.put(&self.scope, &version).await;
        if put.is_err() {
            self.is_of_none().map_err(WriteBackError::Note)?;
            if alone {
                self.will_change(&by).map_err(WriteBackError::Note)?;
            }
        }
        put?;
        Ok(sent_bytes)
    }

    /// Notes that all is written back, unless somebody has mounted it meanwhile: that one writes back what is new since.
    fn settle(&self, by: &str) -> Result<bool, WriteBackError> {
        let alone = self.changed().as_deref() == Some(by);
        if alone {
            std::fs::remove_file(self.folder.join("changed")).map_err(WriteBackError::Note)?;
        }
        Ok(alone)
    }
}

/// What was sent of a mount and has no name yet; while it has none, the mount is held.
struct WrittenBack {
    version: CacheVersion,
    /// Who changed it.
    by: String,
    sent_bytes: u64,
    _lock: KeyLock,
}

/// How many entries there are, and how many bytes.
async fn size(context: &Arc<LocalContext>) -> Result<(u64, u64), WriteBackError> {
    let context = context.clone();
    let (entries, bytes) =
        spawn_blocking(move || context.listed()).await.map_err(WriteBackError::Stopped)??;
    Ok((u64::try_from(entries).unwrap_or(u64::MAX), bytes))
}

fn has_changed(error: &SendError) -> bool {
    use dcbuild_context::{HashError, ScanError};
    matches!(
        error,
        SendError::Changed { .. }
            | SendError::Local(
                LocalError::Hash(HashError::Changed { .. } | HashError::Read { .. })
                    | LocalError::Scan(
                        ScanError::Changed(_) | ScanError::Entry { .. } | ScanError::Folder { .. }
                    )
            )
    )
}

/// Files of this worker, by what is in them.
struct Here {
    paths: HashMap<ContentDigest, TreePath>,
    reader: ContextReader,
}

/// Gives bytes from this worker where it has them, else from the store. Whoever writes them checks them.
struct Nearest {
    here: Option<Here>,
    far: Arc<dyn ReadContent + Send + Sync>,
}

impl ReadContent for Nearest {
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        let near = self.here.as_ref().and_then(|here| {
            let path = here.paths.get(&body.content)?;
            here.reader.open(path).ok()
        });
        match near {
            Some(file) => Ok(Box::new(file)),
            None => self.far.open(body),
        }
    }
}

//! A folder as a store, for any number of processes at once.
//!
//! Files are written under `tmp/`, then renamed, and never change. A file's mtime is when it was last used. Each handle
//! writes into a folder of its own below `tmp/`, which the next handle sweeps once its lock has died with its process.
//!
//! Between the look at a file and the note of its use nothing is removed, by any process: see `gate`.

mod caches;
mod gate;
mod images;
mod layers;
mod notes;
pub mod prune;
mod read;
pub mod records;
mod sweep;
pub mod writer;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use dcbuild_model::{BlobDigest, Scope, UnixTime};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use crate::locks::{self, KeyLock, LockMode};
use crate::{KeyLocks, StoreError};

/// How stale a file's time of last use may be before a use writes it again.
const USE_SECONDS: i64 = 3600;
/// How often a file is given its name again after its folder was pruned away.
const PUBLISH_TRIES_MAX: u32 = 1000;
const FOLDERS: [&str; 10] = [
    "blobs/sha256",
    "step",
    "layer",
    "base",
    "image",
    "cache-mount",
    "tmp",
    "quarantine",
    "lock",
    "use",
];

/// What a handle met that it could only put aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreCounts {
    /// Blobs that were corrupt.
    pub quarantined: u64,
    /// Records and other documents that could not be read.
    pub unreadable: u64,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    tmp: PathBuf,
    boot: String,
    opened: UnixTime,
    opened_at: tokio::time::Instant,
    newest_use: AtomicI64,
    quarantined: AtomicU64,
    unreadable: AtomicU64,
    names: AtomicU64,
    _alive: KeyLock,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.tmp) {
            tracing::debug!(path = %self.tmp.display(), %error, "a folder of the store stays behind");
        }
    }
}

/// A handle on a folder store; clones share it.
#[derive(Clone, Debug)]
pub struct FolderStore {
    inner: Arc<Inner>,
}

/// Keeps all that is used from now on from being pruned, by any process, until it is dropped.
#[derive(Debug)]
pub struct InUse {
    _lock: KeyLock,
}

impl FolderStore {
    /// Opens a store, makes its folders if need be, and sweeps what dead processes left in `tmp/`.
    pub fn open(dir: &Path) -> Result<FolderStore, StoreError> {
        for folder in FOLDERS {
            let path = dir.join(folder);
            std::fs::create_dir_all(&path).map_err(StoreError::io(path))?;
        }
        let boot_file = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = std::fs::read_to_string(boot_file).map_err(StoreError::io(boot_file))?;
        let (alive, tmp) = claim_tmp(&dir.join("tmp"))?;
        let opened = modified(&alive.file().metadata().map_err(StoreError::io(&tmp))?);
        let inner = Inner {
            dir: dir.into(),
            tmp,
            boot: boot.trim().into(),
            opened,
            opened_at: tokio::time::Instant::now(),
            newest_use: AtomicI64::new(i64::MIN),
            quarantined: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            names: AtomicU64::new(0),
            _alive: alive,
        };
        sweep_tmp(&dir.join("tmp"));
        Ok(FolderStore { inner: Arc::new(inner) })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Where a blob is or would be, for readers on the same machine.
    pub fn path_of(&self, blob: &BlobDigest) -> PathBuf {
        let hex = blob.0.hex();
        self.inner.dir.join("blobs/sha256").join(&hex[..2]).join(hex)
    }

    /// The locks that all processes on this store share.
    pub fn locks(&self) -> Result<KeyLocks, crate::LockError> {
        KeyLocks::open(&self.inner.dir.join("lock"))
    }

    /// Starts a time of use; hold it while what was found, read or stored is still needed.
    pub fn begin_use(&self) -> Result<InUse, StoreError> {
        let lock = claim(&self.inner.dir.join("use"), &self.inner.names)?;
        self.note_use(lock)
    }

    /// As [`FolderStore::begin_use`], for somebody who also needs what was used since this time, if it is still there.
    pub fn begin_use_since(&self, since: UnixTime) -> Result<InUse, StoreError> {
        let lock = claim(&self.inner.dir.join("use"), &self.inner.names)?;
        let metadata = lock.file().metadata().map_err(StoreError::io(lock.path()))?;
        if since < modified(&metadata) {
            let since = Timespec { tv_sec: since.secs, tv_nsec: since.nanos.into() };
            let times = Timestamps { last_access: since, last_modification: since };
            rustix::fs::futimens(lock.file(), &times)
                .map_err(|error| StoreError::io(lock.path())(error.into()))?;
        }
        self.note_use(lock)
    }

    fn note_use(&self, lock: KeyLock) -> Result<InUse, StoreError> {
        let metadata = lock.file().metadata().map_err(StoreError::io(lock.path()))?;
        self.inner.newest_use.fetch_max(modified(&metadata).secs, Ordering::Relaxed);
        Ok(InUse { _lock: lock })
    }

    /// What this handle and its clones have put aside so far.
    pub fn counts(&self) -> StoreCounts {
        StoreCounts {
            quarantined: self.inner.quarantined.load(Ordering::Relaxed),
            unreadable: self.inner.unreadable.load(Ordering::Relaxed),
        }
    }

    /// Writes everything of the store's file system to the disk.
    pub fn sync(&self) -> Result<(), StoreError> {
        let folder = File::open(&self.inner.dir).map_err(StoreError::io(&self.inner.dir))?;
        rustix::fs::syncfs(&folder).map_err(|error| StoreError::io(&self.inner.dir)(error.into()))
    }

    /// The time as the store's file system counts it: its time at opening, and what has passed since.
    fn now(&self) -> UnixTime {
        let passed = self.inner.opened_at.elapsed();
        let nanos = u64::from(self.inner.opened.nanos) + u64::from(passed.subsec_nanos());
        let carried = i64::from(nanos >= 1_000_000_000);
        UnixTime {
            secs: self.inner.opened.secs
                + i64::try_from(passed.as_secs()).unwrap_or(i64::MAX / 2)
                + carried,
            nanos: u32::try_from(nanos % 1_000_000_000).unwrap_or(0),
        }
    }

    /// Notes a use of a file, unless it was noted lately and no time of use has begun since.
    fn touch(&self, path: &Path, last: UnixTime) {
        let stale = last.secs < self.now().secs - USE_SECONDS;
        // A time of use may have begun in the very second of the last note, so equal counts as earlier.
        if !stale && last.secs > self.inner.newest_use.load(Ordering::Relaxed) {
            return;
        }
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: keep, last_modification: now };
        if let Err(error) = utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
            tracing::debug!(path = %path.display(), %error, "a use was not noted");
        }
    }

    /// Writes a small file whole or not at all.
    fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let mut file = tempfile::NamedTempFile::new_in(&self.inner.tmp)
            .map_err(StoreError::io(&self.inner.tmp))?;
        file.write_all(bytes).map_err(StoreError::io(file.path()))?;
        self.publish(file, path)
    }

    /// Gives a finished temporary file its name.
    fn publish(&self, file: tempfile::NamedTempFile, path: &Path) -> Result<(), StoreError> {
        let parent = path.parent().unwrap_or(&self.inner.dir);
        let mut file = file.into_temp_path();
        // Whoever removes what was here before must not take the new file for it.
        let _gate = self.gate()?;
        // Records that go take their empty folder along, so that may vanish between its making and the rename.
        let mut tries = 0;
        loop {
            match file.persist(path) {
                Ok(()) => return Ok(()),
                Err(error)
                    if error.error.kind() == std::io::ErrorKind::NotFound
                        && tries < PUBLISH_TRIES_MAX =>
                {
                    match std::fs::create_dir_all(parent) {
                        Err(error) if !vanished(&error) => {
                            return Err(StoreError::io(parent)(error));
                        }
                        _ => {}
                    }
                    file = error.path;
                    tries += 1;
                }
                Err(error) => return Err(StoreError::io(path)(error.error)),
            }
        }
    }

    /// Reads a document; an absent one is none, and so is one that cannot be understood, which is counted.
    fn read_document<T: serde::de::DeserializeOwned>(
        &self,
        path: &Path,
    ) -> Result<Option<(T, UnixTime)>, StoreError> {
        let Some(mut file) = open(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).map_err(StoreError::io(path))?;
        let time = modified(&file.metadata().map_err(StoreError::io(path))?);
        match serde_json::from_slice(&bytes) {
            Ok(document) => Ok(Some((document, time))),
            Err(error) => {
                self.inner.unreadable.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(path = %path.display(), %error, "a document of the store is passed over");
                Ok(None)
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FolderStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.unwrap_or(Err(StoreError::Stopped))
    }
}

/// Whether making a folder met its removal: it was there at the `mkdir`, and gone when the kind was asked.
fn vanished(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotFound)
}

/// A scope as one file name; `+` is in no scope.
fn scope_name(scope: &Scope) -> String {
    scope.as_str().replace('/', "+")
}

fn open(path: &Path) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io(path)(error)),
    }
}

fn stat(path: &Path) -> Result<Option<std::fs::Metadata>, StoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io(path)(error)),
    }
}

/// What a folder holds now; a folder that is gone holds nothing.
fn children(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io(path)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.path()),
            Err(error) if gone(&error) => break,
            Err(error) => return Err(StoreError::io(path)(error)),
        }
    }
    paths.sort();
    Ok(paths)
}

fn modified(metadata: &std::fs::Metadata) -> UnixTime {
    use std::os::unix::fs::MetadataExt as _;
    UnixTime { secs: metadata.mtime(), nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0) }
}

/// Takes a fresh name in a folder of locks.
fn claim(folder: &Path, names: &AtomicU64) -> Result<KeyLock, StoreError> {
    loop {
        let number = names.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{}-{number}", std::process::id()));
        // Taken ones are another handle's of ours, or of a process with the same number in another pid namespace.
        if let Some(lock) =
            locks::acquire(&path, LockMode::Exclusive).map_err(StoreError::io(&path))?
        {
            // A dead process's file carries that process's time.
            rustix::fs::futimens(lock.file(), &both_now())
                .map_err(|error| StoreError::io(&path)(error.into()))?;
            return Ok(lock);
        }
    }
}

fn both_now() -> Timestamps {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Timestamps { last_access: now, last_modification: now }
}

fn claim_tmp(tmp: &Path) -> Result<(KeyLock, PathBuf), StoreError> {
    let alive = claim(tmp, &AtomicU64::new(0))?;
    let folder = alive.path().with_extension("d");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(StoreError::io(&folder))?;
    }
    std::fs::create_dir(&folder).map_err(StoreError::io(&folder))?;
    Ok((alive, folder))
}

/// Removes the temporary folders of processes that are gone; what resists stays for the next sweep.
fn sweep_tmp(tmp: &Path) {
    for folder in children(tmp).unwrap_or_default() {
        if folder.extension().is_none_or(|extension| extension != "d") {
            continue;
        }
        // The lock is held while the folder goes, and its file goes with it.
        let dead = locks::acquire(&folder.with_extension(""), LockMode::Exclusive);
        if let Ok(Some(_lock)) = dead
            && let Err(error) = std::fs::remove_dir_all(&folder)
        {
            tracing::warn!(path = %folder.display(), %error, "could not sweep a temporary folder");
        }
    }
}

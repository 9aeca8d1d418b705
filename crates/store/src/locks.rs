//! Locks by name between the processes of one machine; the kernel drops them with their process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dcbuild_model::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_MAX: Duration = Duration::from_millis(50);

/// How many may hold a lock at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// Any number of holders, as long as all of them share.
    Shared,
    /// One holder.
    Exclusive,
}

/// Says why a lock was not given.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The lock's file failed.
    #[error("could not use the lock file {path}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The wait for it was cancelled.
    #[error("the wait for the lock {name} was cancelled")]
    Cancelled {
        /// The lock.
        name: String,
    },
}

/// Gives out locks by name; each is a file in one folder.
#[derive(Clone, Debug)]
pub struct KeyLocks {
    folder: PathBuf,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    file: File,
    mode: LockMode,
}

impl KeyLocks {
    /// Keeps the locks' files in this folder.
    pub fn open(folder: &Path) -> Result<KeyLocks, LockError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| LockError::File { path: folder.into(), source })?;
        Ok(KeyLocks { folder: folder.into() })
    }

    /// Takes a lock if nobody is in the way.
    pub fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<KeyLock>, LockError> {
        let path = self.path_of(name);
        acquire(&path, mode).map_err(|source| LockError::File { path, source })
    }

    /// Waits for a lock until `stop` is cancelled.
    pub async fn lock(
        &self,
        name: &str,
        mode: LockMode,
        stop: &CancellationToken,
    ) -> Result<KeyLock, LockError> {
        let mut pause = RETRY_FIRST;
        loop {
            if let Some(lock) = self.try_lock(name, mode)? {
                return Ok(lock);
            }
            tokio::select! {
                () = stop.cancelled() => return Err(LockError::Cancelled { name: name.into() }),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Whether somebody holds the lock now, in either mode.
    pub fn is_held(&self, name: &str) -> Result<bool, LockError> {
        let path = self.path_of(name);
        match path.try_exists() {
            Ok(false) => return Ok(false),
            Ok(true) => {}
            Err(source) => return Err(LockError::File { path, source }),
        }
        Ok(self.try_lock(name, LockMode::Exclusive)?.is_none())
    }

    fn path_of(&self, name: &str) -> PathBuf {
        let plain = name.len() <= 200
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        self.folder.join(if plain {
            format!("n-{name}")
        } else {
            format!("h-{}", Digest::of(name.as_bytes()).hex())
        })
    }
}

/// Locks a file, made if need be. A file that its last holder removed between our open and our lock is no lock any more,
/// so it is opened again.
pub(crate) fn acquire(path: &Path, mode: LockMode) -> std::io::Result<Option<KeyLock>> {
    let operation = match mode {
        LockMode::Shared => FlockOperation::NonBlockingLockShared,
        LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match flock(&file, operation) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if rustix::fs::fstat(&file)?.st_nlink > 0 {
            return Ok(Some(KeyLock { path: path.into(), file, mode }));
        }
    }
}

impl KeyLock {
    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for times and the like.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        let alone = match self.mode {
            LockMode::Exclusive => true,
            LockMode::Shared => {
                // Turning a shared lock into an exclusive one lets go of it first: somebody may have removed the file.
                flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_ok()
                    && rustix::fs::fstat(&self.file).is_ok_and(|stat| stat.st_nlink > 0)
            }
        };
        // Of two sharers that leave at once both may fail here; the file then stays, which harms nobody.
        if alone && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a lock file stays behind");
        }
    }
}

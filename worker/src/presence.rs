//! What shows others on the same state folder that a process lives: a folder of its own, locked as long as it does.
//!
//! All that is temporary lies in that folder, and the control groups of its steps have its name. The lock dies with the
//! process, in whatever pid namespace it was, so that whoever starts next sees what nobody owns any more.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The folder of a living process; removed when it ends in order.
#[derive(Debug)]
pub(crate) struct Presence {
    folder: PathBuf,
    /// Carries the lock.
    _held: File,
}

impl Presence {
    /// Makes the folder `name` and locks it.
    pub(crate) fn begin(all: &Path, name: &str) -> io::Result<Presence> {
        let folder = all.join(name);
        loop {
            std::fs::create_dir_all(&folder)?;
            let held = match File::open(&folder) {
                Ok(held) => held,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            flock(&held, FlockOperation::LockShared)?;
            // A sweep may have been quicker than the lock.
            if is_at(&held, &folder)? {
                return Ok(Presence { folder, _held: held });
            }
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes the folder.
    pub(crate) fn end(&self) -> io::Result<()> {
        std::fs::remove_dir_all(&self.folder)
    }
}

/// Removes the folders of processes that are gone, each after `tidy` has removed what else has its name.
pub(crate) fn sweep(
    all: &Path,
    mut tidy: impl FnMut(&str) -> io::Result<()>,
) -> Result<(), io::Error> {
    for entry in std::fs::read_dir(all)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let folder = match File::open(&path) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            // Its process lives, or another sweeps it.
            Err(Errno::WOULDBLOCK) => continue,
            Err(errno) => return Err(errno.into()),
        }
        if !is_at(&folder, &path)? {
            continue;
        }
        if let Some(name) = name.to_str() {
            tidy(name)?;
        }
        std::fs::remove_dir_all(&path)?;
    }
    Ok(())
}

/// Whether a folder still stands where it was opened.
fn is_at(folder: &File, path: &Path) -> io::Result<bool> {
    let here = folder.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(all: &Path) -> Vec<String> {
        let mut names = Vec::new();
        sweep(all, |name| {
            names.push(name.to_owned());
            Ok(())
        })
        .unwrap();
        names
    }

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let all = tempfile::tempdir().unwrap();
        let alive = Presence::begin(all.path(), "alive").unwrap();
        std::fs::create_dir_all(all.path().join("dead/folder")).unwrap();
        std::fs::write(all.path().join("dead/folder/file"), "x").unwrap();
        assert_eq!(swept(all.path()), ["dead"]);
        assert!(alive.folder().exists() && !all.path().join("dead").exists());
        drop(alive);
        assert_eq!(swept(all.path()), ["alive"]);
        assert_eq!(std::fs::read_dir(all.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_could_not_be_tidied_stays_for_the_next_sweep() {
        let all = tempfile::tempdir().unwrap();
        std::fs::create_dir(all.path().join("dead")).unwrap();
        assert!(sweep(all.path(), |_| Err(io::Error::other("busy"))).is_err());
        assert!(all.path().join("dead").exists());
    }

    #[test]
    fn a_folder_is_gone_once_its_process_has_ended_in_order() {
        let all = tempfile::tempdir().unwrap();
        let alive = Presence::begin(all.path(), "alive").unwrap();
        std::fs::write(alive.folder().join("file"), "x").unwrap();
        alive.end().unwrap();
        assert_eq!(std::fs::read_dir(all.path()).unwrap().count(), 0);
    }
}

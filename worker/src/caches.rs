//! The cache mounts of a worker: what each is, what it takes, and its removal.
//!
//! A step that mounts one holds its lock; whoever removes it needs that lock alone.

use std::io;
use std::path::{Path, PathBuf};

use dcbuild_model::{BuildId, UnixTime};
use dcbuild_snapshot::{At, CacheFolders};
use dcbuild_store::{KeyLocks, LockError, LockMode};

/// All cache mounts of a worker.
#[derive(Clone, Debug)]
pub struct Caches {
    folders: CacheFolders,
    locks: KeyLocks,
    /// Holds a file for each id that a build had begin empty; the file names the builds.
    emptied: PathBuf,
}

/// One cache mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheMount {
    /// The name of its folder.
    pub name: String,
    /// Its id in Dockerfiles; empty where that is not known.
    pub id: String,
    /// What it takes on the disk.
    pub bytes: u64,
    /// When it was last mounted.
    pub last_used: UnixTime,
    /// Whether a step has it mounted now.
    pub in_use: bool,
}

/// Says why cache mounts could not be listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A folder failed.
    #[error(transparent)]
    Folder(#[from] At),
    /// A lock failed.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl Caches {
    /// Those below a worker's data folder, whose locks are these.
    pub fn of(data_dir: &Path, locks: KeyLocks) -> Caches {
        let (folders, emptied) = (data_dir.join("cache"), data_dir.join("emptied"));
        Caches { folders: CacheFolders::at(&folders), locks, emptied }
    }

    pub(crate) fn folders(&self) -> &CacheFolders {
        &self.folders
    }

    /// Notes that a cache, whose folder is there, is mounted now.
    pub(crate) fn mark(&self, name: &str, id: &str) -> Result<(), At> {
        self.folders.mark(name, &format!("{id}\n"))
    }

    /// The builds that had an id begin empty, the last first; the id by its key.
    pub(crate) fn emptied(&self, key: &str) -> Vec<BuildId> {
        let text = std::fs::read_to_string(self.emptied.join(key)).unwrap_or_default();
        text.lines().map_while(|line| line.parse().ok()).collect()
    }

    /// Notes which builds those are; one at a time may do so for an id.
    pub(crate) fn note_emptied(&self, key: &str, builds: &[BuildId]) -> io::Result<()> {
        std::fs::create_dir_all(&self.emptied)?;
        let lines = builds.iter().map(BuildId::to_string).collect::<Vec<_>>().join("\n");
        let partial = self.emptied.join(format!("{key}.new"));
        std::fs::write(&partial, lines)?;
        std::fs::rename(partial, self.emptied.join(key))
    }

    /// Lists all, the longest unused first.
    pub fn list(&self) -> Result<Vec<CacheMount>, CacheError> {
        let mut all = Vec::new();
        for usage in self.folders.usage()? {
            all.push(CacheMount {
                id: usage.text.strip_suffix('\n').unwrap_or_default().to_owned(),
                bytes: usage.bytes,
                last_used: usage.last_used,
                in_use: self.locks.is_held(&lock_name(&usage.name))?,
                name: usage.name,
            });
        }
        Ok(all)
    }

    /// Removes one that was listed, unless somebody uses it or has used it since; says whether it did.
    pub fn remove(&self, name: &str, last_used: UnixTime) -> Result<bool, CacheError> {
        let Some(_held) = self.locks.try_lock(&lock_name(name), LockMode::Exclusive)? else {
            return Ok(false);
        };
        if self.folders.last_used(name)? != Some(last_used) {
            return Ok(false);
        }
        Ok(self.folders.remove(name)?)
    }
}

/// The name of the lock that a step holds while it has a cache mounted.
pub(crate) fn lock_name(name: &str) -> String {
    format!("cache-{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caches(folder: &Path) -> Caches {
        Caches::of(folder, KeyLocks::open(&folder.join("lock")).unwrap())
    }

    fn make(folder: &Path, caches: &Caches, name: &str, bytes: usize) {
        let fs = folder.join("cache").join(name).join("fs/deep");
        std::fs::create_dir_all(&fs).unwrap();
        std::fs::write(fs.join("file"), vec![7; bytes]).unwrap();
        std::fs::hard_link(fs.join("file"), fs.join("again")).unwrap();
        std::os::unix::fs::symlink("/usr", fs.join("link")).unwrap();
        caches.mark(name, &format!("id of {name}")).unwrap();
    }

    #[test]
    fn what_is_mounted_or_was_used_again_stays_and_the_rest_can_go() {
        let folder = tempfile::tempdir().unwrap();
        let caches = caches(folder.path());
        assert_eq!(caches.list().unwrap(), []);
        for (name, bytes) in [("one", 1 << 20), ("two", 1 << 16), ("three", 10)] {
            make(folder.path(), &caches, name, bytes);
        }
        let held = caches.locks.try_lock(&lock_name("two"), LockMode::Shared).unwrap().unwrap();
        let mut listed = caches.list().unwrap();
        listed.sort_by(|one, other| one.name.cmp(&other.name));
        let [one, three, two] = listed.try_into().unwrap();
        assert_eq!((one.id.as_str(), one.in_use, two.in_use), ("id of one", false, true));
        // The file of two names counts once; folders take some blocks, too.
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&one.bytes), "{}", one.bytes);

        let before = UnixTime { secs: three.last_used.secs - 1, ..three.last_used };
        assert!(!caches.remove("three", before).unwrap(), "it was used since it was listed");
        assert!(!caches.remove("two", two.last_used).unwrap());
        assert!(caches.remove("one", one.last_used).unwrap());
        assert!(!caches.remove("one", one.last_used).unwrap());
        drop(held);
        let names: Vec<String> =
            caches.list().unwrap().into_iter().map(|cache| cache.name).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(!folder.path().join("cache/one").exists());
        assert_eq!(std::fs::read_dir(folder.path().join("cache/doomed")).unwrap().count(), 0);
    }
}

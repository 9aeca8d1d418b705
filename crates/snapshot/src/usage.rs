//! What snapshots take, and taking it back.

use std::collections::HashSet;

use dcbuild_model::{LayerId, TreePath, UnixTime};
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, FlockOperation};
use rustix::io::Errno;

use crate::fault::{At, at};
use crate::snapshots::{Snapshots, is_at};
use crate::{beneath, reap};

/// What one snapshot takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    /// The layer.
    pub layer: LayerId,
    /// The bytes it takes on disk.
    pub bytes: u64,
    /// When it was last found or made.
    pub last_used: UnixTime,
}

/// How a removal went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// The snapshot is gone.
    Removed,
    /// Somebody uses it; it stays.
    InUse,
    /// There was none.
    Absent,
}

impl Snapshots {
    /// Removes a snapshot that nobody uses.
    pub fn remove(&self, layer: &LayerId) -> Result<Removal, At> {
        let name = layer.0.hex();
        let path = self.dir.join(&name);
        let entry = match beneath::open_child(&self.root, name.as_bytes()) {
            Ok(entry) => entry,
            Err(Errno::NOENT) => return Ok(Removal::Absent),
            Err(error) => return Err(at("open", &path)(error)),
        };
        match rustix::fs::flock(&entry, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_at(&entry, &self.root, &name) => {}
            Ok(()) => return Ok(Removal::Absent),
            Err(Errno::WOULDBLOCK) => return Ok(Removal::InUse),
            Err(error) => return Err(at("lock", &path)(error)),
        }
        let doomed = Snapshots::unique();
        rustix::fs::renameat(&self.root, &*name, &self.tmp, &*doomed).map_err(at("move", &path))?;
        reap::remove(&self.tmp, doomed.as_bytes()).map_err(at("remove", &path))?;
        Ok(Removal::Removed)
    }

    /// Lists all snapshots, the longest unused first.
    pub fn usage(&self) -> Result<Vec<Usage>, At> {
        let mut all = Vec::new();
        for layer in self.layers()? {
            match self.usage_of(&layer) {
                Ok(usage) => all.push(usage),
                // Another process removes it.
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        all.sort_by_key(|usage| (usage.last_used, usage.layer));
        Ok(all)
    }

    fn usage_of(&self, layer: &LayerId) -> Result<Usage, At> {
        let path = self.dir.join(layer.0.hex());
        let failed = || at("measure", &path);
        let top = beneath::open_child(&self.root, layer.0.hex().as_bytes()).map_err(failed())?;
        let mark = rustix::fs::statat(&top, "ok", AtFlags::SYMLINK_NOFOLLOW).map_err(failed())?;
        let mut bytes = 0u64;
        let mut seen = HashSet::new();
        let mut folders = vec![TreePath::root()];
        while let Some(at_path) = folders.pop() {
            let folder = beneath::open_folder(&top, &at_path).map_err(failed())?;
            for name in beneath::names(folder.as_fd()).map_err(failed())? {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let stat = rustix::fs::statat(&folder, name.as_slice(), flags).map_err(failed())?;
                if stat.st_nlink < 2 || seen.insert(stat.st_ino) {
                    bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                }
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    folders.push(at_path.join(&name));
                }
            }
        }
        let nanos = u32::try_from(stat_nanos(mark.st_mtime_nsec)).unwrap_or(0);
        Ok(Usage { layer: *layer, bytes, last_used: UnixTime { secs: mark.st_mtime, nanos } })
    }
}

/// The type of this field differs between machines.
fn stat_nanos(nanos: impl TryInto<i64>) -> i64 {
    nanos.try_into().unwrap_or(0)
}

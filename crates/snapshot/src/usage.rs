//! What snapshots take, and taking it back.

use std::collections::HashSet;

use dcbuild_model::{LayerId, UnixTime};
use dcbuild_tree::{Change, Changes, Kind};
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::Errno;

use crate::fault::{At, at};
use crate::marker::Marker;
use crate::snapshots::{Snapshots, is_at};
use crate::{beneath, reap};

/// What the usual file systems give out at least.
const BLOCK_BYTES: u64 = 4096;

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
    /// Somebody uses or needs it; it stays.
    InUse,
    /// There was none.
    Absent,
}

impl Snapshots {
    /// Removes a snapshot that nobody has in hand.
    pub fn remove(&self, layer: &LayerId) -> Result<Removal, At> {
        self.remove_unless(layer, |_| false)
    }

    /// As [`Snapshots::remove`], unless it is needed, seeing when it was last found; nobody can find it meanwhile.
    pub fn remove_unless(
        &self,
        layer: &LayerId,
        is_needed: impl FnOnce(UnixTime) -> bool,
    ) -> Result<Removal, At> {
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
        // One without a mark is no whole snapshot, and nobody's.
        match last_used(&entry) {
            Ok(last_used) if is_needed(last_used) => return Ok(Removal::InUse),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(at("measure", &path)(error)),
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
        let last_used = last_used(&top).map_err(failed())?;
        // A crash may take a mark's text; such a snapshot goes at the next boot's first opening.
        let mark = Marker::read(&top).map_err(at("measure", &path))?;
        let bytes = mark.map_or(0, |mark| mark.bytes);
        Ok(Usage { layer: *layer, bytes, last_used })
    }
}

/// When the snapshot in this folder was last found or made.
fn last_used(folder: impl AsFd) -> Result<UnixTime, Errno> {
    Ok(modified(&rustix::fs::statat(folder, "ok", AtFlags::SYMLINK_NOFOLLOW)?))
}

/// When a file was last written.
pub(crate) fn modified(stat: &rustix::fs::Stat) -> UnixTime {
    let nanos = u32::try_from(stat_nanos(stat.st_mtime_nsec)).unwrap_or(0);
    UnixTime { secs: stat.st_mtime, nanos }
}

/// The type of this field differs between machines.
fn stat_nanos(nanos: impl TryInto<i64>) -> i64 {
    nanos.try_into().unwrap_or(0)
}

/// What a layer takes on a disk as a folder: whole blocks for each file, one for each folder, an inode's files once.
pub(crate) fn disk_bytes(changes: &Changes) -> u64 {
    let mut linked = HashSet::new();
    let mut blocks = 0u64;
    for change in changes.0.values() {
        let (Change::Put(entry) | Change::Replace(entry)) = change else { continue };
        if entry.links.is_some_and(|group| !linked.insert(group)) {
            continue;
        }
        blocks += match &entry.kind {
            Kind::File(body) => body.size.div_ceil(BLOCK_BYTES),
            Kind::Dir => 1,
            Kind::Symlink(_)
            | Kind::Fifo
            | Kind::Socket
            | Kind::CharDevice { .. }
            | Kind::BlockDevice { .. } => 0,
        };
    }
    blocks.saturating_mul(BLOCK_BYTES)
}

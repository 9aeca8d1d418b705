//! Room on the worker's disk: noticing that there is none, making some, and saying that there is some again.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::{BlobDigest, LayerId, UnixTime};
use dcbuild_proto::document::{StepError, StepErrorKind};
use dcbuild_snapshot::Removal;
use rustix::fs::{FallocateFlags, StatVfs};

use crate::error::{Failed, blocking};
use crate::report::{Report, Reporter};
use crate::shared::Shared;

/// A disk with less is full.
const FULL_BELOW: u64 = 1 << 20;
/// With so much free a disk has room, however large it is.
const ROOM_BYTES: u64 = 1 << 30;
/// A smaller disk has room when this part of it is free.
const ROOM_PART: u64 = 20;
/// How often a full disk is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

fn free(disk: &StatVfs) -> u64 {
    // Root may use the blocks that are kept back for it.
    disk.f_bfree.saturating_mul(disk.f_frsize)
}

/// Whether next to nothing can be written below a folder; false where that cannot be told.
pub(crate) fn is_full(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|disk| {
        let for_others = disk.f_bavail.saturating_mul(disk.f_frsize);
        free(&disk) < FULL_BELOW
            || (disk.f_files > 0 && disk.f_ffree == 0)
            || (for_others < FULL_BELOW && is_refused(folder))
    })
}

/// Whether a small file has no room. Some file systems, ext4 among them, count blocks as free that not even root gets.
fn is_refused(folder: &Path) -> bool {
    let none = FallocateFlags::empty();
    let tried = tempfile::tempfile_in(folder)
        .and_then(|file| Ok(rustix::fs::fallocate(&file, none, 0, FULL_BELOW)?));
    tried.is_err_and(|error| {
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    })
}

fn has_room(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|disk| {
        let size = disk.f_blocks.saturating_mul(disk.f_frsize);
        free(&disk) >= ROOM_BYTES.min(size / ROOM_PART) && (disk.f_files == 0 || disk.f_ffree > 0)
    })
}

/// An error for want of space as its reader needs it: which folder is full, and what helps.
pub(crate) fn named(shared: &Shared, error: StepError) -> StepError {
    if error.kind != (StepErrorKind::NoSpace {}) {
        return error;
    }
    let data = &shared.config.data_dir;
    let (folder, hint) = if shared.config.in_process {
        let hint = "make room with `dcbuild prune`, or put the state on a larger disk with \
                    DCBUILD_STATE_DIR or build.state_dir";
        (data.parent().unwrap_or(data), hint)
    } else {
        let hint =
            "lower the worker's worker.keep_storage, or put its worker.data_dir on a larger disk";
        (data.as_path(), hint)
    };
    let message = format!("no space left in {}: {}", folder.display(), error.message);
    StepError { message, hint: Some(hint.to_owned()), ..error }
}

/// Removes snapshots that can be had again, the longest unused first, until there is room; says how many went.
///
/// The cache of a user's own machine is the user's to prune.
pub(crate) async fn make(shared: &Arc<Shared>) -> usize {
    if shared.config.in_process {
        return 0;
    }
    let layers = shared.layers.clone();
    let listed = blocking(move || Ok(layers.snapshots.usage()?)).await;
    let mut usage = match listed {
        Ok(usage) => usage,
        Err(error) => {
            tracing::warn!(%error, "could not list snapshots to make room");
            return 0;
        }
    };
    usage.sort_by_key(|usage| usage.last_used);
    let mut removed = 0;
    for usage in usage {
        if has_room(&shared.config.data_dir) {
            break;
        }
        if can_be_had_again(shared, usage.layer, usage.last_used).await
            && remove(shared, usage.layer).await
        {
            removed += 1;
        }
    }
    tracing::warn!(removed, "the disk was full: snapshots were removed");
    removed
}

async fn remove(shared: &Arc<Shared>, layer: LayerId) -> bool {
    let layers = shared.layers.clone();
    let removed = blocking(move || Ok(layers.snapshots.remove(&layer)?)).await;
    removed.is_ok_and(|removed| removed == Removal::Removed)
}

/// Whether a layer comes from a registry, has a blob in the store, or is wanted by nobody; what an earlier worker left is in nobody's books.
pub(crate) async fn can_be_had_again(shared: &Shared, layer: LayerId, last_used: UnixTime) -> bool {
    let layers = &shared.layers;
    if last_used < shared.began || layers.base(&layer).is_some() || shared.held.is_over(&layer) {
        return true;
    }
    let Ok(forms) = layers.index.find_forms(&[layer]).await else { return false };
    for stored in forms.into_iter().flatten() {
        let blobs = [BlobDigest(stored.blob.digest.0), stored.index];
        let missing = layers.blobs.find_missing(&blobs).await;
        if missing.is_ok_and(|missing| missing.is_empty()) {
            return true;
        }
    }
    false
}

/// Looks, behind the back of all else, until there is room again, and says so.
pub(crate) fn watch(shared: &Arc<Shared>, reporter: Reporter) {
    if shared.config.in_process {
        return;
    }
    let watched = shared.clone();
    shared.tasks.spawn(async move {
        while !has_room(&watched.config.data_dir) {
            make(&watched).await;
            if has_room(&watched.config.data_dir) {
                break;
            }
            tokio::select! {
                () = watched.ending.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        reporter.send(Report::HasRoom).await;
    });
}

impl Failed {
    /// Whether a full disk of this worker is to blame.
    pub(crate) fn is_for_want_of_space(&self) -> bool {
        matches!(self, Failed::Step(error) if error.kind == (StepErrorKind::NoSpace {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_this_machine_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_full(folder.path()), "these tests need some space themselves");
        assert!(!is_full(Path::new("/nonexistent")) && !has_room(Path::new("/nonexistent")));
    }
}

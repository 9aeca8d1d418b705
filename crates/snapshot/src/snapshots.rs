//! The folder of all snapshots.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use rustix::fd::OwnedFd;

use dcbuild_model::{AttemptId, LayerId};
use dcbuild_tree::Meta;
use crate::fault::At;
use crate::upper::Upper;

/// The snapshots of one state folder; any number of processes may open it.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
}

/// A snapshot in use: no other process removes it while this is held.
#[derive(Clone, Debug)]
pub struct Snapshot {
    layer: LayerId,
    folder: PathBuf,
    held: Arc<OwnedFd>,
}

impl Snapshot {
    /// The layer.
    pub fn layer(&self) -> LayerId {
        self.layer
    }

    /// The folder that an overlay takes as a lower.
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

/// The snapshots below a mount, all in use.
#[derive(Clone, Debug, Default)]
pub struct Lowers(pub Vec<Snapshot>);

impl Lowers {
    /// The folders, lowest layer first.
    pub fn paths(&self) -> impl DoubleEndedIterator<Item = &Path> {
        self.0.iter().map(Snapshot::path)
    }
}

/// Says why the snapshots' folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenSnapshotsError {
    /// A file system call failed.
    #[error(transparent)]
    Io(#[from] At),
}

/// Says why snapshots could not be found or made ready.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file system call failed.
    #[error(transparent)]
    Io(#[from] At),
    /// A layer has no snapshot here.
    #[error("layer {layer} has no snapshot here")]
    Missing {
        /// The layer.
        layer: LayerId,
    },
}

impl Snapshots {
    /// Opens the folder, makes it where it is not, and removes what an earlier boot did not sync.
    pub fn open(dir: &Path) -> Result<Snapshots, OpenSnapshotsError> {
        todo!()
    }

    /// Finds a snapshot and takes it into use.
    pub fn find(&self, layer: &LayerId) -> Result<Option<Snapshot>, At> {
        todo!()
    }

    /// Takes the snapshots of all these layers into use, lowest first.
    pub fn lowers(&self, layers: &[LayerId]) -> Result<Lowers, SnapshotError> {
        todo!()
    }

    /// Makes the folders that an attempt's overlay writes to; `root` is the metadata of the tree's root below.
    pub fn begin(&self, attempt: AttemptId, root: &Meta) -> Result<Upper, At> {
        todo!()
    }

    /// Makes every snapshot durable that is finished now; it counts after another boot.
    pub fn sync(&self) -> Result<(), At> {
        todo!()
    }

    /// Removes what attempts left that are not among these and what dead processes left.
    pub fn sweep(&self, known: &BTreeSet<AttemptId>) -> Result<(), At> {
        todo!()
    }
}

//! Turns the upper folder of a RUN into a layer.
use crate::fault::At;
use crate::snapshots::{Snapshot, Snapshots};
use crate::upper::Upper;
use dcbuild_model::{LayerId, TreePath};
use dcbuild_tree::{Changes, Entry};

/// What a commit needs to know beside the upper folder.
pub struct CommitForm<'a> {
    /// The entry of the tree below, by path; the root has one.
    pub lower: &'a (dyn Fn(&TreePath) -> Option<Entry> + Sync),
    /// Mount points and files that the cell put there: dropped while they are empty.
    pub stubs: &'a [TreePath],
    /// How many threads hash.
    pub threads: usize,
}

/// What a RUN made.
#[derive(Debug)]
pub struct Committed {
    /// What it changed; each file's origin is this layer.
    pub changes: Changes,
    /// The layer, by the table of contents of its changes.
    pub layer: LayerId,
    /// That table.
    pub toc: Vec<u8>,
    /// The folder, in use while this is held.
    pub snapshot: Snapshot,
}

/// Says why an upper folder could not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The folder could not be read or moved.
    #[error(transparent)]
    Io(#[from] At),
}

impl Snapshots {
    /// Turns an upper folder into the snapshot of the layer that it is; what equals the lower tree is dropped.
    pub fn commit(&self, upper: Upper, form: &CommitForm<'_>) -> Result<Committed, CommitError> {
        todo!()
    }
}

//! What snapshots take, and taking it back.
use dcbuild_model::{LayerId, UnixTime};
use crate::fault::At;
use crate::snapshots::Snapshots;

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
        todo!()
    }

    /// Lists all snapshots, the longest unused first.
    pub fn usage(&self) -> Result<Vec<Usage>, At> {
        todo!()
    }
}

//! Contents.
use std::io::{self, Read};
use dcbuild_layer::ReadContent;
use dcbuild_model::LayerId;
use dcbuild_tree::FileBody;
use crate::snapshots::Snapshot;

/// Gives the bytes of files that lie in snapshots; holds those snapshots in use.
#[derive(Debug, Default)]
pub struct SnapshotContents {
    layers: std::collections::BTreeMap<LayerId, Snapshot>,
}

impl SnapshotContents {
    /// Gives contents from these snapshots and no others.
    pub fn new(snapshots: impl IntoIterator<Item = Snapshot>) -> SnapshotContents {
        todo!()
    }
    /// Whether a layer's bytes are at hand.
    pub fn has(&self, layer: &LayerId) -> bool {
        todo!()
    }
}

impl ReadContent for SnapshotContents {
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        todo!()
    }
}

//! Reads files out of snapshots, by descriptor and never through a link.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use dcbuild_layer::ReadContent;
use dcbuild_model::LayerId;
use dcbuild_tree::{FileBody, Origin};

use crate::beneath;
use crate::snapshots::Snapshot;

/// Gives the bytes of files that lie in snapshots; holds those snapshots in use.
#[derive(Clone, Debug, Default)]
pub struct SnapshotContents {
    layers: BTreeMap<LayerId, Snapshot>,
}

impl SnapshotContents {
    /// Gives contents from these snapshots and no others.
    pub fn new(snapshots: impl IntoIterator<Item = Snapshot>) -> SnapshotContents {
        let layers = snapshots.into_iter().map(|snapshot| (snapshot.layer(), snapshot)).collect();
        SnapshotContents { layers }
    }

    /// Whether a layer's bytes are at hand.
    pub fn has(&self, layer: &LayerId) -> bool {
        self.layers.contains_key(layer)
    }
}

impl ReadContent for SnapshotContents {
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        let absent = |what| io::Error::new(io::ErrorKind::NotFound, what);
        match &body.origin {
            Origin::Inline(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Origin::Context { .. } => Err(absent("the bytes lie in the context")),
            Origin::Layer { layer, path } => {
                let snapshot = self
                    .layers
                    .get(layer)
                    .ok_or_else(|| absent("its layer has no snapshot here"))?;
                let (file, size) = beneath::open_sized(snapshot.fs(), path)?;
                Ok(Box::new(WholeFile { file: file.into(), left: size }))
            }
        }
    }
}

/// A file of a snapshot: it does not change, so where it ends need not be asked again.
struct WholeFile {
    file: File,
    left: u64,
}

impl Read for WholeFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let count = self.file.read(buffer)?;
        self.left = self.left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}

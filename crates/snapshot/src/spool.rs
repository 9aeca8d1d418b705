//! Unpacks a blob.
use std::io::Read;
use dcbuild_layer::{LayerForm, ReadLayer, ReadLayerError};
use crate::materialise::MaterialiseError;
use crate::snapshots::{Snapshot, Snapshots};

/// Says why a blob could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The blob is wrong, or its reader failed.
    #[error(transparent)]
    Read(#[from] ReadLayerError),
    /// What it holds could not be written as a folder.
    #[error(transparent)]
    Write(#[from] MaterialiseError),
    /// The blob is not the one that was asked for.
    #[error("the blob's digest is not the one that was asked for")]
    Refused,
}

impl Snapshots {
    /// Streams a blob once, unpacks it and keeps the folder if `accept` finds its digests right.
    pub fn unpack(
        &self,
        input: impl Read + Send,
        form: LayerForm,
        accept: impl FnOnce(&ReadLayer) -> bool,
    ) -> Result<(Snapshot, ReadLayer), UnpackError> {
        todo!()
    }
}

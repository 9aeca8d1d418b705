//! Writes a layer's blob: tar, hashes, compression and index in one pass over all cores.

use std::io::{self, Write};

use dcbuild_model::{LayerBlob, TreePath};
use dcbuild_tree::Changes;

use crate::compress::{BlobForm, InvalidLevel};
use crate::content::ReadContent;
use crate::index::BlobIndex;

/// A blob that was written, and where its files are in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrittenBlob {
    /// The blob's names and size.
    pub blob: LayerBlob,
    /// Where its files are.
    pub index: BlobIndex,
}

/// Says why a blob could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteBlobError {
    /// The form cannot be.
    #[error(transparent)]
    Level(#[from] InvalidLevel),
    /// A tar cannot hold the entry.
    #[error("'{path}' cannot be in a layer: {reason}")]
    Unrepresentable {
        /// The entry.
        path: TreePath,
        /// Why not.
        reason: &'static str,
    },
    /// A file could not be read.
    #[error("could not read '{path}'")]
    Content {
        /// The file.
        path: TreePath,
        /// Why not.
        source: io::Error,
    },
    /// A file has other bytes than its digest says.
    #[error("the content of '{path}' changed while it was used")]
    ContentChanged {
        /// The file.
        path: TreePath,
    },
    /// A frame could not be compressed.
    #[error("could not compress the layer")]
    Compress(#[source] io::Error),
    /// The blob could not be written.
    #[error("could not write the layer's blob")]
    Write(#[source] io::Error),
}

/// Writes the blob of a layer; its bytes depend on the changes, the compression and the level alone.
pub fn write_blob(
    changes: &Changes,
    contents: &dyn ReadContent,
    form: &BlobForm,
    out: impl Write,
) -> Result<WrittenBlob, WriteBlobError> {
    todo!()
}

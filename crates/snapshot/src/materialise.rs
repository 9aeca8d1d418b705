//! Writes a layer as a folder.
use dcbuild_layer::ReadContent;
use dcbuild_model::{LayerId, TreePath};
use dcbuild_tree::Changes;
use crate::fault::At;
use crate::snapshots::{Snapshot, Snapshots};

/// Says why a layer could not be written as a folder.
#[derive(Debug, thiserror::Error)]
pub enum MaterialiseError {
    /// A file system call failed.
    #[error(transparent)]
    Io(#[from] At),
    /// A file's bytes could not be had.
    #[error("could not read the content of '{path}'")]
    Content {
        /// The file.
        path: TreePath,
        /// Why not.
        source: std::io::Error,
    },
    /// A file has other bytes than its digest says.
    #[error("the content of '{path}' is not what its digest says")]
    ContentChanged {
        /// The file.
        path: TreePath,
    },
    /// An entry lies below something that is no folder.
    #[error("'{path}' lies below something that is not a folder")]
    NotBelowFolder {
        /// The entry.
        path: TreePath,
    },
}

impl Snapshots {
    /// Writes a layer as a folder, unless it is there already; several threads and processes may do so at once.
    pub fn materialise(
        &self,
        layer: &LayerId,
        changes: &Changes,
        contents: &dyn ReadContent,
    ) -> Result<Snapshot, MaterialiseError> {
        todo!()
    }
}

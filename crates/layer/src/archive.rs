//! Archives that ADD unpacks.
use std::io::{Read};

use dcbuild_tree::Changes;

use crate::read::{LayerSink, ReadLayerError};

/// What an archive is, by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveKind {
    /// A plain tar.
    Tar,
    /// A tar in gzip.
    Gzip,
    /// A tar in bzip2.
    Bzip2,
    /// A tar in xz.
    Xz,
    /// A tar in zstd.
    Zstd,
}

/// Says why an archive could not be read.
#[derive(Debug, thiserror::Error)]
#[error("could not read the {kind:?} archive")]
pub struct ReadArchiveError {
    /// What it is by its first bytes.
    pub kind: ArchiveKind,
    /// Why not.
    pub source: ReadLayerError,
}

/// Reads an archive as entries below the root, names that lead out taken as if the root were `/`; nothing where the
/// bytes are no archive that ADD unpacks.
pub fn read_archive(
    input: impl Read + Send,
    sink: &mut dyn LayerSink,
) -> Result<Option<Changes>, ReadArchiveError> {
    todo!()
}

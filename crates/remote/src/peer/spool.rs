//! What comes of a file, until all of it is known to be right.

use std::fs::File;
use std::io::{Cursor, Read, Seek as _, Write as _};
use std::path::Path;

use dcbuild_model::{ContentDigest, Digest};
use sha2::{Digest as _, Sha256};

use super::ask::{PeerError, Wanted};

/// Files up to here are held in memory while they are checked.
const MEMORY_BYTES_MAX: u64 = 8 << 20;

/// A file that is on its way.
pub(super) struct Spool {
    place: Place,
    /// How much of it has come.
    pub(super) size: u64,
    hash: Sha256,
}

enum Place {
    Memory(Vec<u8>),
    File(File),
}

impl Spool {
    pub(super) fn new(size: u64, folder: &Path) -> Result<Spool, PeerError> {
        let place = if size <= MEMORY_BYTES_MAX {
            Place::Memory(Vec::with_capacity(usize::try_from(size).unwrap_or(0)))
        } else {
            Place::File(tempfile::tempfile_in(folder).map_err(PeerError::Spool)?)
        };
        Ok(Spool { place, size: 0, hash: Sha256::new() })
    }

    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), PeerError> {
        match &mut self.place {
            Place::Memory(memory) => memory.extend_from_slice(bytes),
            Place::File(file) => file.write_all(bytes).map_err(PeerError::Spool)?,
        }
        self.hash.update(bytes);
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    pub(super) fn is(&self, wanted: Wanted<'_>) -> bool {
        let digest = Digest(self.hash.clone().finalize().into());
        self.size == wanted.size && ContentDigest(digest) == wanted.content
    }

    pub(super) fn into_reader(self) -> Result<Box<dyn Read + Send>, PeerError> {
        match self.place {
            Place::Memory(memory) => Ok(Box::new(Cursor::new(memory))),
            Place::File(mut file) => {
                file.rewind().map_err(PeerError::Spool)?;
                Ok(Box::new(file))
            }
        }
    }
}

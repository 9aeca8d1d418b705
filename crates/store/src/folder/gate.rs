//! The gate between those who use files and those who remove them, for all processes on a store.
//!
//! A use looks at a file and notes the time in it; a removal looks at that time and unlinks the file. Each is two system
//! calls, so the one could come between the two of the other: a file would be gone that was just promised. Therefore uses
//! pass the gate together, and a removal has it alone. It is held for single files, never for as long as bytes move.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::FolderStore;
use crate::StoreError;

/// The gate, passed until it is dropped.
#[derive(Debug)]
pub(super) struct Gate {
    /// The lock goes with the descriptor.
    _file: OwnedFd,
}

impl FolderStore {
    /// Keeps removals off while a use is noted.
    pub(super) fn gate(&self) -> Result<Gate, StoreError> {
        self.pass(FlockOperation::LockShared)
    }

    /// Keeps uses off while something is removed.
    pub(super) fn gate_alone(&self) -> Result<Gate, StoreError> {
        self.pass(FlockOperation::LockExclusive)
    }

    fn pass(&self, operation: FlockOperation) -> Result<Gate, StoreError> {
        let path = self.inner.dir.join("gate");
        let mut options = File::options();
        // Each passage opens the file for itself: the threads of a process must not let go of each other's lock.
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = OwnedFd::from(file.map_err(StoreError::io(&path))?);
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Gate { _file: file }),
                Err(Errno::INTR) => {}
                Err(error) => return Err(StoreError::io(path)(error.into())),
            }
        }
    }
}

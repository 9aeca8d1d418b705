//! The folders that a RUN's overlay writes to.

use std::path::{Path, PathBuf};

use dcbuild_model::AttemptId;

use crate::snapshots::Temp;

/// The upper and work folders of one attempt; a sweep leaves them alone while this is held.
#[derive(Debug)]
pub struct Upper {
    pub(crate) attempt: AttemptId,
    pub(crate) folder: PathBuf,
    pub(crate) temp: Temp,
}

impl Upper {
    /// The attempt that writes here.
    pub fn attempt(&self) -> AttemptId {
        self.attempt
    }

    /// The overlay's `upperdir`.
    pub fn upper(&self) -> PathBuf {
        self.folder.join("fs")
    }

    /// The overlay's `workdir`.
    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// The folder that holds both, on one file system.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

//! Failures at one path, as every operation here reports them.

use std::io;
use std::path::PathBuf;

/// What failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} '{}'", .path.display())]
pub struct At {
    /// What was tried.
    pub action: &'static str,
    /// The path: of this machine, or inside a snapshot.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

//! Failures at one path, as every operation here reports them.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dcbuild_model::TreePath;

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

/// Says what was tried at a path of this machine.
pub(crate) fn at<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> At {
    move |error| At { action, path: path.to_path_buf(), source: error.into() }
}

/// Says what was tried at a path inside a snapshot.
pub(crate) fn inside<E: Into<io::Error>>(
    action: &'static str,
    path: &TreePath,
) -> impl FnOnce(E) -> At {
    move |error| At {
        action,
        path: Path::new("/").join(std::ffi::OsStr::from_bytes(path.as_bytes())),
        source: error.into(),
    }
}

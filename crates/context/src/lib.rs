//! A build's context where it lies on the user's disk: lists it, hashes what is asked for, opens files of it.
//!
//! Everything works by file descriptor from the folder down and never follows a link out of it; pipes, sockets and
//! devices are listed and never opened. Nothing is copied and nothing is written but the cache of hashes. Start with
//! [`Context`], which gives a [`Listing`], which [`hash`] turns into a tree.

mod beneath;
pub mod find;
pub mod hash;
pub mod local;
pub mod scan;
pub mod stat_cache;
mod walk;
mod xattrs;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcbuild_model::{Fault, TreePath};
use rustix::fs::{Mode, OFlags};

pub use find::{FindError, Found, Origins, Source, find};
pub use hash::{HashError, Hashed, hash};
pub use local::{LocalContext, LocalContexts, LocalError};
pub use scan::{Listing, ScanError};
pub use stat_cache::StatCache;

/// A folder that a build reads, held open.
#[derive(Clone, Debug)]
pub struct Context {
    /// Its place in the job's list of contexts.
    index: u32,
    root: PathBuf,
    folder: Arc<OwnedFd>,
    said: Attributes,
    owners: Owners,
}

/// What is said of an entry of a context, whatever this machine's disk says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    /// Its permissions.
    pub mode: u32,
    /// Who it belongs to, in the numbers of the image.
    pub owner: (u32, u32),
}

/// What is said of entries; one that nothing is said of has the permissions that it has here, and belongs to root.
pub type Attributes = Arc<HashMap<TreePath, Said>>;

/// Whom the entries of a folder belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Owners {
    /// Root: two checkouts of one commit are the same, whoever made them.
    #[default]
    Root,
    /// Whom they belong to on this machine's disk.
    Kept,
}

/// Says why a folder cannot be a context.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no folder there.
    #[error("the context '{path}' is not a folder that can be read")]
    NotFolder {
        /// The path, as the user wrote it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        Fault::Request
    }

    /// What could help.
    pub fn hint(&self) -> Option<&'static str> {
        Some("give the path of a folder, such as '.'")
    }
}

impl Context {
    /// Opens a folder; `index` is its place in the job's list of contexts.
    pub fn open(path: &Path, index: u32) -> Result<Context, OpenError> {
        let failed = |source| OpenError::NotFolder { path: path.into(), source };
        let root = std::fs::canonicalize(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder =
            rustix::fs::open(&root, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let (said, owners) = (Attributes::default(), Owners::default());
        Ok(Context { index, root, folder: Arc::new(folder), said, owners })
    }

    /// The same, where something else is said of entries of it than this machine's disk says.
    #[must_use]
    pub fn with(self, said: Attributes) -> Context {
        Context { said, ..self }
    }

    /// The same, where its entries belong to these.
    #[must_use]
    pub fn owned(self, owners: Owners) -> Context {
        Context { owners, ..self }
    }

    /// Its path, absolute and without links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its place in the job's list of contexts.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Opens files of it later.
    pub fn reader(&self) -> ContextReader {
        ContextReader { folder: self.folder.clone() }
    }
}

/// Opens files of a context for reading: regular files inside the folder only, through no link.
#[derive(Clone, Debug)]
pub struct ContextReader {
    folder: Arc<OwnedFd>,
}

impl ContextReader {
    /// Opens one file from its first byte on.
    pub fn open(&self, path: &TreePath) -> io::Result<File> {
        beneath::open_file(&self.folder, path).map(|(file, _)| file)
    }
}

/// Whether what was a regular file a moment ago is none any more.
pub fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound};
    let is_link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    is_link || matches!(error.kind(), NotFound | NotADirectory | IsADirectory | InvalidInput)
}

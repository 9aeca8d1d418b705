//! The client's folders, where this process can read them.

use std::io::{self, Read};
use std::sync::Arc;

use dcbuild_context::{ContextReader, LocalContexts, LocalError, is_gone};
use dcbuild_layer::ReadContent;
use dcbuild_model::{BuildId, Selection};
use dcbuild_tree::{FileBody, Origin, Tree};

use crate::contents::another;

/// A part of a folder: what is there, and who gives its bytes.
#[derive(Clone)]
pub struct ContextTree {
    /// All folders and links, and the files that were asked for.
    pub tree: Arc<Tree>,
    /// Gives the bytes of its files.
    pub contents: Arc<dyn ReadContent + Send + Sync>,
    /// How it finds them.
    pub finds: Finds,
}

/// How the bytes of a context's files are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finds {
    /// In a folder, by their path.
    ByPath,
    /// In packs, by the digest of their content.
    ByContent,
}

/// Says why a folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The build has no such folder in this process.
    #[error("the build's context '{context}' cannot be read here")]
    Absent {
        /// The context.
        context: String,
    },
    /// It could not be listed or hashed.
    #[error("could not read the context '{context}'")]
    Read {
        /// The context.
        context: String,
        /// Why not.
        source: LocalError,
    },
}

/// Gives parts of the client's folders.
pub trait Contexts: Send + Sync {
    /// Opens what a selection sees of a folder; may block.
    fn open(
        &self,
        build: BuildId,
        context: &str,
        selection: &Selection,
    ) -> Result<ContextTree, ContextError>;
}

/// Has no folders: for a worker far from its clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoContexts;

impl Contexts for NoContexts {
    fn open(&self, _: BuildId, context: &str, _: &Selection) -> Result<ContextTree, ContextError> {
        Err(ContextError::Absent { context: context.into() })
    }
}

impl Contexts for LocalContexts {
    fn open(
        &self,
        build: BuildId,
        context: &str,
        selection: &Selection,
    ) -> Result<ContextTree, ContextError> {
        let absent = || ContextError::Absent { context: context.into() };
        let local = self.get(build, context).ok_or_else(absent)?;
        let tree = local
            .tree(selection)
            .map_err(|source| ContextError::Read { context: context.into(), source })?;
        let contents = Arc::new(FolderContents(local.reader()));
        Ok(ContextTree { tree, contents, finds: Finds::ByPath })
    }
}

/// Gives the bytes of a folder's files, as they are now.
struct FolderContents(ContextReader);

impl ReadContent for FolderContents {
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        match &body.origin {
            Origin::Context { path, .. } => match self.0.open(path) {
                Err(error) if is_gone(&error) => Err(another(error.kind())),
                opened => Ok(Box::new(opened?)),
            },
            Origin::Inline(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Origin::Layer { .. } => {
                Err(io::Error::new(io::ErrorKind::NotFound, "the bytes do not lie in the context"))
            }
        }
    }
}

//! COPY, ADD and WORKDIR: the one place that knows what they make of a tree.
//!
//! The layer that comes out holds what was put and, besides, every folder above it with the metadata that it has in
//! the merged tree: so it unpacks alone to the same thing, and a layer made by `--link` over nothing fits over anything.

mod archive;
mod lay;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use dcbuild_model::{ContentDigest, TreePath, UnixTime};

use crate::source::{self, Filter, SourceError};
use crate::tree::{InsertError, LastLink, ResolveError};
use crate::{Archive, Changes, Chmod, Entry, FileBody, Kind, Meta, Origin, Tree};
use lay::Copier;

/// What a COPY or ADD asks for, all variables expanded and all owners looked up.
#[derive(Debug)]
pub struct CopyRequest<'a> {
    /// What is copied, in the order of the Dockerfile.
    pub sources: Vec<CopySource<'a>>,
    /// Where to, from the root; a `/` or `/.` at its end makes it a folder. See [`destination`].
    pub dest: String,
    /// `--chown`.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub mode: Option<Chmod>,
    /// Patterns of `--exclude`.
    pub exclude: Vec<String>,
    /// `--parents`.
    pub parents: bool,
    /// `--link`: the layer is made over nothing.
    pub link: bool,
}

/// One thing that is copied.
#[derive(Debug)]
pub enum CopySource<'a> {
    /// Paths of a tree.
    Tree {
        /// The context, or the stage of `--from`.
        tree: &'a Tree,
        /// The sources, as written.
        paths: &'a [String],
        /// What happens to the owners.
        owners: SourceOwners,
        /// What the archives among the files hold, by their place in the tree; an ADD lays it down in their stead.
        archives: &'a BTreeMap<TreePath, Archive>,
    },
    /// A heredoc, or something downloaded.
    Inline {
        /// The name that it gets in a folder.
        name: Vec<u8>,
        /// Its bytes.
        bytes: Arc<[u8]>,
        /// Their digest.
        content: ContentDigest,
    },
}

/// What happens to the owners of a source where there is no `--chown`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceOwners {
    /// They become root's, as for a context.
    Reset,
    /// They stay, as for a stage or image.
    Keep,
}

/// Says why a COPY, ADD or WORKDIR cannot be done.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CopyError {
    /// A source names nothing.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The destination leads nowhere.
    #[error(transparent)]
    Destination(#[from] ResolveError),
    /// A folder is needed where something else is.
    #[error("mkdir {path}: not a directory")]
    NotFolder {
        /// Where.
        path: TreePath,
    },
    /// A folder would be copied over something else.
    #[error("cannot copy to non-directory: {path}")]
    FolderOverOther {
        /// Where.
        path: TreePath,
    },
    /// Something else would be copied over a folder.
    #[error("cannot replace to directory {path} with file")]
    OtherOverFolder {
        /// Where.
        path: TreePath,
    },
    /// Something could not be laid where it belongs.
    #[error("could not lay a file: {0}")]
    Lost(#[from] InsertError),
    /// An archive's entry lies below a link that leads nowhere inside.
    #[error("open /{entry}: no such file or directory")]
    ArchiveLink {
        /// The entry, as the archive names it.
        entry: String,
    },
    /// An archive's hard link names nothing that can have one more name.
    #[error("link {to} {path}: {reason}")]
    HardLink {
        /// The link.
        path: TreePath,
        /// What it is to be a name of.
        to: TreePath,
        /// Why it cannot.
        reason: &'static str,
    },
}

/// Does a COPY or ADD on `dest`, and says what that changes.
///
/// Files keep the times of their sources, as do copied folders; folders that had to be made get `now`.
pub fn copy(dest: &Tree, request: &CopyRequest<'_>, now: UnixTime) -> Result<Changes, CopyError> {
    let filter = Filter::new(&request.exclude, request.parents)?;
    let base = if request.link { Tree::scratch() } else { dest.clone() };
    let mut copier = Copier::new(base, request.owner, request.mode.clone(), now);
    for source in &request.sources {
        match source {
            CopySource::Tree { tree, paths, owners, archives } => {
                for path in *paths {
                    for found in source::find(tree, path, &filter)? {
                        match archives.get(&found.path) {
                            Some(archive) => copier.unpack(&request.dest, archive)?,
                            None => copier.lay(&request.dest, &found, *owners)?,
                        }
                    }
                }
            }
            CopySource::Inline { name, bytes, content } => {
                let entry = inline(bytes, *content, now);
                copier.lay_file(&request.dest, name, &entry, SourceOwners::Reset)?;
            }
        }
    }
    copier.finish()
}

/// What an archive makes of nothing; folders that it does not name get `now`.
pub fn unpacked(archive: &Archive, now: UnixTime) -> Result<Changes, CopyError> {
    let mut copier = Copier::new(Tree::scratch(), None, None, now);
    copier.unpack("/", archive)?;
    copier.finish()
}

/// Makes the folder of a WORKDIR; an existing one changes nothing, links on the way are followed.
pub fn workdir(
    dest: &Tree,
    path: &str,
    owner: (u32, u32),
    now: UnixTime,
) -> Result<Changes, CopyError> {
    let mut copier = Copier::new(dest.clone(), Some(owner), None, now);
    let path = TreePath::clean(path.as_bytes()).map_err(ResolveError::from)?;
    let folder = dest.resolve(path.as_bytes(), LastLink::Follow)?;
    copier.make_folders(&folder)?;
    copier.finish()
}

/// Joins a destination, as written, to the working directory; it stays a folder where it was written as one.
pub fn destination(workdir: &str, written: &str) -> String {
    let mut joined =
        if written.starts_with('/') { written.to_owned() } else { format!("{workdir}/{written}") };
    if (written.is_empty() || written == ".") && !joined.ends_with('/') {
        joined.push('/');
    }
    joined
}

fn inline(bytes: &Arc<[u8]>, content: ContentDigest, now: UnixTime) -> Entry {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let body = FileBody { content, size, origin: Origin::Inline(Arc::clone(bytes)) };
    let meta = Meta { mode: 0o644, mtime: now, ..Meta::default() };
    Entry { meta, kind: Kind::File(body), links: None }
}

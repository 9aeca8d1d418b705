//! What an archive holds before anybody has unpacked it.

use dcbuild_model::TreePath;

use crate::{Entry, Meta};

/// The members of an archive in their order, on which it depends what they make of a folder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Archive(pub Vec<(TreePath, Member)>);

/// What an archive has at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Member {
    /// An entry, tied to nothing.
    Put(Entry),
    /// One more name of what stands at another path when this one is unpacked.
    Link {
        /// That path, counted from where the archive is unpacked.
        to: TreePath,
        /// What the archive says of the file; it holds for all its names.
        meta: Meta,
    },
}

//! What a layer changes: the difference between two trees.

use std::collections::BTreeMap;

use dcbuild_model::{TreePath, UnixTime};

use crate::Entry;

/// What happens to one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The entry stands here afterwards; a folder keeps what is below it.
    Put(Entry),
    /// The folder stands here afterwards, and nothing of the lower layers below it (an opaque whiteout).
    Replace(Entry),
    /// Nothing stands here afterwards (a whiteout).
    Remove,
}

/// The changes of one layer, each path once, parents before children. The root itself may be in it, for its metadata.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes(pub BTreeMap<TreePath, Change>);

impl Changes {
    /// Gives each entry another time, which may depend on the one that it has.
    pub fn set_times(&mut self, time: impl Fn(UnixTime) -> UnixTime) {
        for change in self.0.values_mut() {
            match change {
                Change::Put(entry) | Change::Replace(entry) => {
                    entry.meta.mtime = time(entry.meta.mtime);
                }
                Change::Remove => {}
            }
        }
    }
}

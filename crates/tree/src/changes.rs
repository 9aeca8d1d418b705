//! What a layer changes: the difference between two trees.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use dcbuild_model::{TreePath, UnixTime};

use crate::{Entry, Kind, LinkGroup};

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

impl Change {
    /// Whether it is a socket: a RUN may leave one for the next, but no tar has a form for it.
    pub fn is_socket(&self) -> bool {
        matches!(self, Change::Put(entry) if entry.kind == Kind::Socket)
    }
}

/// The changes of one layer, each path once, parents before children. The root itself may be in it, for its metadata.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes(pub BTreeMap<TreePath, Change>);

/// Says that two layers that are laid beside each other both have something at a path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{path}' is there already")]
pub struct Overlap {
    /// The path.
    pub path: TreePath,
}

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

    /// The same below a folder: what stood for the root stands for the folder.
    ///
    /// The name must be one that [`TreePath::clean`] would keep.
    #[must_use]
    pub fn below(self, folder: &[u8]) -> Changes {
        let top = TreePath::root().join(folder);
        let moved = |(path, change): (TreePath, Change)| {
            (path.names().fold(top.clone(), |path, name| path.join(name)), change)
        };
        Changes(self.0.into_iter().map(moved).collect())
    }

    /// Lays other changes beside these; folders may be in both, anything else in one of them only.
    pub fn join(&mut self, other: Changes) -> Result<(), Overlap> {
        // A group's number has a meaning only inside one layer.
        let taken = self.0.values().filter_map(links).map(|group| group.0 + 1).max();
        for (path, mut change) in other.0 {
            if let (Some(LinkGroup(number)), Some(taken)) = (links_mut(&mut change), taken) {
                *number = number.saturating_add(taken);
            }
            match self.0.entry(path) {
                Slot::Vacant(slot) => {
                    slot.insert(change);
                }
                Slot::Occupied(slot) if is_folder(slot.get()) && is_folder(&change) => {}
                Slot::Occupied(slot) => return Err(Overlap { path: slot.key().clone() }),
            }
        }
        Ok(())
    }
}

fn entry(change: &Change) -> Option<&Entry> {
    match change {
        Change::Put(entry) | Change::Replace(entry) => Some(entry),
        Change::Remove => None,
    }
}

fn is_folder(change: &Change) -> bool {
    entry(change).is_some_and(Entry::is_dir)
}

fn links(change: &Change) -> Option<LinkGroup> {
    entry(change)?.links
}

fn links_mut(change: &mut Change) -> Option<&mut LinkGroup> {
    match change {
        Change::Put(entry) | Change::Replace(entry) => entry.links.as_mut(),
        Change::Remove => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{dir, file, grouped, layer, path};

    fn shown(changes: &Changes) -> Vec<(String, Option<u64>)> {
        let one = |(path, change): (&TreePath, &Change)| {
            (path.to_string(), links(change).map(|group| group.0))
        };
        changes.0.iter().map(one).collect()
    }

    fn twins() -> Changes {
        layer(&[
            ("", Change::Put(dir())),
            ("d", Change::Put(dir())),
            ("d/a", Change::Put(grouped(file("x"), 0))),
            ("d/b", Change::Put(grouped(file("x"), 0))),
        ])
    }

    #[test]
    fn layers_lie_beside_each_other_in_folders() {
        let mut both = twins().below(b"linux_amd64");
        both.join(twins().below(b"linux_arm64")).unwrap();
        let named = |path: &str, group| (path.to_owned(), group);
        assert_eq!(
            shown(&both),
            [
                named("/linux_amd64", None),
                named("/linux_amd64/d", None),
                named("/linux_amd64/d/a", Some(0)),
                named("/linux_amd64/d/b", Some(0)),
                named("/linux_arm64", None),
                named("/linux_arm64/d", None),
                // The names of one inode stay together, and apart from the other layer's.
                named("/linux_arm64/d/a", Some(1)),
                named("/linux_arm64/d/b", Some(1)),
            ]
        );
    }

    #[test]
    fn only_folders_may_be_in_both() {
        let mut all = twins();
        let other = layer(&[("d", Change::Put(dir())), ("d/c", Change::Put(file("y")))]);
        all.join(other).unwrap();
        assert_eq!(shown(&all).len(), 5);
        let overlap = |at: &str, change| all.clone().join(layer(&[(at, change)])).unwrap_err();
        assert_eq!(overlap("d/a", Change::Put(file("x"))).path, path("d/a"));
        assert_eq!(overlap("d", Change::Put(file("x"))).path, path("d"));
    }
}

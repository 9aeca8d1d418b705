//! Cleaning up what a RUN's mounts left behind in its layer.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use dcbuild_model::TreePath;

use crate::{Change, Changes, Entry, Kind, Meta, Tree};

/// Drops from a RUN's changes what only its mounts have made: the empty files and folders that were mounted over, the
/// new folders above them in which nothing else is left, and folders that are as they were before.
///
/// `created` names what the executor has made in order to mount over it; its parents may be left out. An existing
/// folder in which a stub came and went is as it was, even though its time is not.
pub fn without_stubs(mut changes: Changes, lower: &Tree, created: &[TreePath]) -> Changes {
    let mut stubs: BTreeSet<TreePath> = BTreeSet::new();
    for target in created {
        let mut path = Some(target.clone());
        while let Some(stub) = path.filter(|path| !path.is_root() && lower.get(path).is_none()) {
            path = stub.parent();
            stubs.insert(stub);
        }
    }
    let mut disturbed: BTreeSet<TreePath> = BTreeSet::new();
    // Children come after their parents, so from the end each stub is met when all below it are gone.
    for stub in stubs.iter().rev() {
        let is_target = created.contains(stub);
        let empty = match changes.0.get(stub) {
            Some(Change::Put(entry) | Change::Replace(entry)) => is_empty(entry, is_target),
            Some(Change::Remove) | None => false,
        };
        if empty && !has_children(&changes, stub) {
            changes.0.remove(stub);
            disturbed.extend(stub.parent());
        }
    }
    let quiet: Vec<TreePath> =
        disturbed.into_iter().filter(|folder| !has_children(&changes, folder)).collect();
    changes.0.retain(|path, change| {
        let (Change::Put(entry), Some(before)) = (change, lower.get(path)) else { return true };
        let same = if quiet.binary_search(path).is_ok() {
            untimed(entry) == untimed(before)
        } else {
            entry == before
        };
        !(entry.is_dir() && same)
    });
    changes
}

/// Whether a stub is as it was made; a file counts only as a target, since nobody makes one on the way.
fn is_empty(entry: &Entry, is_target: bool) -> bool {
    match &entry.kind {
        Kind::Dir => true,
        Kind::File(body) => is_target && body.size == 0,
        _ => false,
    }
}

fn has_children(changes: &Changes, folder: &TreePath) -> bool {
    // What is below a path does not follow it at once ("a-b" lies between "a" and "a/b"), but "a/" leads there.
    let mut prefix = folder.as_bytes().to_vec();
    if !prefix.is_empty() {
        prefix.push(b'/');
    }
    let after =
        changes.0.range((std::ops::Bound::Excluded(folder.clone()), std::ops::Bound::Unbounded));
    after
        .map(|(path, _)| path.as_bytes())
        .take_while(|path| path.starts_with(folder.as_bytes()))
        .any(|path| path.starts_with(&prefix))
}

fn untimed(entry: &Entry) -> Entry {
    let meta = Meta { mtime: dcbuild_model::UnixTime::default(), ..entry.meta.clone() };
    Entry { meta, ..entry.clone() }
}

//! Files that are named as a layer's tar names what it removes.

use std::collections::BTreeSet;

use dcbuild_model::TreePath;

use crate::{Change, Changes, Tree};

const MARK: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Reads files named `.wh.NAME` as what everybody who unpacks the layer will read them as: the removal of `NAME`.
///
/// Only so is the tree that is built on the tree that is pulled. What the layer itself puts is not removed by it.
pub fn with_whiteout_names(mut changes: Changes, lower: &Tree) -> Changes {
    let marked = |path: &TreePath| path.name().is_some_and(|name| name.starts_with(MARK));
    let marks: BTreeSet<TreePath> = changes.0.keys().filter(|path| marked(path)).cloned().collect();
    if marks.is_empty() {
        return changes;
    }
    changes.0.retain(|path, _| {
        let mut above = Some(path.clone());
        while let Some(here) = above {
            if marks.contains(&here) {
                return false;
            }
            above = here.parent();
        }
        true
    });
    for mark in &marks {
        let (Some(folder), Some(name)) = (mark.parent(), mark.name()) else { continue };
        if name == OPAQUE {
            if let Some(Change::Put(entry)) = changes.0.get(&folder).cloned() {
                changes.0.insert(folder, Change::Replace(entry));
            }
            continue;
        }
        let hidden = name.strip_prefix(MARK).unwrap_or_default();
        if hidden.is_empty() || hidden.starts_with(MARK) || hidden == b"." || hidden == b".." {
            continue;
        }
        let hidden = folder.join(hidden);
        if lower.get(&hidden).is_some() {
            changes.0.entry(hidden).or_insert(Change::Remove);
        }
    }
    changes
}

//! Folders that a layer does not have, though it has something in them, look as the layers below say.
//!
//! A snapshot is made of one layer alone and has them all the same, as a folder system needs them: an overlay would show
//! that one's owner, mode and time. So what the tree says of them lies on top.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcbuild_layer::InlineContents;
use dcbuild_model::{LayerRef, TreePath, UnixTime};
use dcbuild_snapshot::Snapshot;
use dcbuild_tree::{Change, Changes, Entry, toc};

use super::{Layers, below_mount};
use crate::error::Failed;

/// The folders of a chain that would look otherwise, as a snapshot to lay on top of it; none if there are none.
pub(super) fn folders(
    layers: &Arc<Layers>,
    chain: &[LayerRef],
) -> Result<Option<Snapshot>, Failed> {
    let mut implied: Vec<TreePath> = Vec::new();
    for layer in below_mount(chain) {
        implied.extend(layers.implied(&layer.layer)?.iter().cloned());
    }
    if implied.is_empty() {
        return Ok(None);
    }
    let (tree, made) = (layers.tree(chain)?, Entry::folder(0o755, (0, 0), UnixTime::default()));
    let mut changes = BTreeMap::new();
    for path in implied {
        if tree.get(&path).is_none_or(|entry| !entry.is_dir() || *entry == made) {
            continue;
        }
        let mut above = Some(path);
        while let Some(path) = above.filter(|path| !path.is_root()) {
            let Some(entry) = tree.get(&path) else { break };
            above = path.parent();
            changes.insert(path, Change::Put(entry.clone()));
        }
    }
    if changes.is_empty() {
        return Ok(None);
    }
    let changes = Changes(changes);
    let layer = toc::layer_id(&toc::encode(&changes));
    let made = layers
        .one_by_one(&layer, || layers.snapshots.materialise(&layer, &changes, &InlineContents));
    Ok(Some(made?))
}

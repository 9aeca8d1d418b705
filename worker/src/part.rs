//! A part of an input as a snapshot of its own: what a mount shows, where the rest is not here and would be brought for
//! nothing.
//!
//! Everything here blocks.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcbuild_layer::ReadContent;
use dcbuild_model::{LayerId, LayerRef, TreePath, UnixTime};
use dcbuild_snapshot::{Lowers, Snapshot, write_tree};
use dcbuild_tree::{
    Change, Changes, Entry, FileBody, Kind, LastLink, Origin, SourceError, Tree, toc,
};

use crate::contents::Contents;
use crate::contexts::ContextTree;
use crate::error::Failed;
use crate::layers::{Layers, Standing};
use crate::steps::{Place, Seeing};

/// How the part is called in its snapshot: a short name, as the paths below it may be as long as paths may be.
const NAME: &str = "m";
/// What is read of a layer's blob around the files that are wanted.
const FRAMES_BYTES: u64 = 2 << 20;
/// Bytes that are here already cost a copy, which is so many times cheaper than bringing them.
const NEARER: u64 = 4;

/// What a mount stands on, and the path in that.
pub(crate) struct Shown {
    pub(crate) lowers: Lowers,
    pub(crate) subpath: String,
}

impl Shown {
    /// The folders, lowest layer first.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.lowers.paths().map(PathBuf::from).collect()
    }
}

/// Makes ready what a mount of a path of an input shows. Of a stage whose layers are not all here only that is brought.
pub(crate) fn show(layers: &Arc<Layers>, seeing: &Seeing, source: &str) -> Result<Shown, Failed> {
    let subpath = source.trim_matches('/').to_owned();
    match &seeing.place {
        Place::Nowhere => Ok(Shown { lowers: Lowers::default(), subpath }),
        Place::Chain(chain) => {
            let lacking = match layers.standing(chain)? {
                Standing::All(lowers) => return Ok(Shown { lowers, subpath }),
                Standing::Lacks(lacking) => lacking,
            };
            if !subpath.is_empty() {
                let part = Part::find(&seeing.tree, source)?;
                if cost(layers, &part.changes, &lacking).is_worth_it() {
                    return part.bring(layers, &Contents::new(layers.clone()));
                }
            }
            Ok(Shown { lowers: layers.lowers(chain)?, subpath })
        }
        Place::Folder(folder) => Part::of_context(folder, source)?.bring(layers, &*folder.contents),
    }
}

/// Writes what a mount of a path of an input shows as the folder `fs` below another folder, which has none yet.
pub(crate) fn write(
    layers: &Arc<Layers>,
    seeing: &Seeing,
    source: &str,
    folder: &Path,
) -> Result<(), Failed> {
    match &seeing.place {
        Place::Nowhere | Place::Chain(_) => {
            let part = Part::find(&seeing.tree, source)?;
            Ok(write_tree(folder, &part.changes, &Contents::new(layers.clone()))?)
        }
        Place::Folder(context) => {
            let part = Part::of_context(context, source)?;
            Ok(write_tree(folder, &part.changes, &*context.contents)?)
        }
    }
}

/// A path of a tree with all below it, under a name of its own.
pub(crate) struct Part {
    pub(crate) changes: Changes,
}

impl Part {
    /// The path of the part in a folder that holds it.
    pub(crate) const PATH: &str = NAME;

    /// Takes it from a tree, links followed inside that.
    pub(crate) fn find(tree: &Tree, source: &str) -> Result<Part, Failed> {
        let refused = |error: SourceError| Failed::refused(&error);
        let path = tree.resolve(source.as_bytes(), LastLink::Follow);
        let path = path.map_err(|error| refused(error.into()))?;
        let entry =
            tree.get(&path).ok_or_else(|| refused(SourceError::NotFound { path: path.clone() }))?;
        let (above, top) = (path.names().count(), TreePath::root().join(NAME.as_bytes()));
        let place = |found: TreePath| match above {
            0 => top.below(&found),
            _ => found.names().skip(above).fold(top.clone(), |place, name| place.join(name)),
        };
        let root = Entry::folder(0o755, (0, 0), UnixTime::default());
        let mut changes = BTreeMap::from([
            (TreePath::root(), Change::Put(root)),
            (top.clone(), Change::Put(entry.clone())),
        ]);
        let below = tree.walk_from(&path);
        changes.extend(below.map(|(path, entry)| (place(path), Change::Put(entry.clone()))));
        Ok(Part { changes: Changes(changes) })
    }

    /// Takes it from a client's folder: what is left after .dockerignore, never the live folder.
    fn of_context(folder: &ContextTree, source: &str) -> Result<Part, Failed> {
        let mut part = Part::find(&folder.tree, source)?;
        part.changes.0.retain(|_, change| match change {
            Change::Put(entry) | Change::Replace(entry) => {
                let kind = &entry.kind;
                !matches!(kind, Kind::Socket | Kind::CharDevice { .. } | Kind::BlockDevice { .. })
            }
            Change::Remove => false,
        });
        Ok(part)
    }

    /// Writes it as a snapshot, unless that is there.
    fn bring(self, layers: &Arc<Layers>, contents: &dyn ReadContent) -> Result<Shown, Failed> {
        let layer = toc::layer_id(&toc::encode(&self.changes));
        let snapshot: Snapshot = layers.one_by_one(&layer, || {
            let made = layers.snapshots.materialise(&layer, &self.changes, contents);
            made.map_err(Failed::from)
        })?;
        Ok(Shown { lowers: Lowers(vec![snapshot]), subpath: NAME.to_owned() })
    }
}

/// What must be brought, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cost {
    part: u64,
    whole: u64,
}

impl Cost {
    /// Whether the part alone costs clearly less: another part of the same stage may be wanted next.
    fn is_worth_it(self) -> bool {
        self.part.saturating_mul(4) <= self.whole.saturating_mul(3)
    }
}

/// How the bytes of a layer are had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reading {
    /// File by file.
    ByFile,
    /// All or nothing: a base comes from its registry.
    AsAWhole,
    /// They are here, but not as a snapshot.
    Here,
}

fn cost(layers: &Layers, part: &Changes, lacking: &[LayerRef]) -> Cost {
    let reading = |layer: &LayerRef| {
        let reading = match (layers.recipe(&layer.layer), layers.base(&layer.layer)) {
            (Some(_), _) => Reading::Here,
            (None, Some(_)) => Reading::AsAWhole,
            (None, None) => Reading::ByFile,
        };
        (layer.layer, (reading, layer.bytes))
    };
    reckon(part, &lacking.iter().map(reading).collect())
}

/// Reckons what a part costs, and what all of the layers that are lacking do.
fn reckon(part: &Changes, lacking: &BTreeMap<LayerId, (Reading, u64)>) -> Cost {
    let mut cost = Cost { part: 0, whole: 0 };
    for (reading, bytes) in lacking.values() {
        let divisor = if *reading == Reading::Here { NEARER } else { 1 };
        cost.whole = cost.whole.saturating_add(bytes / divisor);
    }
    let mut read = BTreeSet::new();
    for change in part.0.values() {
        let (Change::Put(entry) | Change::Replace(entry)) = change else { continue };
        let Kind::File(FileBody { size, origin, .. }) = &entry.kind else { continue };
        let Origin::Layer { layer, .. } = origin else { continue };
        let price = match lacking.get(layer) {
            None | Some((Reading::Here, _)) => size / NEARER,
            Some((Reading::AsAWhole, bytes)) if read.insert(*layer) => *bytes,
            Some((Reading::AsAWhole, _)) => 0,
            Some((Reading::ByFile, _)) if read.insert(*layer) => size.saturating_add(FRAMES_BYTES),
            Some((Reading::ByFile, _)) => *size,
        };
        cost.part = cost.part.saturating_add(price);
    }
    cost
}

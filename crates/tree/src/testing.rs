//! Short ways to write trees and layers in tests.

use std::collections::BTreeMap;

use dcbuild_model::{ContentDigest, Digest, LayerId, TreePath, UnixTime};
use proptest::prelude::*;

use crate::{Change, Changes, Entry, FileBody, Kind, LinkGroup, Meta, Origin, Tree, Xattrs};

pub(crate) fn path(text: &str) -> TreePath {
    TreePath::clean(text.as_bytes()).unwrap()
}

pub(crate) fn file(content: &str) -> Entry {
    let layer = LayerId(Digest::of(b"somewhere"));
    let body = FileBody {
        content: ContentDigest(Digest::of(content.as_bytes())),
        size: content.len().try_into().unwrap(),
        origin: Origin::Layer { layer, path: path("f") },
    };
    of(Kind::File(body), 0o644)
}

pub(crate) fn dir() -> Entry {
    of(Kind::Dir, 0o755)
}

pub(crate) fn link(target: &str) -> Entry {
    of(Kind::Symlink(target.as_bytes().to_vec()), 0o777)
}

pub(crate) fn of(kind: Kind, mode: u32) -> Entry {
    Entry { meta: Meta { mode, ..Meta::default() }, kind, links: None }
}

pub(crate) fn grouped(entry: Entry, group: u64) -> Entry {
    Entry { links: Some(LinkGroup(group)), ..entry }
}

pub(crate) fn tree(entries: &[(&str, Entry)]) -> Tree {
    Tree::from_entries(entries.iter().map(|(name, entry)| (path(name), entry.clone()))).unwrap()
}

pub(crate) fn layer(entries: &[(&str, Change)]) -> Changes {
    Changes(entries.iter().map(|(name, change)| (path(name), change.clone())).collect())
}

pub(crate) fn show(tree: &Tree) -> String {
    tree.walk()
        .map(|(path, entry)| match &entry.kind {
            Kind::Dir => format!("{path}/ {:o}\n", entry.meta.mode),
            Kind::Symlink(to) => format!("{path} -> {}\n", String::from_utf8_lossy(to)),
            _ => format!("{path} {:o}\n", entry.meta.mode),
        })
        .collect()
}

prop_compose! {
    fn meta()(
        mode in 0_u32..0o10000,
        uid: u32,
        gid in 0_u32..3,
        secs: i64,
        nanos in 0_u32..1_000_000_000,
        xattrs in prop::collection::btree_map(any::<Vec<u8>>(), any::<Vec<u8>>(), 0..3),
    ) -> Meta {
        Meta { mode, uid, gid, mtime: UnixTime { secs, nanos }, xattrs: Xattrs::new(xattrs) }
    }
}

fn leaf() -> impl Strategy<Value = Kind> {
    prop_oneof![
        any::<u8>().prop_map(|content| file(&content.to_string()).kind),
        any::<Vec<u8>>().prop_map(Kind::Symlink),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
    ]
}

/// Any tree of a few entries, with hard links.
pub(crate) fn any_tree() -> impl Strategy<Value = Tree> {
    let entry = (meta(), prop_oneof![2 => Just(Kind::Dir), 3 => leaf()]);
    let entry = entry.prop_map(|(meta, kind)| Entry { meta, kind, links: None });
    let entries = prop::collection::btree_map("[ab-]{1,2}(/[ab-]{1,2}){0,3}", entry, 0..24);
    (entries, prop::collection::vec((0_usize..24, "[cd]{1,2}"), 0..4)).prop_map(
        |(entries, links)| {
            let mut tree = Tree::scratch();
            for (name, entry) in entries {
                // Entries without a folder are left out.
                drop(tree.insert(&path(&name), entry));
            }
            let walked: Vec<_> = tree.walk().map(|(path, entry)| (path, entry.clone())).collect();
            for (place, name) in links {
                if let Some((first, entry)) = walked.get(place)
                    && !entry.is_dir()
                {
                    let entry = grouped(entry.clone(), place.try_into().unwrap());
                    tree.insert(first, entry.clone()).unwrap();
                    tree.insert(&path(&name), entry).unwrap();
                }
            }
            tree
        },
    )
}

/// Any layer: what one tree puts, and some removals.
pub(crate) fn any_layer() -> impl Strategy<Value = Changes> {
    (any_tree(), prop::collection::vec("[ef]{1,2}", 0..3), any::<bool>()).prop_map(
        |(tree, removed, opaque)| {
            let mut changes: BTreeMap<TreePath, Change> = tree.as_changes().0;
            changes.extend(removed.iter().map(|name| (path(name), Change::Remove)));
            for change in changes.values_mut().skip(1).take(1) {
                if let Change::Put(entry) = change
                    && opaque
                    && entry.is_dir()
                {
                    *change = Change::Replace(entry.clone());
                }
            }
            Changes(changes)
        },
    )
}

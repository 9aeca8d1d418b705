//! Laying a layer over a tree, as an unpacker over overlayfs would.

use std::collections::HashMap;

use dcbuild_model::{TreePath, UnixTime};

use super::{LastLink, Tree, put};
use crate::{Change, Changes, Entry, LinkGroup};

impl Tree {
    /// Lays a layer over this tree.
    ///
    /// A folder over a folder keeps what is below; anything else over anything else takes its place. A parent that the
    /// layer does not name is looked up through links, and made with mode 0755 where it is missing.
    pub fn apply(&mut self, changes: &Changes) {
        let mut groups: HashMap<LinkGroup, LinkGroup> = HashMap::new();
        for (path, change) in &changes.0 {
            let (Change::Put(entry) | Change::Replace(entry)) = change else {
                let real = self.real(path);
                self.remove(&real);
                continue;
            };
            let mut entry = entry.clone();
            if let Some(group) = entry.links {
                let next = &mut self.next_group;
                entry.links = Some(*groups.entry(group).or_insert_with(|| {
                    let fresh = LinkGroup(*next);
                    *next = next.saturating_add(1);
                    fresh
                }));
            }
            self.lay(path, entry, matches!(change, Change::Replace(_)));
        }
    }

    fn lay(&mut self, path: &TreePath, entry: Entry, opaque: bool) {
        if path.is_root() {
            if entry.is_dir() {
                let root = std::sync::Arc::make_mut(&mut self.root);
                root.entry = entry;
                if opaque {
                    root.children.clear();
                }
            }
            return;
        }
        if self.slot(path).is_none() {
            let real = self.real(path);
            if let Some(parent) = real.parent() {
                self.make_folders(&parent);
            }
            return self.lay_in_folder(&real, entry, opaque);
        }
        self.lay_in_folder(path, entry, opaque);
    }

    fn lay_in_folder(&mut self, path: &TreePath, entry: Entry, opaque: bool) {
        if let Some((name, dir)) = self.slot(path) {
            if opaque {
                dir.children.remove(name);
            }
            put(dir, name, entry);
        }
    }

    /// The path with the links above its last name followed.
    fn real(&self, path: &TreePath) -> TreePath {
        self.resolve(path.as_bytes(), LastLink::Keep).unwrap_or_else(|_| path.clone())
    }

    fn make_folders(&mut self, folder: &TreePath) {
        let mut path = TreePath::root();
        for name in folder.names() {
            path = path.join(name);
            if !self.get(&path).is_some_and(Entry::is_dir)
                && let Some((name, dir)) = self.slot(&path)
            {
                put(dir, name, Entry::folder(0o755, (0, 0), UnixTime::default()));
            }
        }
    }
}

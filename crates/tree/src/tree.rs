//! A file tree as a value: folders are shared between clones and copied only where one of them changes.

mod apply;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, btree_map};
use std::sync::Arc;

use dcbuild_model::{ContentDigest, TreePath, UnixTime};

pub use resolve::{LastLink, ResolveError};

use crate::{Change, Changes, Entry, Kind, LinkGroup, Meta};

/// The state of a whole file system, without the bytes of its files; a clone costs one reference.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Arc<Dir>,
    /// One more than every link group inside, so that a layer's groups get numbers of their own.
    next_group: u64,
}

#[derive(Clone, Debug)]
struct Dir {
    /// Always of [`Kind::Dir`].
    entry: Entry,
    children: BTreeMap<Box<[u8]>, Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Dir(Arc<Dir>),
    Leaf(Arc<Entry>),
}

/// Says why an entry could not be put into a tree.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InsertError {
    /// What holds the path is missing or no folder.
    #[error("'{path}' has no folder to stand in")]
    NoParent {
        /// The path.
        path: TreePath,
    },
    /// The root is always a folder.
    #[error("the root of a tree must be a folder")]
    RootNotFolder,
}

impl Node {
    fn entry(&self) -> &Entry {
        match self {
            Node::Dir(dir) => &dir.entry,
            Node::Leaf(entry) => entry,
        }
    }

    fn of(entry: Entry) -> Node {
        match entry.kind {
            Kind::Dir => Node::Dir(Arc::new(Dir::empty(entry))),
            _ => Node::Leaf(Arc::new(entry)),
        }
    }

    fn shared(entry: Arc<Entry>) -> Node {
        match entry.kind {
            Kind::Dir => Node::of(Arc::unwrap_or_clone(entry)),
            _ => Node::Leaf(entry),
        }
    }
}

impl Dir {
    fn empty(entry: Entry) -> Dir {
        Dir { entry, children: BTreeMap::new() }
    }
}

impl Drop for Dir {
    /// Takes folders apart one after the other: a tree as deep as paths may be would not fit on a stack.
    fn drop(&mut self) {
        let mut rest: Vec<BTreeMap<Box<[u8]>, Node>> = vec![std::mem::take(&mut self.children)];
        while let Some(children) = rest.pop() {
            for (_, node) in children {
                if let Node::Dir(dir) = node
                    && let Some(mut dir) = Arc::into_inner(dir)
                {
                    rest.push(std::mem::take(&mut dir.children));
                }
            }
        }
    }
}

impl Entry {
    /// A folder with these permissions and owner, and nothing else.
    pub fn folder(mode: u32, (uid, gid): (u32, u32), mtime: UnixTime) -> Entry {
        let meta = Meta { mode, uid, gid, mtime, ..Meta::default() };
        Entry { meta, kind: Kind::Dir, links: None }
    }

    /// Whether this is a folder.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir)
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::scratch()
    }
}

impl PartialEq for Tree {
    fn eq(&self, other: &Tree) -> bool {
        Arc::ptr_eq(&self.root, &other.root) || self.as_changes() == other.as_changes()
    }
}

impl Tree {
    /// The tree of `FROM scratch`: a root of mode 0755 that belongs to root.
    pub fn scratch() -> Tree {
        let root = Entry::folder(0o755, (0, 0), UnixTime::default());
        Tree { root: Arc::new(Dir::empty(root)), next_group: 0 }
    }

    /// Builds a tree from entries, parents before children; entries in order cost the least.
    pub fn from_entries(
        entries: impl IntoIterator<Item = (TreePath, Entry)>,
    ) -> Result<Tree, InsertError> {
        let mut tree = Tree::scratch();
        for (path, entry) in entries {
            tree.insert(&path, entry)?;
        }
        Ok(tree)
    }

    /// The entry at a path; no link is followed.
    pub fn get(&self, path: &TreePath) -> Option<&Entry> {
        match self.node(path)? {
            Found::Dir(dir) => Some(&dir.entry),
            Found::Leaf(entry) => Some(entry),
        }
    }

    /// The names inside a folder, in order; none where there is no folder.
    pub fn names<'a>(
        &'a self,
        folder: &TreePath,
    ) -> impl Iterator<Item = (&'a [u8], &'a Entry)> + use<'a> {
        let dir = match self.node(folder) {
            Some(Found::Dir(dir)) => Some(dir),
            _ => None,
        };
        dir.into_iter()
            .flat_map(|dir| dir.children.iter().map(|(name, node)| (&**name, node.entry())))
    }

    /// Every entry but the root, folders before what they hold, names in order.
    pub fn walk(&self) -> Walk<'_> {
        self.walk_from(&TreePath::root())
    }

    /// Every entry below a path, folders before what they hold, with their paths from the root.
    pub fn walk_from(&self, top: &TreePath) -> Walk<'_> {
        let stack = match self.node(top) {
            Some(Found::Dir(dir)) => vec![(top.clone(), dir.children.iter())],
            _ => Vec::new(),
        };
        Walk { stack }
    }

    /// How many entries there are, without the root.
    pub fn len(&self) -> usize {
        self.walk().count()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.root.children.is_empty()
    }

    /// Puts an entry at a path whose folder is there; what stood there is gone, but a folder keeps what it holds.
    ///
    /// The entry's link group is taken as it is: it ties to the same number in this tree.
    pub fn insert(&mut self, path: &TreePath, entry: Entry) -> Result<(), InsertError> {
        if let Some(LinkGroup(group)) = entry.links {
            self.next_group = self.next_group.max(group.saturating_add(1));
        }
        let Some((name, dir)) = self.slot(path) else {
            if !path.is_root() {
                return Err(InsertError::NoParent { path: path.clone() });
            }
            if !entry.is_dir() {
                return Err(InsertError::RootNotFolder);
            }
            Arc::make_mut(&mut self.root).entry = entry;
            return Ok(());
        };
        put(dir, name, entry);
        Ok(())
    }

    /// Puts entries into a folder that is there, whatever stood under their names; it costs the least where the folder
    /// is empty and the names come in order.
    pub fn fill(
        &mut self,
        folder: &TreePath,
        entries: impl IntoIterator<Item = (Box<[u8]>, Arc<Entry>)>,
    ) -> Result<(), InsertError> {
        let Some(dir) = self.dir(folder) else {
            return Err(InsertError::NoParent { path: folder.clone() });
        };
        let mut groups = 0;
        let nodes = entries.into_iter().map(|(name, entry)| {
            if let Some(LinkGroup(group)) = entry.links {
                groups = groups.max(group.saturating_add(1));
            }
            (name, Node::shared(entry))
        });
        if dir.children.is_empty() {
            dir.children = nodes.collect();
        } else {
            dir.children.extend(nodes);
        }
        self.next_group = self.next_group.max(groups);
        Ok(())
    }

    /// Takes what another tree has at a path, with all below it, without a copy; the folder of the path must be here.
    ///
    /// Nothing happens where the other tree has nothing.
    pub fn adopt(&mut self, path: &TreePath, other: &Tree) -> Result<(), InsertError> {
        let node = match other.node(path) {
            None => return Ok(()),
            Some(Found::Dir(dir)) => Node::Dir(dir.clone()),
            Some(Found::Leaf(entry)) => Node::Leaf(entry.clone()),
        };
        self.next_group = self.next_group.max(other.next_group);
        match (self.slot(path), node) {
            (Some((name, dir)), node) => {
                dir.children.insert(name.into(), node);
                Ok(())
            }
            (None, Node::Dir(root)) if path.is_root() => {
                self.root = root;
                Ok(())
            }
            (None, _) => Err(InsertError::NoParent { path: path.clone() }),
        }
    }

    /// Removes a path with all below it and says whether it was there; the root stays.
    pub fn remove(&mut self, path: &TreePath) -> bool {
        self.get(path).is_some()
            && self.slot(path).is_some_and(|(name, dir)| dir.children.remove(name).is_some())
    }

    /// Names the content of a file that was listed before it was hashed, under all of its hard links that are given;
    /// nothing happens where there is no file.
    pub fn set_content(&mut self, path: &TreePath, content: ContentDigest, size: u64) {
        let Some((name, dir)) = self.slot(path) else { return };
        if let Some(Node::Leaf(leaf)) = dir.children.get_mut(name)
            && let Kind::File(body) = &mut Arc::make_mut(leaf).kind
        {
            body.content = content;
            body.size = size;
        }
    }

    /// The whole tree as one layer over nothing, the root with it.
    pub fn as_changes(&self) -> Changes {
        let root = std::iter::once((TreePath::root(), &self.root.entry));
        let entries =
            root.chain(self.walk()).map(|(path, entry)| (path, Change::Put(entry.clone())));
        Changes(entries.collect())
    }

    /// A link group that no entry has yet.
    pub(crate) fn fresh_group(&mut self) -> LinkGroup {
        let group = LinkGroup(self.next_group);
        self.next_group = self.next_group.saturating_add(1);
        group
    }

    /// A folder, ready to be changed.
    fn dir(&mut self, path: &TreePath) -> Option<&mut Dir> {
        let mut dir = Arc::make_mut(&mut self.root);
        for name in path.names() {
            match dir.children.get_mut(name)? {
                Node::Dir(child) => dir = Arc::make_mut(child),
                Node::Leaf(_) => return None,
            }
        }
        Some(dir)
    }

    fn node(&self, path: &TreePath) -> Option<Found<'_>> {
        let mut found = Found::Dir(&self.root);
        for name in path.names() {
            let Found::Dir(dir) = found else { return None };
            found = match dir.children.get(name)? {
                Node::Dir(dir) => Found::Dir(dir),
                Node::Leaf(entry) => Found::Leaf(entry),
            };
        }
        Some(found)
    }

    /// The folder that holds a path, ready to be changed, and the path's name in it.
    fn slot<'p>(&mut self, path: &'p TreePath) -> Option<(&'p [u8], &mut Dir)> {
        let mut names = path.names().peekable();
        let mut dir = Arc::make_mut(&mut self.root);
        loop {
            let name = names.next()?;
            if names.peek().is_none() {
                return Some((name, dir));
            }
            match dir.children.get_mut(name)? {
                Node::Dir(child) => dir = Arc::make_mut(child),
                Node::Leaf(_) => return None,
            }
        }
    }
}

/// Puts an entry into a folder; a folder over a folder keeps what it holds.
fn put(dir: &mut Dir, name: &[u8], entry: Entry) {
    match dir.children.get_mut(name) {
        Some(Node::Dir(child)) if entry.is_dir() => Arc::make_mut(child).entry = entry,
        Some(node) => *node = Node::of(entry),
        None => {
            dir.children.insert(name.into(), Node::of(entry));
        }
    }
}

enum Found<'a> {
    Dir(&'a Arc<Dir>),
    Leaf(&'a Arc<Entry>),
}

/// Walks a tree; see [`Tree::walk`].
pub struct Walk<'a> {
    stack: Vec<(TreePath, Children<'a>)>,
}

type Children<'a> = btree_map::Iter<'a, Box<[u8]>, Node>;

impl<'a> Iterator for Walk<'a> {
    type Item = (TreePath, &'a Entry);

    fn next(&mut self) -> Option<(TreePath, &'a Entry)> {
        loop {
            let (folder, children) = self.stack.last_mut()?;
            let Some((name, node)) = children.next() else {
                self.stack.pop();
                continue;
            };
            let path = folder.join(name);
            if let Node::Dir(dir) = node {
                self.stack.push((path.clone(), dir.children.iter()));
            }
            return Some((path, node.entry()));
        }
    }
}

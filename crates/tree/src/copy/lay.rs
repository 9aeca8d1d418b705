//! Laying entries into a tree, and remembering which.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dcbuild_model::{TreePath, UnixTime};

use super::{CopyError, SourceOwners};
use crate::source::{Match, Role};
use crate::tree::{InsertError, LastLink, ResolveError};
use crate::whiteout::with_whiteout_names;
use crate::{Change, Changes, Chmod, Entry, Kind, LinkGroup, Meta, Tree, Xattrs};

/// A tree in the middle of a COPY.
pub(super) struct Copier {
    /// Before.
    base: Tree,
    /// Now.
    tree: Tree,
    /// Everything that was put, changed or removed.
    touched: BTreeSet<TreePath>,
    /// Folders under which nothing of `base` is left.
    opaque: BTreeSet<TreePath>,
    /// Why something could not be put, where that happened.
    lost: Option<InsertError>,
    owner: Option<(u32, u32)>,
    mode: Option<Chmod>,
    now: UnixTime,
}

impl Copier {
    pub(super) fn new(
        base: Tree,
        owner: Option<(u32, u32)>,
        mode: Option<Chmod>,
        now: UnixTime,
    ) -> Copier {
        let (touched, opaque) = (BTreeSet::new(), BTreeSet::new());
        Copier { tree: base.clone(), base, touched, opaque, lost: None, owner, mode, now }
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(super) fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    pub(super) fn take_mode(&mut self) -> Option<Chmod> {
        self.mode.take()
    }

    pub(super) fn give_mode(&mut self, mode: Option<Chmod>) {
        self.mode = mode;
    }

    pub(super) fn fresh_group(&mut self) -> LinkGroup {
        self.tree.fresh_group()
    }

    /// Lays down one path that a source has named.
    pub(super) fn lay(
        &mut self,
        dest: &str,
        found: &Match<'_>,
        owners: SourceOwners,
    ) -> Result<(), CopyError> {
        if !found.entry.is_dir() {
            return self.lay_file(dest, &found.name, found.entry, owners);
        }
        let top = self.target(dest)?;
        match self.tree.get(&top) {
            None => self.make_folders(&top)?,
            Some(entry) if entry.is_dir() => {}
            Some(_) => return Err(CopyError::FolderOverOther { path: top }),
        }
        let mtime = found.entry.meta.mtime;
        // The root of a context has no time of its own; a folder that it goes to is filled just now.
        let is_untimed = found.path.is_root() && mtime == UnixTime::default();
        if !is_untimed {
            self.set_mtime(&top, mtime);
        } else if !top.is_root() {
            self.touch(&top);
        }
        let mut groups: HashMap<LinkGroup, LinkGroup> = HashMap::new();
        for item in &found.items {
            let path = item.path.names().fold(top.clone(), |path, name| path.join(name));
            if item.entry.is_dir() {
                self.lay_folder(&path, item.entry, item.role, owners)?;
                continue;
            }
            let mut entry = self.mapped(item.entry, owners);
            entry.links = match (&entry.kind, entry.links) {
                (Kind::File(_), Some(group)) => {
                    let tree = &mut self.tree;
                    Some(*groups.entry(group).or_insert_with(|| tree.fresh_group()))
                }
                _ => None,
            };
            self.put_file(&path, entry)?;
        }
        Ok(())
    }

    /// Lays down one thing that is no folder.
    pub(super) fn lay_file(
        &mut self,
        dest: &str,
        name: &[u8],
        entry: &Entry,
        owners: SourceOwners,
    ) -> Result<(), CopyError> {
        let mut path = self.target(dest)?;
        if self.tree.get(&path).is_some_and(Entry::is_dir) {
            path = path.join(name);
        }
        if let Some(parent) = path.parent() {
            self.make_folders(&parent)?;
        }
        let entry = Entry { links: None, ..self.mapped(entry, owners) };
        self.put_file(&path, entry)
    }

    /// Where a destination leads, its folders made.
    pub(super) fn target(&mut self, dest: &str) -> Result<TreePath, CopyError> {
        let path = TreePath::clean(dest.as_bytes()).map_err(ResolveError::from)?;
        let is_folder = dest.ends_with('/') || dest.ends_with("/.");
        let made = if is_folder { Some(path.clone()) } else { path.parent() };
        if let Some(made) = made {
            let made = self.tree.resolve(made.as_bytes(), LastLink::Follow)?;
            self.make_folders(&made)?;
        }
        Ok(self.tree.resolve(path.as_bytes(), LastLink::Follow)?)
    }

    /// Makes a folder and those above it, as far as they are missing.
    pub(super) fn make_folders(&mut self, folder: &TreePath) -> Result<(), CopyError> {
        let mode = self.mode.as_ref().map_or(0o755, Chmod::of_new_folder);
        let mut path = TreePath::root();
        for name in folder.names() {
            path = path.join(name);
            match self.tree.get(&path) {
                Some(entry) if entry.is_dir() => {}
                Some(_) => return Err(CopyError::NotFolder { path }),
                None => {
                    let owner = self.owner.unwrap_or((0, 0));
                    self.put(&path, Entry::folder(mode, owner, self.now));
                }
            }
        }
        Ok(())
    }

    fn lay_folder(
        &mut self,
        path: &TreePath,
        source: &Entry,
        role: Role,
        owners: SourceOwners,
    ) -> Result<(), CopyError> {
        let entry = match self.tree.get(path) {
            Some(there) if there.is_dir() && role == Role::Above => {
                let meta = Meta { mode: source.meta.mode, ..there.meta.clone() };
                Entry { meta, ..there.clone() }
            }
            Some(there) if there.is_dir() => {
                let mut entry = self.mapped(source, owners);
                entry.meta.xattrs = merged(&there.meta.xattrs, &entry.meta.xattrs);
                entry
            }
            Some(_) => return Err(CopyError::FolderOverOther { path: path.clone() }),
            None => self.mapped(source, owners),
        };
        self.put(path, entry);
        Ok(())
    }

    fn put_file(&mut self, path: &TreePath, entry: Entry) -> Result<(), CopyError> {
        if path.is_root() || self.tree.get(path).is_some_and(Entry::is_dir) {
            return Err(CopyError::OtherOverFolder { path: path.clone() });
        }
        self.put(path, entry);
        Ok(())
    }

    /// Puts an entry whatever is there; its folder must be.
    pub(super) fn put(&mut self, path: &TreePath, entry: Entry) {
        let was_dir = |tree: &Tree| tree.get(path).is_some_and(Entry::is_dir);
        if entry.is_dir() && !was_dir(&self.tree) && was_dir(&self.base) {
            self.opaque.insert(path.clone());
        }
        self.touched.insert(path.clone());
        // Every caller has looked that the folder above is there; if it were not, the layer would lack the entry.
        if let Err(error) = self.tree.insert(path, entry) {
            self.lost.get_or_insert(error);
        }
    }

    /// Gives a folder the time of this step.
    pub(super) fn touch(&mut self, path: &TreePath) {
        self.set_mtime(path, self.now);
    }

    pub(super) fn set_mtime(&mut self, path: &TreePath, mtime: UnixTime) {
        if let Some(there) = self.tree.get(path)
            && there.meta.mtime != mtime
        {
            let meta = Meta { mtime, ..there.meta.clone() };
            let entry = Entry { meta, ..there.clone() };
            self.put(path, entry);
        }
    }

    fn mapped(&self, source: &Entry, owners: SourceOwners) -> Entry {
        let mut entry = source.clone();
        let meta = &mut entry.meta;
        (meta.uid, meta.gid) = match (self.owner, owners) {
            (Some(owner), _) => owner,
            (None, SourceOwners::Reset) => (0, 0),
            (None, SourceOwners::Keep) => (meta.uid, meta.gid),
        };
        if let Some(chmod) = &self.mode
            && !matches!(source.kind, Kind::Symlink(_))
        {
            meta.mode = chmod.apply(meta.mode, source.is_dir());
        }
        entry
    }

    fn has_folder(&self, path: &TreePath) -> bool {
        let folder = path.parent().and_then(|folder| self.tree.get(&folder));
        folder.is_some_and(Entry::is_dir)
    }

    /// What has changed, with the folders above it.
    pub(super) fn finish(self) -> Result<Changes, CopyError> {
        if let Some(error) = self.lost {
            return Err(error.into());
        }
        let mut changes: BTreeMap<TreePath, Change> = BTreeMap::new();
        for path in &self.touched {
            let change = match self.tree.get(path) {
                Some(entry) if self.opaque.contains(path) => Change::Replace(entry.clone()),
                Some(entry) => Change::Put(entry.clone()),
                // What went with a folder above it needs no word of its own.
                None if self.base.get(path).is_some() && self.has_folder(path) => Change::Remove,
                None => continue,
            };
            let mut above = path.parent();
            while let Some(folder) = above.filter(|folder| !changes.contains_key(folder)) {
                if !folder.is_root()
                    && let Some(entry) = self.tree.get(&folder)
                {
                    changes.insert(folder.clone(), Change::Put(entry.clone()));
                }
                above = folder.parent();
            }
            // The root is every image's own: no layer of a COPY says anything of it.
            if !path.is_root() {
                changes.insert(path.clone(), change);
            }
        }
        drop_lone_groups(&mut changes);
        Ok(with_whiteout_names(Changes(changes), &self.base))
    }
}

/// A file that is the only one of its hard-link group in a layer has one name there.
fn drop_lone_groups(changes: &mut BTreeMap<TreePath, Change>) {
    let mut counts: HashMap<LinkGroup, u64> = HashMap::new();
    for change in changes.values() {
        if let Change::Put(Entry { links: Some(group), .. }) = change {
            *counts.entry(*group).or_default() += 1;
        }
    }
    for change in changes.values_mut() {
        if let Change::Put(entry) = change
            && entry.links.is_some_and(|group| counts.get(&group) == Some(&1))
        {
            entry.links = None;
        }
    }
}

fn merged(there: &Xattrs, source: &Xattrs) -> Xattrs {
    if there.is_empty() || source.is_empty() {
        return if there.is_empty() { source.clone() } else { there.clone() };
    }
    let both = there.iter().chain(source.iter());
    Xattrs::new(both.map(|(name, value)| (name.to_vec(), value.to_vec())).collect())
}

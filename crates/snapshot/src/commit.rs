//! Turns the upper folder of a RUN into a layer: what equals the lower tree goes, what the cell put there goes, and the
//! folder itself becomes the snapshot.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dcbuild_model::{LayerId, TreePath};
use dcbuild_tree::{Change, Changes, Entry, Kind, LinkGroup, Meta, toc};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::AtFlags;

use crate::entries::{self, OPAQUE, USER_OPAQUE};
use crate::fault::{At, at, inside};
use crate::scan::{Found, scan};
use crate::snapshots::{Snapshot, Snapshots};
use crate::upper::Upper;
use crate::{beneath, reap};

/// What a commit needs to know beside the upper folder.
pub struct CommitForm<'a> {
    /// The entry of the tree below, by path; the root has one.
    pub lower: &'a (dyn Fn(&TreePath) -> Option<Entry> + Sync),
    /// Mount points and files that the cell put there: dropped while they are empty.
    pub stubs: &'a [TreePath],
    /// How many threads hash.
    pub threads: usize,
}

/// What a RUN made.
#[derive(Debug)]
pub struct Committed {
    /// What it changed; each file's origin is this layer.
    pub changes: Changes,
    /// The layer, by the table of contents of its changes.
    pub layer: LayerId,
    /// That table.
    pub toc: Vec<u8>,
    /// The folder, in use while this is held.
    pub snapshot: Snapshot,
}

/// Says why an upper folder could not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The folder could not be read or moved.
    #[error(transparent)]
    Io(#[from] At),
    /// The table of contents of what was found cannot be read back.
    #[error("could not read back the layer's table of contents")]
    Toc(#[from] toc::DecodeError),
}

impl Snapshots {
    /// Turns an upper folder into the snapshot of the layer that it is; what equals the lower tree is dropped.
    pub fn commit(&self, upper: Upper, form: &CommitForm<'_>) -> Result<Committed, CommitError> {
        let name = upper.temp.name.clone();
        self.try_commit(upper, form).inspect_err(|_| self.forget(&name))
    }

    fn try_commit(&self, upper: Upper, form: &CommitForm<'_>) -> Result<Committed, CommitError> {
        let path = upper.upper();
        let root = beneath::open_child(&upper.temp.fd, b"fs").map_err(at("open", &path))?;
        let found = scan(&root, form.threads)?;
        let changes = Differ::new(&root, form, found).run()?;
        let toc = toc::encode(&changes);
        let layer = toc::layer_id(&toc);
        // Reading it back gives each file its origin, and shows that others can.
        let changes = toc::decode(&toc)?;
        reap::remove(&upper.temp.fd, b"work").map_err(at("remove", &upper.work()))?;
        let snapshot = self.publish(upper.temp, layer, &changes)?;
        Ok(Committed { changes, layer, toc, snapshot })
    }

    /// Removes what a failed attempt wrote.
    pub fn abandon(&self, upper: Upper) -> Result<(), At> {
        self.discard(upper.temp)
    }
}

/// Compares what was found with the lower tree, children before their folders, and removes what is no change.
struct Differ<'a> {
    root: &'a OwnedFd,
    form: &'a CommitForm<'a>,
    found: BTreeMap<TreePath, Found>,
    names: HashMap<u64, usize>,
    /// Folders that hold a change.
    kept: BTreeSet<TreePath>,
    /// Folders whose time changed when a stub was made in them.
    touched: BTreeSet<TreePath>,
    /// Folders in which the RUN itself made or removed names.
    listed: BTreeSet<TreePath>,
    /// Folders of which nothing of the lower is seen.
    hidden: BTreeSet<TreePath>,
}

impl<'a> Differ<'a> {
    fn new(
        root: &'a OwnedFd,
        form: &'a CommitForm<'a>,
        found: BTreeMap<TreePath, Found>,
    ) -> Differ<'a> {
        let mut names = HashMap::new();
        let mut hidden = BTreeSet::new();
        for (path, found) in &found {
            match found {
                Found::Other { inode: Some(inode), .. } => *names.entry(*inode).or_insert(0) += 1,
                Found::Folder { opaque, .. } => {
                    let above = path.parent().is_some_and(|parent| hidden.contains(&parent));
                    if *opaque || above {
                        hidden.insert(path.clone());
                    }
                }
                Found::Other { inode: None, .. } | Found::Whiteout => {}
            }
        }
        let (kept, touched, listed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Differ { root, form, found, names, kept, touched, listed, hidden }
    }

    fn run(mut self) -> Result<Changes, At> {
        let mut changes = Changes::default();
        let mut inodes: Vec<(TreePath, u64)> = Vec::new();
        while let Some((path, found)) = self.found.pop_last() {
            let lower = self.lower(&path);
            let was = lower.is_some();
            let change = match found {
                Found::Whiteout => self.whiteout(&path, lower)?,
                Found::Folder { entry, opaque } => self.folder(&path, entry, opaque, lower)?,
                Found::Other { entry, inode } => {
                    // No tar ties a socket's names together again.
                    let tied = inode.filter(|_| entry.kind != Kind::Socket);
                    let linked =
                        tied.filter(|inode| self.names.get(inode).is_some_and(|count| *count > 1));
                    if let Some(inode) = linked {
                        inodes.push((path.clone(), inode));
                    }
                    self.other(&path, entry, linked.is_some(), lower)?
                }
            };
            if let Some(change) = change {
                if let Some(parent) = path.parent() {
                    if !was || !matches!(change, Change::Put(_)) {
                        self.listed.insert(parent.clone());
                    }
                    self.kept.insert(parent);
                }
                changes.0.insert(path, change);
            }
        }
        let mut groups: HashMap<u64, LinkGroup> = HashMap::new();
        for (path, inode) in inodes.into_iter().rev() {
            let next = LinkGroup(u64::try_from(groups.len()).unwrap_or(u64::MAX) + 1);
            if let Some(Change::Put(entry)) = changes.0.get_mut(&path) {
                entry.links = Some(*groups.entry(inode).or_insert(next));
            }
        }
        Ok(changes)
    }

    /// The lower entry that the overlay would show here.
    fn lower(&self, path: &TreePath) -> Option<Entry> {
        let hidden = path.parent().is_some_and(|parent| self.hidden.contains(&parent));
        if hidden { None } else { (self.form.lower)(path) }
    }

    fn whiteout(&self, path: &TreePath, lower: Option<Entry>) -> Result<Option<Change>, At> {
        if lower.is_some() {
            return Ok(Some(Change::Remove));
        }
        self.unlink(path, AtFlags::empty())?;
        Ok(None)
    }

    fn other(
        &mut self,
        path: &TreePath,
        entry: Entry,
        linked: bool,
        lower: Option<Entry>,
    ) -> Result<Option<Change>, At> {
        let same = |lower: &Entry| lower.meta == entry.meta && lower.kind == entry.kind;
        let empty = matches!(&entry.kind, Kind::File(body) if body.size == 0);
        let stub = empty && lower.is_none() && self.form.stubs.contains(path);
        // One of several names stays even if it equals the lower: the others are tied to it.
        let unchanged = !linked && lower.as_ref().is_some_and(same);
        if stub {
            self.touched.extend(path.parent());
        }
        if !(stub || unchanged) {
            return Ok(Some(Change::Put(entry)));
        }
        self.unlink(path, AtFlags::empty())?;
        Ok(None)
    }

    fn folder(
        &mut self,
        path: &TreePath,
        entry: Entry,
        opaque: bool,
        lower: Option<Entry>,
    ) -> Result<Option<Change>, At> {
        let below = lower.filter(Entry::is_dir);
        if opaque && below.is_some() {
            return Ok(Some(Change::Replace(entry)));
        }
        if opaque {
            self.clear_opaque(path)?;
        }
        if let Some(lower) = below.as_ref().filter(|_| path.is_root()) {
            // As with BuildKit, what a RUN does to `/` itself goes with the RUN.
            entries::set_meta(self.root, &lower.meta)
                .map_err(inside("set the metadata of", path))?;
            return Ok(None);
        }
        if self.kept.contains(path) {
            return Ok(Some(Change::Put(entry)));
        }
        let stub = below.is_none() && self.form.stubs.contains(path);
        let touched = self.touched.contains(path) && !self.listed.contains(path);
        let unchanged = below.as_ref().is_some_and(|lower| same_folder(lower, &entry, touched));
        if !stub && !unchanged {
            return Ok(Some(Change::Put(entry)));
        }
        if stub {
            self.touched.extend(path.parent());
        }
        self.unlink(path, AtFlags::REMOVEDIR)?;
        Ok(None)
    }

    fn clear_opaque(&self, path: &TreePath) -> Result<(), At> {
        let folder = beneath::open_folder(self.root, path).map_err(inside("open", path))?;
        for name in [OPAQUE, USER_OPAQUE] {
            match rustix::fs::fremovexattr(&folder, name) {
                Ok(()) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
                Err(error) => return Err(inside("make transparent", path)(error)),
            }
        }
        Ok(())
    }

    fn unlink(&self, path: &TreePath, flags: AtFlags) -> Result<(), At> {
        self.edit(path, |folder, name| rustix::fs::unlinkat(folder, name, flags))
    }

    /// Removes or hides an entry, and leaves its folder's time as it was.
    fn edit(
        &self,
        path: &TreePath,
        change: impl FnOnce(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), At> {
        let parent = path.parent().unwrap_or_default();
        let folder = beneath::open_folder(self.root, &parent).map_err(inside("open", &parent))?;
        let stat = rustix::fs::fstat(&folder).map_err(inside("stat", &parent))?;
        let name = path.name().unwrap_or_default();
        change(folder.as_fd(), name).map_err(inside("remove", path))?;
        entries::set_mtime(&folder, entries::meta_of(&stat).mtime)
            .map_err(inside("set the time of", &parent))
    }
}

fn same_folder(lower: &Entry, entry: &Entry, touched: bool) -> bool {
    let mut meta: Meta = entry.meta.clone();
    if touched {
        meta.mtime = lower.meta.mtime;
    }
    lower.meta == meta
}

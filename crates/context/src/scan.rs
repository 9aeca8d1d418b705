//! A listing of a context: what is there and not ignored, before anything was hashed.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use dcbuild_model::{ContentDigest, Digest, Fault, Selection, TreePath, UnixTime};
use dcbuild_tree::{Ignore, InsertError, LinkGroup, SelectError, Selected, Tree};
use rustix::fs::Stat;

use crate::hash::Hash;
use crate::walk::{Folder, Met, walk};
use crate::{Context, StatCache};

/// Says why a context could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A folder could not be read.
    #[error("could not read the folder '{path}' of the context")]
    Folder {
        /// The folder.
        path: TreePath,
        /// What the system said.
        source: io::Error,
    },
    /// An entry could not be looked at.
    #[error("could not look at '{path}' in the context")]
    Entry {
        /// The entry.
        path: TreePath,
        /// What the system said.
        source: io::Error,
    },
    /// Folders in folders without end.
    #[error("'{path}' in the context lies deeper than 4096 folders or 16 KiB")]
    TooDeep {
        /// The folder.
        path: TreePath,
    },
    /// A folder became something else while the context was listed.
    #[error("the context changed while it was listed")]
    Changed(#[source] InsertError),
}

impl ScanError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        Fault::Request
    }

    /// Whether this user may not read what is there.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            ScanError::Folder { source, .. } | ScanError::Entry { source, .. } => {
                source.kind() == io::ErrorKind::PermissionDenied
            }
            ScanError::TooDeep { .. } | ScanError::Changed(_) => false,
        }
    }

    /// What could help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ScanError::Folder { .. } | ScanError::Entry { .. } | ScanError::TooDeep { .. } => {
                Some("leave it out with a line in .dockerignore, or make it readable")
            }
            ScanError::Changed(_) => {
                Some("start the build again when nothing writes to the context")
            }
        }
    }
}

/// What tells whether a file is still the one that was hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileStat {
    /// The inode's number.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
    /// When its content changed.
    pub mtime: UnixTime,
    /// When anything about it changed.
    pub ctime: UnixTime,
}

/// A regular file of a listing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) stat: FileStat,
    /// Device and inode, where the inode has more than one name.
    pub(crate) inode: Option<(u64, u64)>,
}

/// Stands for a content that nobody knows yet; no tree leaves this crate with it.
pub(crate) const UNHASHED: ContentDigest = ContentDigest(Digest([0; 32]));

impl FileStat {
    pub(crate) fn of(stat: &Stat) -> FileStat {
        let time =
            |secs: i64, nanos: u64| UnixTime { secs, nanos: u32::try_from(nanos).unwrap_or(0) };
        FileStat {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    pub(crate) fn shared_inode(&self, stat: &Stat) -> Option<(u64, u64)> {
        (stat.st_nlink > 1).then_some((stat.st_dev, self.inode))
    }
}

/// What a context holds, .dockerignore applied; the contents of its files are known as far as they were remembered or
/// hashed since.
#[derive(Debug)]
pub struct Listing {
    pub(crate) tree: Tree,
    /// The tree without its regular files.
    frame: Tree,
    files: Files,
    entries: usize,
    pub(crate) scanned: UnixTime,
}

/// The regular files of a listing, by folder and by name.
#[derive(Debug, Default)]
pub(crate) struct Files(Vec<(TreePath, Vec<Named>)>);

type Named = (Box<[u8]>, Seen);

impl Files {
    pub(crate) fn get(&self, path: &TreePath) -> Option<&Seen> {
        let (folder, name) = (path.parent()?, path.name()?);
        let place = self.0.binary_search_by(|(other, _)| other.cmp(&folder)).ok()?;
        let (_, files) = self.0.get(place)?;
        let place = files.binary_search_by(|(other, _)| (**other).cmp(name)).ok()?;
        files.get(place).map(|(_, seen)| seen)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|(_, files)| files.len()).sum()
    }

    fn bytes(&self) -> u64 {
        self.0.iter().flat_map(|(_, files)| files).map(|(_, seen)| seen.stat.size).sum()
    }
}

impl Listing {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// How many bytes its regular files have.
    pub fn bytes(&self) -> u64 {
        self.files.bytes()
    }

    /// The entries; the contents of files mean nothing here, only what kind they are of and their metadata.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Its folders, links and other entries, and of its files those that a selection sees, which were hashed before.
    pub fn selected(&self, selection: &Selection) -> Result<Tree, SelectError> {
        let mut tree = self.frame.clone();
        Selected::find(&self.tree, selection)?.each_file(|file| {
            tree.adopt(&file.path(), &self.tree)
                .expect("all folders of a listing are in its frame");
        });
        Ok(tree)
    }

    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// Notes that a file is there no more.
    pub(crate) fn lose(&mut self, path: &TreePath) {
        self.tree.remove(path);
    }

    /// Notes what a file turned out to hold.
    pub(crate) fn learn(&mut self, path: &TreePath, seen: &Hash) {
        self.tree.set_content(path, seen.content, seen.stat.size);
        if seen.xattrs.is_empty() {
            return;
        }
        let Some(mut entry) = self.tree.get(path).cloned() else { return };
        entry.meta.xattrs = seen.xattrs.clone();
        self.tree.insert(path, entry).expect("the file stands in a folder");
    }
}

impl Context {
    /// Lists what the folder holds and the patterns leave, with the contents that are remembered; `now` is the time of
    /// the scan.
    pub fn scan(
        &self,
        ignore: &Ignore,
        known: &StatCache,
        now: UnixTime,
    ) -> Result<Listing, ScanError> {
        let mut folders = walk(&self.folder, ignore, known, (self.index, &self.said, self.owners))?;
        // A folder comes after the one that holds it.
        folders.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        drop_empty_conditionals(&mut folders);
        link_groups(&mut folders);
        let (mut tree, mut frame, mut files) = (Tree::scratch(), Tree::scratch(), Files::default());
        let mut entries = 0;
        for Folder { path, met } in folders {
            if met.is_empty() {
                continue;
            }
            entries += met.len();
            let others = met.iter().filter(|one| one.file.is_none());
            let others: Vec<_> = others.map(|one| (one.name.clone(), one.entry.clone())).collect();
            let named = met.iter().filter_map(|one| Some((one.name.clone(), one.file?))).collect();
            let all = met.into_iter().map(|one| (one.name, one.entry));
            tree.fill(&path, all).map_err(ScanError::Changed)?;
            frame.fill(&path, others).map_err(ScanError::Changed)?;
            files.0.push((path, named));
        }
        Ok(Listing { tree, frame, files, entries, scanned: now })
    }
}

/// A folder that a pattern leaves out appears only where another pattern takes in something below it.
fn drop_empty_conditionals(folders: &mut [Folder]) {
    if !folders.iter().flat_map(|folder| &folder.met).any(|one| one.conditional) {
        return;
    }
    let mut needed: HashSet<TreePath> = HashSet::new();
    for folder in folders.iter().filter(|folder| folder.met.iter().any(|one| !one.conditional)) {
        let mut above = Some(folder.path.clone());
        while let Some(path) = above {
            above = path.parent();
            if !needed.insert(path) {
                break;
            }
        }
    }
    for Folder { path, met } in folders {
        met.retain(|one| !one.conditional || needed.contains(&path.join(&one.name)));
    }
}

/// Numbers the inodes of which more than one name was met, in the order of their first names.
fn link_groups(folders: &mut [Folder]) {
    let mut names: HashMap<(u64, u64), (u64, u64)> = HashMap::new();
    let inode = |one: &Met| one.file.and_then(|file| file.inode);
    for inode in folders.iter().flat_map(|folder| &folder.met).filter_map(inode) {
        let next = u64::try_from(names.len()).unwrap_or(u64::MAX);
        names.entry(inode).or_insert((next, 0)).1 += 1;
    }
    for one in folders.iter_mut().flat_map(|folder| &mut folder.met) {
        if let Some((group, count)) = inode(one).and_then(|inode| names.get(&inode))
            && *count > 1
            && let Some(entry) = Arc::get_mut(&mut one.entry)
        {
            entry.links = Some(LinkGroup(*group));
        }
    }
}

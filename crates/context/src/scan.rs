//! A listing of a context: what is there and not ignored, before anything was hashed.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;

use dcbuild_model::{ContentDigest, Digest, Fault, TreePath, UnixTime};
use dcbuild_tree::{Ignore, InsertError, LinkGroup, Tree};
use rustix::fs::Stat;

use crate::Context;
use crate::walk::{Met, walk};

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
pub(crate) struct Unhashed {
    pub(crate) stat: FileStat,
    /// Device and inode, where the inode has more than one name.
    pub(crate) inode: Option<(u64, u64)>,
}

impl Unhashed {
    /// Stands for a content that nobody knows yet; no listing leaves this crate with it.
    pub(crate) const CONTENT: ContentDigest = ContentDigest(Digest([0; 32]));
}

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

/// What a context holds, .dockerignore applied; file contents are not known yet.
#[derive(Debug)]
pub struct Listing {
    pub(crate) tree: Tree,
    /// The tree without its regular files.
    pub(crate) frame: Tree,
    pub(crate) files: HashMap<TreePath, Unhashed>,
    pub(crate) scanned: UnixTime,
}

impl Listing {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.tree.is_empty()
    }

    /// How many bytes its regular files have.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.stat.size).sum()
    }

    /// The entries; the contents of files mean nothing here, only what kind they are of and their metadata.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
}

impl Context {
    /// Lists what the folder holds and the patterns leave; `now` is the time of the scan.
    pub fn scan(&self, ignore: &Ignore, now: UnixTime) -> Result<Listing, ScanError> {
        let mut met = walk(&self.folder, ignore, self.index)?;
        drop_empty_conditionals(&mut met);
        let mut met = sorted(met);
        link_groups(&mut met);
        let mut files = HashMap::with_capacity(met.len());
        let mut entries = Vec::with_capacity(met.len());
        let mut frame = Vec::new();
        for one in met {
            if let Some(file) = one.file {
                files.insert(one.path.clone(), file);
            } else {
                frame.push((one.path.clone(), one.entry.clone()));
            }
            entries.push((one.path, one.entry));
        }
        let tree = Tree::from_entries(entries).map_err(ScanError::Changed)?;
        let frame = Tree::from_entries(frame).map_err(ScanError::Changed)?;
        Ok(Listing { tree, frame, files, scanned: now })
    }
}

/// Sorts by path; the entries are large, so that each is moved once.
fn sorted(met: Vec<Met>) -> Vec<Met> {
    let mut order: Vec<usize> = (0..met.len()).collect();
    order.sort_unstable_by(|a, b| met[*a].path.cmp(&met[*b].path));
    let mut met: Vec<Option<Met>> = met.into_iter().map(Some).collect();
    order.into_iter().filter_map(|place| met[place].take()).collect()
}

/// A folder that a pattern leaves out appears only where another pattern takes in something below it.
fn drop_empty_conditionals(met: &mut Vec<Met>) {
    if !met.iter().any(|one| one.conditional) {
        return;
    }
    let mut needed: HashSet<TreePath> = HashSet::new();
    for one in met.iter().filter(|one| !one.conditional) {
        let mut above = one.path.parent();
        while let Some(path) = above {
            above = path.parent();
            if !needed.insert(path) {
                break;
            }
        }
    }
    met.retain(|one| !one.conditional || needed.contains(&one.path));
}

/// Numbers the inodes of which more than one name was met, in the order of their first names.
fn link_groups(met: &mut [Met]) {
    let mut names: HashMap<(u64, u64), (u64, u64)> = HashMap::new();
    let inode = |one: &Met| one.file.and_then(|file| file.inode);
    for inode in met.iter().filter_map(inode) {
        let next = u64::try_from(names.len()).unwrap_or(u64::MAX);
        names.entry(inode).or_insert((next, 0)).1 += 1;
    }
    for one in met {
        if let Some((group, count)) = inode(one).and_then(|inode| names.get(&inode))
            && *count > 1
        {
            one.entry.links = Some(LinkGroup(*group));
        }
    }
}

//! Writes a layer as a folder that an overlay takes as a lower: whiteouts as devices 0:0, opaque folders by attribute.
//!
//! Folders come first, while no link can stand anywhere; then everything in them, by several threads; then hard links;
//! last the folders' own metadata, children before parents.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use dcbuild_layer::{ReadContent, missing_parents};
use dcbuild_model::{ContentDigest, Digest, LayerId, TreePath, UnixTime};
use dcbuild_tree::{Change, Changes, Entry, FileBody, Kind, LinkGroup};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use sha2::{Digest as _, Sha256};

use crate::beneath;
use crate::entries::{self, OPAQUE};
use crate::fault::{At, at, inside};
use crate::snapshots::{Keeps, Snapshot, Snapshots};

/// How many entries of one folder a thread takes at once.
const BATCH: usize = 256;

/// Says why a layer could not be written as a folder.
#[derive(Debug, thiserror::Error)]
pub enum MaterialiseError {
    /// A file system call failed.
    #[error(transparent)]
    Io(#[from] At),
    /// A file's bytes could not be had.
    #[error("could not read the content of '{path}'")]
    Content {
        /// The file.
        path: TreePath,
        /// Why not.
        source: std::io::Error,
    },
    /// A file has other bytes than its digest says.
    #[error("the content of '{path}' is not what its digest says")]
    ContentChanged {
        /// The file.
        path: TreePath,
    },
    /// An entry lies below something that is no folder.
    #[error("'{path}' lies below something that is not a folder")]
    NotBelowFolder {
        /// The entry.
        path: TreePath,
    },
}

impl Snapshots {
    /// Writes a layer as a folder, unless it is there already; several threads and processes may do so at once.
    pub fn materialise(
        &self,
        layer: &LayerId,
        changes: &Changes,
        contents: &dyn ReadContent,
    ) -> Result<Snapshot, MaterialiseError> {
        if let Some(found) = self.find(layer)? {
            return Ok(found);
        }
        let temp = self.temp(Snapshots::unique())?;
        match build((&temp.fd, self.keeps), changes, &CopyContent(contents)) {
            Ok(()) => Ok(self.publish(temp, *layer, changes)?),
            Err(error) => {
                self.discard(temp)?;
                Err(error)
            }
        }
    }
}

/// Writes a tree that stands by itself as the folder `fs` below another folder, which has none yet.
pub fn write_tree(
    folder: &Path,
    changes: &Changes,
    contents: &dyn ReadContent,
) -> Result<(), MaterialiseError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).map_err(at("open", folder))?;
    build((&opened, Keeps::All), changes, &CopyContent(contents))
}

/// Makes a file with its content; metadata comes later.
pub(crate) trait MakeFile: Sync {
    fn make(
        &self,
        folder: BorrowedFd<'_>,
        path: &TreePath,
        body: &FileBody,
    ) -> Result<OwnedFd, MaterialiseError>;
}

struct CopyContent<'a>(&'a dyn ReadContent);

impl MakeFile for CopyContent<'_> {
    fn make(
        &self,
        folder: BorrowedFd<'_>,
        path: &TreePath,
        body: &FileBody,
    ) -> Result<OwnedFd, MaterialiseError> {
        let failed = |source| MaterialiseError::Content { path: path.clone(), source };
        let mut from = self.0.open(body).map_err(failed)?;
        let name = path.name().unwrap_or_default();
        let mut file =
            File::from(beneath::create_file(folder, name).map_err(inside("make", path))?);
        let mut hash = Sha256::new();
        let (mut left, most) = (body.size, 256 << 10);
        let mut piece = vec![0; usize::try_from(body.size).unwrap_or(most).clamp(1, most)];
        loop {
            let len = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            let bytes = piece.get(..len).unwrap_or_default();
            left = u64::try_from(len)
                .ok()
                .and_then(|len| left.checked_sub(len))
                .ok_or_else(|| MaterialiseError::ContentChanged { path: path.clone() })?;
            hash.update(bytes);
            file.write_all(bytes).map_err(inside("write", path))?;
        }
        if left != 0 || ContentDigest(Digest(hash.finalize().into())) != body.content {
            return Err(MaterialiseError::ContentChanged { path: path.clone() });
        }
        Ok(file.into())
    }
}

/// Writes `fs` into a folder.
pub(crate) fn build(
    (temp, keeps): (&OwnedFd, Keeps),
    changes: &Changes,
    maker: &dyn MakeFile,
) -> Result<(), MaterialiseError> {
    let root_path = TreePath::root();
    rustix::fs::mkdirat(temp, "fs", Mode::RWXU).map_err(inside("make", &root_path))?;
    let root = beneath::open_child(temp, b"fs").map_err(inside("open", &root_path))?;
    let implied = Change::Put(Entry::folder(0o755, (0, 0), UnixTime::default()));
    let missing = missing_parents(changes);
    let mut folders: BTreeMap<&TreePath, &Change> = changes
        .0
        .iter()
        .filter(|(_, change)| matches!(change, Change::Put(entry) | Change::Replace(entry) if entry.is_dir()))
        .collect();
    folders.extend(missing.iter().map(|path| (path, &implied)));
    folders.entry(&root_path).or_insert(&implied);
    for path in folders.keys().filter(|path| !path.is_root()) {
        let parent = open_parent(&root, path)?;
        rustix::fs::mkdirat(&parent, path.name().unwrap_or_default(), Mode::RWXU)
            .map_err(inside("make", path))?;
    }
    let first_names = first_names(changes);
    fill(&root, &batches(changes, &first_names), (maker, keeps))?;
    for (path, change) in &changes.0 {
        if let Some(first) = later_name(path, change, &first_names)
            && keeps.has(change)
        {
            let (from, to) = (open_parent(&root, first)?, open_parent(&root, path)?);
            let (old, new) = (first.name().unwrap_or_default(), path.name().unwrap_or_default());
            rustix::fs::linkat(from, old, to, new, AtFlags::empty())
                .map_err(inside("link", path))?;
        }
    }
    if keeps == Keeps::All {
        for (path, change) in folders.iter().rev() {
            finish_folder(&root, path, change)?;
        }
    }
    Ok(())
}

impl Keeps {
    /// Whether a snapshot has what a change puts beside folders.
    fn has(self, change: &Change) -> bool {
        let is_file = matches!(change, Change::Put(entry) | Change::Replace(entry)
            if matches!(entry.kind, Kind::File(_)));
        self == Keeps::All || is_file
    }
}

fn open_parent(root: &OwnedFd, path: &TreePath) -> Result<OwnedFd, MaterialiseError> {
    let parent = path.parent().unwrap_or_default();
    match beneath::open_folder(root, &parent) {
        Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP | rustix::io::Errno::NOENT) => {
            Err(MaterialiseError::NotBelowFolder { path: path.clone() })
        }
        opened => Ok(opened.map_err(inside("open", &parent))?),
    }
}

fn finish_folder(root: &OwnedFd, path: &TreePath, change: &Change) -> Result<(), MaterialiseError> {
    let folder = beneath::open_folder(root, path).map_err(inside("open", path))?;
    let entry = match change {
        Change::Put(entry) => entry,
        Change::Replace(entry) => {
            rustix::fs::fsetxattr(&folder, OPAQUE, b"y", XattrFlags::empty())
                .map_err(inside("make opaque", path))?;
            entry
        }
        Change::Remove => return Ok(()),
    };
    Ok(entries::set_meta(&folder, &entry.meta).map_err(inside("set the metadata of", path))?)
}

fn first_names(changes: &Changes) -> HashMap<LinkGroup, &TreePath> {
    let mut first = HashMap::new();
    for (path, change) in &changes.0 {
        if let Change::Put(entry) = change
            && let Some(group) = entry.links
            && !entry.is_dir()
        {
            first.entry(group).or_insert(path);
        }
    }
    first
}

fn later_name<'a>(
    path: &TreePath,
    change: &Change,
    first_names: &HashMap<LinkGroup, &'a TreePath>,
) -> Option<&'a TreePath> {
    let Change::Put(entry) = change else { return None };
    let first = first_names.get(&entry.links.filter(|_| !entry.is_dir())?)?;
    (*first != path).then_some(*first)
}

/// Entries of one folder, for one thread.
struct Batch<'a> {
    folder: TreePath,
    entries: Vec<(&'a TreePath, &'a Change)>,
}

fn batches<'a>(
    changes: &'a Changes,
    first_names: &HashMap<LinkGroup, &TreePath>,
) -> Vec<Batch<'a>> {
    let mut open: HashMap<TreePath, Vec<(&TreePath, &Change)>> = HashMap::new();
    let mut batches = Vec::new();
    for (path, change) in &changes.0 {
        let is_folder =
            matches!(change, Change::Put(entry) | Change::Replace(entry) if entry.is_dir());
        if is_folder || path.is_root() || later_name(path, change, first_names).is_some() {
            continue;
        }
        let folder = path.parent().unwrap_or_default();
        let entries = open.entry(folder.clone()).or_default();
        entries.push((path, change));
        if entries.len() == BATCH {
            batches.push(Batch { folder, entries: std::mem::take(entries) });
        }
    }
    open.retain(|_, entries| !entries.is_empty());
    batches.extend(open.into_iter().map(|(folder, entries)| Batch { folder, entries }));
    // In the order of a blob: files that lie beside each other there are read one after the other.
    batches.sort_by(|one, other| {
        one.entries.first().map(|it| it.0).cmp(&other.entries.first().map(|it| it.0))
    });
    batches
}

fn fill(
    root: &OwnedFd,
    batches: &[Batch<'_>],
    maker: (&dyn MakeFile, Keeps),
) -> Result<(), MaterialiseError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(16);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            fill_folder(root, batch, maker)
                .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads.min(batches.len())).map(|_| scope.spawn(work)).collect();
        let results: Vec<Result<(), MaterialiseError>> = handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        results.into_iter().collect()
    })
}

fn fill_folder(
    root: &OwnedFd,
    batch: &Batch<'_>,
    (maker, keeps): (&dyn MakeFile, Keeps),
) -> Result<(), MaterialiseError> {
    let Some((first, _)) = batch.entries.first() else { return Ok(()) };
    debug_assert!(first.parent().as_ref() == Some(&batch.folder), "a batch is of one folder");
    let folder = open_parent(root, first)?;
    for (path, change) in batch.entries.iter().filter(|(_, change)| keeps.has(change)) {
        let name = path.name().unwrap_or_default();
        match change {
            Change::Remove => entries::make_whiteout(folder.as_fd(), name)
                .map_err(inside("make the whiteout", path))?,
            Change::Put(entry) | Change::Replace(entry) => match &entry.kind {
                Kind::File(body) => {
                    let file = maker.make(folder.as_fd(), path, body)?;
                    if keeps == Keeps::Contents {
                        continue;
                    }
                    entries::set_meta(&file, &entry.meta)
                        .map_err(inside("set the metadata of", path))?;
                }
                _ => entries::make_special(folder.as_fd(), name, entry)
                    .map_err(inside("make", path))?,
            },
        }
    }
    Ok(())
}

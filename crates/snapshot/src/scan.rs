//! Reads an upper folder: every entry with its metadata, contents hashed by several threads.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use dcbuild_model::{ContentDigest, Digest, TreePath};
use dcbuild_tree::{Entry, FileBody, Kind, Origin, Xattrs};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Stat};
use sha2::{Digest as _, Sha256};

use crate::beneath;
use crate::entries::{self, OPAQUE, USER_OPAQUE};
use crate::fault::{At, inside};

/// How much of a file is read at once: what is hashed should still be in the cache.
const READ: usize = 256 << 10;

/// What stands at a path of the upper folder.
pub(crate) enum Found {
    /// A whiteout.
    Whiteout,
    /// A folder.
    Folder {
        /// What it is.
        entry: Entry,
        /// Whether the overlay shows nothing of the lower below it.
        opaque: bool,
    },
    /// Anything else, and the inode if it has several names.
    Other {
        /// What it is.
        entry: Entry,
        /// The inode.
        inode: Option<u64>,
    },
}

/// Lists all that an upper folder holds, the root with it.
pub(crate) fn scan(root: &OwnedFd, threads: usize) -> Result<BTreeMap<TreePath, Found>, At> {
    let mut found = BTreeMap::new();
    let mut files: Vec<TreePath> = Vec::new();
    let mut folders = vec![TreePath::root()];
    while let Some(path) = folders.pop() {
        let folder = beneath::open_folder(root, &path).map_err(inside("open", &path))?;
        let stat = rustix::fs::fstat(&folder).map_err(inside("stat", &path))?;
        found.insert(path.clone(), folder_of(folder.as_fd(), &stat, &path)?);
        for name in beneath::names(folder.as_fd()).map_err(inside("list", &path))? {
            let child = path.join(&name);
            let stat = rustix::fs::statat(&folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(inside("stat", &child))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => folders.push(child),
                kind => {
                    if kind == FileType::RegularFile {
                        files.push(child.clone());
                    }
                    let other = other_of(folder.as_fd(), &name, &stat, &child)?;
                    found.insert(child, other);
                }
            }
        }
    }
    let read = read_files(root, &files, threads)?;
    for (path, (content, xattrs)) in read {
        if let Some(Found::Other { entry, .. }) = found.get_mut(&path) {
            entry.meta.xattrs = xattrs;
            entry.kind = Kind::File(content);
        }
    }
    Ok(found)
}

fn folder_of(folder: BorrowedFd<'_>, stat: &Stat, path: &TreePath) -> Result<Found, At> {
    let mut meta = entries::meta_of(stat);
    let failed = || inside("read the attributes of", path);
    meta.xattrs = entries::xattrs_of(folder).map_err(failed())?;
    let mark = |name: &[u8]| name == OPAQUE.as_bytes() || name == USER_OPAQUE.as_bytes();
    let marks = beneath::xattrs(folder, mark).map_err(failed())?;
    let opaque = marks.iter().any(|(_, value)| value == b"y");
    Ok(Found::Folder { entry: Entry { meta, kind: Kind::Dir, links: None }, opaque })
}

fn other_of(
    folder: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    path: &TreePath,
) -> Result<Found, At> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice if stat.st_rdev == 0 => return Ok(Found::Whiteout),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(folder, name, Vec::new())
                .map_err(inside("read the link", path))?;
            Kind::Symlink(target.into_bytes())
        }
        // Its content takes this place once it has been read.
        FileType::RegularFile => Kind::File(body(Digest([0; 32]), 0)),
        _ => match entries::special(stat) {
            Some(kind) => kind,
            None => return Err(inside("tell what is", path)(io::ErrorKind::Unsupported)),
        },
    };
    let entry = Entry { meta: entries::meta_of(stat), kind, links: None };
    let inode = (stat.st_nlink > 1).then_some(stat.st_ino);
    Ok(Found::Other { entry, inode })
}

fn body(content: Digest, size: u64) -> FileBody {
    FileBody { content: ContentDigest(content), size, origin: Origin::Inline(Arc::from([])) }
}

type ReadFiles = HashMap<TreePath, (FileBody, Xattrs)>;

fn read_files(root: &OwnedFd, files: &[TreePath], threads: usize) -> Result<ReadFiles, At> {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut read, mut buffer) = (Vec::new(), vec![0; READ]);
        while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let file = beneath::open_file(root, path).map_err(inside("open", path))?;
            let xattrs =
                entries::xattrs_of(file.as_fd()).map_err(inside("read the attributes of", path))?;
            let (digest, size) =
                hash(&mut File::from(file), &mut buffer).map_err(inside("read", path))?;
            read.push((path.clone(), (body(digest, size), xattrs)));
        }
        Ok(read)
    };
    thread::scope(|scope| {
        let handles: Vec<_> =
            (0..threads.max(1).min(files.len())).map(|_| scope.spawn(work)).collect();
        let mut all = HashMap::with_capacity(files.len());
        let mut failed = None;
        for handle in handles {
            match handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(read) => all.extend(read),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(all), Err)
    })
}

fn hash(file: &mut File, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    loop {
        let count = match file.read(buffer) {
            Ok(0) => return Ok((Digest(hash.finalize().into()), size)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(buffer.get(..count).unwrap_or_default());
        size += u64::try_from(count).unwrap_or(0);
    }
}

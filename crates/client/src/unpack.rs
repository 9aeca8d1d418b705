//! Writes the files of a build into a folder, and nowhere else: no entry and no link leads out of it.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Read};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use dcbuild_model::{InvalidPath, TreePath, limits};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

/// How many of those left out are named.
const NAMED_MAX: usize = 5;

/// Says why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The folder could not be made or opened.
    #[error("could not open the folder")]
    Folder(#[source] io::Error),
    /// The archive is damaged.
    #[error("could not read the archive")]
    Archive(#[source] io::Error),
    /// It holds more than any tree.
    #[error("the archive has more than {} entries", limits::ENTRIES_MAX)]
    Entries,
    /// An entry's name is none.
    #[error("an entry has a name that is refused")]
    Path(#[from] InvalidPath),
    /// An entry could not be written.
    #[error("could not write '{path}'")]
    Entry {
        /// The entry, below the folder.
        path: TreePath,
        /// What the system said.
        source: io::Error,
    },
}

/// What was not written, since only root may make it: device nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub first: Vec<TreePath>,
}

impl LeftOut {
    fn add(&mut self, path: TreePath) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(path);
        }
    }

    /// Says so, if there is any.
    pub fn warning(&self, folder: &Path) -> Option<String> {
        let names: Vec<String> = self.first.iter().map(ToString::to_string).collect();
        let more = if self.count > names.len() { ", ..." } else { "" };
        let nodes = if self.count == 1 { "device node is" } else { "device nodes are" };
        (self.count > 0).then(|| {
            format!(
                "{} {nodes} not in '{}', for only root may make them: {}{more}; run as root, or write -o type=tar,dest=FILE",
                self.count,
                folder.display(),
                names.join(", "),
            )
        })
    }
}

fn failed(path: &TreePath) -> impl FnOnce(Errno) -> UnpackError {
    move |errno| UnpackError::Entry { path: path.clone(), source: errno.into() }
}

/// Unpacks an archive into a folder, which is made if it is not there; what stands in the way is replaced. Blocks.
///
/// Files belong to whoever runs this; modes and times are kept. Devices that may not be made are left out, and told.
pub fn unpack(archive: impl Read, folder: &Path) -> Result<LeftOut, UnpackError> {
    std::fs::create_dir_all(folder).map_err(UnpackError::Folder)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, flags, Mode::empty());
    let root = root.map_err(|errno| UnpackError::Folder(errno.into()))?;
    let own = (std::hash::RandomState::new().build_hasher().finish(), 0);
    let mut unpacker = Unpacker { root, own, folders: Vec::new(), left: LeftOut::default() };
    let mut archive = Archive::new(archive);
    let mut count = 0;
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        count += 1;
        if count > limits::ENTRIES_MAX {
            return Err(UnpackError::Entries);
        }
        unpacker.put(&mut entry.map_err(UnpackError::Archive)?)?;
    }
    unpacker.finish()
}

/// Whether there is something to put into its place.
enum Made {
    Aside,
    Nothing,
}

struct Unpacker {
    root: OwnedFd,
    /// What the names begin with that it makes up, and how many there were; containers may share a folder and a pid.
    own: (u64, u64),
    /// Folders whose mode and time are set when nothing is written into them any more.
    folders: Vec<(TreePath, Mode, Timestamps)>,
    left: LeftOut,
}

impl Unpacker {
    fn put<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let path = TreePath::clean(&entry.path_bytes())?;
        let kind = entry.header().entry_type();
        let mode =
            Mode::from_raw_mode(entry.header().mode().map_err(UnpackError::Archive)? & 0o7777);
        let times = times(entry)?;
        let Some(name) = path.name().map(<[u8]>::to_vec) else {
            return Ok(());
        };
        let parent = self.folder(&path.parent().unwrap_or_default())?;
        if kind == EntryType::Directory {
            make_folder(&parent, &name).map_err(failed(&path))?;
            self.folders.push((path, mode, times));
            return Ok(());
        }
        // Others may read the folder, and write into it: each name is the old or the new file, and never none.
        let aside = self.aside();
        let ready = self.make(entry, (&parent, &aside), &path, (kind, mode, &times));
        let placed = ready.and_then(|ready| match ready {
            Made::Nothing => Ok(()),
            Made::Aside => place(&parent, &aside, &name).map_err(failed(&path)),
        });
        if placed.is_err() {
            // The first failure is the one to tell.
            let _left = rustix::fs::unlinkat(&parent, &*aside, AtFlags::empty());
        }
        placed
    }

    /// A name that nobody else uses.
    fn aside(&mut self) -> Vec<u8> {
        let (random, made) = &mut self.own;
        *made += 1;
        format!(".dcbuild-{random:016x}-{made}").into_bytes()
    }

    /// Makes what is no folder under a name of its own.
    fn make<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        (parent, aside): (&OwnedFd, &[u8]),
        path: &TreePath,
        (kind, mode, times): (EntryType, Mode, &Timestamps),
    ) -> Result<Made, UnpackError> {
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, aside, flags, Mode::RUSR | Mode::WUSR);
                let mut file = File::from(file.map_err(failed(path))?);
                let copied = io::copy(entry, &mut file);
                copied.map_err(|source| UnpackError::Entry { path: path.clone(), source })?;
                rustix::fs::fchmod(&file, mode).map_err(failed(path))?;
                rustix::fs::futimens(&file, times).map_err(failed(path))?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                rustix::fs::symlinkat(&*target, parent, aside).map_err(failed(path))?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(parent, aside, times, flags).map_err(failed(path))?;
            }
            EntryType::Link => {
                let target = TreePath::clean(&entry.link_name_bytes().unwrap_or_default())?;
                self.link(&target, parent, aside).map_err(failed(path))?;
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                match node(parent, aside, mode, entry) {
                    Err(Errno::PERM) => {
                        self.left.add(path.clone());
                        return Ok(Made::Nothing);
                    }
                    result => result.map_err(failed(path))?,
                }
            }
            _ => return Ok(Made::Nothing),
        }
        Ok(Made::Aside)
    }

    fn link(&self, target: &TreePath, parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let above = self.open(&target.parent().unwrap_or_default())?;
        let last = target.name().ok_or(Errno::INVAL)?;
        rustix::fs::linkat(above, last, parent, name, AtFlags::empty())
    }

    /// Opens a folder below the root, following no link at all.
    fn open(&self, path: &TreePath) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let name = if path.is_root() { b"." } else { path.as_bytes() };
        rustix::fs::openat2(self.root.as_fd(), name, flags, Mode::empty(), resolve)
    }

    /// Opens a folder, and makes those above it that are not there.
    fn folder(&self, path: &TreePath) -> Result<OwnedFd, UnpackError> {
        match self.open(path) {
            Ok(found) => return Ok(found),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) if !path.is_root() => {}
            Err(errno) => return Err(failed(path)(errno)),
        }
        let parent = self.folder(&path.parent().unwrap_or_default())?;
        let name = path.name().unwrap_or_default();
        make_folder(&parent, name).map_err(failed(path))?;
        self.open(path).map_err(failed(path))
    }

    fn finish(self) -> Result<LeftOut, UnpackError> {
        for (path, mode, times) in self.folders.iter().rev() {
            // An entry that came later may have taken the folder's place.
            let Ok(folder) = self.open(path) else { continue };
            rustix::fs::fchmod(&folder, *mode).map_err(failed(path))?;
            rustix::fs::futimens(&folder, times).map_err(failed(path))?;
        }
        Ok(self.left)
    }
}

fn kind_of(parent: &OwnedFd, name: &[u8]) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn make_folder(parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
    loop {
        match kind_of(parent, name)? {
            Some(FileType::Directory) => return Ok(()),
            Some(_) => match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            },
            None => {}
        }
        // Another process may have made it meanwhile.
        match rustix::fs::mkdirat(parent, name, mode) {
            Err(Errno::EXIST) => {}
            ended => return ended,
        }
    }
}

/// Gives what was made aside its name; as with docker, a folder gives way with all that is in it.
fn place(parent: &OwnedFd, aside: &[u8], name: &[u8]) -> Result<(), Errno> {
    loop {
        match rustix::fs::renameat(parent, aside, parent, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {}
            Ok(()) => break,
            Err(errno) => return Err(errno),
        }
        let folder = format!("/proc/self/fd/{}", parent.as_raw_fd());
        match std::fs::remove_dir_all(Path::new(&folder).join(OsStr::from_bytes(name))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
            }
            Ok(()) | Err(_) => {}
        }
    }
    // Two names of one file stay two.
    match rustix::fs::unlinkat(parent, aside, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn node<R: Read>(
    parent: &OwnedFd,
    name: &[u8],
    mode: Mode,
    entry: &Entry<'_, R>,
) -> Result<(), Errno> {
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Char => FileType::CharacterDevice,
        EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let number = |found: io::Result<Option<u32>>| found.ok().flatten().unwrap_or(0);
    let device = rustix::fs::makedev(number(header.device_major()), number(header.device_minor()));
    rustix::fs::mknodat(parent, name, kind, mode, device)
}

/// The entry's time of change, to the nanosecond where it says so.
fn times<R: Read>(entry: &mut Entry<'_, R>) -> Result<Timestamps, UnpackError> {
    let secs = entry.header().mtime().map_err(UnpackError::Archive)?;
    let mut time = (i64::try_from(secs).unwrap_or(0), 0);
    if let Some(extensions) = entry.pax_extensions().map_err(UnpackError::Archive)? {
        for extension in extensions {
            let extension = extension.map_err(UnpackError::Archive)?;
            if let (Ok("mtime"), Ok(value)) = (extension.key(), extension.value()) {
                time = pax_time(value).unwrap_or(time);
            }
        }
    }
    Ok(Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: time.0, tv_nsec: time.1 },
    })
}

/// Reads seconds with a fraction, which may lie before 1970.
fn pax_time(text: &str) -> Option<(i64, i64)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = whole.parse().ok()?;
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i64 = digits.parse().ok()?;
    if text.starts_with('-') && nanos > 0 {
        return Some((secs - 1, 1_000_000_000 - nanos));
    }
    Some((secs, nanos))
}

#[cfg(test)]
mod tests;

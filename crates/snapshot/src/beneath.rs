//! Access below a folder by file descriptor: no link is ever followed, whatever an untrusted layer put there.

use std::io;
use std::mem::MaybeUninit;

use dcbuild_model::TreePath;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};

const STRICT: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const COMMON: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

fn relative(path: &TreePath) -> &[u8] {
    if path.is_root() { b"." } else { path.as_bytes() }
}

/// Opens the folder at a path below another.
pub(crate) fn open_folder(root: impl AsFd, path: &TreePath) -> rustix::io::Result<OwnedFd> {
    let flags = COMMON | OFlags::RDONLY | OFlags::DIRECTORY;
    rustix::fs::openat2(root, relative(path), flags, Mode::empty(), STRICT)
}

/// Opens the regular file at a path below a folder; a pipe or device that stands there is not waited for.
pub(crate) fn open_file(root: impl AsFd, path: &TreePath) -> io::Result<OwnedFd> {
    open_sized(root, path).map(|(file, _)| file)
}

/// The same, with the file's size.
pub(crate) fn open_sized(root: impl AsFd, path: &TreePath) -> io::Result<(OwnedFd, u64)> {
    let flags = COMMON | OFlags::RDONLY;
    let file = rustix::fs::openat2(root, relative(path), flags, Mode::empty(), STRICT)?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        return Ok((file, u64::try_from(stat.st_size).unwrap_or(0)));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

/// Opens a folder by its name in another.
pub(crate) fn open_child(folder: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = COMMON | OFlags::RDONLY | OFlags::DIRECTORY;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Makes a new file that only its owner may touch.
pub(crate) fn create_file(folder: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)
}

/// The names in a folder, without itself and its parent.
pub(crate) fn names(folder: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Reads the extended attributes that a filter wants.
pub(crate) fn xattrs(
    file: BorrowedFd<'_>,
    wanted: impl Fn(&[u8]) -> bool,
) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut small = [MaybeUninit::<u8>::uninit(); 1024];
    let names = match rustix::fs::flistxattr(file, &mut small) {
        Ok((names, _)) => names.to_vec(),
        Err(rustix::io::Errno::RANGE) => {
            let mut large = Vec::with_capacity(64 << 10);
            rustix::fs::flistxattr(file, rustix::buffer::spare_capacity(&mut large))?;
            large
        }
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && wanted(name)) {
        let mut value = Vec::with_capacity(64 << 10);
        match rustix::fs::fgetxattr(file, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => found.push((name.to_vec(), value)),
            Err(rustix::io::Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

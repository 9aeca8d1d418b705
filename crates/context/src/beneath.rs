//! Opens what lies below a folder, and nothing else.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use dcbuild_model::TreePath;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Opens a regular file through no link; pipes and devices are never waited for.
pub(crate) fn open_file(folder: &OwnedFd, path: &TreePath) -> io::Result<(File, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = open_plain(folder, path, flags)?;
    regular(fd)
}

/// Refuses whatever is no regular file.
pub(crate) fn regular(fd: OwnedFd) -> io::Result<(File, Stat)> {
    let stat = rustix::fs::fstat(&fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((File::from(fd), stat)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

#[cfg(target_os = "linux")]
fn open_plain(folder: &OwnedFd, path: &TreePath, flags: OFlags) -> io::Result<OwnedFd> {
    use rustix::fs::ResolveFlags;

    let name = if path.is_root() { b"." } else { path.as_bytes() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    loop {
        match rustix::fs::openat2(folder, OsStr::from_bytes(name), flags, Mode::empty(), resolve) {
            // The kernel asks for another try when something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // An old kernel, a filter that knows no openat2, or a path that is longer than one call takes.
            Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => {
                return step_by_step(folder, path, flags);
            }
            other => return Ok(other?),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn open_plain(folder: &OwnedFd, path: &TreePath, flags: OFlags) -> io::Result<OwnedFd> {
    step_by_step(folder, path, flags)
}

/// Opens name after name, none of which may be a link.
fn step_by_step(folder: &OwnedFd, path: &TreePath, flags: OFlags) -> io::Result<OwnedFd> {
    let mut current: Option<OwnedFd> = None;
    let mut names = path.names().peekable();
    while let Some(name) = names.next() {
        let at = current.as_ref().unwrap_or(folder).as_fd();
        let flags = match names.peek() {
            Some(_) => OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            None => flags,
        };
        let name = OsStr::from_bytes(name);
        let next = rustix::fs::openat(at, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        current = Some(next);
    }
    current.ok_or_else(|| io::Error::from(Errno::ISDIR))
}

/// Opens a file through links that stay inside the folder; a link out of it is an error of its own kind.
#[cfg(target_os = "linux")]
pub(crate) fn open_inside(folder: &OwnedFd, name: &OsStr) -> io::Result<(File, Stat)> {
    use rustix::fs::ResolveFlags;

    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(folder, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::PERM) => {
                let path = TreePath::clean(name.as_bytes())
                    .map_err(|invalid| io::Error::new(io::ErrorKind::InvalidInput, invalid))?;
                return regular(step_by_step(folder, &path, flags)?);
            }
            other => return regular(other?),
        }
    }
}

/// Opens a file through no link, where the system cannot keep a lookup inside a folder.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open_inside(folder: &OwnedFd, name: &OsStr) -> io::Result<(File, Stat)> {
    let path = TreePath::clean(name.as_bytes())
        .map_err(|invalid| io::Error::new(io::ErrorKind::InvalidInput, invalid))?;
    open_file(folder, &path)
}

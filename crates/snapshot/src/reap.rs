//! Removes folders, however deep, without recursion and with three descriptors.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::beneath;

/// Removes what stands under a name in a folder; nothing there is fine.
pub(crate) fn remove(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    let parent = parent.as_fd();
    let top = match beneath::open_child(parent, name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return unlink(parent, name),
        Err(error) => return Err(error),
    };
    let mut lifted = 0;
    empty(top.as_fd(), top.as_fd(), &mut lifted)?;
    while lifted > 0 {
        // Each round lifts the folders one level down to the top, so depth costs rounds and no descriptors.
        for name in beneath::names(top.as_fd())? {
            let folder = beneath::open_child(&top, &name)?;
            empty(folder.as_fd(), top.as_fd(), &mut lifted)?;
            rustix::fs::unlinkat(&top, name.as_slice(), AtFlags::REMOVEDIR)?;
            lifted -= 1;
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Removes what a folder holds, but moves folders in it to the top.
fn empty(folder: BorrowedFd<'_>, top: BorrowedFd<'_>, lifted: &mut u64) -> rustix::io::Result<()> {
    for name in beneath::names(folder)? {
        match rustix::fs::unlinkat(folder, name.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => lift(folder, &name, top, lifted)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn lift(
    folder: BorrowedFd<'_>,
    name: &[u8],
    top: BorrowedFd<'_>,
    lifted: &mut u64,
) -> rustix::io::Result<()> {
    let mut number = *lifted;
    loop {
        // A name of the layer's own may be in the way.
        let free = format!(".dcbuild-{number}");
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(folder, name, top, free.as_str(), flags) {
            Ok(()) => break,
            Err(Errno::EXIST) => number += 1,
            Err(error) => return Err(error),
        }
    }
    *lifted += 1;
    Ok(())
}

fn unlink(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

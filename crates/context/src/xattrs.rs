//! The extended attributes that go into an image: the user's own, and capabilities of programs.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use dcbuild_tree::Xattrs;
use rustix::io::Errno;

/// Reads the attributes of an open file or folder; a file system without any has none.
pub(crate) fn read(fd: impl AsFd) -> Result<Xattrs, Errno> {
    let names = match grown(|buffer| rustix::fs::flistxattr(&fd, buffer)) {
        Ok(names) => names,
        Err(Errno::NOTSUP | Errno::NOSYS | Errno::PERM | Errno::ACCESS) => {
            return Ok(Xattrs::default());
        }
        Err(errno) => return Err(errno),
    };
    let mut found = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        match grown(|buffer| rustix::fs::fgetxattr(&fd, name, buffer)) {
            Ok(value) => drop(found.insert(name.to_vec(), value)),
            // It went away since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Xattrs::new(found))
}

/// Labels and access lists belong to this machine, not to an image.
fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"security.capability"
}

fn grown(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    // An attribute and a list of names have at most 64 KiB.
    for size in [256, 65_536] {
        let mut buffer = vec![0; size];
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::TOOBIG)
}

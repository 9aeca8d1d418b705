//! What goes into an image beside mode and owner: the capabilities of programs.
//!
//! A user's own attributes stay behind, as with BuildKit: browsers note there where a file came from, passwords and all.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use dcbuild_tree::Xattrs;
use rustix::io::Errno;

const CAPABILITY: &[u8] = b"security.capability";
/// A capability has 24 bytes at most.
const CAPABILITY_MAX: usize = 64;

/// Reads the attributes of an open file; a file system without any has none.
pub(crate) fn read(fd: impl AsFd) -> Result<Xattrs, Errno> {
    let mut value = [0; CAPABILITY_MAX];
    match rustix::fs::fgetxattr(fd, CAPABILITY, &mut value) {
        Ok(length) => {
            let value = value.get(..length).unwrap_or_default().to_vec();
            Ok(Xattrs::new(BTreeMap::from([(CAPABILITY.to_vec(), value)])))
        }
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS | Errno::PERM | Errno::ACCESS) => {
            Ok(Xattrs::default())
        }
        Err(errno) => Err(errno),
    }
}

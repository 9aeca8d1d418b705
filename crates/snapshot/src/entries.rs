//! Between what the kernel says of a file and what an entry says.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use dcbuild_model::UnixTime;
use dcbuild_tree::{Entry, Kind, Meta, Xattrs};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, RawMode, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::beneath;

/// Whether an extended attribute of a running container belongs into its layer.
pub(crate) fn belongs(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

/// Mode, owner and time, as the kernel says; no extended attributes.
pub(crate) fn meta_of(stat: &Stat) -> Meta {
    let nanos: i64 = widen(stat.st_mtime_nsec);
    Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: UnixTime { secs: stat.st_mtime, nanos: u32::try_from(nanos).unwrap_or(0) },
        xattrs: Xattrs::default(),
    }
}

/// The types of some fields differ between machines.
fn widen(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(0)
}

/// The extended attributes that belong into a layer.
pub(crate) fn xattrs_of(file: BorrowedFd<'_>) -> rustix::io::Result<Xattrs> {
    let found = beneath::xattrs(file, belongs)?;
    Ok(Xattrs::new(found.into_iter().collect::<BTreeMap<_, _>>()))
}

/// What an entry other than a file or folder is.
pub(crate) fn special(stat: &Stat) -> Option<Kind> {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::CharDevice { major, minor }),
        FileType::BlockDevice => Some(Kind::BlockDevice { major, minor }),
        _ => None,
    }
}

fn times(mtime: UnixTime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn mode(meta: &Meta) -> Mode {
    Mode::from_raw_mode(RawMode::from(meta.mode))
}

/// Sets all that an open file or folder has; the order matters: a new owner clears capabilities and setuid, and
/// everything sets the time.
pub(crate) fn set_meta(file: impl AsFd, meta: &Meta) -> rustix::io::Result<()> {
    let file = file.as_fd();
    rustix::fs::fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
    rustix::fs::fchmod(file, mode(meta))?;
    for (name, value) in meta.xattrs.iter() {
        let set = rustix::fs::fsetxattr(file, name, value, XattrFlags::empty());
        bearable(name, set)?;
    }
    rustix::fs::futimens(file, &times(meta.mtime))
}

/// Sets the time of an open file or folder.
pub(crate) fn set_mtime(file: impl AsFd, mtime: UnixTime) -> rustix::io::Result<()> {
    rustix::fs::futimens(file, &times(mtime))
}

/// What a file system cannot keep is left out, but for capabilities: without them a program would not work.
fn bearable(name: &[u8], set: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match set {
        Err(Errno::OPNOTSUPP) if name != b"security.capability" => Ok(()),
        set => set,
    }
}

/// Makes a link, pipe, device or socket and sets all that it has.
pub(crate) fn make_special(
    folder: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
) -> rustix::io::Result<()> {
    let meta = &entry.meta;
    let node = |kind, device| {
        let made = rustix::fs::mknodat(folder, name, kind, mode(meta), device);
        match made {
            // Where devices cannot be made an empty file keeps the place.
            Err(Errno::PERM) => beneath::create_file(folder, name).map(drop),
            made => made,
        }
    };
    let linked = matches!(entry.kind, Kind::Symlink(_));
    match &entry.kind {
        Kind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), folder, name)?,
        Kind::Fifo => node(FileType::Fifo, 0)?,
        Kind::Socket => node(FileType::Socket, 0)?,
        Kind::CharDevice { major, minor } => {
            node(FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))?;
        }
        Kind::BlockDevice { major, minor } => {
            node(FileType::BlockDevice, rustix::fs::makedev(*major, *minor))?;
        }
        Kind::Dir | Kind::File(_) => return Err(Errno::INVAL),
    }
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    let here = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), here)?;
    if !linked {
        // It was made just now in a folder of ours, so this follows no link.
        rustix::fs::chmodat(folder, name, mode(meta), AtFlags::empty())?;
    }
    if !meta.xattrs.is_empty() {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        path.push(std::ffi::OsStr::from_bytes(name));
        for (name, value) in meta.xattrs.iter() {
            // Linux allows few attributes on what is no file; those are no loss.
            match rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(error) => return Err(error),
            }
        }
    }
    rustix::fs::utimensat(folder, name, &times(meta.mtime), here)
}

/// Makes what tells the overlay that nothing stands here.
pub(crate) fn make_whiteout(folder: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0)
}

/// The overlay's name for "nothing of the lower layers below this folder".
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// The same for a mount inside a user namespace.
pub(crate) const USER_OPAQUE: &str = "user.overlay.opaque";

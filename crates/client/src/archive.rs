//! An archive as a context: what it holds, unpacked into a folder as ADD unpacks it, and whose it is.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcbuild_context::{Attributes, Said};
use dcbuild_layer::{LayerSink, ReadArchiveError, read_archive};
use dcbuild_model::{ContentDigest, TreePath, UnixTime};
use dcbuild_tree::{Change, Changes, CopyError, Entry, Kind, LinkGroup, Meta, Origin, unpacked};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

/// Says why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackArchiveError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadArchiveError),
    /// It is none.
    #[error("it holds no tar")]
    NoTar,
    /// Its members cannot lie together.
    #[error("could not unpack it")]
    Lay(#[from] CopyError),
    /// The disk failed.
    #[error("could not write '{path}'")]
    Write {
        /// The entry.
        path: TreePath,
        /// What the system said.
        source: io::Error,
    },
}

/// Unpacks an archive into an empty folder, and says what the disk does not say of its entries. Blocks.
///
/// Who is not root makes no devices: they are left out, and nothing that an instruction could read is in them.
pub(crate) fn unpack_archive(
    archive: impl Read + Send,
    folder: &Path,
    now: UnixTime,
) -> Result<Attributes, UnpackArchiveError> {
    let at = |source| UnpackArchiveError::Write { path: TreePath::root(), source };
    // What is a file's in the end is moved to its place, so it lies on the same disk.
    let spool = tempfile::tempdir_in(folder.parent().unwrap_or(folder)).map_err(at)?;
    let mut files = Files { folder: spool.path(), count: 0, file: None };
    let archive = read_archive(archive, &mut files)?.ok_or(UnpackArchiveError::NoTar)?;
    lay(&unpacked(&archive, now)?, folder, spool.path())
}

/// Where the bytes of a file wait: under a number.
struct Files<'a> {
    folder: &'a Path,
    count: u64,
    file: Option<File>,
}

impl LayerSink for Files<'_> {
    fn begin(&mut self, _: &TreePath, _: u64) -> io::Result<()> {
        self.count += 1;
        self.file = Some(File::create_new(self.folder.join(self.count.to_string()))?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    fn end(&mut self, _: &ContentDigest) -> io::Result<Option<Origin>> {
        self.file = None;
        let path = TreePath::root().join(self.count.to_string().as_bytes());
        Ok(Some(Origin::Context { context: 0, path }))
    }
}

/// Makes the entries; each stands behind its folder, and all folders are made here, so no link is on the way.
fn lay(changes: &Changes, folder: &Path, spool: &Path) -> Result<Attributes, UnpackArchiveError> {
    let place = |path: &TreePath| folder.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let mut said = HashMap::new();
    let mut groups: HashMap<LinkGroup, PathBuf> = HashMap::new();
    let mut folders = Vec::new();
    for (path, change) in &changes.0 {
        let (Change::Put(entry) | Change::Replace(entry)) = change else { continue };
        let here = place(path);
        let failed = |source| UnpackArchiveError::Write { path: path.clone(), source };
        let Meta { mode, uid, gid, .. } = entry.meta;
        if (uid, gid) != (0, 0) || mode_here(entry) != mode {
            said.insert(path.clone(), Said { mode, owner: (uid, gid) });
        }
        if entry.is_dir() {
            fs::create_dir(&here).map_err(failed)?;
            folders.push((here, path, entry));
            continue;
        }
        if let Some(first) = entry.links.and_then(|group| groups.get(&group)) {
            fs::hard_link(first, &here).map_err(failed)?;
            continue;
        }
        if make(entry, &here, spool).map_err(failed)? == Made::Whole {
            finish(entry, &here).map_err(failed)?;
            groups.extend(entry.links.map(|group| (group, here)));
        }
    }
    for (here, path, entry) in folders.into_iter().rev() {
        let failed = |source| UnpackArchiveError::Write { path: path.clone(), source };
        finish(entry, &here).map_err(failed)?;
    }
    Ok(Arc::new(said))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Whole,
    Not,
}

fn make(entry: &Entry, here: &Path, spool: &Path) -> io::Result<Made> {
    let node = |kind, device| match rustix::fs::mknodat(
        CWD,
        here,
        kind,
        Mode::from_raw_mode(entry.meta.mode),
        device,
    ) {
        Err(Errno::PERM) => Ok(Made::Not),
        made => made.map(|()| Made::Whole).map_err(io::Error::from),
    };
    match &entry.kind {
        Kind::Dir | Kind::Socket => Ok(Made::Not),
        Kind::File(body) => {
            match &body.origin {
                Origin::Context { path, .. } => {
                    fs::rename(spool.join(std::ffi::OsStr::from_bytes(path.as_bytes())), here)?;
                }
                Origin::Inline(_) | Origin::Layer { .. } => drop(File::create_new(here)?),
            }
            Ok(Made::Whole)
        }
        Kind::Symlink(target) => {
            std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), here)?;
            Ok(Made::Whole)
        }
        Kind::Fifo => node(FileType::Fifo, 0),
        Kind::CharDevice { major, minor } => {
            node(FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
        }
        Kind::BlockDevice { major, minor } => {
            node(FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
        }
    }
}

/// The permissions that an entry has here: whoever unpacks must read it, and remove it in the end.
fn mode_here(entry: &Entry) -> u32 {
    match entry.kind {
        Kind::Dir => entry.meta.mode | 0o700,
        Kind::File(_) => entry.meta.mode | 0o600,
        _ => entry.meta.mode,
    }
}

/// Gives an entry its attributes, mode and time; what only root may give is left out.
fn finish(entry: &Entry, here: &Path) -> io::Result<()> {
    if !matches!(entry.kind, Kind::Symlink(_)) {
        for (name, value) in entry.meta.xattrs.iter() {
            match rustix::fs::lsetxattr(here, name, value, rustix::fs::XattrFlags::empty()) {
                Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        fs::set_permissions(here, fs::Permissions::from_mode(mode_here(entry)))?;
    }
    let UnixTime { secs, nanos } = entry.meta.mtime;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: secs, tv_nsec: i64::from(nanos) },
    };
    Ok(rustix::fs::utimensat(CWD, here, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

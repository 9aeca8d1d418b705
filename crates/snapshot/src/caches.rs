//! The folders of cache mounts, which are whatever steps left in them: what each takes, and taking it back.
//!
//! Who may use or remove one is decided by locks that are not made here.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use dcbuild_model::UnixTime;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fault::{At, at};
use crate::snapshots::Snapshots;
use crate::{beneath, reap};

/// The file beside a cache's content that says what the cache is; its time is that of the last use.
const MARK: &str = "mark";
const MARK_BYTES_MAX: u64 = 64 << 10;
/// Folders that are nested deeper are not measured.
const DEPTH_MAX: usize = 256;
/// Where caches lie that are being removed.
const DOOMED: &str = "doomed";
/// The unit in which a file's blocks are told.
const BLOCK_BYTES: u64 = 512;

/// The folder in which each cache mount has one of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheFolders {
    dir: PathBuf,
}

/// What one cache takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheUsage {
    /// The name of its folder.
    pub name: String,
    /// What was said of it at its last use; empty if nothing was.
    pub text: String,
    /// The bytes it takes on disk.
    pub bytes: u64,
    /// When it was last mounted.
    pub last_used: UnixTime,
}

impl CacheFolders {
    /// Looks at this folder, which need not be there.
    pub fn at(dir: &Path) -> CacheFolders {
        CacheFolders { dir: dir.to_owned() }
    }

    /// Where a cache is or would be.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Notes that a cache, whose folder is there, is used now, and what it is.
    pub fn mark(&self, name: &str, text: &str) -> Result<(), At> {
        let path = self.path_of(name);
        let failed = || at("mark", &path);
        let folder = beneath::open_child(rustix::fs::CWD, path.as_os_str().as_encoded_bytes());
        let folder = folder.map_err(failed())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&folder, MARK, flags | OFlags::CLOEXEC, mode);
        let mut file = File::from(file.map_err(failed())?);
        file.write_all(text.as_bytes()).map_err(at("mark", &path))
    }

    /// Lists all caches, the longest unused first; each is walked through, links are not followed.
    pub fn usage(&self) -> Result<Vec<CacheUsage>, At> {
        let Some(root) = self.root()? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for name in beneath::names(root.as_fd()).map_err(at("list", &self.dir))? {
            let Ok(name) = String::from_utf8(name) else { continue };
            if name == DOOMED {
                continue;
            }
            match usage_of(&root, &name) {
                Ok(usage) => all.extend(usage),
                // Another process removes it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("measure", &self.path_of(&name))(error)),
            }
        }
        all.sort_by(|one, other| (one.last_used, &one.name).cmp(&(other.last_used, &other.name)));
        Ok(all)
    }

    /// When a cache was last mounted; none if there is no such cache.
    pub fn last_used(&self, name: &str) -> Result<Option<UnixTime>, At> {
        let Some(root) = self.root()? else { return Ok(None) };
        let path = self.path_of(name);
        let failed = || at("open", &path);
        match beneath::open_child(&root, name.as_bytes()) {
            Ok(folder) => last_used(&folder).map(Some).map_err(failed()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(failed()(error)),
        }
    }

    /// Removes a cache, which nobody may be using; false if there was none.
    pub fn remove(&self, name: &str) -> Result<bool, At> {
        let Some(root) = self.root()? else { return Ok(false) };
        let path = self.path_of(name);
        match rustix::fs::mkdirat(&root, DOOMED, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(at("make", &self.dir.join(DOOMED))(error)),
        }
        let doomed = beneath::open_child(&root, DOOMED.as_bytes());
        let doomed = doomed.map_err(at("open", &self.dir.join(DOOMED)))?;
        // It is moved first, so that half of a cache is never mounted; what an earlier removal left goes along.
        match rustix::fs::renameat(&root, name, &doomed, Snapshots::unique().as_str()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(at("move", &path)(error)),
        }
        for left in beneath::names(doomed.as_fd()).map_err(at("list", &self.dir.join(DOOMED)))? {
            reap::remove(&doomed, &left).map_err(at("remove", &path))?;
        }
        Ok(true)
    }

    fn root(&self) -> Result<Option<OwnedFd>, At> {
        match beneath::open_child(rustix::fs::CWD, self.dir.as_os_str().as_encoded_bytes()) {
            Ok(root) => Ok(Some(root)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(at("open", &self.dir)(error)),
        }
    }
}

/// What is in this folder, if it is one.
fn usage_of(root: &OwnedFd, name: &str) -> io::Result<Option<CacheUsage>> {
    let folder = match beneath::open_child(root, name.as_bytes()) {
        Ok(folder) => folder,
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = String::new();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&folder, MARK, flags, Mode::empty()) {
        Ok(file) => {
            let mut bytes = Vec::new();
            File::from(file).take(MARK_BYTES_MAX).read_to_end(&mut bytes)?;
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let last_used = last_used(&folder)?;
    Ok(Some(CacheUsage { name: name.to_owned(), text, bytes: measure(folder)?, last_used }))
}

fn last_used(folder: &OwnedFd) -> rustix::io::Result<UnixTime> {
    let stat = match rustix::fs::statat(folder, MARK, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::fstat(folder)?,
        stat => stat?,
    };
    Ok(crate::usage::modified(&stat))
}

/// What all below a folder takes on the disk, a file of several names once.
fn measure(top: OwnedFd) -> rustix::io::Result<u64> {
    let mut linked = HashSet::new();
    let mut blocks = 0u64;
    let names = beneath::names(top.as_fd())?;
    let mut stack = vec![(top, names)];
    while let Some((folder, names)) = stack.last_mut() {
        let Some(name) = names.pop() else {
            stack.pop();
            continue;
        };
        // What a running step removes meanwhile takes nothing.
        let Ok(stat) = rustix::fs::statat(&*folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
        else {
            continue;
        };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !is_folder && stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
            continue;
        }
        blocks += u64::try_from(stat.st_blocks).unwrap_or(0);
        if is_folder
            && stack.len() < DEPTH_MAX
            && let Some((folder, _)) = stack.last()
            && let Ok(below) = beneath::open_child(folder, &name)
            && let Ok(names) = beneath::names(below.as_fd())
        {
            stack.push((below, names));
        }
    }
    Ok(blocks.saturating_mul(BLOCK_BYTES))
}

//! Walks a folder with all cores: each reads one folder at a time and leaves those below it to whoever is free.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use dcbuild_model::{TreePath, UnixTime, limits};
use dcbuild_tree::ignore::Seen;
use dcbuild_tree::{Entry, FileBody, Ignore, Kind, Meta, Origin, Xattrs};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::scan::{FileStat, ScanError, Seen as File, UNHASHED};
use crate::stat_cache::{Known, StatCache};
use crate::{Attributes, Owners, Said};

/// What one folder holds, by name.
pub(crate) struct Folder {
    pub(crate) path: TreePath,
    pub(crate) met: Vec<Met>,
}

/// One entry, as it was met.
pub(crate) struct Met {
    pub(crate) name: Box<[u8]>,
    /// Nobody else has it yet.
    pub(crate) entry: Arc<Entry>,
    /// Of a regular file.
    pub(crate) file: Option<File>,
    /// Left out by a pattern; a folder that counts only if something in it does.
    pub(crate) conditional: bool,
}

/// A folder that is to be read.
struct Job {
    parent: Arc<OwnedFd>,
    /// None for the top, which is `parent` itself.
    path: TreePath,
    seen: Seen,
    depth: usize,
}

struct Queue {
    jobs: Vec<Job>,
    /// Jobs taken and not ended; more may come of them.
    busy: usize,
    /// Folders that this user may not read.
    closed: Vec<TreePath>,
    failed: Option<ScanError>,
}

struct Walk<'a> {
    ignore: &'a Ignore,
    known: &'a StatCache,
    context: u32,
    said: &'a Attributes,
    owners: Owners,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Lists all that is below a folder and not ignored: the folders in no order.
pub(crate) fn walk(
    folder: &Arc<OwnedFd>,
    ignore: &Ignore,
    known: &StatCache,
    (context, said, owners): (u32, &Attributes, Owners),
) -> Result<Vec<Folder>, ScanError> {
    let top =
        Job { parent: folder.clone(), path: TreePath::root(), seen: Seen::default(), depth: 0 };
    let queue = Queue { jobs: vec![top], busy: 0, closed: Vec::new(), failed: None };
    let (queue, changed) = (Mutex::new(queue), Condvar::new());
    let walk = Walk { ignore, known, context, said, owners, queue, changed };
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    let mut folders = Vec::new();
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..cores).map(|_| scope.spawn(|| walk.run())).collect();
        folders.append(&mut walk.run());
        for other in others {
            match other.join() {
                Ok(mut found) => folders.append(&mut found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let queue = walk.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    close(&mut folders, &queue.closed, context);
    queue.failed.map_or(Ok(folders), Err)
}

/// Makes a file of each folder that may not be read: whoever selects it is told when its bytes are asked for, and a
/// build that needs nothing of it goes on.
fn close(folders: &mut [Folder], closed: &[TreePath], context: u32) {
    if closed.is_empty() {
        return;
    }
    for Folder { path, met } in folders {
        met.retain_mut(|one| {
            let below = path.join(&one.name);
            if !one.entry.is_dir() || !closed.contains(&below) {
                return true;
            }
            if let Some(entry) = Arc::get_mut(&mut one.entry) {
                let origin = Origin::Context { context, path: below };
                entry.kind = Kind::File(FileBody { content: UNHASHED, size: 0, origin });
                one.file = Some(File { stat: FileStat::default(), inode: None });
            }
            // Whether something in it is taken in nobody can know.
            !one.conditional
        });
    }
}

impl Walk<'_> {
    fn run(&self) -> Vec<Folder> {
        let mut folders = Vec::new();
        let mut below = Vec::new();
        while let Some(job) = self.take() {
            let result = self.folder(&job, &mut below);
            if result.is_err() {
                below.clear();
            }
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.busy -= 1;
            queue.jobs.append(&mut below);
            match result {
                Ok(met) => folders.push(Folder { path: job.path, met }),
                Err(error) if error.is_closed() && !job.path.is_root() => {
                    queue.closed.push(job.path);
                }
                Err(error) => drop(queue.failed.get_or_insert(error)),
            }
            drop(queue);
            self.changed.notify_all();
        }
        folders
    }

    fn take(&self) -> Option<Job> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if queue.failed.is_some() {
                return None;
            }
            // The newest first: so the folders held open stay few.
            if let Some(job) = queue.jobs.pop() {
                queue.busy += 1;
                return Some(job);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads what one folder holds, by name; folders in it go to `below`.
    fn folder(&self, job: &Job, below: &mut Vec<Job>) -> Result<Vec<Met>, ScanError> {
        let failed =
            |errno: Errno| ScanError::Folder { path: job.path.clone(), source: errno.into() };
        if job.depth > limits::DEPTH_MAX {
            return Err(ScanError::TooDeep { path: job.path.clone() });
        }
        let name = job.path.name().unwrap_or(b".");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder =
            match rustix::fs::openat(&job.parent, OsStr::from_bytes(name), flags, Mode::empty()) {
                // It went away since it was listed.
                Err(Errno::NOENT) => return Ok(Vec::new()),
                other => Arc::new(other.map_err(failed)?),
            };
        let mut met = Vec::new();
        for item in Dir::read_from(&folder).map_err(failed)? {
            let item = item.map_err(failed)?;
            let name = item.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let path = job.path.join(name);
            if path.as_bytes().len() > limits::PATH_BYTES_MAX {
                return Err(ScanError::TooDeep { path: job.path.clone() });
            }
            let (out, seen) = self.ignore.matches_below(path.as_bytes(), &job.seen);
            let known = item.file_type();
            let maybe_folder = matches!(known, FileType::Directory | FileType::Unknown);
            if out && (!maybe_folder || self.ignore.skips_whole(path.as_bytes())) {
                continue;
            }
            let Some(one) = self.entry(&folder, name, &path, out)? else { continue };
            if one.entry.is_dir() {
                below.push(Job { parent: folder.clone(), path, seen, depth: job.depth + 1 });
            } else if out {
                continue;
            }
            met.push(one);
        }
        met.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.remember(&mut met);
        Ok(met)
    }

    /// Names the contents of files that are what they were.
    fn remember(&self, met: &mut [Met]) {
        let mut known = self.known.cursor();
        for one in met {
            if let (Some(file), Some(entry)) = (&one.file, Arc::get_mut(&mut one.entry))
                && let Kind::File(body) = &mut entry.kind
                && let Origin::Context { path, .. } = &body.origin
                && let Some(Known { content, has_xattrs: false, .. }) = known.get(path, &file.stat)
            {
                body.content = content;
            }
        }
    }

    /// What stands under one name; none if it went away.
    fn entry(
        &self,
        folder: &OwnedFd,
        name: &[u8],
        path: &TreePath,
        out: bool,
    ) -> Result<Option<Met>, ScanError> {
        let failed = |errno: Errno| ScanError::Entry { path: path.clone(), source: errno.into() };
        let at = OsStr::from_bytes(name);
        let stat = match rustix::fs::statat(folder, at, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let file_stat = FileStat::of(&stat);
        let mut file = None;
        let device = || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                file = Some(File { stat: file_stat, inode: file_stat.shared_inode(&stat) });
                let origin = Origin::Context { context: self.context, path: path.clone() };
                Kind::File(FileBody { content: UNHASHED, size: file_stat.size, origin })
            }
            FileType::Directory => Kind::Dir,
            FileType::Symlink => match rustix::fs::readlinkat(folder, at, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                other => Kind::Symlink(other.map_err(failed)?.into_bytes()),
            },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => {
                let (major, minor) = device();
                Kind::CharDevice { major, minor }
            }
            FileType::BlockDevice => {
                let (major, minor) = device();
                Kind::BlockDevice { major, minor }
            }
            FileType::Unknown => {
                let source = io::Error::from(io::ErrorKind::Unsupported);
                return Err(ScanError::Entry { path: path.clone(), source });
            }
        };
        let mut meta = meta(&stat, file_stat.mtime, self.owners);
        if let Some(Said { mode, owner: (uid, gid) }) = self.said.get(path) {
            (meta.mode, meta.uid, meta.gid) = (*mode, *uid, *gid);
        }
        let entry = Arc::new(Entry { meta, kind, links: None });
        Ok(Some(Met { name: name.into(), entry, file, conditional: out }))
    }
}

/// All but the attributes of files, which are read with their bytes.
fn meta(stat: &Stat, mtime: UnixTime, owners: Owners) -> Meta {
    let (uid, gid) = match owners {
        Owners::Root => (0, 0),
        Owners::Kept => (stat.st_uid, stat.st_gid),
    };
    Meta { mode: stat.st_mode & 0o7777, uid, gid, mtime, xattrs: Xattrs::default() }
}

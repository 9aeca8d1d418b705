//! Paths inside the step's root, resolved by descriptor: a link never leads outside.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use dcbuild_model::TreePath;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Timespec, Timestamps,
    UTIME_OMIT, chownat, fstat, futimens, mkdirat, openat, openat2, readlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// Links that one target may lead through where something has to be made.
const LINKS_MAX: u32 = 40;

/// What a target has to be where it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
}

/// The step's root before it is entered.
pub(crate) struct Root {
    fd: OwnedFd,
    /// Where the root is attached in the mount namespace.
    place: PathBuf,
    device: u64,
    stubs: Vec<Vec<u8>>,
    /// Whose the folders are that are made now.
    owner: Option<(Uid, Gid)>,
}

/// Opens an untrusted path below a folder as if the folder were `/`.
pub(crate) fn open_in(folder: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(&folder, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel asks for another try when something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

impl Root {
    /// Takes the root that is attached at `place`.
    pub(crate) fn new(fd: OwnedFd, place: PathBuf) -> Result<Root, Errno> {
        let device = fstat(&fd)?.st_dev;
        Ok(Root { fd, place, device, stubs: Vec::new(), owner: None })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens the working folder. It and its parents are made when missing: they are the step's user's, and stay.
    pub(crate) fn working_folder(
        &mut self,
        path: &str,
        owner: (Uid, Gid),
    ) -> Result<OwnedFd, Errno> {
        let stubs = self.stubs.len();
        self.owner = Some(owner);
        let folder = self.target(path, Kind::Folder);
        self.owner = None;
        self.stubs.truncate(stubs);
        folder
    }

    pub(crate) fn into_stubs(self) -> Vec<Vec<u8>> {
        self.stubs
    }

    /// Reads a regular file of the tree.
    pub(crate) fn read_file(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, Errno> {
        // Without blocking, so that a pipe in the file's place does not hold the step.
        let fd = open_in(&self.fd, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let mut bytes = Vec::new();
        std::fs::File::from(fd)
            .take(bytes_max + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if read > bytes_max { Err(Errno::FBIG) } else { Ok(bytes) }
    }

    /// Opens what a mount is to cover; it and its parents are made when missing.
    pub(crate) fn target(&mut self, path: &str, kind: Kind) -> Result<OwnedFd, Errno> {
        let clean = TreePath::clean(path.as_bytes()).map_err(|_| Errno::NAMETOOLONG)?;
        self.target_at(clean.as_bytes(), kind, 0)
    }

    fn target_at(&mut self, path: &[u8], kind: Kind, links: u32) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH;
        if kind == Kind::Folder {
            flags |= OFlags::DIRECTORY;
        }
        let text = std::str::from_utf8(path).map_err(|_| Errno::ILSEQ)?;
        match open_in(&self.fd, text, flags) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let trimmed = text.trim_end_matches('/');
        let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        if name.is_empty() || name == "." || name == ".." {
            return Err(Errno::NOENT);
        }
        let folder = self.target_at(parent.as_bytes(), Kind::Folder, links)?;
        let folder = openat(
            &folder,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // Names there come and go with this process's own descriptors.
        if rustix::fs::fstatfs(&folder)?.f_type == PROC_SUPER_MAGIC {
            return Err(Errno::NOENT);
        }
        match self.make(&folder, name, kind) {
            Err(Errno::EXIST) if links < LINKS_MAX => {
                // A link that leads nowhere: what it names is made.
                let link = readlinkat(&folder, name, Vec::new())?;
                let mut next = Vec::new();
                if !link.as_bytes().starts_with(b"/") {
                    next.extend_from_slice(parent.as_bytes());
                    next.push(b'/');
                }
                next.extend_from_slice(link.as_bytes());
                self.target_at(&next, kind, links + 1)
            }
            other => other,
        }
    }

    fn make(&mut self, folder: &OwnedFd, name: &str, kind: Kind) -> Result<OwnedFd, Errno> {
        let before = fstat(folder)?;
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = match kind {
            Kind::Folder => {
                mkdirat(folder, name, Mode::from_raw_mode(0o755))?;
                if let Some((uid, gid)) = self.owner {
                    chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
                openat(folder, name, flags | OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?
            }
            Kind::File => {
                let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                drop(openat(folder, name, flags | create, Mode::from_raw_mode(0o644))?);
                openat(folder, name, flags | OFlags::PATH, Mode::empty())?
            }
        };
        // The folder is as it was for the step, and equal to its lower once the stub is gone.
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec {
                tv_sec: before.st_mtime,
                tv_nsec: i64::try_from(before.st_mtime_nsec).unwrap_or_default(),
            },
        };
        futimens(folder, &times)?;
        if before.st_dev == self.device {
            self.note(folder, name)?;
        }
        Ok(made)
    }

    fn note(&mut self, folder: &OwnedFd, name: &str) -> Result<(), Errno> {
        use std::os::fd::AsRawFd;
        let link = format!("/proc/self/fd/{}", folder.as_raw_fd());
        let full = rustix::fs::readlink(link, Vec::new())?;
        let full = PathBuf::from(OsStr::from_bytes(full.as_bytes()));
        let inside = full.strip_prefix(&self.place).map_err(|_| Errno::XDEV)?;
        self.stubs.push(inside.join(name).as_os_str().as_bytes().to_vec());
        Ok(())
    }

    /// Opens a folder that a part of the system is mounted on, made when missing; it must be no link.
    pub(crate) fn system_folder(&mut self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                mkdirat(&self.fd, name, Mode::from_raw_mode(0o755))?;
                openat(&self.fd, name, flags, Mode::empty())
            }
            other => other,
        }
    }

    /// The mode of a folder, if the path is one.
    pub(crate) fn folder_mode(&self, path: &str) -> Option<Mode> {
        let folder = open_in(&self.fd, path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
        Some(Mode::from_raw_mode(rustix::fs::fstat(&folder).ok()?.st_mode))
    }

    /// Whether a path of the tree is there at all.
    pub(crate) fn has(&self, path: &str) -> bool {
        rustix::fs::statat(&self.fd, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

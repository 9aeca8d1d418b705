//! The folder of all snapshots: `LAYER/fs` is a lower folder, `LAYER/ok` its mark, `tmp` what is not finished, `boot` the
//! boot in which all marks were looked at.
//!
//! Whoever uses a snapshot or fills a temporary folder holds a shared `flock` on it; whoever removes it needs an
//! exclusive one. Locks die with their process.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dcbuild_model::{AttemptId, Digest, LayerId};
use dcbuild_tree::{Changes, Meta};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode};
use rustix::io::Errno;

use crate::fault::{At, at};
use crate::marker::{self, Lasts, Marker};
use crate::upper::Upper;
use crate::usage::disk_bytes;
use crate::{beneath, reap};

/// The file that names the boot in which all snapshots were looked at.
const BOOT: &str = "boot";

/// The snapshots of one state folder; any number of processes may open it.
#[derive(Debug)]
pub struct Snapshots {
    pub(crate) dir: PathBuf,
    pub(crate) root: OwnedFd,
    pub(crate) tmp: OwnedFd,
    pub(crate) keeps: Keeps,
    boot: String,
}

/// What of a layer a snapshot has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keeps {
    /// All that an overlay shows.
    All,
    /// The contents of files, which is all that an ordinary user can make.
    Contents,
}

/// A snapshot in use: no other process removes it while this is held.
#[derive(Clone, Debug)]
pub struct Snapshot {
    layer: LayerId,
    folder: PathBuf,
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    /// Carries the lock.
    entry: OwnedFd,
    fs: OwnedFd,
}

impl Snapshot {
    /// The layer.
    pub fn layer(&self) -> LayerId {
        self.layer
    }

    /// The folder that an overlay takes as a lower.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn fs(&self) -> &OwnedFd {
        &self.held.fs
    }
}

/// The snapshots below a mount, all in use.
#[derive(Clone, Debug, Default)]
pub struct Lowers(pub Vec<Snapshot>);

impl Lowers {
    /// The folders, lowest layer first.
    pub fn paths(&self) -> impl DoubleEndedIterator<Item = &Path> {
        self.0.iter().map(Snapshot::path)
    }
}

/// Says why the snapshots' folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenSnapshotsError {
    /// A file system call failed.
    #[error(transparent)]
    Io(#[from] At),
}

/// Says why snapshots could not be found or made ready.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file system call failed.
    #[error(transparent)]
    Io(#[from] At),
    /// A layer has no snapshot here.
    #[error("layer {layer} has no snapshot here")]
    Missing {
        /// The layer.
        layer: LayerId,
    },
}

/// A folder in `tmp`, held by this process.
#[derive(Debug)]
pub(crate) struct Temp {
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
}

impl Snapshots {
    /// Opens the folder, makes it where it is not, and removes what an earlier boot did not sync.
    ///
    /// An ordinary user cannot make files of others, and runs no step on them: there snapshots have the contents of files
    /// alone. They lie in a folder beside the one that is named, so that nobody takes them for whole ones.
    pub fn open(dir: &Path) -> Result<Snapshots, OpenSnapshotsError> {
        if rustix::process::geteuid().is_root() {
            return Snapshots::open_as(dir, Keeps::All);
        }
        let mut name = dir.file_name().unwrap_or_default().to_owned();
        name.push("-contents");
        Snapshots::open_as(&dir.with_file_name(name), Keeps::Contents)
    }

    fn open_as(dir: &Path, keeps: Keeps) -> Result<Snapshots, OpenSnapshotsError> {
        let tmp_path = dir.join("tmp");
        std::fs::create_dir_all(&tmp_path).map_err(at("make", &tmp_path))?;
        let root = beneath::open_child(rustix::fs::CWD, dir.as_os_str().as_bytes())
            .map_err(at("open", dir))?;
        let private = Mode::RWXU;
        rustix::fs::fchmod(&root, private).map_err(at("protect", dir))?;
        let tmp = beneath::open_child(&root, b"tmp").map_err(at("open", &tmp_path))?;
        let boot =
            marker::boot_id().map_err(at("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
        let snapshots = Snapshots { dir: dir.to_path_buf(), root, tmp, keeps, boot };
        snapshots.drop_other_boots()?;
        Ok(snapshots)
    }

    /// Removes, once in each boot, what an earlier one did not sync: what is made later counts as long as the boot lasts.
    fn drop_other_boots(&self) -> Result<(), At> {
        let path = self.dir.join(BOOT);
        if std::fs::read_to_string(&path).is_ok_and(|boot| boot == self.boot) {
            return Ok(());
        }
        for layer in self.layers()? {
            let counts = match self.marker(&layer)?.map(|mark| mark.lasts) {
                Some(Lasts::Synced) => true,
                Some(Lasts::Boot(boot)) => boot == self.boot,
                None => false,
            };
            if !counts {
                self.remove(&layer)?;
            }
        }
        // Half of it is another boot's name, and then all is looked at again.
        std::fs::write(&path, &self.boot).map_err(at("write", &path))
    }

    pub(crate) fn layers(&self) -> Result<Vec<LayerId>, At> {
        let names = beneath::names(self.root.as_fd()).map_err(at("list", &self.dir))?;
        let layer = |name: Vec<u8>| Digest::from_hex(std::str::from_utf8(&name).ok()?).ok();
        Ok(names.into_iter().filter_map(layer).map(LayerId).collect())
    }

    fn marker(&self, layer: &LayerId) -> Result<Option<Marker>, At> {
        let path = self.dir.join(layer.0.hex());
        match beneath::open_child(&self.root, layer.0.hex().as_bytes()) {
            Ok(folder) => Marker::read(&folder).map_err(at("read the mark of", &path)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(at("open", &path)(error)),
        }
    }

    /// Finds a snapshot and takes it into use.
    pub fn find(&self, layer: &LayerId) -> Result<Option<Snapshot>, At> {
        let name = layer.0.hex();
        let path = self.dir.join(&name);
        let entry = match beneath::open_child(&self.root, name.as_bytes()) {
            Ok(entry) => entry,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(at("open", &path)(error)),
        };
        match rustix::fs::flock(&entry, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            // Whoever holds it alone is removing it.
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(at("lock", &path)(error)),
        }
        if !is_at(&entry, &self.root, &name) {
            return Ok(None);
        }
        match Marker::touch(&entry) {
            Ok(()) => self.held(*layer, entry).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(at("touch the mark of", &path)(error)),
        }
    }

    fn held(&self, layer: LayerId, entry: OwnedFd) -> Result<Snapshot, At> {
        let folder = self.dir.join(layer.0.hex()).join("fs");
        let fs = beneath::open_child(&entry, b"fs").map_err(at("open", &folder))?;
        Ok(Snapshot { layer, folder, held: Arc::new(Held { entry, fs }) })
    }

    /// Takes the snapshots of all these layers into use, lowest first.
    pub fn lowers(&self, layers: &[LayerId]) -> Result<Lowers, SnapshotError> {
        let find =
            |layer: &LayerId| self.find(layer)?.ok_or(SnapshotError::Missing { layer: *layer });
        layers.iter().map(find).collect::<Result<_, _>>().map(Lowers)
    }

    /// Makes the folders that an attempt's overlay writes to; `root` is the metadata of the tree's root below.
    pub fn begin(&self, attempt: AttemptId, root: &Meta) -> Result<Upper, At> {
        let folder = self.dir.join("tmp").join(attempt.to_string());
        reap::remove(&self.tmp, attempt.to_string().as_bytes()).map_err(at("remove", &folder))?;
        let temp = self.temp(attempt.to_string())?;
        let make = |name: &str| {
            rustix::fs::mkdirat(&temp.fd, name, Mode::RWXU).map_err(at("make", &folder.join(name)))
        };
        make("fs")?;
        make("work")?;
        let fs = beneath::open_child(&temp.fd, b"fs").map_err(at("open", &folder))?;
        crate::entries::set_meta(&fs, root).map_err(at("set the owner and mode of", &folder))?;
        Ok(Upper { attempt, folder, temp })
    }

    /// Makes a folder of a name in `tmp` and holds it.
    pub(crate) fn temp(&self, name: String) -> Result<Temp, At> {
        let path = self.dir.join("tmp").join(&name);
        loop {
            rustix::fs::mkdirat(&self.tmp, name.as_str(), Mode::RWXU).map_err(at("make", &path))?;
            let fd = match beneath::open_child(&self.tmp, name.as_bytes()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(at("open", &path)(error)),
            };
            rustix::fs::flock(&fd, FlockOperation::LockShared).map_err(at("lock", &path))?;
            // A sweep may have been quicker than the lock.
            if is_at(&fd, &self.tmp, &name) {
                return Ok(Temp { name, fd });
            }
        }
    }

    /// A name in `tmp` that nobody else has; processes of several pid namespaces may share the folder.
    pub(crate) fn unique() -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let random = std::hash::RandomState::new().build_hasher().finish();
        format!("x-{random:016x}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts a finished folder under its layer's name; whoever comes second takes the first one's and drops its own.
    pub(crate) fn publish(
        &self,
        temp: Temp,
        layer: LayerId,
        changes: &Changes,
    ) -> Result<Snapshot, At> {
        let name = temp.name.clone();
        self.place(temp, layer, changes).inspect_err(|_| self.forget(&name))
    }

    /// Removes what came to nothing, as far as that goes: on a full disk it is what takes the space.
    pub(crate) fn forget(&self, name: &str) {
        if let Err(error) = reap::remove(&self.tmp, name.as_bytes()) {
            tracing::warn!(folder = name, %error, "what came to nothing is left to the next sweep");
        }
    }

    fn place(&self, temp: Temp, layer: LayerId, changes: &Changes) -> Result<Snapshot, At> {
        let path = self.dir.join(layer.0.hex());
        let lasts = Lasts::Boot(self.boot.clone());
        let mark = Marker { lasts, bytes: disk_bytes(changes) };
        mark.write(&temp.fd).map_err(at("mark", &path))?;
        loop {
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            let name = layer.0.hex();
            match rustix::fs::renameat_with(
                &self.tmp,
                temp.name.as_str(),
                &self.root,
                &*name,
                flags,
            ) {
                Ok(()) => return self.held(layer, temp.fd),
                Err(Errno::EXIST) => {
                    if let Some(found) = self.find(&layer)? {
                        self.discard(temp)?;
                        return Ok(found);
                    }
                    // It is being removed: its name is free in a moment.
                    std::thread::yield_now();
                }
                Err(error) => return Err(at("rename", &path)(error)),
            }
        }
    }

    pub(crate) fn discard(&self, temp: Temp) -> Result<(), At> {
        let path = self.dir.join("tmp").join(&temp.name);
        reap::remove(&self.tmp, temp.name.as_bytes()).map_err(at("remove", &path))
    }

    /// Lets the snapshots of these layers count after another boot, too; a sync of the file system has covered them.
    ///
    /// The new marks themselves are not synced: one that is lost in a crash costs a snapshot, never a wrong byte.
    pub fn mark_synced<'l>(&self, layers: impl IntoIterator<Item = &'l LayerId>) -> Result<(), At> {
        for layer in layers {
            // What another process removes just now needs no mark.
            let Some(snapshot) = self.find(layer)? else { continue };
            let path = self.dir.join(layer.0.hex());
            let entry = &snapshot.held.entry;
            Marker::confirm(entry, &self.boot).map_err(at("mark", &path))?;
        }
        Ok(())
    }

    /// Removes what attempts left that are not among these and what dead processes left.
    pub fn sweep(&self, known: &BTreeSet<AttemptId>) -> Result<(), At> {
        let tmp = self.dir.join("tmp");
        for name in beneath::names(self.tmp.as_fd()).map_err(at("list", &tmp))? {
            let text = String::from_utf8_lossy(&name);
            if text.parse().is_ok_and(|attempt| known.contains(&attempt)) {
                continue;
            }
            let path = tmp.join(&*text);
            let lock = match beneath::open_child(&self.tmp, &name) {
                Ok(folder) => rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)
                    .map(|()| Some(folder)),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(None),
                Err(error) => Err(error),
            };
            match lock {
                Ok(_held) => reap::remove(&self.tmp, &name).map_err(at("remove", &path))?,
                // Another process is at work in it, or was quicker.
                Err(Errno::WOULDBLOCK | Errno::NOENT) => {}
                Err(error) => return Err(at("lock", &path)(error)),
            }
        }
        Ok(())
    }
}

/// Whether a folder still stands where it was opened.
pub(crate) fn is_at(folder: &OwnedFd, parent: &OwnedFd, name: &str) -> bool {
    let here = rustix::fs::fstat(folder);
    let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    matches!((here, there), (Ok(one), Ok(other))
        if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

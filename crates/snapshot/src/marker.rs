//! The mark of a finished snapshot: for this boot, or for good.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};

const NAME: &str = "ok";
const NEW: &str = "ok.new";

/// How long a finished snapshot counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Marker {
    /// As long as the machine runs.
    Boot(String),
    /// For good: a sync of the file system covered it.
    Synced,
}

impl Marker {
    pub(crate) fn read(folder: impl AsFd) -> io::Result<Option<Marker>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(folder, NAME, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut text = String::new();
        file.take(100).read_to_string(&mut text)?;
        Ok(match text.trim_end().split_once(' ') {
            Some(("boot", boot)) => Some(Marker::Boot(boot.to_string())),
            _ if text == "synced\n" => Some(Marker::Synced),
            // A crash may leave the file without its text.
            _ => Some(Marker::Boot(String::new())),
        })
    }

    pub(crate) fn write(&self, folder: impl AsFd) -> io::Result<()> {
        let folder = folder.as_fd();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::openat(folder, NEW, flags | OFlags::CLOEXEC, mode)?);
        match self {
            Marker::Boot(boot) => writeln!(file, "boot {boot}")?,
            Marker::Synced => writeln!(file, "synced")?,
        }
        rustix::fs::renameat(folder, NEW, folder, NAME)?;
        Ok(())
    }

    /// Remembers that the snapshot was used now.
    pub(crate) fn touch(folder: impl AsFd) -> rustix::io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        rustix::fs::utimensat(folder, NAME, &times, AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// The id of the machine's present boot.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_string())
}

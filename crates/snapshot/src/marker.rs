//! The mark of a finished snapshot: what it takes on the disk, and whether it counts for this boot or for good.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};

const NAME: &str = "ok";
const TEXT_BYTES_MAX: u64 = 100;

/// What a mark says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Marker {
    pub(crate) lasts: Lasts,
    /// What the snapshot takes on the disk.
    pub(crate) bytes: u64,
}

/// How long a finished snapshot counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Lasts {
    /// As long as the machine runs.
    Boot(String),
    /// For good: a sync of the file system covered it.
    Synced,
}

impl Marker {
    /// Reads a folder's mark; a crash may leave one without its text, which is no mark.
    pub(crate) fn read(folder: impl AsFd) -> io::Result<Option<Marker>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(folder, NAME, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut text = String::new();
        file.take(TEXT_BYTES_MAX).read_to_string(&mut text)?;
        Ok(Marker::parse(&text))
    }

    fn parse(text: &str) -> Option<Marker> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let lasts = match words.next()? {
            "boot" => Lasts::Boot(words.next()?.to_owned()),
            "synced" => Lasts::Synced,
            _ => return None,
        };
        let bytes = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Marker { lasts, bytes })
    }

    /// Makes the mark of this boot one that lasts. A folder that was removed meanwhile needs none.
    pub(crate) fn confirm(folder: impl AsFd, boot: &str) -> io::Result<()> {
        let folder = folder.as_fd();
        let Some(Marker { lasts: Lasts::Boot(of), bytes }) = Marker::read(folder)? else {
            return Ok(());
        };
        if of != boot {
            return Ok(());
        }
        match (Marker { lasts: Lasts::Synced, bytes }).write(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }

    pub(crate) fn write(&self, folder: impl AsFd) -> io::Result<()> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let folder = folder.as_fd();
        // Of a name of its own: another process may mark the same folder now.
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let new = &format!("{NAME}.{}.{number}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::openat(folder, new, flags | OFlags::CLOEXEC, mode)?);
        let text = match &self.lasts {
            Lasts::Boot(boot) => format!("boot {boot} {}\n", self.bytes),
            Lasts::Synced => format!("synced {}\n", self.bytes),
        };
        file.write_all(text.as_bytes())?;
        Ok(rustix::fs::renameat(folder, new, folder, NAME)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_half_of_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let open = || File::open(folder.path()).unwrap();
        assert_eq!(Marker::read(open()).unwrap(), None);
        for lasts in [Lasts::Boot("a-b".into()), Lasts::Synced] {
            let mark = Marker { lasts, bytes: 4096 };
            mark.write(open()).unwrap();
            assert_eq!(Marker::read(open()).unwrap(), Some(mark));
            let text = std::fs::read_to_string(folder.path().join(NAME)).unwrap();
            for cut in 0..text.len() {
                assert_eq!(Marker::parse(&text[..cut]), None, "{text:?} up to {cut}");
            }
        }
        assert_eq!(Marker::parse("synced 1 2\n"), None);
    }

    /// As two builds do that end at the same time, and one that ends while another makes room.
    #[test]
    fn a_mark_may_be_made_by_several_and_in_a_folder_that_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let open = || File::open(folder.path()).unwrap();
        let mark = Marker { lasts: Lasts::Synced, bytes: 7 };
        mark.write(open()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        mark.write(open()).unwrap();
                        assert_eq!(Marker::read(open()).unwrap(), Some(mark.clone()));
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let gone = open();
        Marker { lasts: Lasts::Boot("now".into()), bytes: 7 }.write(&gone).unwrap();
        folder.close().unwrap();
        assert_eq!(mark.write(&gone).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Marker::confirm(&gone, "now").is_ok());
    }
}

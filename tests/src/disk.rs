//! A small disk, for tests that fill it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system, mounted as long as it lives.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one in memory at a folder, which is made if it is not there.
    pub fn mount(path: &Path, mebibytes: u32) -> SmallDisk {
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "dcbuild-test"])
            .arg(path)
            .output()
            .unwrap();
        assert!(mounted.status.success(), "{mounted:?}: these tests run as root");
        SmallDisk { path: path.to_owned() }
    }

    /// The same as ext4 has it, which counts blocks as free that nobody gets; in a file beside the folder.
    pub fn ext4(path: &Path, mebibytes: u32) -> SmallDisk {
        std::fs::create_dir_all(path).unwrap();
        let file = path.with_extension("ext4");
        let image = std::fs::File::create(&file).unwrap();
        image.set_len(u64::from(mebibytes) << 20).unwrap();
        let mut format = Command::new("/usr/sbin/mkfs.ext4");
        let formatted =
            format.args(["-q", "-F", "-O", "^has_journal"]).arg(&file).output().unwrap();
        assert!(formatted.status.success(), "{formatted:?}");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-o", "loop"]).arg(&file).arg(path).output().unwrap();
        assert!(mounted.status.success(), "{mounted:?}: these tests run as root");
        SmallDisk { path: path.to_owned() }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that has just ended may still hold it: it goes when that does.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.path).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

//! A small disk, for tests that fill it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, mounted as long as it lives.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at a folder, which is made if it is not there.
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
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that has just ended may still hold it: it goes when that does.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.path).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

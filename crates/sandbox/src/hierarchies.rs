//! The control groups as a step sees them: its own are the roots of what lies in `/sys/fs/cgroup`, where the runtimes of
//! languages look for the memory and the processors that they have.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags, mkdirat, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::mounts::{attach, make_mount};
use crate::spec::Security;
use crate::sys::{self, attr};
use crate::target::{Root, open_in};

/// Where programs look.
const FOLDER: &str = "/sys/fs/cgroup";

/// Mounts the hierarchies that this process is in, which has a control group namespace of its own; a step that may not do
/// everything only reads them.
pub(crate) fn mount(root: &Root, security: Security) -> Result<(), Errno> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let own = match security {
        Security::Default => attributes | MountAttrFlags::MOUNT_ATTR_RDONLY,
        Security::Insecure => attributes,
    };
    let listed = std::fs::read_to_string("/proc/self/cgroup").map_err(|_| Errno::NOENT)?;
    let older = older(&listed);
    if older.is_empty() {
        return cover(root, &make_mount("cgroup2", &[], own)?);
    }
    let folders =
        make_mount("tmpfs", &[("mode", Some("0755")), ("size", Some("64k"))], attributes)?;
    cover(root, &folders)?;
    let filled = fill(&folders, &older, own);
    match security {
        Security::Default => sys::mount_setattr(folders.as_fd(), attr::RDONLY).and(filled),
        Security::Insecure => filled,
    }
}

/// Mounts hierarchies of version 1, each in a folder of its name.
fn fill(folders: &OwnedFd, older: &[&str], own: MountAttrFlags) -> Result<(), Errno> {
    for controllers in older {
        let (name, options) = match controllers.strip_prefix("name=") {
            Some(name) => (name, vec![("none", None), ("name", Some(name))]),
            None => (*controllers, controllers.split(',').map(|each| (each, None)).collect()),
        };
        // One that cannot be mounted leaves the others.
        let Ok(hierarchy) = make_mount("cgroup", &options, own) else { continue };
        mkdirat(folders, name, Mode::from_raw_mode(0o755))?;
        attach(hierarchy, open_in(folders.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY)?)?;
        for alone in name.split(',').filter(|alone| *alone != name) {
            symlinkat(name, folders, alone)?;
        }
    }
    Ok(())
}

fn cover(root: &Root, mount: &OwnedFd) -> Result<(), Errno> {
    attach(mount, open_in(root.as_fd(), FOLDER, OFlags::PATH | OFlags::DIRECTORY)?)
}

/// What the hierarchies of version 1 in a `/proc/PID/cgroup` are made of: controllers, or `name=` and a name.
fn older(listed: &str) -> Vec<&str> {
    let controllers = listed.lines().filter_map(|line| line.split(':').nth(1));
    controllers.filter(|controllers| !controllers.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_version_1_are_listed_with_what_they_are_made_of() {
        let listed = "12:cpu,cpuacct:/a\n11:memory:/a:b\n1:name=systemd:/\n0::/\n";
        assert_eq!(older(listed), ["cpu,cpuacct", "memory", "name=systemd"]);
        assert!(older("0::/\n").is_empty() && older("").is_empty());
    }
}

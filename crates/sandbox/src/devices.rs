//! `/proc`, `/sys` and `/dev` as a step sees them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::mounts::{attach, copy_mount, make_mount, open_path};
use crate::report::{Failure, Order};
use crate::spec::Security;
use crate::sys::attr;
use crate::target::{Root, open_in};

/// The usual devices, and the numbers that the kernel knows them by.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn plain() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
}

/// Mounts the three system folders of a step.
pub(crate) fn mount_system(root: &mut Root, order: &Order) -> Result<(), Failure> {
    let spec = &order.spec;
    let sys = match spec.security {
        Security::Default => plain() | MountAttrFlags::MOUNT_ATTR_RDONLY,
        Security::Insecure => plain(),
    };
    cover(root, "proc", || make_mount("proc", &[], plain()))?;
    cover(root, "sys", || make_mount("sysfs", &[], sys))?;
    let dev = MountAttrFlags::MOUNT_ATTR_NOSUID | order.node_attributes();
    cover(root, "dev", || {
        make_mount("tmpfs", &[("mode", Some("0755")), ("size", Some("64m"))], dev)
    })?;
    fill_dev(root, order).map_err(Failure::machine("fill /dev"))?;
    if spec.security == Security::Default {
        hide(root)?;
    }
    Ok(())
}

fn cover(
    root: &mut Root,
    name: &str,
    mount: impl FnOnce() -> Result<OwnedFd, Errno>,
) -> Result<(), Failure> {
    let target = root.system_folder(name).map_err(|errno| {
        Failure::Refused(format!("the tree's /{name} cannot be mounted on: {errno}"))
    })?;
    mount()
        .and_then(|mount| attach(mount, target))
        .map_err(Failure::machine(format!("mount /{name}")))
}

/// Makes a device. As a node a RUN can remove it or put another in its place, as some do with `/dev/random`; where none
/// would open, or none may be made, the machine's own is mounted there.
fn device(
    dev: &OwnedFd,
    order: &Order,
    (name, major, minor): (&str, u32, u32),
) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o666);
    if order.node_attributes().is_empty() {
        let number = makedev(major, minor);
        match mknodat(dev, name, FileType::CharacterDevice, mode, number) {
            Err(Errno::PERM) => {}
            other => return other,
        }
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(openat(dev, name, flags, mode)?);
    let target = open_in(dev, name, OFlags::PATH)?;
    let node = open_path(&Path::new("/dev").join(name))?;
    attach(copy_mount(node.as_fd(), attr::NOSUID | attr::NOEXEC)?, target)
}

fn fill_dev(root: &Root, order: &Order) -> Result<(), Errno> {
    let dev = open_in(root.as_fd(), "/dev", OFlags::RDONLY | OFlags::DIRECTORY)?;
    for node in NODES {
        device(&dev, order, node)?;
    }
    for (name, to) in LINKS {
        symlinkat(to, &dev, name)?;
    }
    let folder = |name: &str, mount: OwnedFd| {
        mkdirat(&dev, name, Mode::from_raw_mode(0o755))?;
        attach(mount, open_in(&dev, name, OFlags::PATH | OFlags::DIRECTORY)?)
    };
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let terminals = [
        ("newinstance", None),
        ("ptmxmode", Some("0666")),
        ("mode", Some("0620")),
        ("gid", Some("5")),
    ];
    folder("pts", make_mount("devpts", &terminals, quiet)?)?;
    let size = order.spec.limits.shm_bytes_max.to_string();
    let memory = [("mode", Some("1777")), ("size", Some(size.as_str()))];
    folder("shm", make_mount("tmpfs", &memory, plain())?)?;
    folder("mqueue", make_mount("mqueue", &[], plain())?)
}

fn hide(root: &Root) -> Result<(), Failure> {
    for path in READ_ONLY.into_iter().filter(|path| root.has(&path[1..])) {
        let fail = |errno| Failure::machine(format!("make {path} read-only"))(errno);
        let target = open_in(root.as_fd(), path, OFlags::PATH).map_err(fail)?;
        let attributes = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let copy = copy_mount(target.as_fd(), attributes).map_err(fail)?;
        attach(copy, target).map_err(fail)?;
    }
    for path in MASKED.into_iter().filter(|path| root.has(&path[1..])) {
        let fail = |errno| Failure::machine(format!("mask {path}"))(errno);
        let target = open_in(root.as_fd(), path, OFlags::PATH).map_err(fail)?;
        let mode = rustix::fs::fstat(&target).map_err(fail)?.st_mode;
        let mask = if rustix::fs::FileType::from_raw_mode(mode).is_dir() {
            make_mount("tmpfs", &[], plain() | MountAttrFlags::MOUNT_ATTR_RDONLY)
        } else {
            open_path(Path::new("/dev/null"))
                .and_then(|null| copy_mount(null.as_fd(), attr::NOSUID))
        };
        attach(mask.map_err(fail)?, target).map_err(fail)?;
    }
    Ok(())
}

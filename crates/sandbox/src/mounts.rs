//! The step's root and what is mounted over it, all by descriptor.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};

use crate::report::{Failure, Order};
use crate::resolvers;
use crate::spec::{CellSpec, Mount};
use crate::sys::{self, attr};
use crate::target::{Kind, Root, open_in};

/// Memory for the files that a cell makes itself: secrets, hosts, resolv.conf.
const FILES_BYTES_MAX: &str = "size=64m";

/// Makes a file system that is attached nowhere yet.
pub(crate) fn make_mount(
    kind: &str,
    options: &[(&str, Option<&str>)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, *key, *value)?,
            None => fsconfig_set_flag(&context, *key)?,
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Attaches a mount over what `target` stands for.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// Makes a second mount of what a descriptor stands for.
pub(crate) fn copy_mount(source: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = open_tree(source, "", flags)?;
    if attributes != 0 {
        sys::mount_setattr(copy.as_fd(), attributes)?;
    }
    Ok(copy)
}

pub(crate) fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Mounts the step's root.
pub(crate) fn mount_root(order: &Order) -> Result<Root, Failure> {
    let (rootfs, places) = (&order.spec.rootfs, &order.places);
    let fail = |errno| Failure::machine("mount the step's root")(errno);
    let stack = Stack {
        lowers: &rootfs.lowers,
        upper: Some((&rootfs.upper, &rootfs.work, rootfs.volatile)),
        empty: &places.empty,
        attributes: order.node_attributes(),
    };
    let overlay = stack.mount(&places.root).map_err(fail)?;
    Root::new(overlay, places.root.clone()).map_err(fail)
}

/// What each overlay is told: nothing of it depends on what the kernel does by itself.
const FIXED: [(&str, &str); 3] =
    [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")];

/// The layers of an overlay, lowest first.
#[derive(Clone, Copy)]
struct Stack<'a> {
    lowers: &'a [PathBuf],
    /// The folder that is written to, the one that the kernel works in, and whether a crash may take both.
    upper: Option<(&'a Path, &'a Path, bool)>,
    empty: &'a Path,
    attributes: MountAttrFlags,
}

impl Stack<'_> {
    /// Makes the overlay and attaches it at a place.
    fn mount(&self, place: &Path) -> Result<OwnedFd, Errno> {
        // No folder is twice in an overlay.
        let nothing = self.lowers.is_empty() && self.upper.is_none();
        let made = if nothing { self.show_nothing() } else { self.make() };
        match made {
            Ok(overlay) => {
                attach(&overlay, open_path(place)?)?;
                Ok(overlay)
            }
            // Before Linux 6.7 the layers cannot be told one by one.
            Err(Errno::INVAL) => self.mount_in_one(place),
            Err(errno) => Err(errno),
        }
    }

    /// The folders below the one that is written to, the uppermost first.
    fn downwards(&self) -> Vec<&Path> {
        let mut stack: Vec<&Path> = self.lowers.iter().rev().map(PathBuf::as_path).collect();
        // An overlay wants one folder below its upper, or two without one.
        let least = if self.upper.is_some() { 1 } else { 2 };
        if stack.len() < least {
            stack.push(self.empty);
        }
        stack
    }

    fn show_nothing(&self) -> Result<OwnedFd, Errno> {
        let nodes = u64::from(self.attributes.bits());
        copy_mount(open_path(self.empty)?.as_fd(), attr::RDONLY | nodes)
    }

    /// The folders that it writes to, by the names of their options.
    fn own(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let own = self.upper.map(|(upper, work, _)| [("upperdir", upper), ("workdir", work)]);
        own.into_iter().flatten()
    }

    fn is_volatile(&self) -> bool {
        self.upper.is_some_and(|(_, _, volatile)| volatile)
    }

    fn make(&self) -> Result<OwnedFd, Errno> {
        if takes_anything()? {
            return Err(Errno::INVAL);
        }
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in FIXED {
            fsconfig_set_string(&context, key, value)?;
        }
        // Some kernels look for what the words name when the overlay is made: all stay open until then.
        let mut words = Vec::new();
        let lowers = self.downwards().into_iter().map(|lower| ("lowerdir+", lower));
        for (key, path) in lowers.chain(self.own()) {
            let word = Word::of(path)?;
            fsconfig_set_string(&context, key, &*word.text)?;
            words.push(word);
        }
        if self.is_volatile() {
            fsconfig_set_flag(&context, "volatile")?;
        }
        fsconfig_create(&context)?;
        drop(words);
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, self.attributes)
    }

    /// The same with all options as one text, of which every kernel reads a page: each folder goes by its descriptor.
    fn mount_in_one(&self, place: &Path) -> Result<OwnedFd, Errno> {
        let mut options: Vec<u8> = b"lowerdir=".to_vec();
        let mut words = Vec::new();
        for lower in self.downwards() {
            let word = Word::short(lower)?;
            if !words.is_empty() {
                options.push(b':');
            }
            options.extend_from_slice(&word.text);
            words.push(word);
        }
        for (key, path) in self.own() {
            let word = Word::short(path)?;
            options.extend_from_slice(format!(",{key}=").as_bytes());
            options.extend_from_slice(&word.text);
            words.push(word);
        }
        for (key, value) in FIXED {
            options.extend_from_slice(format!(",{key}={value}").as_bytes());
        }
        if self.is_volatile() {
            options.extend_from_slice(b",volatile");
        }
        if options.len() >= OPTIONS_BYTES_MAX {
            return Err(Errno::TOOBIG);
        }
        let options = CString::new(options).map_err(|_| Errno::INVAL)?;
        let nodes = self.attributes.contains(MountAttrFlags::MOUNT_ATTR_NODEV);
        let flags = if nodes { MountFlags::NODEV } else { MountFlags::empty() };
        rustix::mount::mount("overlay", place, "overlay", flags, Some(&*options))?;
        open_path(place)
    }
}

/// Whether the kernel knows nothing of an overlay's options until it is made, as before Linux 6.5: what it does not know
/// then stands in its log.
fn takes_anything() -> Result<bool, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    Ok(fsconfig_set_string(&context, "dcbuild", "?").is_ok())
}

/// How much of all options together a kernel reads that takes them as one text.
const OPTIONS_BYTES_MAX: usize = 4096;

/// How much of a word the kernel reads.
const WORD_BYTES_MAX: usize = 255;

/// What names a folder to the kernel: its path, or, where that would be read as something else or not at all, a descriptor.
struct Word {
    text: Vec<u8>,
    _open: Option<OwnedFd>,
}

impl Word {
    fn of(path: &Path) -> Result<Word, Errno> {
        use std::os::unix::ffi::OsStrExt as _;
        let bytes = path.as_os_str().as_bytes();
        // Which of them divide words, and before which a backslash counts, differs by kernel and by key.
        let is_plain = !bytes.iter().any(|byte| b"\\:,\n".contains(byte));
        if is_plain && bytes.len() <= WORD_BYTES_MAX {
            return Ok(Word { text: bytes.to_vec(), _open: None });
        }
        Word::short(path)
    }

    fn short(path: &Path) -> Result<Word, Errno> {
        use std::os::fd::AsRawFd as _;
        let open = open_path(path)?;
        let text = format!("/proc/self/fd/{}", open.as_raw_fd()).into_bytes();
        Ok(Word { text, _open: Some(open) })
    }
}

/// Mounts the cell's own files and what the step asks for, shallow targets first.
pub(crate) fn mount_all(root: &mut Root, order: &Order) -> Result<(), Failure> {
    let spec = &order.spec;
    let (size_key, size) = FILES_BYTES_MAX.split_once('=').unwrap_or(("size", "64m"));
    let files = make_mount(
        "tmpfs",
        &[(size_key, Some(size)), ("mode", Some("0700"))],
        MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID,
    )
    .map_err(Failure::machine("make room for files in memory"))?;
    // A mount can only be copied where it is attached.
    attach(&files, open_path(&order.places.files).map_err(Failure::machine("open a folder"))?)
        .map_err(Failure::machine("make room for files in memory"))?;
    let file = |target: &str, text: String| Mount::Secret {
        target: target.to_owned(),
        bytes: crate::spec::SecretBytes(text.into_bytes()),
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
    let mut all = vec![
        file("/etc/hosts", hosts(spec)),
        file("/etc/resolv.conf", resolvers::text_for(spec.network)),
    ];
    all.extend(spec.mounts.iter().cloned());
    all.sort_by_key(|mount| depth(mount.target()));
    for (number, mount) in all.iter().enumerate() {
        check_target(mount.target())?;
        let source = source(mount, (root, number), &files, order)?;
        let folder = FileType::from_raw_mode(
            fstat(&source).map_err(Failure::machine("look at a mount"))?.st_mode,
        ) == FileType::Directory;
        let kind = if folder { Kind::Folder } else { Kind::File };
        let refused = |errno: Errno| {
            Failure::Refused(format!("nothing can be mounted at '{}': {errno}", mount.target()))
        };
        let target = root.target(mount.target(), kind).map_err(refused)?;
        attach(&source, &target).map_err(refused)?;
    }
    // What is attached to the places goes with the host's mounts; to detach it alone costs a grace period.
    Ok(())
}

fn depth(target: &str) -> usize {
    target.split('/').filter(|name| !name.is_empty()).count()
}

fn check_target(target: &str) -> Result<(), Failure> {
    let refuse = || Err(Failure::Refused(format!("invalid mount target \"{target}\"")));
    match dcbuild_model::TreePath::clean(target.as_bytes()) {
        Ok(path) => match path.names().next() {
            None | Some(b"proc" | b"sys") => refuse(),
            Some(_) => Ok(()),
        },
        Err(_) => refuse(),
    }
}

/// Makes the mount that is going to be attached.
fn source(
    mount: &Mount,
    (root, number): (&Root, usize),
    files: &OwnedFd,
    order: &Order,
) -> Result<OwnedFd, Failure> {
    let target = mount.target();
    let fail = |errno| Failure::machine(format!("mount '{target}'"))(errno);
    // As in the step's own root.
    let nodes = u64::from(order.node_attributes().bits());
    match mount {
        Mount::Bind { source, subpath, readonly, .. } => {
            let base = open_path(source).map_err(fail)?;
            let found = inner(base, subpath)?;
            let readonly = if *readonly { attr::RDONLY } else { 0 };
            copy_mount(found.as_fd(), readonly | nodes).map_err(fail)
        }
        Mount::Overlay { lowers, scratch, subpath, .. } => {
            let upper =
                scratch.as_ref().map(|(upper, work)| (upper.as_path(), work.as_path(), true));
            let (empty, attributes) = (order.places.empty.as_path(), order.node_attributes());
            let stack = Stack { lowers, upper, empty, attributes };
            let tree = stack.mount(&order.places.stage).map_err(fail)?;
            let readonly = if scratch.is_none() { attr::RDONLY } else { 0 };
            let found = inner(tree, subpath);
            found.and_then(|found| copy_mount(found.as_fd(), readonly | nodes).map_err(fail))
        }
        Mount::Tmpfs { bytes_max, readonly, .. } => {
            let size = bytes_max.map(|bytes| bytes.to_string());
            // As runc does it: the mode of the folder that it covers.
            let mode = root.folder_mode(target).map_or(0o1777, Mode::as_raw_mode) & 0o7777;
            let mode = format!("{mode:04o}");
            let mut options = vec![("mode", Some(mode.as_str()))];
            if let Some(size) = &size {
                options.push(("size", Some(size.as_str())));
            }
            let mut attributes = order.node_attributes() | MountAttrFlags::MOUNT_ATTR_NOSUID;
            attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, *readonly);
            make_mount("tmpfs", &options, attributes).map_err(fail)
        }
        Mount::Secret { bytes, mode, uid, gid, .. } => {
            let name = number.to_string();
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let file = openat(files, name.as_str(), flags, Mode::empty()).map_err(fail)?;
            fchown(&file, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid))).map_err(fail)?;
            fchmod(&file, Mode::from_raw_mode(*mode)).map_err(fail)?;
            let mut file = std::fs::File::from(file);
            std::io::Write::write_all(&mut file, &bytes.0)
                .map_err(Failure::io(format!("write '{target}'")))?;
            drop(file);
            let found = open_in(files, &name, OFlags::PATH).map_err(fail)?;
            let attributes = attr::RDONLY | attr::NODEV | attr::NOSUID | attr::NOEXEC;
            copy_mount(found.as_fd(), attributes).map_err(fail)
        }
    }
}

fn inner(base: OwnedFd, subpath: &str) -> Result<OwnedFd, Failure> {
    if depth(subpath) == 0 {
        return Ok(base);
    }
    open_in(&base, subpath, OFlags::PATH).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => Failure::Refused(format!("\"{subpath}\": not found")),
        errno => Failure::Refused(format!("'{subpath}' cannot be mounted: {errno}")),
    })
}

fn hosts(spec: &CellSpec) -> String {
    let mut text = format!(
        "127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        spec.hostname
    );
    for (name, address) in &spec.hosts {
        // Writing to a string does not fail.
        let _written = writeln!(text, "{address}\t{name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways, for a kernel that knows one of them only; in a mount namespace of this test's own.
    #[test]
    fn layers_are_mounted_one_by_one_or_all_in_one_text() {
        let user = rustix::process::geteuid();
        if !user.is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            // Together they are longer than what one option may be.
            let path = dir.path().join(format!("{name}-{}", "long".repeat(30)));
            std::fs::create_dir(&path).unwrap();
            path
        };
        let lowers: Vec<PathBuf> = (0..9).map(|n| folder(&n.to_string())).collect();
        for (number, lower) in lowers.iter().enumerate() {
            std::fs::write(lower.join("all"), number.to_string()).unwrap();
            std::fs::write(lower.join(number.to_string()), "own").unwrap();
        }
        let places = [folder("place"), folder("other")];
        let (upper, work, empty) = (folder("upper"), folder("work"), folder("empty"));
        let seen = std::thread::spawn(move || {
            // Only this thread's: nothing of it outlives the thread.
            sys::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = rustix::mount::MountPropagationFlags::PRIVATE
                | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            let attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
            let upper = Some((upper.as_path(), work.as_path(), true));
            let stack = Stack { lowers: &lowers, upper, empty: &empty, attributes };
            let bare = Stack { lowers: &[], upper: None, empty: &empty, attributes };
            let one = Stack { lowers: &lowers[..1], ..bare };
            let [first, second] = &places;
            let overlay = stack.mount_in_one(first).unwrap();
            std::fs::write(first.join("new"), "new").unwrap();
            let read = |name: &str| std::fs::read_to_string(first.join(name)).unwrap();
            let seen = [read("all"), read("0"), read("8"), read("new")];
            assert!(Root::new(overlay, first.clone()).is_ok());
            let ways: [&dyn Fn() -> Result<OwnedFd, Errno>; 3] =
                [&|| one.mount(second), &|| one.mount_in_one(second), &|| bare.mount(second)];
            let refused = ways.map(|way| {
                drop(way().unwrap());
                std::fs::write(second.join("new"), "new").unwrap_err().raw_os_error()
            });
            (seen, refused)
        });
        let (seen, refused) = seen.join().unwrap();
        assert_eq!(seen, ["8", "own", "own", "new"]);
        assert_eq!(refused, [Some(Errno::ROFS.raw_os_error()); 3]);
    }

    #[test]
    fn targets_stay_off_the_system() {
        for (target, fine) in
            [("/a", true), ("/", false), ("/proc/x", false), ("/a/../sys", false), ("", false)]
        {
            assert_eq!(check_target(target).is_ok(), fine, "{target}");
        }
    }
}

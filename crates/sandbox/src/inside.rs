//! The step's process, from its first moment to the exec of its program.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{
    Gid, Signal, Uid, chdir, fchdir, pivot_root, set_parent_process_death_signal,
};

use crate::cell::tell;
use crate::cgroup::Groups;
use crate::launch::{self, Program};
use crate::report::{Failure, Order, Report};
use crate::spec::Network;
use crate::target::Root;
use crate::user::{Identity, ResolveUserError, resolve_user};
use crate::{devices, hierarchies, mounts, open_files, privilege, sys};

/// The largest passwd or group file that is read.
const ACCOUNTS_BYTES_MAX: u64 = dcbuild_model::limits::PASSWD_BYTES_MAX;

/// Becomes the step's program; returns only why it could not.
pub(crate) fn become_step(caller: &mut UnixStream, order: &Order, groups: Groups) -> Failure {
    let prepared = match prepare(caller, order, groups) {
        Ok(prepared) => prepared,
        Err(failure) => return failure,
    };
    // From here on the program's own fate is told by its exit code, as a shell would.
    launch::exec(&prepared)
}

fn prepare(caller: &mut UnixStream, order: &Order, groups: Groups) -> Result<Program, Failure> {
    let spec = &order.spec;
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(Failure::machine("bind the step to the warden"))?;
    rustix::process::setsid().map_err(Failure::machine("start a session"))?;
    // Restored below for the program; until then modes are what the code says.
    rustix::process::umask(Mode::empty());
    if groups == Groups::ToJoin {
        order.cgroup.join().map_err(Failure::io("join the control groups"))?;
    }
    enter_namespaces(order)?;
    let mut root = mounts::mount_root(order)?;
    devices::mount_system(&mut root, order)?;
    // What a kernel does not let us show is not shown.
    let _absent = hierarchies::mount(&root, spec.security);
    mounts::mount_all(&mut root, order)?;
    let identity = identity(&root, &spec.user)?;
    let cwd = working_folder(&mut root, &spec.cwd, &identity)?;
    enter_root(&root, &cwd)?;
    launch::null_stdin()?;
    launch::own_output(&identity)?;
    if let Some(before) = order.open_files {
        open_files::lower(before);
    }
    launch::set_ulimits(&spec.limits.ulimits)?;
    let program = launch::program(spec, &identity);
    tell(caller, &Report::Made { stubs: root.into_stubs() });
    privilege::drop_to(&identity, spec.security)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::default_signals();
    sys::close_rest_on_exec().map_err(Failure::machine("close files"))?;
    Ok(program)
}

fn enter_namespaces(order: &Order) -> Result<(), Failure> {
    let spec = &order.spec;
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    sys::unshare(flags).map_err(Failure::machine("make namespaces"))?;
    if spec.network != Network::Host {
        enter_network(order).map_err(Failure::io("enter the step's network"))?;
    }
    rustix::system::sethostname(spec.hostname.as_bytes())
        .map_err(Failure::machine("set the host name"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(Failure::machine("part from the host's mounts"))
}

fn enter_network(order: &Order) -> io::Result<()> {
    let path = order.network.as_ref().ok_or(io::ErrorKind::NotFound)?;
    let namespace = File::open(path)?;
    Ok(nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

fn identity(root: &Root, user: &str) -> Result<Identity, Failure> {
    let read = |path: &str| match root.read_file(path, ACCOUNTS_BYTES_MAX) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(Vec::new()),
        Err(Errno::FBIG) => Err(Failure::Refused(format!("{path} is larger than 10 MiB"))),
        Err(Errno::INVAL) => Err(Failure::Refused(format!("{path} is not a regular file"))),
        Err(Errno::LOOP) => {
            Err(Failure::Refused(format!("{path} is a link that leads to no file: it goes round")))
        }
        other => other.map_err(Failure::machine(format!("read {path}"))),
    };
    resolve_user(user, &read("/etc/passwd")?, &read("/etc/group")?).map_err(|error| match error {
        ResolveUserError::NoUser { .. } => Failure::Stranger(error.to_string()),
        ResolveUserError::NoGroup { .. } | ResolveUserError::Range => {
            Failure::Refused(error.to_string())
        }
    })
}

/// Opens the working folder, made when missing; what is made there belongs to the step, and is its user's.
fn working_folder(root: &mut Root, cwd: &str, identity: &Identity) -> Result<OwnedFd, Failure> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    let refused = |errno: Errno| {
        Failure::Refused(format!("the working folder '{cwd}' cannot be entered: {errno}"))
    };
    let owner = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let folder = root.working_folder(cwd, owner).map_err(refused)?;
    rustix::fs::openat(
        &folder,
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(refused)
}

fn enter_root(root: &Root, cwd: &OwnedFd) -> Result<(), Failure> {
    fchdir(root.as_fd()).map_err(Failure::machine("enter the root"))?;
    pivot_root(".", ".").map_err(Failure::machine("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(Failure::machine("leave the host's mounts"))?;
    chdir("/").map_err(Failure::machine("enter the root"))?;
    fchdir(cwd).map_err(Failure::machine("enter the working folder"))?;
    let here = rustix::process::getcwd(Vec::new())
        .map_err(|_| Failure::Refused("the working folder lies outside the root".to_owned()))?;
    if here.as_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(Failure::Refused("the working folder lies outside the root".to_owned()))
}

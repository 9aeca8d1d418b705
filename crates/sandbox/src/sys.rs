//! The system calls that no safe wrapper covers; the only unsafe code of the project.
#![expect(unsafe_code, reason = "raw system calls, each with its reason")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::Pid;
use seccompiler::sock_filter;

/// Attributes of a mount, as `mount_setattr` takes them.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
}

/// Which side of a fork this is.
pub(crate) enum Side {
    Child,
    Parent(Pid),
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

#[repr(C)]
struct FilterProgram {
    len: libc::c_ushort,
    filter: *const sock_filter,
}

fn errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Moves this process, or its next children, into new namespaces.
pub(crate) fn unshare(flags: nix::sched::CloneFlags) -> Result<(), Errno> {
    nix::sched::unshare(flags).map_err(|_| errno())
}

/// Forks; only for a process with one thread.
pub(crate) fn fork() -> Result<Side, Errno> {
    // SAFETY: neither the helper nor the warden ever starts a thread, so no lock can be held by another thread at this
    // moment and the child may go on using the whole standard library.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Side::Child),
        pid => Pid::from_raw(pid).filter(|_| pid > 0).map(Side::Parent).ok_or_else(errno),
    }
}

/// Forks a child that is in a control group of version 2 from its first moment; only for a process with one thread.
pub(crate) fn fork_into(group: BorrowedFd<'_>) -> Result<Side, Errno> {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: clone_args is plain data for which all zeroes is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = INTO_CGROUP;
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    args.cgroup = u64::try_from(group.as_raw_fd()).map_err(|_| Errno::BADF)?;
    // SAFETY: the struct has the size that the kernel is told. Nothing is shared with the child, which goes on on a copy
    // of this stack as after fork; and what holds for fork above holds here.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match i32::try_from(pid) {
        Ok(0) => Ok(Side::Child),
        Ok(pid) => Pid::from_raw(pid).filter(|_| pid > 0).map(Side::Parent).ok_or_else(errno),
        Err(_) => Err(errno()),
    }
}

/// Ends this process without running what the parent's copy of it would run again.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// Marks every descriptor but the first three as closed on exec.
pub(crate) fn close_rest_on_exec() -> Result<(), Errno> {
    // SAFETY: only flags of descriptors change; none is closed here, so owned descriptors stay valid.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(errno()) }
}

/// Gives every signal its default action, which exec would otherwise not do for ignored ones.
pub(crate) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no code; signals that cannot be changed are refused by the kernel.
        let _before = unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Changes attributes of the mount that a descriptor stands for.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: u64) -> Result<(), Errno> {
    let attr = MountAttr { set, clear: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a C string, the struct has the layout and the size that the kernel is told, and both outlive
    // the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(errno()) }
}

/// Installs a system call filter without giving up set-user-id programs.
pub(crate) fn install_filter(program: &[sock_filter]) -> Result<(), Errno> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = FilterProgram { len, filter: program.as_ptr() };
    // SAFETY: the pointer and length name a live slice of instructions; the kernel copies and checks them.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u32, &raw const program)
    };
    if done == 0 { Ok(()) } else { Err(errno()) }
}

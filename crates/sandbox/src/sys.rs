//! The system calls that no safe wrapper covers; the only unsafe code of the project.
#![expect(unsafe_code, reason = "raw system calls, each with its reason")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};

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

/// One step of a program that the kernel runs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instruction {
    code: u8,
    /// The one that changes in the lower half, the one that is read in the upper.
    registers: u8,
    offset: i16,
    immediate: u32,
}

impl Instruction {
    const fn new(code: u8, registers: u8, offset: i16, immediate: u32) -> Instruction {
        Instruction { code, registers, offset, immediate }
    }

    /// Reads 32 bits of what another register points at.
    pub(crate) const fn load(to: u8, from: u8, offset: i16) -> Instruction {
        Instruction::new(0x61, to | from << 4, offset, 0)
    }

    pub(crate) const fn copy(to: u8, from: u8) -> Instruction {
        Instruction::new(0xbf, to | from << 4, 0, 0)
    }

    pub(crate) const fn set(to: u8, value: u32) -> Instruction {
        Instruction::new(0xb7, to, 0, value)
    }

    pub(crate) const fn and(to: u8, mask: u32) -> Instruction {
        Instruction::new(0x57, to, 0, mask)
    }

    pub(crate) const fn shift_right(to: u8, bits: u32) -> Instruction {
        Instruction::new(0x77, to, 0, bits)
    }

    /// Passes over so many steps if the register has this value.
    pub(crate) const fn skip_if(register: u8, value: u32, steps: i16) -> Instruction {
        Instruction::new(0x15, register, steps, value)
    }

    /// Passes over so many steps unless the register has this value.
    pub(crate) const fn skip_unless(register: u8, value: u32, steps: i16) -> Instruction {
        Instruction::new(0x55, register, steps, value)
    }

    pub(crate) const fn exit() -> Instruction {
        Instruction::new(0x95, 0, 0, 0)
    }
}

/// What `bpf` is told to load a program.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    steps: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// What `bpf` is told to attach one.
#[repr(C)]
struct ProgramAttach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
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

/// Gives every signal its default action, which exec would otherwise not do for ignored ones, and holds none back: what
/// whoever called dcbuild did with its signals is not the step's.
pub(crate) fn default_signals() {
    // Handler, flags, restorer and mask, in any order: all zero is the default action. The library's own call refuses two.
    let default = [0_u64; 4];
    let none_held: u64 = 0;
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the kernel reads no more than these 32 bytes, and installs no code; signals that cannot be changed are
        // refused.
        let _refused = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: the mask is as long as the kernel is told, and outlives the call.
    let _done = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none_held,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
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

/// Loads a program that decides about devices.
pub(crate) fn load_device_program(steps: &[Instruction]) -> Result<OwnedFd, Errno> {
    const LOAD: libc::c_int = 5;
    const FOR_DEVICES_OF_GROUPS: u32 = 15;
    let count = u32::try_from(steps.len()).map_err(|_| Errno::INVAL)?;
    let load = ProgramLoad {
        kind: FOR_DEVICES_OF_GROUPS,
        count,
        steps: u64::try_from(steps.as_ptr().addr()).map_err(|_| Errno::FAULT)?,
        license: u64::try_from(c"Apache-2.0".as_ptr().addr()).map_err(|_| Errno::FAULT)?,
        ..ProgramLoad::default()
    };
    // SAFETY: the struct has the layout and the size that the kernel is told; the steps and the text that it points at
    // outlive the call, which copies and checks them.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, LOAD, &raw const load, size_of::<ProgramLoad>()) };
    let fd = i32::try_from(done).ok().filter(|fd| *fd >= 0).ok_or_else(errno)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a program decide about the devices of a control group of version 2, beside those that decide already.
pub(crate) fn attach_device_program(
    program: BorrowedFd<'_>,
    group: BorrowedFd<'_>,
) -> Result<(), Errno> {
    const ATTACH: libc::c_int = 8;
    const TO_DEVICES: u32 = 6;
    const BESIDE_OTHERS: u32 = 2;
    let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF);
    let attach = ProgramAttach {
        target: number(group)?,
        program: number(program)?,
        kind: TO_DEVICES,
        flags: BESIDE_OTHERS,
    };
    // SAFETY: the struct has the layout and the size that the kernel is told, and outlives the call.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, ATTACH, &raw const attach, size_of::<ProgramAttach>())
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

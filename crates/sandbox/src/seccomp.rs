//! The system calls that a step may not make: what Docker's default profile refuses without further capabilities.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

use crate::compat::{Older, older};

const REFUSED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS__sysctl,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

const NAMESPACE_FLAGS: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The execution domains that programs may ask for: Linux, its 32-bit form, without randomisation, and the question.
const PERSONALITIES: [u64; 5] = [0, 8, 0x20000, 0x20008, 0xffff_ffff];

/// The filters, to be installed one after the other.
pub(crate) fn filters() -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().chain(REFUSED_HERE).map(|call| (*call, Vec::new())).collect();
    let mut namespaces = Vec::new();
    for flag in NAMESPACE_FLAGS {
        let bit = u64::from(flag.unsigned_abs());
        namespaces.push(rule(0, &[(SeccompCmpOp::MaskedEq(bit), bit)])?);
    }
    refused.insert(libc::SYS_clone, namespaces);
    refused.insert(
        libc::SYS_personality,
        vec![rule(0, &PERSONALITIES.map(|known| (SeccompCmpOp::Ne, known)))?],
    );
    let vsock = u64::from(libc::AF_VSOCK.unsigned_abs());
    refused.insert(libc::SYS_socket, vec![rule(0, &[(SeccompCmpOp::Eq, vsock)])?]);
    // The flags of clone3 lie in memory, out of a filter's sight; libraries fall back to clone.
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut filters =
        vec![program(refused, libc::EPERM)?, program(absent, libc::ENOSYS)?, known_numbers()];
    if let Some(older) = older() {
        // Those above kill a program of another architecture; here one that has a filter of its own is let through.
        filters.iter_mut().for_each(let_others_through);
        filters.push(of_older(older)?);
    }
    Ok(filters)
}

fn code(bits: u32) -> u16 {
    u16::try_from(bits).unwrap_or_default()
}

const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Changes what a filter says of other architectures, which is the third of its steps.
fn let_others_through(program: &mut BpfProgram) {
    let Some(end) = program.get_mut(2) else { return };
    if end.code == code(RETURN) && end.k == libc::SECCOMP_RET_KILL_PROCESS {
        end.k = libc::SECCOMP_RET_ALLOW;
    }
}

/// What the other filters say, for programs of an older architecture, whose calls have other numbers.
fn of_older(older: &Older) -> Result<BpfProgram, seccompiler::BackendError> {
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const FIRST_ARGUMENT: u32 = 16;
    let step = |bits, jt, jf, k| sock_filter { code: code(bits), jt, jf, k };
    let load = |at| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let end = |what| step(RETURN, 0, 0, what);
    // Goes on where it is this value, and passes over so many steps where it is not.
    let unless = |value, over| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, over, value);
    let refuse = |errno: libc::c_int| end(libc::SECCOMP_RET_ERRNO | errno.unsigned_abs());
    let allow = || end(libc::SECCOMP_RET_ALLOW);
    // The first step of a filter of the other kind loads the architecture, the second says which it is for.
    let own = program(BTreeMap::new(), libc::EPERM)?.get(1).map(|step| step.k).unwrap_or_default();
    let mut steps = vec![load(ARCHITECTURE), unless(own, 1), allow(), unless(older.audit, 1)];
    steps
        .extend([step(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1), end(libc::SECCOMP_RET_KILL_PROCESS)]);
    steps.push(load(NUMBER));
    for number in older.refused {
        steps.extend([unless(*number, 1), refuse(libc::EPERM)]);
    }
    steps.extend([unless(older.clone3, 1), refuse(libc::ENOSYS)]);
    let flags = NAMESPACE_FLAGS.iter().fold(0, |all, flag| all | flag.unsigned_abs());
    let any = step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, flags);
    steps.extend([unless(older.clone, 4), load(FIRST_ARGUMENT), any, refuse(libc::EPERM), allow()]);
    let vsock = unless(libc::AF_VSOCK.unsigned_abs(), 1);
    steps.extend([unless(older.socket, 4), load(FIRST_ARGUMENT), vsock, refuse(libc::EPERM)]);
    steps.push(allow());
    let known = PERSONALITIES.iter().map(|known| u32::try_from(*known).unwrap_or_default());
    let known: Vec<sock_filter> = known.flat_map(|known| [unless(known, 1), allow()]).collect();
    let over = u8::try_from(known.len() + 2).unwrap_or(u8::MAX);
    steps.extend([unless(older.personality, over), load(FIRST_ARGUMENT)]);
    steps.extend(known);
    steps.extend([refuse(libc::EPERM), allow()]);
    Ok(steps)
}

/// Refuses the second set of numbers that x86-64 kernels may know every call by, which the other filters do not name.
fn known_numbers() -> BpfProgram {
    const X32_FIRST: u32 = 0x4000_0000;
    let step = |bits, jf, k| sock_filter { code: code(bits), jt: 0, jf, k };
    vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, X32_FIRST),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn rule(
    argument: u8,
    conditions: &[(SeccompCmpOp, u64)],
) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions = conditions
        .iter()
        .map(|(op, value)| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op.clone(), *value)
        })
        .collect::<Result<Vec<_>, _>>()?;
    SeccompRule::new(conditions)
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: libc::c_int,
) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

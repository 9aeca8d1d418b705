//! What a step may do: capabilities, ids and the system call filter.

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use crate::report::Failure;
use crate::spec::Security;
use crate::user::Identity;
use crate::{seccomp, sys};

/// Docker's fourteen.
fn granted() -> CapabilitySet {
    CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::KILL
        | CapabilitySet::SETGID
        | CapabilitySet::SETUID
        | CapabilitySet::SETPCAP
        | CapabilitySet::NET_BIND_SERVICE
        | CapabilitySet::NET_RAW
        | CapabilitySet::SYS_CHROOT
        | CapabilitySet::MKNOD
        | CapabilitySet::AUDIT_WRITE
        | CapabilitySet::SETFCAP
}

/// Gives up everything that the step is not granted.
pub(crate) fn drop_to(identity: &Identity, security: Security) -> Result<(), Failure> {
    if security == Security::Default {
        let filters = seccomp::filters().map_err(|error| Failure::Machine {
            action: "write the system call filter".to_owned(),
            reason: error.to_string(),
        })?;
        for filter in &filters {
            sys::install_filter(filter)
                .map_err(Failure::machine("install the system call filter"))?;
        }
        for number in 0..64 {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            // Numbers that the kernel does not know are refused, and there is nothing to take.
            let held = capability_is_in_bounding_set(capability).unwrap_or(false);
            if held && !granted().contains(capability) {
                remove_capability_from_bounding_set(capability)
                    .map_err(Failure::machine("give up a capability"))?;
            }
        }
    }
    let ids = |errno: nix::errno::Errno| Failure::Machine {
        action: "become the step's user".to_owned(),
        reason: errno.to_string(),
    };
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setgroups(&groups).map_err(ids)?;
    setresgid(gid, gid, gid).map_err(ids)?;
    setresuid(uid, uid, uid).map_err(ids)?;
    if security == Security::Default && identity.uid == 0 {
        let sets = CapabilitySets {
            effective: granted(),
            permitted: granted(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).map_err(Failure::machine("set capabilities"))?;
    }
    Ok(())
}

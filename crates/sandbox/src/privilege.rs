//! What a step may do: capabilities, ids and the system call filter.

use std::path::Path;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use crate::error::CellError;
use crate::report::{Failure, lasts};
use crate::spec::{Network, Security};
use crate::user::Identity;
use crate::{seccomp, sys};

/// Docker's fourteen.
const GRANTED: [(CapabilitySet, &str); 14] = [
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
    (CapabilitySet::FSETID, "CAP_FSETID"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
    (CapabilitySet::NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
    (CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT"),
    (CapabilitySet::MKNOD, "CAP_MKNOD"),
    (CapabilitySet::AUDIT_WRITE, "CAP_AUDIT_WRITE"),
    (CapabilitySet::SETFCAP, "CAP_SETFCAP"),
];

fn granted() -> CapabilitySet {
    GRANTED.iter().fold(CapabilitySet::empty(), |all, (each, _)| all | *each)
}

/// How the kernel marks an overlay.
const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// Whether a cell can be made by this process, with its root in this folder, before any of it is made.
pub fn able(folder: &Path, network: Network, security: Security) -> Result<(), CellError> {
    let overlay = rustix::fs::statfs(folder);
    if overlay.is_ok_and(|found| u64::try_from(found.f_type) == Ok(OVERLAY_MAGIC)) {
        let reason = format!(
            "'{}' lies on an overlay, upon which no other can be mounted",
            folder.display()
        );
        return Err(CellError::Unable { reason });
    }
    let held = match capabilities(None) {
        Ok(sets) => sets.effective & sets.permitted,
        Err(errno) => {
            return Err(CellError::Machine {
                action: "ask for the capabilities of this process".to_owned(),
                reason: errno.to_string(),
                lasting: true,
            });
        }
    };
    let lacking = lacking(held, network, security);
    if lacking.is_empty() {
        return Ok(());
    }
    let reason = format!("dcbuild runs without {}", lacking.join(", "));
    Err(CellError::Unable { reason })
}

/// What a cell needs and is not held: what makes it, and what its program is to have.
fn lacking(held: CapabilitySet, network: Network, security: Security) -> Vec<&'static str> {
    let makes = [(CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN")].into_iter();
    // The loopback of a network without a way out is brought up by this process.
    let network = (network == Network::None).then_some((CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"));
    let granted = GRANTED.iter().copied().filter(|_| security == Security::Default);
    let needed = makes.chain(network).chain(granted);
    needed.filter(|(each, _)| !held.contains(*each)).map(|(_, name)| name).collect()
}

/// Gives up everything that the step is not granted.
pub(crate) fn drop_to(identity: &Identity, security: Security) -> Result<(), Failure> {
    if security == Security::Default {
        let filters = seccomp::filters().map_err(|error| Failure::Machine {
            action: "write the system call filter".to_owned(),
            reason: error.to_string(),
            lasting: true,
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
    // What this process was handed to pass on is not the step's (CVE-2022-24769).
    let held = capabilities(None).map_err(Failure::machine("look at capabilities"))?;
    let held = CapabilitySets { inheritable: CapabilitySet::empty(), ..held };
    set_capabilities(None, held).map_err(Failure::machine("set capabilities"))?;
    let ids = |errno: nix::errno::Errno| Failure::Machine {
        action: "become the step's user".to_owned(),
        reason: errno.to_string(),
        lasting: lasts(std::io::Error::from(errno).raw_os_error().unwrap_or(0)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named() {
        let all = CapabilitySet::all();
        let of = |held, network, security| lacking(held, network, security).join(" ");
        assert_eq!(of(all, Network::None, Security::Default), "");
        let held = all - CapabilitySet::SYS_ADMIN - CapabilitySet::MKNOD - CapabilitySet::NET_ADMIN;
        let host = of(held, Network::Host, Security::Default);
        assert_eq!(host, "CAP_SYS_ADMIN CAP_MKNOD");
        let none = of(held, Network::None, Security::Default);
        assert_eq!(none, "CAP_SYS_ADMIN CAP_NET_ADMIN CAP_MKNOD");
        assert_eq!(of(held, Network::Host, Security::Insecure), "CAP_SYS_ADMIN");
    }
}

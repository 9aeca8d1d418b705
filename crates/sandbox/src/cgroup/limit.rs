//! How the limits of a step are written into its groups.

use std::fs;
use std::io;
use std::path::Path;

use crate::spec::{Resources, Swap};

/// The period that a share of processor time refers to where nothing says another, in microseconds.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// What version 1 counts in, and what version 2 does.
const SHARES: (u64, u64) = (2, 262_144);
const WEIGHTS: (u64, u64) = (1, 10_000);

/// Limits memory in a group of version 1.
pub(super) fn memory(group: &Path, (bytes_max, swap): (u64, Swap)) -> io::Result<()> {
    fs::write(group.join("memory.limit_in_bytes"), bytes_max.to_string())?;
    let total = match swap {
        Swap::None => bytes_max,
        Swap::Together(total) => total,
        Swap::Any => return Ok(()),
    };
    // Absent where the kernel does not count swap.
    let _absent = fs::write(group.join("memory.memsw.limit_in_bytes"), total.to_string());
    Ok(())
}

/// Limits memory in a group of version 2.
pub(super) fn memory_unified(group: &Path, (bytes_max, swap): (u64, Swap)) -> io::Result<()> {
    fs::write(group.join("memory.max"), bytes_max.to_string())?;
    let swap = match swap {
        Swap::None => 0,
        Swap::Together(total) => total.saturating_sub(bytes_max),
        Swap::Any => return Ok(()),
    };
    let _absent = fs::write(group.join("memory.swap.max"), swap.to_string());
    Ok(())
}

/// Limits processor time in a group of version 1.
pub(super) fn cpu(group: &Path, limits: &Resources) -> io::Result<()> {
    if let Some(shares) = limits.cpu_shares {
        fs::write(group.join("cpu.shares"), shares.to_string())?;
    }
    if let Some(period) = limits.cpu_period_micros {
        fs::write(group.join("cpu.cfs_period_us"), period.to_string())?;
    }
    if let Some(quota) = limits.cpu_quota_micros {
        fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())?;
    }
    Ok(())
}

/// Limits processor time in a group of version 2.
pub(super) fn cpu_unified(group: &Path, limits: &Resources) -> io::Result<()> {
    if let Some(shares) = limits.cpu_shares {
        fs::write(group.join("cpu.weight"), weight(shares).to_string())?;
    }
    if limits.cpu_quota_micros.is_some() || limits.cpu_period_micros.is_some() {
        let quota = limits.cpu_quota_micros.map_or("max".to_owned(), |quota| quota.to_string());
        let period = limits.cpu_period_micros.unwrap_or(CPU_PERIOD_MICROS);
        fs::write(group.join("cpu.max"), format!("{quota} {period}"))?;
    }
    Ok(())
}

/// Shares of version 1 as a weight of version 2: the ends of one are those of the other.
fn weight(shares: u64) -> u64 {
    let above = shares.clamp(SHARES.0, SHARES.1) - SHARES.0;
    WEIGHTS.0 + above * (WEIGHTS.1 - WEIGHTS.0) / (SHARES.1 - SHARES.0)
}

/// The files that say on which processors a group runs and where its memory lies.
const SETS: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Says on which processors a group runs; of version 1, where a group without both runs nothing, the group and those above
/// it, up to `root`, have what is above them unless they say otherwise.
pub(super) fn sets(root: &Path, group: &Path, limits: &Resources) -> io::Result<()> {
    let between: Vec<&Path> = group.ancestors().take_while(|above| *above != root).collect();
    for below in between.into_iter().rev() {
        for file in SETS {
            let path = below.join(file);
            let is_empty = fs::read_to_string(&path).is_ok_and(|text| text.trim().is_empty());
            if let Some(above) = below.parent().filter(|_| is_empty) {
                fs::write(path, fs::read_to_string(above.join(file))?.trim())?;
            }
        }
    }
    write_sets(group, limits)
}

/// The same of version 2, whose groups have what is above them by themselves.
pub(super) fn sets_unified(root: &Path, group: &Path, limits: &Resources) -> io::Result<()> {
    let mut above: Vec<&Path> = group.ancestors().skip(1).collect();
    above.retain(|above| above.starts_with(root));
    for above in above.into_iter().rev() {
        let _refused = fs::write(above.join("cgroup.subtree_control"), "+cpuset");
    }
    write_sets(group, limits)
}

fn write_sets(group: &Path, limits: &Resources) -> io::Result<()> {
    let flags = ["cpuset-cpus", "cpuset-mems"];
    for ((file, flag), set) in SETS.iter().zip(flags).zip([&limits.cpus, &limits.memory_nodes]) {
        let Some(set) = set else { continue };
        fs::write(group.join(file), set).map_err(|error| {
            let above = group.parent().unwrap_or(group);
            let of = |file: String| fs::read_to_string(above.join(file)).ok();
            match of(format!("{file}.effective")).or_else(|| of((*file).to_owned())) {
                Some(there) if is_choice(&error) => {
                    let (set, there) = (set.clone(), there.trim().to_owned());
                    io::Error::other(NotThere { flag, set, there })
                }
                _ => error,
            }
        })?;
    }
    Ok(())
}

/// Whether the kernel refuses a set for what is in it.
fn is_choice(error: &io::Error) -> bool {
    let kinds = [libc::EINVAL, libc::ERANGE, libc::EDOM, libc::ENODEV];
    error.raw_os_error().is_some_and(|it| kinds.contains(&it))
}

/// Says that a set of processors or memory is none of this machine's.
#[derive(Debug, thiserror::Error)]
#[error("--resource {flag}={set} asks for what is not here: there is {there}")]
pub(crate) struct NotThere {
    flag: &'static str,
    set: String,
    there: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, want) in [(2, 1), (1024, 39), (262_144, 10_000), (0, 1), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), want, "{shares}");
        }
    }
}

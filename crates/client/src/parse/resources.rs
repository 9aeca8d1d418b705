//! The values of `--resource`.

use dcbuild_plan::op::Resources;
use dcbuild_process::docker_size;

use super::malformed;
use crate::FlagError;

const FLAG: &str = "resource";
const EXAMPLE: &str = "--resource memory=2g or --resource cpu-quota=50000";

/// What the kernel takes, in microseconds.
const PERIODS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
const QUOTA_MIN: u64 = 1_000;
/// The fewest and the most shares that the kernel knows.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// Reads limits of each RUN: `NAME=VALUE`, one in each flag; the last of a name counts.
pub(crate) fn resources(given: &[String]) -> Result<Resources, FlagError> {
    let mut resources = Resources::default();
    // What counts of these two, as it was written.
    let (mut memory_text, mut swap_text) = ("", "");
    for text in given.iter().filter(|text| !text.is_empty()) {
        let bad = |problem: &str| malformed(FLAG, text, problem, EXAMPLE);
        let (name, value) = text.split_once('=').ok_or_else(|| bad("it is no NAME=VALUE"))?;
        let number = || value.parse::<u64>().map_err(|_| bad("it is no number"));
        let memory = || docker_size(value).ok_or_else(|| bad("it is no size"));
        match name.trim() {
            "memory" => (resources.memory_bytes, memory_text) = (memory()?, text.as_str()),
            "memory-swap" if value == "-1" => resources.swap = Some(-1),
            "memory-swap" => {
                let bytes = i64::try_from(memory()?).map_err(|_| bad("it is too large"))?;
                (resources.swap, swap_text) = (Some(bytes), text.as_str());
            }
            "cpu-shares" => {
                let shares = within(number()?, SHARES);
                resources.cpu_shares = shares.ok_or_else(|| bad("the kernel knows 2 to 262144"))?;
            }
            "cpu-period" => {
                let period = within(number()?, PERIODS);
                resources.cpu_period =
                    period.ok_or_else(|| bad("the kernel knows 1000 to 1000000 microseconds"))?;
            }
            "cpu-quota" if value == "-1" => resources.cpu_quota = 0,
            "cpu-quota" => {
                let quota = within(number()?, QUOTA_MIN..=u64::MAX);
                resources.cpu_quota =
                    quota.ok_or_else(|| bad("the kernel knows 1000 microseconds and more"))?;
            }
            "cpuset-cpus" if is_set(value) => value.clone_into(&mut resources.cpuset_cpus),
            "cpuset-mems" if is_set(value) => value.clone_into(&mut resources.cpuset_mems),
            "cpuset-cpus" | "cpuset-mems" => return Err(bad("it is no list such as 0-3 or 0,2")),
            _ => {
                return Err(bad(
                    "there is none but memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus and cpuset-mems",
                ));
            }
        }
    }
    let Resources { memory_bytes, swap, .. } = resources;
    let Some(total) = swap.and_then(|total| u64::try_from(total).ok()) else {
        return Ok(resources);
    };
    let together = "it counts memory and swap together";
    if memory_bytes == 0 {
        let problem = format!("{together}: give --resource memory=SIZE beside it, as much or less");
        return Err(malformed(FLAG, swap_text, &problem, EXAMPLE));
    }
    if total < memory_bytes {
        let problem = format!("{together}, and is less than --resource {memory_text}");
        return Err(malformed(FLAG, swap_text, &problem, EXAMPLE));
    }
    Ok(resources)
}

/// A number within limits, or zero, which is the usual.
fn within(number: u64, known: std::ops::RangeInclusive<u64>) -> Option<u64> {
    (number == 0 || known.contains(&number)).then_some(number)
}

/// Whether a text is a list of numbers and ranges of them.
fn is_set(text: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().ok();
    text.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => {
            matches!((number(first), number(last)), (Some(a), Some(b)) if a <= b)
        }
        None => number(part).is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[&str]) -> Result<Resources, String> {
        let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
        resources(&given).map_err(|error| error.to_string())
    }

    #[test]
    fn limits_read_as_buildx_writes_them() {
        let all = [
            "memory=2g",
            "memory-swap=3g",
            "cpu-shares=512",
            "cpu-period=50000",
            "cpu-quota=25000",
            "cpuset-cpus=0-1,3",
            "cpuset-mems=0",
        ];
        let want = Resources {
            memory_bytes: 2 << 30,
            swap: Some(3 << 30),
            cpu_shares: 512,
            cpu_period: 50_000,
            cpu_quota: 25_000,
            cpuset_cpus: "0-1,3".into(),
            cpuset_mems: "0".into(),
        };
        assert_eq!(read(&all), Ok(want));
        assert!(read(&["", "cpu-quota=-1"]).unwrap().is_empty());
        assert_eq!(read(&["memory=1g", "memory=1m"]).unwrap().memory_bytes, 1 << 20);
        assert_eq!(read(&["memory-swap=-1"]).unwrap().swap, Some(-1));
    }

    #[test]
    fn what_the_kernel_has_not_is_refused() {
        for (given, problem) in [
            (&["memory"][..], "it is no NAME=VALUE"),
            (&["memory=much"], "it is no size"),
            (&["cpus=2"], "there is none but memory"),
            (&["cpu-shares=1"], "the kernel knows 2 to 262144"),
            (&["cpu-period=10"], "the kernel knows 1000 to 1000000"),
            (&["cpu-quota=10"], "the kernel knows 1000 microseconds"),
            (&["cpu-quota=half"], "it is no number"),
            (&["cpuset-cpus=3-1"], "it is no list"),
            (&["cpuset-mems="], "it is no list"),
            (
                &["memory-swap=10m"],
                "'memory-swap=10m' is malformed: it counts memory and swap together: give",
            ),
            (
                &["memory=2g", "memory-swap=1g"],
                "'memory-swap=1g' is malformed: it counts memory and swap together, and is less than --resource memory=2g",
            ),
        ] {
            let said = read(given).unwrap_err();
            assert!(said.starts_with("--resource '") && said.contains(problem), "{said}");
        }
    }
}

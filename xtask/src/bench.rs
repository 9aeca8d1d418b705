//! Measures whole builds, from the command to the image in a registry, against the builder of Debian's docker.io.

mod case;
mod ours;
mod theirs;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use dcbuild_tests::base::busybox;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::wait::Stopwatch;

use case::{CASES, Case, Folder};
use ours::Ours;
use theirs::Theirs;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// The binary; else the release one, which is built first
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// How often each case is measured; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only cases whose name holds this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Files of the large context
    #[arg(long, default_value_t = 100_000)]
    files: usize,
}

/// Measures all cases and prints a table.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let binary = binary(flags)?;
    let registry = Registry::start();
    registry.put("busybox:golden", &busybox());
    let theirs = Theirs::start()?;
    println!("\n{:34} {:>10} {:>10} {:>8}", "case", "dcbuild", "docker", "ratio");
    let chosen = |case: &&Case| flags.only.as_ref().is_none_or(|text| case.name.contains(text));
    for case in CASES.iter().filter(chosen) {
        let ours = Ours::start(&binary, &registry, case.place);
        let folder = Folder::new(case, &registry.host, flags.files)?;
        let (mut own, mut other) = (Vec::new(), Vec::new());
        for round in 0..flags.rounds.max(1) {
            folder.prepare(round)?;
            let image = |who: &str| format!("{}/bench:{who}-{round}", registry.host);
            own.push(measure(case, &folder, &|| ours.build(&folder, &image("own")), round)?);
            other.push(measure(case, &folder, &|| theirs.build(&folder, &image("other")), round)?);
        }
        let (own, other) = (median(own), median(other));
        let ratio = own.as_secs_f64() / other.as_secs_f64();
        let (own, other) = (own.as_secs_f64(), other.as_secs_f64());
        println!("{:34} {own:>9.2}s {other:>9.2}s {ratio:>8.2}", case.name);
    }
    Ok(())
}

/// How long the build takes, with everything that it wrote on the disk.
fn measure(
    case: &Case,
    folder: &Folder,
    build: &dyn Fn() -> anyhow::Result<()>,
    round: usize,
) -> anyhow::Result<Duration> {
    if case.is_warm {
        build()?;
    }
    folder.change(round)?;
    sync()?;
    let watch = Stopwatch::start();
    build()?;
    sync()?;
    let passed = watch.passed();
    folder.change_back()?;
    Ok(passed)
}

fn binary(flags: &Flags) -> anyhow::Result<PathBuf> {
    if let Some(path) = &flags.binary {
        return path.canonicalize().with_context(|| format!("there is no {}", path.display()));
    }
    crate::step::step("cargo", &["build", "--release", "--package", "dcbuild"])?;
    Ok(crate::step::root().join("target/release/dcbuild"))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// What was written counts only once it is on the disk.
fn sync() -> anyhow::Result<()> {
    Command::new("sync").status().context("could not sync")?;
    Ok(())
}

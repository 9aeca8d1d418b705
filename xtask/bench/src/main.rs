//! Measures whole builds, from the command to the image in a registry, against the builder of Debian's docker.io; and the
//! writing of a layer against its parts alone. `cargo xtask bench` runs it.
#![expect(clippy::print_stdout, reason = "its user is a person at a terminal")]

mod case;
mod fresh;
mod layer;
mod measure;
mod ours;
mod peer;
mod split;
mod store;
mod theirs;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use clap::Parser;
use dcbuild_tests::base::busybox;
use dcbuild_tests::registry::Registry;

use case::{CASES, Case, Folder};
use fresh::FRESH;
use measure::{Sample, disk_bytes, median, sample};
use ours::Ours;
use theirs::Theirs;

/// Measure builds against Debian's docker.io
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Flags {
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

/// Both sides of one case.
struct Row {
    ours: Sample,
    theirs: Sample,
    our_bytes: u64,
    their_bytes: u64,
}

/// Measures all cases and prints a table: `there` is when the command has ended, with the image in the registry;
/// `drained` is when nothing is left to compress, to upload or to write.
fn main() -> anyhow::Result<()> {
    let flags = &Flags::parse();
    let chosen = |name: &str| flags.only.as_ref().is_none_or(|text| name.contains(text));
    if layer::NAMES.iter().any(|name| chosen(name)) {
        layer::run(flags.only.as_deref(), flags.rounds)?;
    }
    if chosen(peer::NAME) {
        peer::run(&binary(flags)?, flags.rounds)?;
    }
    if chosen(store::NAME) {
        store::run(&binary(flags)?, flags.rounds)?;
    }
    let mut builds = CASES.iter().map(|case| case.name).chain(FRESH.iter().map(|case| case.name));
    if builds.any(chosen) { run_builds(flags) } else { Ok(()) }
}

fn run_builds(flags: &Flags) -> anyhow::Result<()> {
    let binary = binary(flags)?;
    let registry = Registry::start();
    registry.put("busybox:golden", &busybox());
    let theirs = Theirs::start()?;
    let titles = ["there", "docker", "ratio", "drained", "docker", "ratio", "disk", "docker"];
    println!("\n{:34}{}", "case", titles.map(|title| format!("{title:>10}")).concat());
    let chosen = |name: &str| flags.only.as_ref().is_none_or(|text| name.contains(text));
    for case in CASES.iter().filter(|case| chosen(case.name)) {
        let ours = Ours::start(&binary, &registry, case.place);
        let folder = Folder::new(case, &registry.host, flags.files)?;
        print(case, &measure(flags, &registry, (case, &folder), (&ours, &theirs))?);
    }
    for case in FRESH.iter().filter(|case| chosen(case.name)) {
        fresh::run(case, &binary, &registry, flags.rounds)?;
    }
    Ok(())
}

/// Measures one case in rounds, in which the builders take turns.
fn measure(
    flags: &Flags,
    registry: &Registry,
    (case, folder): (&Case, &Folder),
    (ours, theirs): (&Ours, &Theirs),
) -> anyhow::Result<Row> {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    let (our_before, their_before) = (disk_bytes(&ours.dir())?, disk_bytes(&theirs.dir())?);
    for round in 0..flags.rounds.max(1) {
        folder.prepare(round)?;
        let image = |who: &str| format!("{}/bench:{who}-{round}", registry.host);
        let (ours_image, theirs_image) = (image("own"), image("other"));
        if case.is_warm {
            ours.build(folder, &ours_image)?;
            ours.drain();
            theirs.build(folder, &theirs_image)?;
        }
        folder.change(round)?;
        let (taken, progress) = sample(|| ours.build(folder, &ours_image), || ours.drain())?;
        own.push(Sample { split: Some(split::split(&progress, taken.there)), ..taken });
        other.push(sample(|| theirs.build(folder, &theirs_image), || {})?.0);
        folder.change_back()?;
    }
    Ok(Row {
        ours: median(&own),
        theirs: median(&other),
        our_bytes: disk_bytes(&ours.dir())?.saturating_sub(our_before),
        their_bytes: disk_bytes(&theirs.dir())?.saturating_sub(their_before),
    })
}

fn print(case: &Case, row: &Row) {
    let Row { ours, theirs, our_bytes, their_bytes } = row;
    let times = |own: f64, other: f64| format!("{own:>9.2}s{other:>9.2}s{:>10.2}", own / other);
    let megabytes = |bytes: &u64| format!("{:>8}MB", bytes / 1_000_000);
    println!(
        "{:34}{}{}{}{}",
        case.name,
        times(ours.there, theirs.there),
        times(ours.drained, theirs.drained),
        megabytes(our_bytes),
        megabytes(their_bytes)
    );
    if let Some(split::Split { plan, run, wait, output }) = ours.split {
        println!(
            "{:>34}  plan {plan:.2}s, run {run:.2}s, output {output:.2}s, wait {wait:.2}s",
            ""
        );
    }
}

fn binary(flags: &Flags) -> anyhow::Result<PathBuf> {
    if let Some(path) = &flags.binary {
        return path.canonicalize().with_context(|| format!("there is no {}", path.display()));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(cargo);
    let status = cargo
        .args(["build", "--release", "--package", "dcbuild"])
        .current_dir(&root)
        .status()
        .context("could not start cargo")?;
    ensure!(status.success(), "cargo build --release --package dcbuild: {status}");
    Ok(root.join("target/release/dcbuild"))
}

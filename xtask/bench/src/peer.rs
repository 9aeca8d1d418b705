//! One file of a large stage, wanted on another worker: from the one that made it while its upload is under way, and from
//! the bucket.

use std::path::Path;

use anyhow::{Context, ensure};
use dcbuild_tests::base::busybox;
use dcbuild_tests::cluster::{Cluster, Store};
use dcbuild_tests::home::Home;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::wait::Stopwatch;

use super::split;

pub(super) const NAME: &str = "peer";

/// Bytes of each stage that nobody needs, and of the file that is wanted of it.
const LARGE: u64 = 1_000_000_000;
const WANTED: u64 = 1_000_000;
/// What may move beside the file: tables of contents, and what HTTP needs.
const BESIDE_MAX: u64 = 200_000;
/// What workers say that they read from each other.
const READ: &str = "dcbuild_peer_bytes_total{tls=\"no\"}";

const STAGES: [&str; 2] = ["one", "other"];

/// What one round took, in seconds, and moved, in bytes.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Round {
    copy: f64,
    there: f64,
    sent: f64,
    from_peer: u64,
    copy_again: f64,
    from_bucket: u64,
}

/// Two stages that two workers of one slot make at once, so that whoever goes on lacks one of them.
fn dockerfile(base: &str, round: usize, to: &str) -> String {
    let stage = |name: &str| {
        format!(
            "FROM {base} AS {name}\nRUN : {round} && head -c {LARGE} /dev/urandom > /large && \
             head -c {WANTED} /dev/urandom > /{name}\n"
        )
    };
    let copy = |name: &str| format!("COPY --from={name} /{name} {to}/\n");
    let (stages, copies) = (STAGES.map(stage).concat(), STAGES.map(copy).concat());
    format!("{stages}FROM scratch\n{copies}")
}

/// Measures, and prints the round with the median time of the COPY.
pub(super) fn run(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let registry = Registry::start();
    registry.put("busybox:golden", &busybox());
    let mut all = Vec::new();
    for round in 0..rounds.max(1) {
        all.push(measure(binary, &registry, round)?);
    }
    all.sort_by(|one, other| one.copy.total_cmp(&other.copy));
    let Round { copy, there, sent, from_peer, copy_again, from_bucket } =
        all.get(all.len() / 2).copied().unwrap_or_default();
    println!("\n{:58}{:>8}{:>12}", "files of 1 MB out of stages of 1 GB", "COPY", "bytes");
    let from = match from_peer {
        0 => "none: each COPY ran where its file lies",
        _ => "one, from the worker that made it",
    };
    println!("{from:58}{copy:>7.2}s{from_peer:>12}");
    let again = "two, from the bucket, by a machine that has nothing";
    println!("{again:58}{copy_again:>7.2}s{from_bucket:>12}");
    println!("the image was there after {there:.2}s, both stages in the bucket after {sent:.2}s");
    Ok(())
}

fn measure(binary: &Path, registry: &Registry, round: usize) -> anyhow::Result<Round> {
    let s3 = S3Server::start();
    let flags = vec!["--store".to_owned(), s3.url("bench")];
    let store = Store { flags, environment: s3.environment().to_vec() };
    let home = Home::with_binary(binary.to_owned(), &registry.as_docker_io());
    let mut cluster = Cluster::start_on(store, home, 2, 1);
    let context = cluster.home.path("context");
    std::fs::create_dir(&context).context("could not make a folder")?;
    let base = format!("{}/busybox:golden", registry.host);
    let build = |cluster: &Cluster, to: &str| {
        std::fs::write(context.join("Dockerfile"), dockerfile(&base, round, to))?;
        let image = format!("{}/peer:{round}", registry.host);
        let folder = context.display().to_string();
        let rest = ["--progress", "rawjson", "--tag", &image, "--push", &folder];
        let done = cluster.ask("submit", &rest);
        ensure!(done.status.success(), "dcbuild: {}\n{}", done.status, done.stderr);
        // One of the two is of a stage that lies where it runs.
        let copy = |name| split::step(&done.stderr, &format!("COPY --from={name} /{name} {to}/"));
        let copies = STAGES.into_iter().filter_map(copy);
        copies.max_by(f64::total_cmp).context("no COPY ran")
    };
    let watch = Stopwatch::start();
    let copy = build(&cluster, "/here")?;
    let there = watch.passed().as_secs_f64();
    let is_under_way = cluster.metric("dcbuild_undurable_results") > Some(0);
    ensure!(is_under_way, "the upload was done before the file was wanted");
    cluster.wait_until_durable();
    let sent = watch.passed().as_secs_f64();
    // It was said with a sign of life, of which there is one each second.
    let from_peer = cluster.metric(READ).unwrap_or_default();
    // Nothing is read from a worker where each COPY went to the one that has its file.
    let is_file = (WANTED..WANTED + BESIDE_MAX).contains(&from_peer);
    ensure!(from_peer == 0 || is_file, "{from_peer} bytes were moved");
    // A machine that has nothing reads both files, and stores what it copied, of which it pushes an image.
    for number in 0..2 {
        cluster.end_worker(number);
    }
    cluster.start_worker(1);
    let before = s3.sent_bytes();
    let copy_again = build(&cluster, "/there")?;
    let from_bucket = s3.sent_bytes() - before;
    let (least, most) = (2 * WANTED, 4 * WANTED + BESIDE_MAX);
    ensure!((least..most).contains(&from_bucket), "{from_bucket} bytes came from the bucket");
    Ok(Round { copy, there, sent, from_peer, copy_again, from_bucket })
}

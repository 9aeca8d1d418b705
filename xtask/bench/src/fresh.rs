//! Builds of a machine that has nothing, from a bucket that has everything.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use dcbuild_tests::home::Home;
use dcbuild_tests::progress::ran;
use dcbuild_tests::redis::RedisServer;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::Running;
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::wait::LONG;

use super::measure::{Sample, median, sample};

/// Stages of the project beside its first and its last.
const MODULES: usize = 9;
/// Files of the project.
const FILES: usize = 10_000;
/// Bytes of the builder that nobody needs but for one file.
const BUILDER: u64 = 512_000_000;

/// What is built.
pub(super) struct Fresh {
    pub(super) name: &'static str,
    /// Files of each module's folder.
    files: usize,
    dockerfile: fn(base: &str) -> String,
}

pub(super) const FRESH: &[Fresh] = &[
    Fresh {
        name: "fresh machine, 11 stages",
        files: FILES / MODULES,
        dockerfile: |base| {
            let stage = |number| {
                format!(
                    "FROM base AS m{number}\nCOPY files/{number} /m\nRUN cat /m/* | sha256sum > /sum{number}\n"
                )
            };
            let copy = |number| format!("COPY --from=m{number} /sum{number} /\n");
            let stages: String = (0..MODULES).map(stage).collect();
            let copies: String = (0..MODULES).map(copy).collect();
            format!("FROM {base} AS base\nRUN mkdir /m\n{stages}FROM scratch\n{copies}")
        },
    },
    Fresh {
        name: "fresh machine, 50 steps of RUN",
        files: 0,
        dockerfile: |base| format!("FROM {base}\n{}", "RUN date >> /dates\n".repeat(50)),
    },
    Fresh {
        name: "fresh machine, 512 MB builder",
        files: 0,
        dockerfile: |base| {
            format!(
                "FROM {base} AS build\nRUN head -c {BUILDER} /dev/urandom > /large && echo small > /small\n\
                 FROM scratch\nCOPY --from=build /small /\n"
            )
        },
    },
];

/// A bucket with its index.
struct Bucket {
    s3: S3Server,
    redis: RedisServer,
}

impl Bucket {
    /// Builds on a machine of its own, and pushes.
    fn build(&self, home: &Home, context: &Path, image: &str) -> anyhow::Result<Vec<String>> {
        let context = context.display().to_string();
        let (store, index) = (self.s3.url("bench"), self.redis.url());
        let flags = ["--progress", "rawjson", "--store", &store, "--index", &index];
        let output = ["--tag", image, "--push", &context];
        let mut command = home.command(["build"].iter().chain(&flags).chain(&output));
        command.envs(self.s3.environment());
        let done = Running::start(command).finish(LONG);
        ensure!(done.status.success(), "dcbuild: {}\n{}", done.status, done.stderr);
        Ok(ran(&done.stderr))
    }
}

fn write_context(case: &Fresh, folder: &Path, base: &str) -> anyhow::Result<PathBuf> {
    let context = folder.join("context");
    std::fs::create_dir(&context)?;
    for module in 0..MODULES {
        let folder = context.join(format!("files/{module}"));
        std::fs::create_dir_all(&folder)?;
        for number in 0..case.files {
            std::fs::write(folder.join(format!("{number}.txt")), format!("{module} {number}\n"))?;
        }
    }
    std::fs::write(context.join("Dockerfile"), (case.dockerfile)(base))?;
    Ok(context)
}

/// Fills a bucket by one build, then measures builds of machines that have nothing; prints what they asked of S3.
pub(super) fn run(
    case: &Fresh,
    binary: &Path,
    registry: &Registry,
    rounds: usize,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("could not make a folder")?;
    let base = format!("{}/busybox:golden", registry.host);
    let context = write_context(case, folder.path(), &base)?;
    let bucket = Bucket { s3: S3Server::start(), redis: RedisServer::start(&[]) };
    let machine = || Home::with_binary(binary.to_owned(), &registry.as_docker_io());
    let image = |round: &str| format!("{}/fresh:{round}", registry.host);
    let first = machine();
    bucket.build(&first, &context, &image("first"))?;
    let mut samples: Vec<Sample> = Vec::new();
    let (before, bytes_before) = (requests(&bucket), bucket.s3.sent_bytes());
    let rounds = rounds.max(1);
    for round in 0..rounds {
        let home = machine();
        let build = || bucket.build(&home, &context, &image(&round.to_string()));
        let (taken, ran) = sample(build, || {})?;
        ensure!(ran.is_empty(), "{}: these ran again: {ran:?}", case.name);
        samples.push(taken);
    }
    let count = u64::try_from(rounds).unwrap_or(1);
    let asked = (requests(&bucket) - before) / count;
    let kilobytes = (bucket.s3.sent_bytes() - bytes_before) / count / 1000;
    let there = median(&samples).there;
    println!("{:34}{there:>9.2}s  {asked} requests to S3, {kilobytes} kB from it", case.name);
    Ok(())
}

fn requests(bucket: &Bucket) -> u64 {
    bucket.s3.requests().values().sum()
}

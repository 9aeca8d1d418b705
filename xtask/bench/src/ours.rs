//! dcbuild, in one process or as a cluster on this machine.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::home::Home;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::wait::LONG;

use super::case::{Folder, Place};

const WORKERS: usize = 4;
const SLOTS: u32 = 2;

/// dcbuild with an empty state.
#[derive(Debug)]
pub(super) enum Ours {
    Here(Home),
    Cluster(Box<Cluster>),
}

impl Ours {
    pub(super) fn start(binary: &Path, registry: &Registry, place: Place) -> Ours {
        let home = Home::with_binary(binary.to_owned(), &registry.as_docker_io());
        match place {
            Place::Here => Ours::Here(home),
            Place::Cluster => Ours::Cluster(Box::new(Cluster::start(home, WORKERS, SLOTS))),
        }
    }

    /// Builds and pushes, and gives what was said of the progress.
    pub(super) fn build(&self, folder: &Folder, image: &str) -> anyhow::Result<String> {
        let context = folder.path().display().to_string();
        let rest = ["--progress", "rawjson", "--tag", image, "--push", &context];
        let done = match self {
            Ours::Here(home) => home.start(["build"].into_iter().chain(rest)).finish(LONG),
            Ours::Cluster(cluster) => cluster.ask("submit", &rest),
        };
        ensure!(done.status.success(), "dcbuild: {}\n{}", done.status, done.stderr);
        Ok(done.stderr)
    }

    /// Waits until nothing is compressed or uploaded any more; a build in one process ends with that.
    pub(super) fn drain(&self) {
        if let Ours::Cluster(cluster) = self {
            cluster.wait_until_durable();
        }
    }

    /// Where all of it lies on the disk.
    pub(super) fn dir(&self) -> PathBuf {
        match self {
            Ours::Here(home) => home.path(""),
            Ours::Cluster(cluster) => cluster.home.path(""),
        }
    }
}

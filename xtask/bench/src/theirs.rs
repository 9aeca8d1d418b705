//! Debian's docker.io, with a daemon of its own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use dcbuild_tests::running::Running;
use dcbuild_tests::wait::{LONG, wait_for};
use tempfile::TempDir;

use super::case::Folder;

const DAEMON: &str = "/usr/sbin/dockerd";
const CLIENT: &str = "/usr/bin/docker";
const START: Duration = Duration::from_secs(30);

/// A Docker daemon that stops when it is dropped.
#[derive(Debug)]
pub(super) struct Theirs {
    daemon: Option<Running>,
    folder: TempDir,
}

impl Theirs {
    pub(super) fn start() -> anyhow::Result<Theirs> {
        for program in [DAEMON, CLIENT] {
            let there = std::path::Path::new(program).exists();
            ensure!(there, "there is no {program}: run `cargo xtask setup bench`");
        }
        let folder = tempfile::tempdir().context("could not make a folder")?;
        let mut theirs = Theirs { daemon: None, folder };
        let mut command = Command::new(DAEMON);
        command
            .args(["--iptables=false", "--bridge=none"])
            .arg(format!("--host={}", theirs.socket()))
            .arg("--data-root")
            .arg(theirs.path("data"))
            .arg("--exec-root")
            .arg(theirs.path("exec"))
            .arg("--pidfile")
            .arg(theirs.path("pid"));
        let daemon = Running::start(command);
        wait_for(
            "the Docker daemon answers",
            START,
            || theirs.docker(&["version"]).is_ok().then_some(()),
            || daemon.stderr(),
        );
        theirs.daemon = Some(daemon);
        Ok(theirs)
    }

    /// Where its images and caches lie on the disk.
    pub(super) fn dir(&self) -> PathBuf {
        self.path("data")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    fn docker(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let done = Command::new(CLIENT)
            .args(arguments)
            .env("DOCKER_HOST", self.socket())
            .env("DOCKER_BUILDKIT", "1")
            .env("DOCKER_CONFIG", self.path("config"))
            .output()
            .context("could not start docker")?;
        let words = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(done.status.success(), "docker {}: {words}", arguments.join(" "));
        Ok(())
    }
}

impl Theirs {
    pub(super) fn build(&self, folder: &Folder, image: &str) -> anyhow::Result<()> {
        let context = folder.path().display().to_string();
        self.docker(&["build", "--network=host", "--tag", image, &context])?;
        self.docker(&["push", image])
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        // Asked to stop, it stops its containers and its containerd as well.
        if let Some(daemon) = self.daemon.take() {
            daemon.terminate();
            daemon.finish(LONG);
        }
    }
}

//! A docker daemon of a test's own, without a network, stopped at the end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::running::{Finished, Running};
use crate::wait::{LONG, wait_for};

const DAEMON: &str = "/usr/sbin/dockerd";
const CLIENT: &str = "/usr/bin/docker";
const START: Duration = Duration::from_mins(1);

/// A daemon that runs until it is dropped.
#[derive(Debug)]
pub struct Docker {
    daemon: Option<Running>,
    folder: TempDir,
}

impl Docker {
    /// Starts one.
    pub fn start() -> Docker {
        for program in [DAEMON, CLIENT] {
            assert!(
                Path::new(program).exists(),
                "there is no {program}: apt-get install docker.io, or `cargo xtask setup`"
            );
        }
        let mut docker = Docker { daemon: None, folder: tempfile::tempdir().unwrap() };
        let mut command = Command::new(DAEMON);
        command
            .args(["--iptables=false", "--bridge=none"])
            .arg(format!("--host={}", docker.host()))
            .arg("--data-root")
            .arg(docker.path("data"))
            .arg("--exec-root")
            .arg(docker.path("exec"))
            .arg("--pidfile")
            .arg(docker.path("pid"));
        let daemon = Running::start(command);
        wait_for(
            "the docker daemon answers",
            START,
            || docker.ask(&["version"]).status.success().then_some(()),
            || daemon.stderr(),
        );
        docker.daemon = Some(daemon);
        docker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its address.
    pub fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Runs docker's client to its end.
    pub fn ask(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(CLIENT);
        command
            .args(arguments)
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.path("config"));
        Running::start(command).finish(LONG)
    }

    /// What docker knows of an image.
    pub fn inspect(&self, image: &str) -> Value {
        let done = self.ask(&["image", "inspect", image]).well();
        let all: Value = serde_json::from_str(&done.stdout).unwrap();
        all[0].clone()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // In order, so that its containerd ends with it and its mounts go.
        if let Some(daemon) = self.daemon.take() {
            daemon.terminate();
            let _ended = daemon.finish(LONG);
        }
    }
}

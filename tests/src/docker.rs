//! A docker daemon of a test's own, without a network, stopped at the end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dcbuild_testkit::tls::{Authority, Use, Valid};
use serde_json::Value;
use tempfile::TempDir;

use crate::registry::free_port;
use crate::running::{Finished, Running};
use crate::wait::{LONG, wait_for};

const DAEMON: &str = "/usr/sbin/dockerd";
const CLIENT: &str = "/usr/bin/docker";
const START: Duration = Duration::from_mins(1);

/// A daemon that runs until it is dropped.
pub struct Docker {
    daemon: Option<Running>,
    folder: TempDir,
    /// What a daemon behind TLS is known by, and its port.
    secure: Option<(Authority, u16)>,
}

impl Docker {
    /// Starts one.
    pub fn start() -> Docker {
        Docker::start_with(None)
    }

    /// Starts one that listens on a port as well, there for those alone who show a certificate.
    pub fn start_behind_tls() -> Docker {
        Docker::start_with(Some((Authority::new("docker"), free_port())))
    }

    fn start_with(secure: Option<(Authority, u16)>) -> Docker {
        for program in [DAEMON, CLIENT] {
            assert!(
                Path::new(program).exists(),
                "there is no {program}: apt-get install docker.io, or `cargo xtask setup`"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let mut docker = Docker { daemon: None, folder, secure };
        let mut command = Command::new(DAEMON);
        if let Some((authority, port)) = &docker.secure {
            let own = authority.certificate("127.0.0.1", Valid::Now);
            command
                .args(["--tlsverify".to_owned(), format!("--host=tcp://127.0.0.1:{port}")])
                .arg("--tlscacert")
                .arg(authority.ca())
                .arg("--tlscert")
                .arg(own.cert)
                .arg("--tlskey")
                .arg(own.key);
        }
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

    /// Its address behind TLS, and a folder of certificates by which it lets somebody in.
    pub fn secure(&self) -> (String, PathBuf) {
        let (authority, port) = self.secure.as_ref().unwrap();
        let folder = self.path("certificates");
        std::fs::create_dir_all(&folder).unwrap();
        let pair = authority.certificate_for("client", Valid::Now, Use::Clients);
        for (from, name) in
            [(authority.ca(), "ca.pem"), (pair.cert, "cert.pem"), (pair.key, "key.pem")]
        {
            std::fs::copy(from, folder.join(name)).unwrap();
        }
        (format!("tcp://127.0.0.1:{port}"), folder)
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

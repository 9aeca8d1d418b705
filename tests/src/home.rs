//! A user's folders, made for one test, in which the binary runs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::running::{Finished, Running};
use crate::wait::LONG;

/// Finds the binary that is tested, which cargo builds beside these tests.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("DCBUILD_BINARY") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("dcbuild");
    assert!(
        path.exists(),
        "there is no {}: run `cargo build -p dcbuild` first, or `cargo xtask ci`, which does",
        path.display()
    );
    path
}

/// A state folder, a configuration and a place for files, gone when dropped.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    binary: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Home {
    /// Makes one with this configuration. RUN has the host's network there, so that no test needs leave to make one.
    pub fn new(config: &str) -> Home {
        Home::with_binary(binary(), config)
    }

    /// As [`Home::new`], for a binary that lies elsewhere.
    pub fn with_binary(binary: PathBuf, config: &str) -> Home {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("user")).unwrap();
        let config = format!("[build]\nnetwork = \"host\"\n\n{config}");
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        Home { folder, binary, environment: Vec::new() }
    }

    /// Sets a variable to a path, for all commands from now on.
    pub fn set(&mut self, name: &'static str, path: PathBuf) {
        self.environment.push((name, path));
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in it, as an argument.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    /// The binary with these arguments, in a clean environment.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.binary);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.path("user"))
            .env("RUST_BACKTRACE", "0")
            .env("DCBUILD_CONFIG", self.path("config.toml"))
            .env("DCBUILD_STATE_DIR", self.path("state"))
            .envs(self.environment.iter().map(|(name, path)| (name, path)))
            .current_dir(self.folder.path());
        if let Some(folder) = std::env::var_os("TMPDIR") {
            command.env("TMPDIR", folder);
        }
        command
    }

    /// The same, run by another program whose words come before it.
    pub fn command_by(&self, mut by: Command, arguments: &[&str]) -> Command {
        let asked = self.command(arguments);
        by.arg(asked.get_program()).args(asked.get_args()).env_clear();
        by.current_dir(self.folder.path());
        by.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
        by
    }

    /// The same for an ordinary user, whose all of this folder is from now on, with a binary that they can read.
    pub fn ordinary_command(&self, arguments: &[&str]) -> Command {
        let own = self.path("dcbuild");
        if !own.exists() {
            let from = binary();
            std::fs::hard_link(&from, &own)
                .or_else(|_| std::fs::copy(&from, &own).map(drop))
                .expect("a copy of the binary");
        }
        let chown = Command::new("chown").args(["-R", "65534:65534"]).arg(self.path(".")).status();
        assert!(chown.expect("chown runs").success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.args(["--bounding-set", "-all"]);
        let asked = self.command(arguments);
        command.arg(&own).args(asked.get_args()).env_clear().current_dir(self.path("."));
        let variables = asked.get_envs();
        command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// Starts the binary.
    pub fn start<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Running {
        Running::start(self.command(arguments))
    }

    /// Runs the binary to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Finished {
        self.start(arguments).finish(LONG)
    }
}

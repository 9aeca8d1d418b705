//! OpenSSH: an image with its `ssh-add`, an agent, and keys.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dcbuild_tests::base::busybox_with;
use dcbuild_tests::layout::{LayerTar, MadeImage};
use dcbuild_tests::wait::wait_for;

const LACKING: &str = "openssh-client is installed: apt-get install openssh-client";

/// busybox with the machine's `ssh-add` and the libraries that it needs.
pub(crate) fn image() -> MadeImage {
    const PROGRAM: &str = "/usr/bin/ssh-add";
    let listed = Command::new("ldd").arg(PROGRAM).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let files = text.split_whitespace().filter(|word| word.starts_with('/')).chain([PROGRAM]);
    let folders = ["lib", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"];
    let layer = folders.into_iter().fold(LayerTar::default(), |layer, path| layer.dir(path, 0o755));
    busybox_with(files.fold(layer, |layer, file| {
        let path = file.trim_start_matches("/usr/lib").trim_start_matches('/');
        let path = if file.starts_with("/usr/lib") { format!("lib/{path}") } else { path.into() };
        layer.file(&path, 0o755, &std::fs::read(file).expect(LACKING))
    }))
}

/// Makes a key with this passphrase and returns its file.
pub(crate) fn key(folder: &Path, name: &str, passphrase: &str) -> PathBuf {
    let path = folder.join(name);
    let mut command = Command::new("ssh-keygen");
    let command = command.args(["-q", "-t", "ed25519", "-C", "", "-N", passphrase, "-f"]);
    assert!(command.arg(&path).status().expect(LACKING).success());
    path
}

/// The fingerprint of a key.
pub(crate) fn fingerprint(key: &Path) -> String {
    let output = Command::new("ssh-keygen").arg("-lf").arg(key).output().expect(LACKING);
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().nth(1).unwrap().to_owned()
}

/// A running `ssh-agent`.
#[derive(Debug)]
pub(crate) struct SshAgent {
    process: Child,
    /// Its socket.
    pub(crate) socket: PathBuf,
}

impl SshAgent {
    /// Starts one that has this key.
    pub(crate) fn start(folder: &Path, key: &Path) -> SshAgent {
        let socket = folder.join("ssh-agent");
        let mut command = Command::new("ssh-agent");
        let command = command.args(["-D", "-a"]).arg(&socket).stdout(Stdio::null());
        let process = command.spawn().expect(LACKING);
        let there = || socket.exists().then_some(());
        wait_for("ssh-agent listens", Duration::from_secs(20), there, String::new);
        let agent = SshAgent { process, socket };
        let mut add = Command::new("ssh-add");
        let added = add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &agent.socket).status();
        assert!(added.expect(LACKING).success());
        agent
    }

    /// What it lists.
    pub(crate) fn listed(&self) -> String {
        let mut list = Command::new("ssh-add");
        let output = list.arg("-l").env("SSH_AUTH_SOCK", &self.socket).output();
        String::from_utf8(output.expect(LACKING).stdout).unwrap()
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        // It may have gone by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

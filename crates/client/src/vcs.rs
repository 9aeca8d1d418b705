//! What provenance says of the repository that a folder belongs to: BuildKit's `vcs`, by the `git` of this machine.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use dcbuild_model::remote::shown;
use dcbuild_process::Env;

use crate::gather::environment;

/// Says commit, origin and place of a folder; nothing where it belongs to no repository, or nobody wants to know.
pub(crate) fn of(folder: &Path, env: &Env) -> BTreeMap<String, String> {
    let off = |name: &str| matches!(env.get(name), Some("0" | "f" | "false" | "FALSE" | "False"));
    let on = |name: &str| matches!(env.get(name), Some("1" | "t" | "true" | "TRUE" | "True"));
    if off("BUILDX_GIT_INFO") {
        return BTreeMap::new();
    }
    let git = |arguments: &[&str]| git(folder, env, arguments);
    let Some(mut revision) = git(&["rev-parse", "--verify", "--quiet", "HEAD"]) else {
        return BTreeMap::new();
    };
    if on("BUILDX_GIT_CHECK_DIRTY") && git(&["status", "--porcelain"]).is_some() {
        revision.push_str("-dirty");
    }
    let place = git(&["rev-parse", "--show-prefix"]).unwrap_or_default();
    let place = place.trim_end_matches('/');
    let mut said = BTreeMap::from([
        ("revision".to_owned(), revision),
        ("localdir:context".to_owned(), if place.is_empty() { "." } else { place }.to_owned()),
    ]);
    if let Some(url) = git(&["config", "--get", "remote.origin.url"]) {
        said.insert("source".to_owned(), shown(&url));
    }
    said
}

/// What git prints; nothing if it is not there, refuses, or has nothing to say.
fn git(folder: &Path, env: &Env, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(["-c", "core.fsmonitor=false"]).args(arguments);
    command.env_clear().envs(environment(env)).env("GIT_OPTIONAL_LOCKS", "0");
    let done = command.stdin(Stdio::null()).output().ok().filter(|done| done.status.success())?;
    let said = String::from_utf8(done.stdout).ok()?.trim().to_owned();
    (!said.is_empty()).then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_repository_says_its_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let env = |more: &[(&str, &str)]| -> Env {
            let own = [("PATH", path.to_str().unwrap()), ("HOME", folder.path().to_str().unwrap())];
            own.into_iter().chain(more.iter().copied()).collect()
        };
        assert_eq!(of(folder.path(), &env(&[])), BTreeMap::new());
        let run = |arguments: &[&str]| {
            git(folder.path(), &env(&[]), arguments);
        };
        run(&["init"]);
        assert_eq!(of(folder.path(), &env(&[])), BTreeMap::new(), "there is no commit yet");
        let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
        run(&[&who[..], &["commit", "--allow-empty", "-m", "one"]].concat());
        run(&["remote", "add", "origin", "https://user:word@host/app.git"]);
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let said = of(&folder.path().join("sub"), &env(&[]));
        assert_eq!(said["revision"].len(), 40);
        assert_eq!(said["source"], "https://host/app.git");
        assert_eq!(said["localdir:context"], "sub");
        std::fs::write(folder.path().join("new"), "x").unwrap();
        let said = of(folder.path(), &env(&[("BUILDX_GIT_CHECK_DIRTY", "1")]));
        assert!(said["revision"].ends_with("-dirty"));
        assert_eq!(said["localdir:context"], ".");
        assert_eq!(of(folder.path(), &env(&[("BUILDX_GIT_INFO", "false")])), BTreeMap::new());
    }
}

//! What provenance says of the repository that a folder belongs to: BuildKit's `vcs`, by the `git` of this machine.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use dcbuild_model::remote::shown;
use dcbuild_process::Env;

use crate::gather::environment;
use crate::variables::GitAsked;

/// What the repository of a folder says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Said {
    /// For provenance.
    pub(crate) info: BTreeMap<String, String>,
    /// For the image's labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Why it says nothing, where it should.
    pub(crate) warning: Option<String>,
}

/// A folder, and the Dockerfile that is built from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Built<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) dockerfile: Option<&'a Path>,
}

const SOURCE: &str = "org.opencontainers.image.source";
const REVISION: &str = "org.opencontainers.image.revision";
const ENTRYPOINT: &str = "com.docker.image.source.entrypoint";

/// Says commit, origin and place of a folder; nothing where it belongs to no repository, or nobody wants to know.
pub(crate) fn of(built: Built<'_>, asked: GitAsked, env: &Env) -> Said {
    if !asked.info && !asked.labels {
        return Said::default();
    }
    let git = |arguments: &[&str]| git(built.folder, env, arguments);
    let mut said = Said::default();
    let Some(top) = git(&["rev-parse", "--show-toplevel"]) else {
        if asked.labels && built.folder.ancestors().any(|folder| folder.join(".git").exists()) {
            let folder = built.folder.display();
            said.warning = Some(format!(
                "BUILDX_GIT_LABELS is set, and git does not read the repository of '{folder}': is git installed, and is the \
                 folder the user's own (git config --global --add safe.directory)?"
            ));
        }
        return said;
    };
    let revision = git(&["rev-parse", "--verify", "--quiet", "HEAD"]).map(|mut revision| {
        if asked.dirt && git(&["status", "--porcelain"]).is_some() {
            revision.push_str("-dirty");
        }
        revision
    });
    let source = git(&["config", "--get", "remote.origin.url"]).map(|url| shown(&url));
    let info = asked.info && revision.is_some();
    for (fact, label, value) in [("revision", REVISION, &revision), ("source", SOURCE, &source)] {
        let Some(value) = value else { continue };
        if info {
            said.info.insert(fact.to_owned(), value.clone());
        }
        if asked.labels {
            said.labels.insert(label.to_owned(), value.clone());
        }
    }
    if info {
        let place = git(&["rev-parse", "--show-prefix"]).unwrap_or_default();
        let place = place.trim_end_matches('/');
        let place = if place.is_empty() { "." } else { place };
        said.info.insert("localdir:context".to_owned(), place.to_owned());
    }
    if asked.labels
        && let Some(place) = built.dockerfile.and_then(|file| below(file, Path::new(&top)))
    {
        said.labels.insert(ENTRYPOINT.to_owned(), place);
    }
    said
}

/// Where a file lies below a folder; nothing if it does not.
fn below(file: &Path, folder: &Path) -> Option<String> {
    let file = std::fs::canonicalize(file).ok()?;
    let folder = std::fs::canonicalize(folder).ok()?;
    Some(file.strip_prefix(folder).ok()?.to_str()?.to_owned())
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

    const USUAL: GitAsked = GitAsked { info: true, labels: false, dirt: false };

    #[test]
    fn a_folder_of_a_repository_says_its_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = [("PATH", path.to_str().unwrap()), ("HOME", folder.path().to_str().unwrap())];
        let env: Env = own.into_iter().collect();
        let at = |folder: &Path, asked: GitAsked| {
            let dockerfile = folder.join("Dockerfile");
            of(Built { folder, dockerfile: Some(&dockerfile) }, asked, &env)
        };
        let labels = GitAsked { labels: true, ..USUAL };
        assert_eq!(at(folder.path(), labels), Said::default());
        let run = |arguments: &[&str]| {
            git(folder.path(), &env, arguments);
        };
        run(&["init"]);
        assert_eq!(at(folder.path(), USUAL), Said::default(), "there is no commit yet");
        let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
        run(&[&who[..], &["commit", "--allow-empty", "-m", "one"]].concat());
        run(&["remote", "add", "origin", "https://user:word@host/app.git"]);
        let sub = folder.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        std::fs::write(sub.join("Dockerfile"), "x").unwrap();
        let said = at(&sub, USUAL);
        assert_eq!(said.info["revision"].len(), 40);
        assert_eq!(said.info["source"], "https://host/app.git");
        assert_eq!(said.info["localdir:context"], "sub");
        assert_eq!(said.labels, BTreeMap::new());
        let dirty = at(folder.path(), GitAsked { dirt: true, ..labels });
        assert!(dirty.info["revision"].ends_with("-dirty"));
        assert_eq!(dirty.info["localdir:context"], ".");
        assert_eq!(dirty.labels[REVISION], dirty.info["revision"]);
        assert_eq!(dirty.labels.get(ENTRYPOINT), None, "there is no Dockerfile at the top");
        let said = at(&sub, GitAsked { info: false, ..labels });
        assert_eq!(said.info, BTreeMap::new());
        assert_eq!(said.labels[SOURCE], "https://host/app.git");
        assert_eq!(said.labels[ENTRYPOINT], "sub/Dockerfile");
        assert_eq!(at(&sub, GitAsked { info: false, ..USUAL }), Said::default());
    }

    #[test]
    fn a_repository_that_git_does_not_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".git")).unwrap();
        let built = Built { folder: folder.path(), dockerfile: None };
        let asked = GitAsked { labels: true, ..USUAL };
        let said = of(built, asked, &Env::default());
        assert!(said.warning.unwrap().starts_with("BUILDX_GIT_LABELS is set, and git does not"));
        assert_eq!(of(built, USUAL, &Env::default()).warning, None);
    }
}

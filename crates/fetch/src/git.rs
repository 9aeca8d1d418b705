//! Git repositories, by the `git` of the machine, as BuildKit does it: no reimplementation knows every server's ways.
//!
//! It works in a folder of its own, without the user's and the system's configuration, hooks, filters and templates;
//! protocols are named one by one, and where not every address may be reached all goes through [`Proxy`].

mod listen;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use dcbuild_model::remote::{GitSource, GitTime, shown};
use dcbuild_model::{Fault, limits};
use dcbuild_plan::policy::GitFacts;
use tokio::process::Command;
use url::Url;

use crate::error::fault_of_git;
use crate::proxy::Proxy;
use crate::{FetchConfig, FetchError, Reach, io, times};
use listen::{Gone, Listener, silence_max};

/// Settings that each call gets, over whatever a repository may say.
const SETTINGS: [&str; 19] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.symlinks=true",
    "core.autocrlf=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "credential.helper=",
    "init.defaultBranch=master",
    "init.templateDir=",
    "advice.detachedHead=false",
    "transfer.bundleURI=false",
    "fetch.recurseSubmodules=false",
    "protocol.allow=never",
    "protocol.https.allow=always",
    "protocol.http.allow=always",
    "http.lowSpeedLimit=1000",
    "gc.auto=0",
    "maintenance.auto=false",
    "safe.directory=*",
];

/// How much of what git says is repeated.
const WORDS_MAX: usize = 1_000;

/// A part of a repository on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkout {
    /// The folder that was asked for.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// What it is.
    pub facts: GitFacts,
}

/// Runs git below one folder.
pub(crate) struct Git {
    config: FetchConfig,
    /// The folder that is worked in.
    folder: PathBuf,
    tree: PathBuf,
    proxy: Option<Proxy>,
}

/// What a reference of a server stands for.
struct Advertised {
    commit: String,
    name: String,
}

/// What a reference turned out to be.
struct Resolved {
    /// Its whole name; empty where a commit was named.
    name: String,
    /// What the server says that it stands for, which is no commit if it is an annotated tag.
    object: String,
    commit: String,
}

/// The branch that a server's HEAD is.
fn head(listed: &str) -> Option<&str> {
    let line = listed.lines().find_map(|line| line.strip_prefix("ref: "))?;
    let (name, of) = line.split_once('\t')?;
    (of == "HEAD").then_some(name)
}

impl Git {
    pub(crate) async fn start(config: &FetchConfig, folder: &Path) -> Result<Git, FetchError> {
        let proxy = match &config.reach {
            Reach::Anywhere => None,
            reach @ Reach::Public { .. } => {
                let started = Proxy::start(reach.clone()).await;
                Some(started.map_err(io("open a door for git in", folder))?)
            }
        };
        let tree = folder.join("tree");
        tokio::fs::create_dir_all(&tree).await.map_err(io("make", &tree))?;
        Ok(Git { config: config.clone(), folder: folder.into(), tree, proxy })
    }

    /// Checks out what is wanted.
    pub(crate) async fn check_out(self, source: &GitSource) -> Result<Checkout, FetchError> {
        let url = source.url.as_str();
        self.run("prepare for", url, &["init", "--quiet", "."]).await?;
        self.run("prepare for", url, &["remote", "add", "origin", url]).await?;
        let resolved = self.resolve(source).await?;
        let facts = self.facts(source, resolved).await?;
        let found = facts.commit.clone();
        self.run("check out", url, &["checkout", "--quiet", "--force", &found]).await?;
        if source.submodules && self.tree.join(".gitmodules").symlink_metadata().is_ok() {
            let update =
                ["submodule", "update", "--init", "--recursive", "--depth=1", "--progress"];
            self.run("fetch the submodules of", url, &update).await?;
        }
        if source.keep_git_dir == Some(true) {
            self.settle(url).await?;
        } else {
            self.forget_git_dirs().await?;
        }
        if source.mtime == GitTime::Commit
            && let Some(secs) = times::committed(&facts.commit_object)
        {
            let tree = self.tree.clone();
            let set = tokio::task::spawn_blocking(move || times::set_all(&tree, secs)).await;
            set.map_err(|error| FetchError::Setup(error.to_string()))??;
        }
        Ok(Checkout { folder: self.subdir(source).await?, commit: found, facts })
    }

    /// What is wanted, without its files.
    pub(crate) async fn describe(self, source: &GitSource) -> Result<GitFacts, FetchError> {
        let url = source.url.as_str();
        self.run("prepare for", url, &["init", "--quiet", "."]).await?;
        self.run("prepare for", url, &["remote", "add", "origin", url]).await?;
        let resolved = self.resolve(source).await?;
        self.facts(source, resolved).await
    }

    /// Fetches what was resolved, and says what it is.
    async fn facts(&self, source: &GitSource, resolved: Resolved) -> Result<GitFacts, FetchError> {
        let url = source.url.as_str();
        let Resolved { name, object, commit } = resolved;
        let commit = self.commit_of(source, &commit).await?;
        let commit_object = self.run("read", url, &["cat-file", "commit", &commit]).await?;
        let is_tag = name.starts_with("refs/tags/") && object != commit;
        let tag_object = if is_tag {
            let fetch = ["fetch", "--progress", "--depth=1", "--no-tags", "origin", &name];
            self.run("fetch a tag of", url, &fetch).await?;
            Some(self.run("read", url, &["cat-file", "tag", &object]).await?)
        } else {
            None
        };
        Ok(GitFacts {
            checksum: if is_tag { object } else { commit.clone() },
            reference: if name.is_empty() { commit.clone() } else { name },
            commit,
            commit_object,
            tag_object,
        })
    }

    /// The commit or reference that is fetched.
    async fn resolve(&self, source: &GitSource) -> Result<Resolved, FetchError> {
        let reference = source.reference.as_str();
        if is_commit(reference) {
            let commit = reference.to_ascii_lowercase();
            return Ok(Resolved { name: String::new(), object: commit.clone(), commit });
        }
        let list = ["ls-remote", "--symref", "origin"];
        let listed = self.run("list the references of", &source.url, &list).await?;
        let all: Vec<Advertised> = listed.lines().filter_map(advertised).collect();
        let find = |name: &str| all.iter().find(|it| it.name == name).map(|it| it.commit.clone());
        let short = reference.trim_start_matches("refs/");
        let names = if reference.is_empty() {
            vec!["HEAD".to_owned()]
        } else {
            vec![
                format!("refs/heads/{}", short.trim_start_matches("heads/")),
                format!("refs/tags/{}^{{}}", short.trim_start_matches("tags/")),
                format!("refs/tags/{}", short.trim_start_matches("tags/")),
                format!("refs/{short}"),
            ]
        };
        let wanted = |name: &&String| {
            // A full reference means nothing else.
            !reference.starts_with("refs/") || name.trim_end_matches("^{}") == reference
        };
        let found = names.iter().filter(wanted).find_map(|name| Some((name, find(name)?)));
        let found = found.map(|(name, commit)| {
            let plain = name.trim_end_matches("^{}");
            let object = find(plain).unwrap_or_else(|| commit.clone());
            let name = if plain == "HEAD" { head(&listed).unwrap_or(plain) } else { plain };
            Resolved { name: name.to_owned(), object, commit }
        });
        found.ok_or_else(|| FetchError::NoReference {
            url: shown(&source.url),
            reference: if reference.is_empty() { "HEAD".into() } else { reference.into() },
        })
    }

    /// Fetches a commit, as little around it as the server allows, and gives its whole name.
    async fn commit_of(&self, source: &GitSource, commit: &str) -> Result<String, FetchError> {
        let url = source.url.as_str();
        let one = ["fetch", "--progress", "--depth=1", "--no-tags", "origin", commit];
        let found = if commit.len() < 40 {
            None
        } else {
            match self.run("fetch", url, &one).await {
                Ok(_) => Some(()),
                // Some servers give no commit by its name: then all that has a name is fetched.
                Err(FetchError::Git { .. }) => None,
                Err(error) => return Err(error),
            }
        };
        if found.is_none() {
            let all =
                ["fetch", "--progress", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"];
            self.run("fetch", url, &all).await?;
        }
        let spec = format!("{commit}^{{commit}}");
        let parsed = self.run("find", url, &["rev-parse", "--verify", "--quiet", &spec]).await;
        match parsed {
            Ok(name) => {
                let found = name.trim().to_owned();
                if !found.starts_with(&source.commit.to_ascii_lowercase()) {
                    return Err(FetchError::OtherCommit { wanted: source.commit.clone(), found });
                }
                Ok(found)
            }
            Err(FetchError::Git { .. }) => Err(FetchError::NoReference {
                url: shown(url),
                reference: source.reference.clone(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Takes what differs from one checkout to the next out of `.git`, so that the same commit gives the same files.
    async fn settle(&self, url: &str) -> Result<(), FetchError> {
        let git = self.tree.join(".git");
        for name in ["logs", "hooks", "info", "branches", "FETCH_HEAD", "ORIG_HEAD", "description"]
        {
            remove(git.join(name)).await?;
        }
        self.run("settle", url, &["read-tree", "HEAD"]).await?;
        Ok(())
    }

    async fn forget_git_dirs(&self) -> Result<(), FetchError> {
        remove(self.tree.join(".git")).await?;
        let tree = self.tree.clone();
        let removed = tokio::task::spawn_blocking(move || forget_links(&tree)).await;
        removed.map_err(|error| FetchError::Setup(error.to_string()))?
    }

    /// The folder that is wanted; links may lead to it, but not out of the repository.
    async fn subdir(&self, source: &GitSource) -> Result<PathBuf, FetchError> {
        let none =
            || FetchError::NoSubdir { url: shown(&source.url), subdir: source.subdir.clone() };
        let root = tokio::fs::canonicalize(&self.tree).await.map_err(io("open", &self.tree))?;
        let inside = root.join(source.subdir.trim_start_matches('/'));
        let found = tokio::fs::canonicalize(inside).await.map_err(|_| none())?;
        if !found.starts_with(&root) || !found.is_dir() {
            return Err(none());
        }
        Ok(found)
    }

    async fn run(
        &self,
        what: &'static str,
        url: &str,
        arguments: &[&str],
    ) -> Result<String, FetchError> {
        let failed = |words: String, fault| FetchError::Git { what, url: shown(url), words, fault };
        let server = server(url);
        let silence_max = silence_max(arguments);
        let listener = Listener { server: &server, ear: self.config.ear.as_ref(), silence_max };
        let output = match listener.run(self.command(url, arguments)).await {
            Ok(output) => output,
            Err(Gone::System(source)) => return Err(FetchError::NoGit(source)),
            Err(Gone::Silent(time)) => {
                let limit = format!("{server} said nothing for {} seconds", time.as_secs());
                return Err(FetchError::Slow { url: shown(url), limit });
            }
            Err(Gone::Slow) => {
                let minutes = limits::FETCH_TIME_MAX.as_secs() / 60;
                let words = format!("it takes longer than {minutes} minutes");
                return Err(failed(words, Fault::Cluster));
            }
            Err(Gone::Long) => {
                return Err(failed(
                    "the server lists far more than it should".into(),
                    Fault::Request,
                ));
            }
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = last_words(&output.stderr);
        let is_refused = REFUSED.iter().any(|known| words.contains(known));
        if let Some((secret, _)) = self.authorization(url).filter(|_| is_refused) {
            return Err(FetchError::Refused { what, url: shown(url), secret });
        }
        let fault = match host_of(url).filter(|_| words.contains("Could not resolve host")) {
            // curl has one word for a name that there is not and for nobody who could say so.
            Some((host, port)) => match self.config.reach.look_up(&host, port.unwrap_or(443)).await
            {
                Err(error) => error.fault(),
                Ok(_) => Fault::Cluster,
            },
            None => fault_of_git(&words),
        };
        Err(failed(words, fault))
    }

    /// The secret that a server is shown, and the header that it makes.
    fn authorization(&self, url: &str) -> Option<(String, String)> {
        let (host, port) = host_of(url)?;
        self.config.tokens.header("GIT", (&host, port))
    }

    fn command(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.env_clear().envs(self.config.env.iter().map(|(name, value)| (name, value)));
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
            .env("GIT_CEILING_DIRECTORIES", &self.folder)
            .env("LC_ALL", "C");
        for setting in SETTINGS {
            command.args([OsStr::new("-c"), OsStr::new(setting)]);
        }
        if let Some(max) = silence_max(arguments) {
            // What git itself notices over HTTP, in the same time.
            command.args(["-c", &format!("http.lowSpeedTime={}", max.as_secs())]);
        }
        match &self.proxy {
            None => {
                command.args([
                    "-c",
                    "protocol.ssh.allow=always",
                    "-c",
                    "protocol.git.allow=always",
                ]);
            }
            Some(proxy) => {
                command.args(["-c", &format!("http.proxy=socks5h://{}", proxy.address)]);
                for name in [
                    "http_proxy",
                    "https_proxy",
                    "HTTP_PROXY",
                    "HTTPS_PROXY",
                    "ALL_PROXY",
                    "no_proxy",
                    "NO_PROXY",
                ] {
                    command.env_remove(name);
                }
            }
        }
        // In the environment, since a command line can be read by everybody; bound to the one origin.
        if let Some((_, header)) = self.authorization(url)
            && let Ok(url) = Url::parse(url)
        {
            let base = url.origin().ascii_serialization();
            command
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", format!("http.{base}/.extraheader"))
                .env("GIT_CONFIG_VALUE_0", format!("Authorization: {header}"));
        }
        command.current_dir(&self.tree).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }
}

/// What git says where a server wants to know who we are, or does not take what it was told.
const REFUSED: [&str; 4] = [
    "could not read Username",
    "Authentication failed",
    "The requested URL returned error: 401",
    "The requested URL returned error: 403",
];

/// The host of a URL that credentials may be sent to, and its port where that is not the usual one.
fn host_of(url: &str) -> Option<(String, Option<u16>)> {
    let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    Some((url.host_str()?.to_owned(), url.port()))
}

fn is_commit(reference: &str) -> bool {
    matches!(reference.len(), 40 | 64) && reference.chars().all(|ch| ch.is_ascii_hexdigit())
}

fn advertised(line: &str) -> Option<Advertised> {
    let (commit, name) = line.split_once('\t')?;
    is_commit(commit).then(|| Advertised { commit: commit.to_owned(), name: name.to_owned() })
}

/// What git says whenever ssh failed.
const PHRASES: [&str; 2] =
    ["Please make sure you have the correct access rights", "and the repository exists."];

/// The last lines of what git said, without control characters.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let says = |line: &&str| !line.is_empty() && !PHRASES.contains(line) && !is_progress(line);
    let lines: Vec<&str> = text.split(['\r', '\n']).map(str::trim).filter(says).collect();
    let from = lines.len().saturating_sub(3);
    let words = lines.get(from..).unwrap_or_default().join("; ");
    let plain: String = words.chars().filter(|ch| !ch.is_control()).take(WORDS_MAX).collect();
    if plain.is_empty() { "git failed without a word".into() } else { plain }
}

/// Whether git tells in it how far it has come, as in `Receiving objects:  50% (1/2)` or `* branch X -> FETCH_HEAD`.
fn is_progress(line: &str) -> bool {
    let line = line.strip_prefix("remote: ").unwrap_or(line);
    let is_count = line.split_once(": ").is_some_and(|(what, count)| {
        const COUNTED: [&str; 5] =
            ["ing objects", "ing deltas", "ing files", "ing commits", "ing refs"];
        COUNTED.iter().any(|known| what.ends_with(known))
            && count.trim_start().starts_with(|ch: char| ch.is_ascii_digit())
    });
    is_count || line.starts_with("From ") || line.starts_with("* ") || line.contains("-> origin/")
}

/// What a repository's URL says of its server, without credentials.
fn server(url: &str) -> String {
    match Url::parse(url) {
        Ok(parsed) if parsed.has_host() => {
            let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}", parsed.scheme(), parsed.host_str().unwrap_or_default())
        }
        // As in git@host:path.
        _ => {
            let place = url.split(':').next().unwrap_or(url);
            place.rsplit('@').next().unwrap_or(place).to_owned()
        }
    }
}

async fn remove(path: PathBuf) -> Result<(), FetchError> {
    let Ok(found) = tokio::fs::symlink_metadata(&path).await else { return Ok(()) };
    let removed = if found.is_dir() {
        tokio::fs::remove_dir_all(&path).await
    } else {
        tokio::fs::remove_file(&path).await
    };
    removed.map_err(io("remove", &path))
}

/// Removes the files named `.git` that submodules leave in their folders.
fn forget_links(folder: &Path) -> Result<(), FetchError> {
    let failed = || io("list", folder);
    for entry in std::fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed())?);
        if entry.file_name() == ".git" {
            let removed = if kind.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.map_err(io("remove", &path))?;
        } else if kind.is_dir() {
            forget_links(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_said_last_is_told_without_its_progress() {
        let said = "remote: Enumerating objects: 3, done.\nremote: Counting objects:  33% (1/3)\rremote: Counting objects: 100% (3/3), done.\n\
                    Receiving objects:  50% (1/2), 1.00 KiB | 1.00 KiB/s\rfatal: early EOF\nfatal: fetch-pack: invalid index-pack output\n\
                    Please make sure you have the correct access rights\n";
        let words = last_words(said.as_bytes());
        assert_eq!(words, "fatal: early EOF; fatal: fetch-pack: invalid index-pack output");
        assert_eq!(last_words(b" * branch x -> FETCH_HEAD\n"), "git failed without a word");
        let told = "remote: the objects: of your desire are gone";
        assert_eq!(last_words(told.as_bytes()), told);
    }

    #[test]
    fn a_server_is_named_without_credentials() {
        for (url, want) in [
            ("https://me:secret@forge.example/a.git", "https://forge.example"),
            ("git://[::1]:9418/a", "git://[::1]:9418"),
            ("ssh://git@forge.example:22/a", "ssh://forge.example:22"),
            ("git@forge.example:team/a.git", "forge.example"),
        ] {
            assert_eq!(server(url), want);
        }
    }
}

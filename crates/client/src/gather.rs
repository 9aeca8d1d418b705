//! Brings what a build reads from elsewhere to this machine's disk: contexts from standard input, from URLs and from git,
//! and Dockerfiles from the same places. What comes out is folders and texts, as if the user had fetched them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcbuild_agent::{Agent, KeyError, OpenAgentError, Served};
use dcbuild_attest::Material;
use dcbuild_context::Attributes;
use dcbuild_fetch::{
    ENVIRONMENT, Ear, FetchConfig, FetchError, FetchedFile, Fetcher, Reach, Tokens, commit_time,
};
use dcbuild_layer::{ArchiveKind, ReadArchiveError, as_tar, detect};
use dcbuild_model::remote::{GitTime, file_name};
use dcbuild_model::{Added, Digest, Fault, GitSource, Remote, UnixTime, limits};
use dcbuild_plan::SourcePolicy;
use dcbuild_plan::policy::{Engine, Facts};
use dcbuild_process::{Env, Hint};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::archive::{UnpackArchiveError, unpack_archive};
use crate::parse::{AgentSource, NamedContext};
use crate::policy::{self, PolicyRefusal};
use crate::prepare::{Place, PrepareError, read_secrets};
use crate::wanted::{DockerfilePlace, MainContext, Wanted};

/// How much of a file must be seen to tell what it is.
const START_BYTES: u64 = 512;

/// Says why something could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A policy refuses it.
    #[error(transparent)]
    Policy(#[from] PolicyRefusal),
    /// A file is not the one that a policy wants.
    #[error(
        "{url} is not the file that the source policy wants: expected checksum to match {wanted}, got {found}"
    )]
    Checksum {
        /// Its address.
        url: String,
        /// The digest that it must have.
        wanted: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// A policy has made a repository of a Dockerfile.
    #[error("the source policy makes a git repository of the Dockerfile {url}")]
    Repository {
        /// Its address.
        url: String,
    },
    /// A secret that fetches need could not be read.
    #[error(transparent)]
    Secret(#[from] PrepareError),
    /// An archive could not be unpacked.
    #[error("could not unpack the context from {from}")]
    Unpack {
        /// Where it came from.
        from: String,
        /// Why not.
        source: UnpackArchiveError,
    },
    /// Something could not be read.
    #[error("could not read {from}")]
    Read {
        /// Where it comes from.
        from: String,
        /// What the system said.
        source: io::Error,
    },
    /// A Dockerfile is too large.
    #[error("the Dockerfile from {from} is larger than {max} bytes")]
    LargeDockerfile {
        /// Where it comes from.
        from: String,
        /// The limit.
        max: usize,
    },
    /// There is nothing where a Dockerfile is to be.
    #[error("the Dockerfile from {from} is empty")]
    Empty {
        /// Where it comes from.
        from: String,
    },
    /// Standard input is to be a Dockerfile and is none.
    #[error("standard input is a {} archive, and no Dockerfile", kind.name())]
    Archive {
        /// What it is.
        kind: ArchiveKind,
    },
    /// Both standard input and a flag give the Dockerfile.
    #[error("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")]
    TwoDockerfiles,
    /// There is no room for it.
    #[error("could not make a temporary folder")]
    Folder(#[source] io::Error),
    /// What `--ssh` names is no agent.
    #[error("--ssh '{id}' cannot be forwarded")]
    Agent {
        /// Its id.
        id: String,
        /// Why not.
        source: OpenAgentError,
    },
    /// The process is going down.
    #[error("unpacking was stopped")]
    Stopped(#[from] tokio::task::JoinError),
}

impl GatherError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            GatherError::Fetch(error) => error.fault(),
            GatherError::Folder(_) | GatherError::Stopped(_) => Fault::Cluster,
            _ => Fault::Request,
        }
    }
}

impl Hint for GatherError {
    fn hint(&self) -> Option<String> {
        match self {
            GatherError::Fetch(error) => error.hint(),
            GatherError::Secret(error) => error.hint(),
            GatherError::Policy(error) => error.hint(),
            GatherError::Empty { .. } => Some(
                "send it, as in `dcbuild build - < Dockerfile`, or an archive of the context"
                    .into(),
            ),
            GatherError::Archive { .. } => {
                Some("to build from an archive on standard input, give '-' as the context".into())
            }
            GatherError::Agent { source: OpenAgentError::Read { .. }, .. } => {
                Some("name a key file or an agent's socket; for `~` write $HOME".into())
            }
            GatherError::Agent { id, source: OpenAgentError::Key { source, path } } => {
                Some(agent_hint(id, path, source))
            }
            GatherError::TwoDockerfiles => {
                Some("leave --file out, or send the context as an archive".into())
            }
            _ => None,
        }
    }
}

fn agent_hint(id: &str, path: &Path, error: &KeyError) -> String {
    let path = path.display();
    match error {
        KeyError::Encrypted | KeyError::Kind { .. } | KeyError::Unsound { .. } => {
            format!("add it to an agent with `ssh-add {path}`, and give --ssh {id}")
        }
        KeyError::NotAKey => {
            "name a private key, as ssh-keygen writes it, or an agent's socket".into()
        }
    }
}

/// A Dockerfile that lies in no context.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LooseDockerfile {
    /// Its text.
    pub text: String,
    /// Its name, for messages.
    pub name: String,
}

/// What was brought here.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The main context, where it is no folder of the user's.
    pub root: Option<PathBuf>,
    /// The Dockerfile, where it lies in no context.
    pub dockerfile: Option<LooseDockerfile>,
    /// Named contexts that came from elsewhere, by name.
    pub named: BTreeMap<String, PathBuf>,
    /// The values of secrets, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Ssh agents, by id.
    pub agents: BTreeMap<String, Agent>,
    /// Source policies.
    pub policies: Vec<SourcePolicy>,
    /// What was fetched, by the name of the context that it became; `dockerfile` is the Dockerfile alone.
    pub fetched: BTreeMap<String, Material>,
    /// When it was made, in seconds and by the same names: a commit, or what a server says.
    pub times: BTreeMap<String, i64>,
    /// Whether the main context came as an archive.
    pub is_archive: bool,
    /// What the archive says of its files.
    pub said: Attributes,
    /// The same, as policies that lie in it are asked about it.
    pub(crate) taken: Vec<(Added, Facts)>,
    /// Lives as long as the build.
    pub(crate) kept: Vec<TempDir>,
}

/// Brings everything here; `tell` hears what is fetched and what is waited for, in lines for people.
pub async fn gather(
    wanted: &Wanted,
    place: Place<'_>,
    stdin: impl Read + Send + 'static,
    tell: &mut (dyn FnMut(&str) + Send),
) -> Result<Gathered, GatherError> {
    // A pipe may keep its reader waiting.
    let (files, working) = (wanted.policies.files.clone(), place.working.to_owned());
    let policies = tokio::task::spawn_blocking(move || policy::read_all(&files, &working));
    let policies = policies.await??;
    let policy = policy::engine(wanted, &policies)?;
    let agents = open_agents(wanted, place).await?;
    let (asked, working, env) =
        (wanted.secrets.clone(), place.working.to_owned(), place.env.clone());
    let secrets = tokio::task::spawn_blocking(move || read_secrets(&asked, &working, &env));
    let done = Gathered { secrets: secrets.await??, agents, policies, ..Gathered::default() };
    let (told, lines) = mpsc::channel(TOLD_MAX);
    let news = News { told, lines };
    let mut gathering =
        Gathering { wanted, place, policy, tell, news, fetcher: None, agent: None, done };
    match &wanted.context {
        MainContext::Folder(_) => {}
        MainContext::Remote(remote) => gathering.context(remote).await?,
        MainContext::Stdin => {
            gathering.context_of_stdin(Box::new(stdin)).await?;
            return gathering.others().await;
        }
    }
    match &wanted.dockerfile {
        DockerfilePlace::Stdin => gathering.dockerfile_of_stdin(Box::new(stdin)).await?,
        DockerfilePlace::Url(url) => gathering.dockerfile_of_url(url).await?,
        DockerfilePlace::Usual | DockerfilePlace::File(_) => {}
    }
    gathering.others().await
}

/// What provenance calls the build's own context, and a Dockerfile that lies in no context.
pub(crate) const CONTEXT: &str = "context";
const DOCKERFILE: &str = "dockerfile";

struct Gathering<'a> {
    wanted: &'a Wanted,
    place: Place<'a>,
    policy: Engine,
    tell: &'a mut (dyn FnMut(&str) + Send),
    news: News,
    fetcher: Option<Arc<Fetcher>>,
    /// Where git finds the keys of `--ssh default`.
    agent: Option<Served>,
    done: Gathered,
}

/// What a fetcher tells while it waits.
struct News {
    told: mpsc::Sender<String>,
    lines: mpsc::Receiver<String>,
}

/// How many lines of that wait to be shown.
const TOLD_MAX: usize = 8;

type Input = Box<dyn Read + Send>;

/// What the first bytes say of an input, and the whole of it.
struct Opened {
    kind: Option<ArchiveKind>,
    input: Input,
}

/// Looks at the first bytes of an input.
fn opened(mut input: Input, from: &str) -> Result<Opened, GatherError> {
    let mut start = Vec::new();
    let read = input.by_ref().take(START_BYTES).read_to_end(&mut start);
    read.map_err(|source| GatherError::Read { from: from.to_owned(), source })?;
    Ok(Opened { kind: detect(&start), input: Box::new(io::Cursor::new(start).chain(input)) })
}

/// Reads an input as the text of a Dockerfile.
fn dockerfile(input: Input, from: &str) -> Result<String, GatherError> {
    let max = limits::DOCKERFILE_BYTES_MAX;
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = input.take(limit).read_to_end(&mut bytes);
    read.map_err(|source| GatherError::Read { from: from.to_owned(), source })?;
    if bytes.len() > max {
        return Err(GatherError::LargeDockerfile { from: from.to_owned(), max });
    }
    if bytes.is_empty() {
        return Err(GatherError::Empty { from: from.to_owned() });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Unpacks an archive into a folder.
fn unpacked(
    (kind, input): (ArchiveKind, Input),
    (folder, now): (&Path, UnixTime),
    from: &str,
) -> Result<Attributes, GatherError> {
    let failed = |source| GatherError::Unpack { from: from.to_owned(), source };
    let tar = as_tar(kind, input);
    let tar = tar.map_err(|error| failed(ReadArchiveError::Open(error).into()))?;
    let tar = Limited { inner: tar, left: limits::FETCH_BYTES_MAX };
    unpack_archive(tar, folder, now).map_err(failed)
}

/// Ends with an error where more comes than may.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            io::Error::other(format!("it unpacks to more than {} bytes", limits::FETCH_BYTES_MAX))
        })?;
        Ok(count)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GatherError> + Send + 'static,
) -> Result<T, GatherError> {
    tokio::task::spawn_blocking(work).await?
}

impl Gathering<'_> {
    async fn others(mut self) -> Result<Gathered, GatherError> {
        for (name, context) in &self.wanted.contexts {
            if let NamedContext::Remote(remote) = context {
                let folder = self.named(name, remote).await?;
                self.done.named.insert(name.clone(), folder);
            }
        }
        Ok(self.done)
    }

    fn folder(&mut self) -> Result<PathBuf, GatherError> {
        let folder = tempfile::Builder::new().prefix("dcbuild-").tempdir();
        let folder = folder.map_err(GatherError::Folder)?;
        let path = folder.path().to_owned();
        self.done.kept.push(folder);
        Ok(path)
    }

    fn fetcher(&mut self) -> Result<Arc<Fetcher>, GatherError> {
        if let Some(fetcher) = &self.fetcher {
            return Ok(fetcher.clone());
        }
        let mut env = environment(self.place.env);
        if let Some(agent) = self.done.agents.get(DEFAULT_AGENT) {
            let served = Served::start(Arc::new(agent.clone())).map_err(GatherError::Folder)?;
            env.retain(|(name, _)| name != SSH_AUTH_SOCK);
            env.push((SSH_AUTH_SOCK.into(), served.socket().into_os_string()));
            self.agent = Some(served);
        }
        let told = self.news.told.clone();
        // Whoever does not keep up hears of the next silence.
        let ear = Ear::new(move |line| drop(told.try_send(line.to_owned())));
        let config = FetchConfig {
            reach: Reach::Anywhere,
            env,
            tokens: tokens(&self.done.secrets),
            cache: None,
            ear: Some(ear),
        };
        let fetcher = Arc::new(Fetcher::new(config)?);
        Ok(self.fetcher.insert(fetcher).clone())
    }

    /// Does some fetching, and tells meanwhile what it waits for.
    async fn heard<T>(&mut self, fetching: impl Future<Output = T> + Send) -> T {
        tokio::pin!(fetching);
        loop {
            let line = tokio::select! {
                done = &mut fetching => return done,
                Some(line) = self.news.lines.recv() => line,
            };
            (self.tell)(&line);
        }
    }

    /// Standard input is an archive with everything, or the Dockerfile alone.
    async fn context_of_stdin(&mut self, stdin: Input) -> Result<(), GatherError> {
        const FROM: &str = "standard input";
        let Opened { kind, input } = blocking(move || opened(stdin, FROM)).await?;
        let (folder, now) = (self.folder()?, self.place.now);
        self.done.root = Some(folder.clone());
        match (kind, &self.wanted.dockerfile) {
            (Some(kind), _) => {
                self.done.is_archive = true;
                let unpack = move || unpacked((kind, input), (&folder, now), FROM);
                self.done.said = blocking(unpack).await?;
                Ok(())
            }
            (None, DockerfilePlace::Usual) => {
                let text = blocking(move || dockerfile(input, FROM)).await?;
                let name = "Dockerfile".to_owned();
                self.done.dockerfile = Some(LooseDockerfile { text, name });
                Ok(())
            }
            (None, _) => Err(GatherError::TwoDockerfiles),
        }
    }

    async fn dockerfile_of_stdin(&mut self, stdin: Input) -> Result<(), GatherError> {
        const FROM: &str = "standard input";
        let text = blocking(move || match opened(stdin, FROM)? {
            Opened { kind: Some(kind), .. } => Err(GatherError::Archive { kind }),
            Opened { kind: None, input } => dockerfile(input, FROM),
        })
        .await?;
        self.done.dockerfile = Some(LooseDockerfile { text, name: "Dockerfile".into() });
        Ok(())
    }

    async fn dockerfile_of_url(&mut self, url: &str) -> Result<(), GatherError> {
        let permitted = policy::permitted(&self.policy, &Remote::Http(url.to_owned()))?;
        let Remote::Http(address) = &permitted.remote else {
            return Err(GatherError::Repository { url: url.to_owned() });
        };
        let file = self.fetched((DOCKERFILE, address), permitted.checksum).await?;
        self.done.dockerfile = Some(loose(file, url).await?);
        Ok(())
    }

    /// Fetches a file into a folder of its own.
    async fn fetched(
        &mut self,
        named: (&str, &str),
        checksum: Option<Digest>,
    ) -> Result<PathBuf, GatherError> {
        let file = self.folder()?.join("file");
        self.fetched_to(named, checksum, &file).await?;
        Ok(file)
    }

    async fn fetched_to(
        &mut self,
        (name, url): (&str, &str),
        checksum: Option<Digest>,
        file: &Path,
    ) -> Result<(), GatherError> {
        let shown = Remote::Http(url.to_owned()).to_string();
        (self.tell)(&format!("fetching {shown}"));
        let fetcher = self.fetcher()?;
        let FetchedFile { digest: found, modified, .. } =
            self.heard(fetcher.file(url, file)).await?;
        self.done.times.extend(modified.map(|time| (name.to_owned(), time)));
        if let Some(wanted) = checksum.filter(|wanted| *wanted != found) {
            return Err(GatherError::Checksum { url: shown, wanted, found });
        }
        let digest = found.to_string();
        let added = Added { remote: Remote::Http(url.to_owned()), checksum };
        self.done.taken.push((added, Facts::File { digest: digest.clone() }));
        let material = Material::new(shown, "sha256", digest.trim_start_matches("sha256:"));
        self.done.fetched.insert(name.to_owned(), material);
        Ok(())
    }

    async fn checked_out(
        &mut self,
        name: &str,
        source: &GitSource,
    ) -> Result<PathBuf, GatherError> {
        let address = source.to_string();
        (self.tell)(&format!("fetching {address}"));
        let folder = self.folder()?;
        let fetcher = self.fetcher()?;
        let found = self.heard(fetcher.repository(source, &folder)).await?;
        // The times of files are no part of where they come from.
        let place = GitSource { mtime: GitTime::Usual, ..source.clone() }.to_string();
        let material = Material::of_commit(place, &found.commit);
        let added = Added { remote: Remote::Git(source.clone()), checksum: None };
        let committed = commit_time(&found.facts);
        self.done.times.extend(committed.map(|time| (name.to_owned(), time)));
        self.done.taken.push((added, Facts::Git(found.facts)));
        self.done.fetched.insert(name.to_owned(), material);
        Ok(found.folder)
    }

    /// A file behind a URL is an archive with everything, or the Dockerfile alone.
    async fn context(&mut self, remote: &Remote) -> Result<(), GatherError> {
        let Added { remote, checksum } = policy::permitted(&self.policy, remote)?;
        let url = match &remote {
            Remote::Git(source) => {
                self.done.root = Some(self.checked_out(CONTEXT, source).await?);
                return Ok(());
            }
            Remote::Http(url) => url,
        };
        let file = self.fetched((CONTEXT, url), checksum).await?;
        let (folder, from) = (self.folder()?, remote.to_string());
        self.done.root = Some(folder.clone());
        let archive = file.clone();
        let now = self.place.now;
        let said = blocking(move || {
            let Opened { kind, input } = opened(Box::new(open(&archive, &from)?), &from)?;
            let Some(kind) = kind else { return Ok(None) };
            unpacked((kind, input), (&folder, now), &from).map(Some)
        });
        let said = said.await?;
        self.done.is_archive = said.is_some();
        self.done.said = said.unwrap_or_default();
        if !self.done.is_archive {
            self.done.dockerfile = Some(loose(file, url).await?);
        }
        Ok(())
    }

    /// A file behind a URL is a context with one file.
    async fn named(&mut self, name: &str, remote: &Remote) -> Result<PathBuf, GatherError> {
        let Added { remote, checksum } = policy::permitted(&self.policy, remote)?;
        match &remote {
            Remote::Git(source) => self.checked_out(name, source).await,
            Remote::Http(url) => {
                let folder = self.folder()?;
                self.fetched_to((name, url), checksum, &folder.join(file_name(url))).await?;
                Ok(folder)
            }
        }
    }
}

fn open(file: &Path, from: &str) -> Result<std::fs::File, GatherError> {
    std::fs::File::open(file).map_err(|source| GatherError::Read { from: from.to_owned(), source })
}

async fn loose(file: PathBuf, url: &str) -> Result<LooseDockerfile, GatherError> {
    let from = Remote::Http(url.to_owned()).to_string();
    let text = blocking(move || dockerfile(Box::new(open(&file, &from)?), &from)).await?;
    Ok(LooseDockerfile { text, name: file_name(url) })
}

/// What git and ssh are given of the environment.
pub fn environment(env: &Env) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    let set = ENVIRONMENT.iter().filter_map(|name| Some((*name, env.get_os(name)?)));
    set.map(|(name, value)| (name.into(), value.to_owned())).collect()
}

/// The agent that git uses too.
const DEFAULT_AGENT: &str = "default";
const SSH_AUTH_SOCK: &str = "SSH_AUTH_SOCK";

async fn open_agents(
    wanted: &Wanted,
    place: Place<'_>,
) -> Result<BTreeMap<String, Agent>, GatherError> {
    let mut agents = BTreeMap::new();
    for (id, AgentSource { paths }) in &wanted.agents {
        let paths: Vec<PathBuf> = paths.iter().map(|path| place.working.join(path)).collect();
        let failed = |source| GatherError::Agent { id: id.clone(), source };
        let agent = tokio::task::spawn_blocking(move || Agent::open(&paths)).await?;
        agents.insert(id.clone(), agent.map_err(failed)?);
    }
    Ok(agents)
}

fn tokens(secrets: &BTreeMap<String, Vec<u8>>) -> Tokens {
    let mut tokens = Tokens::default();
    for (id, value) in secrets.iter().filter(|(id, _)| Tokens::is_one(id)) {
        tokens.insert(id, value);
    }
    tokens
}

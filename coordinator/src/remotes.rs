//! What the ADDs of a build take from elsewhere: fetched once, looked at and packed like a client's folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use dcbuild_agent::{Ask, Served};
use dcbuild_attest::Material;
use dcbuild_context::LocalContext;
use dcbuild_fetch::{Ear, FetchConfig, FetchError, FetchedFile, Fetcher, Tokens};
use dcbuild_model::remote::file_name;
use dcbuild_model::{Added, BlobDigest, Digest, Fault, Remote, Selection, SelectionDigest};
use dcbuild_plan::policy::Facts;
use dcbuild_process::{Clock, story};
use dcbuild_remote::{SendError, Sender, Sent};
use dcbuild_tree::Ignore;
use tempfile::TempDir;
use tokio::sync::{OnceCell, mpsc};

use crate::build::{AskError, Build, Shown};
use crate::config::Stores;

/// Says why something is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    #[error("the name '{name}' of a context says nothing that can be fetched")]
    Name { name: String },
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("digest mismatch {found}: {wanted}")]
    Checksum { found: Digest, wanted: Digest },
    #[error("could not make a temporary folder")]
    Folder(#[source] std::io::Error),
    #[error("could not make a socket for the client's ssh agent")]
    Agent(#[source] std::io::Error),
    #[error("could not set the time of '{url}'")]
    Time { url: String, source: std::io::Error },
    #[error(transparent)]
    Open(#[from] dcbuild_context::OpenError),
    #[error(transparent)]
    Read(#[from] dcbuild_context::LocalError),
    #[error(transparent)]
    Stow(#[from] SendError),
    #[error("fetching was stopped")]
    Stopped(#[from] tokio::task::JoinError),
}

impl RemoteError {
    /// Who can mend it.
    pub(crate) fn fault(&self) -> Fault {
        match self {
            RemoteError::Fetch(error) => error.fault(),
            RemoteError::Name { .. }
            | RemoteError::Checksum { .. }
            | RemoteError::Open(_)
            | RemoteError::Read(_) => Fault::Request,
            RemoteError::Folder(_)
            | RemoteError::Agent(_)
            | RemoteError::Time { .. }
            | RemoteError::Stow(_)
            | RemoteError::Stopped(_) => Fault::Cluster,
        }
    }

    /// What could help.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            RemoteError::Fetch(error) => error.hint(),
            _ => None,
        }
    }
}

/// Something that is here.
struct Here {
    context: Arc<LocalContext>,
    material: Material,
    _folder: TempDir,
}

/// A fetcher, and the agent that it asks as long as both live.
struct Ready {
    fetcher: Fetcher,
    _agent: Option<Served>,
}

type Slot = Arc<OnceCell<Here>>;

/// What a build has fetched so far, by the names of contexts.
#[derive(Default)]
pub(crate) struct Remotes(Mutex<BTreeMap<String, Slot>>);

/// What fetching leans on.
pub(crate) struct Fetching<'a> {
    pub(crate) build: &'a Arc<Build>,
    pub(crate) stores: &'a Stores,
    pub(crate) config: &'a FetchConfig,
    pub(crate) clock: &'a dyn Clock,
}

impl Remotes {
    fn slot(&self, name: &str) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(name.to_owned()).or_default().clone()
    }

    /// What was fetched, and what it was, by the names of contexts.
    pub(crate) fn fetched(&self) -> BTreeMap<String, Material> {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = slots.iter().filter_map(|(name, slot)| Some((name, slot.get()?)));
        here.map(|(name, here)| (name.clone(), here.material.clone())).collect()
    }

    /// Forgets everything, and removes it from the disk.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(all);
    }
}

impl Fetching<'_> {
    /// What a selection sees of something that is fetched.
    pub(crate) async fn select(
        &self,
        name: &str,
        selection: &Selection,
    ) -> Result<SelectionDigest, RemoteError> {
        let (context, selection) = (self.context(name).await?, selection.clone());
        Ok(tokio::task::spawn_blocking(move || context.select(&selection)).await??)
    }

    /// Puts what a selection sees into the store.
    pub(crate) async fn stow(
        &self,
        name: &str,
        selection: &Selection,
    ) -> Result<BlobDigest, RemoteError> {
        let context = self.context(name).await?;
        let (blobs, layers) = (self.stores.blobs.clone(), self.stores.layers.clone());
        let sent = Sender { blobs, layers }.send(context, selection.clone()).await?;
        let Sent { parcel, .. } = sent;
        Ok(parcel)
    }

    async fn context(&self, name: &str) -> Result<Arc<LocalContext>, RemoteError> {
        let slot = self.build.remotes.slot(name);
        let here = slot.get_or_try_init(|| self.shown(name)).await?;
        Ok(here.context.clone())
    }

    async fn shown(&self, name: &str) -> Result<Here, RemoteError> {
        let bad = || RemoteError::Name { name: name.to_owned() };
        let added = Added::of_context(name).ok_or_else(bad)?;
        let shown = Shown::start(self.build, self.clock, added.remote.to_string());
        let fetched = heard(&shown, |ear| self.fetch(&added, ear)).await;
        match &fetched {
            Ok(_) => shown.done(),
            Err(error) => shown.failed(story(error)),
        }
        fetched
    }

    /// What a policy may want to know of something before it is taken.
    pub(crate) async fn look(&self, added: &Added) -> Result<Facts, RemoteError> {
        let name = format!("[internal] look at {} for the policy", added.remote);
        let shown = Shown::start(self.build, self.clock, name);
        let found = heard(&shown, |ear| self.look_now(added, ear)).await;
        match &found {
            Ok(_) => shown.done(),
            Err(error) => shown.failed(story(error)),
        }
        found
    }

    async fn look_now(&self, added: &Added, ear: Ear) -> Result<Facts, RemoteError> {
        let Ready { fetcher, _agent } = self.ready(&added.remote, ear)?;
        let folder = tempfile::Builder::new().prefix("dcbuild-").tempdir();
        let folder = folder.map_err(RemoteError::Folder)?;
        Ok(match &added.remote {
            Remote::Git(source) => Facts::Git(fetcher.describe(source, folder.path()).await?),
            Remote::Http(url) => {
                let got = fetcher.file(url, &folder.path().join("file")).await?;
                Facts::File { digest: got.digest.to_string() }
            }
        })
    }

    /// A fetcher with the credentials of the build.
    fn ready(&self, remote: &Remote, ear: Ear) -> Result<Ready, RemoteError> {
        let mut config = self.config.clone();
        config.ear = Some(ear);
        config.tokens = self.tokens();
        let agent = self.agent(remote).map_err(RemoteError::Agent)?;
        if let Some(agent) = &agent {
            config.env.retain(|(name, _)| name != SSH_AUTH_SOCK);
            config.env.push((SSH_AUTH_SOCK.into(), agent.socket().into_os_string()));
        }
        Ok(Ready { fetcher: Fetcher::new(config)?, _agent: agent })
    }

    async fn fetch(&self, added: &Added, ear: Ear) -> Result<Here, RemoteError> {
        let Ready { fetcher, _agent } = self.ready(&added.remote, ear)?;
        let folder = tempfile::Builder::new().prefix("dcbuild-").tempdir();
        let folder = folder.map_err(RemoteError::Folder)?;
        let address = added.remote.to_string();
        let (root, material) = match &added.remote {
            Remote::Git(source) => {
                let found = fetcher.repository(source, folder.path()).await?;
                (found.folder, Material::of_commit(address, &found.commit))
            }
            Remote::Http(url) => {
                let root = folder.path().join("files");
                tokio::fs::create_dir(&root).await.map_err(RemoteError::Folder)?;
                let file = root.join(file_name(url));
                let got = fetcher.file(url, &file).await?;
                if let Some(wanted) = added.checksum.filter(|it| *it != got.digest) {
                    return Err(RemoteError::Checksum { found: got.digest, wanted });
                }
                settle(&file, &got).map_err(|source| RemoteError::Time {
                    url: added.remote.to_string(),
                    source,
                })?;
                let digest = got.digest.to_string();
                let digits = digest.trim_start_matches("sha256:");
                (root, Material::new(address, "sha256", digits))
            }
        };
        let hashes = folder.path().join("hashes");
        let now = self.clock.now();
        let context = LocalContext::open_folder(&root, Ignore::default(), &hashes, 0, now)?;
        Ok(Here { context: Arc::new(context), material, _folder: folder })
    }

    /// The client's agent, where it has one for git and ssh may ask it.
    fn agent(&self, remote: &Remote) -> std::io::Result<Option<Served>> {
        let is_asked = matches!(remote, Remote::Git(_))
            && self.build.submission.agents.contains(DEFAULT_AGENT);
        let client = || Served::start(Arc::new(ClientAgent { build: self.build.clone() }));
        is_asked.then(client).transpose()
    }

    fn tokens(&self) -> Tokens {
        let mut tokens = Tokens::default();
        for (id, value) in self.build.secrets_named(Tokens::is_one) {
            tokens.insert(&id, &value);
        }
        tokens
    }
}

/// Does some fetching, and shows meanwhile what it waits for.
async fn heard<T, F: Future<Output = T>>(shown: &Shown<'_>, fetch: impl FnOnce(Ear) -> F) -> T {
    let (told, mut lines) = mpsc::channel(TOLD_MAX);
    let ear = Ear::new(move |line| {
        // Whoever does not keep up hears of the next silence.
        drop(told.try_send(line.to_owned()));
    });
    let fetching = fetch(ear);
    tokio::pin!(fetching);
    loop {
        let line = tokio::select! {
            done = &mut fetching => return done,
            Some(line) = lines.recv() => line,
        };
        shown.log(&[line]);
    }
}

/// How many lines of that wait to be shown.
const TOLD_MAX: usize = 8;
/// The agent that git uses too.
const DEFAULT_AGENT: &str = "default";
const SSH_AUTH_SOCK: &str = "SSH_AUTH_SOCK";

/// Asks the agent of a build's client.
struct ClientAgent {
    build: Arc<Build>,
}

#[async_trait::async_trait]
impl Ask for ClientAgent {
    async fn ask(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self.build.ask_agent(DEFAULT_AGENT.into(), message).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::warn!(%error, "the client's ssh agent does not answer");
                None
            }
        }
    }
}

/// Gives a file the rights and the time that BuildKit gives it: 0600, and what the server says of its last change.
fn settle(file: &Path, fetched: &FetchedFile) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))?;
    let secs = u64::try_from(fetched.modified.unwrap_or(0)).unwrap_or(0);
    let time = UNIX_EPOCH + Duration::from_secs(secs);
    std::fs::File::options().write(true).open(file)?.set_modified(time)
}

impl From<RemoteError> for AskError {
    fn from(error: RemoteError) -> AskError {
        AskError::Failed(story(&error))
    }
}

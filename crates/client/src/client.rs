//! One build from its submission to its end, and the smaller things that a coordinator is asked.

pub(crate) mod delivery;
mod follow;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_agent::Agent;
use dcbuild_context::{LocalContext, LocalContexts};
use dcbuild_explain::Explanation;
use dcbuild_model::{BuildId, Daemon, Fault, Scope, limits};
use dcbuild_oci::LayoutRef;
use dcbuild_process::docker::{NoDaemon, daemon};
use dcbuild_process::{Clock, Env, Hint, SystemClock, new_bits};
use dcbuild_progress::Mode;
use dcbuild_proto::BASE_LOST;
use dcbuild_proto::cache::{CacheAsk, CacheTold};
use dcbuild_proto::document::{Aim, Origin, Outcome, OutputResult, Submission};
use dcbuild_registry::DockerLogins;
use dcbuild_rego::Policies;
use dcbuild_remote::RemoteStore;
use dcbuild_store::{BlobStore, LayerIndex};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use crate::answer::Sources;
use crate::caches::Caches;
use crate::call::CallWanted;
use crate::deliver::DeliverError;
use crate::ending::{Ending, conclude, failed};
use crate::output::ClientOutput;
use crate::prepare::Prepared;
use crate::rpc::{Builds, ListedBuild, ListedImage, ListedWorker, RpcError};
use crate::show::{Screen, Show};
use crate::variables::docker_logins;
use crate::wanted::{Handover, Wanted};
use follow::{Follow, Followed, Presence, Stay};

/// What a shell reports of a command that Ctrl-C ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// Says why a client could not do its part of a build.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The coordinator did not do as asked.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The image was built, but did not arrive.
    #[error(transparent)]
    Deliver(#[from] DeliverError),
    /// Nobody wants to read an archive.
    #[error("an archive is not written to a terminal")]
    Terminal,
}

impl ClientError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            ClientError::Rpc(error) => error.fault(),
            ClientError::Deliver(error) => error.fault(),
            ClientError::Terminal => Fault::Request,
        }
    }
}

impl Hint for ClientError {
    fn hint(&self) -> Option<String> {
        match self {
            ClientError::Rpc(error) => error.hint(),
            ClientError::Deliver(error) => error.hint(),
            ClientError::Terminal => {
                Some("give dest=FILE, or send standard output elsewhere".into())
            }
        }
    }
}

/// A build, ready to be handed over.
#[derive(Debug)]
pub struct BuildRequest {
    /// Its id.
    pub id: BuildId,
    /// What is asked.
    pub submission: Submission,
    /// The folders, by name.
    pub contexts: Vec<(String, Arc<LocalContext>)>,
    /// The layouts, by name.
    pub layouts: BTreeMap<String, LayoutRef>,
    /// The values of secrets, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// The ssh agents, by id.
    pub agents: BTreeMap<String, Agent>,
    /// The policies that only this client can ask.
    pub rego: Option<Arc<Policies>>,
    /// The caches at other places.
    pub caches: Arc<Caches>,
    /// What the client does with each output, in the order of the submission.
    pub outputs: Vec<ClientOutput>,
    /// How progress is shown.
    pub mode: Mode,
    /// Where the image's id is written.
    pub iidfile: Option<PathBuf>,
    /// Where what was made is written.
    pub metadata_file: Option<PathBuf>,
    /// Whether that tells warnings.
    pub tells_warnings: bool,
    /// How the answer is printed, where something is asked of the Dockerfile.
    pub call: Option<CallWanted>,
    /// Folders that were made for it: whoever runs steps in this process keeps them until the last one is published.
    pub kept: Arc<Vec<tempfile::TempDir>>,
}

impl BuildRequest {
    /// Puts together what the flags want and what the disk has.
    pub fn new(
        id: BuildId,
        wanted: &Wanted,
        prepared: Prepared,
        handover: Handover,
    ) -> BuildRequest {
        let Prepared {
            found,
            contexts,
            layouts,
            secrets,
            agents,
            rego,
            fetched,
            vcs,
            kept,
            warnings: _,
        } = prepared;
        let mut submission = wanted.submission(found, handover);
        submission.origin = Origin { fetched, vcs, ..submission.origin };
        let builds = submission.aim == (Aim::Build {});
        BuildRequest {
            id,
            submission,
            contexts,
            layouts,
            secrets,
            agents,
            rego,
            caches: Arc::new(Caches::default()),
            outputs: wanted.client_outputs(),
            mode: wanted.mode,
            iidfile: wanted.iidfile.clone().filter(|_| builds),
            metadata_file: wanted.metadata_file.clone().filter(|_| builds),
            tells_warnings: wanted.tells_warnings,
            call: wanted.method.question(),
            kept: Arc::new(kept),
        }
    }
}

/// How a build ended for its client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// How the build itself ended; none if the client left before.
    pub outcome: Option<Outcome>,
    /// What belongs on standard output.
    pub stdout: String,
    /// The process's exit code.
    pub code: u8,
}

/// What a client leans on.
#[derive(Clone)]
pub struct ClientConfig {
    /// How long a coordinator may take to answer that a build is sent to.
    pub first_answer: Duration,
    /// How long it tries to reach one that is gone while a build goes on.
    pub reconnect: Duration,
    /// Where docker keeps its credentials.
    pub logins: DockerLogins,
    /// The docker daemon, or why there is none.
    pub docker: Result<Daemon, NoDaemon>,
    /// What relative paths of outputs start from.
    pub working: PathBuf,
    /// A file of certificates by which alone the store behind a coordinator is known.
    pub store_ca: Option<PathBuf>,
    /// The scope that a coordinator is asked for; without one it goes by the certificate alone.
    pub scope: Option<Scope>,
}

/// How long a coordinator may take to answer for the first time, where nothing else is said.
const FIRST_ANSWER: Duration = Duration::from_secs(15);

impl ClientConfig {
    /// As the environment says; `working` is the current folder.
    pub fn new(env: &Env, working: PathBuf) -> ClientConfig {
        ClientConfig {
            first_answer: FIRST_ANSWER,
            reconnect: limits::CLIENT_GONE,
            logins: docker_logins(env),
            docker: daemon(env),
            working,
            store_ca: env.aws_ca_bundle(),
            scope: None,
        }
    }
}

/// A client of one coordinator.
#[derive(Clone)]
pub struct Client {
    builds: Builds,
    blobs: Arc<dyn BlobStore>,
    layers: Arc<dyn LayerIndex>,
    contexts: Arc<LocalContexts>,
    clock: Arc<dyn Clock>,
    config: ClientConfig,
    tasks: TaskTracker,
}

/// How one of a client's builds ended.
enum Shown {
    Ended(Ended),
    /// It was made, and then the store did not have it.
    Lost(String),
}

/// How many blobs may be lost to a build one after the other before each counts as lost again.
const LOST_MAX: usize = 200;

/// How often a build is repeated since the store has lost the same blob again.
const REPEATS_MAX: u32 = 8;

impl Client {
    /// A client of a coordinator elsewhere, whose store is reached through it.
    pub fn new(channel: Channel, config: ClientConfig) -> Client {
        let (name, ca) = ("of the coordinator", config.store_ca.clone());
        let store = Arc::new(RemoteStore::trusting(channel.clone(), name, ca));
        Client {
            builds: Builds::new(channel, config.scope.as_ref()),
            blobs: store.clone(),
            layers: store,
            contexts: Arc::new(LocalContexts::new()),
            clock: Arc::new(SystemClock),
            config,
            tasks: TaskTracker::new(),
        }
    }

    /// A client that opens the store itself, and shares folders with a worker of its own process.
    pub fn in_process(
        channel: Channel,
        blobs: Arc<dyn BlobStore>,
        layers: Arc<dyn LayerIndex>,
        contexts: Arc<LocalContexts>,
        config: ClientConfig,
    ) -> Client {
        // A coordinator in this process that is gone does not come back.
        let (first_answer, reconnect) = (Duration::ZERO, Duration::ZERO);
        let config = ClientConfig { first_answer, reconnect, ..config };
        Client { blobs, layers, contexts, ..Client::new(channel, config) }
    }

    /// Builds, shows it, and puts the outputs where they belong; `stop` asks for an early end.
    pub async fn build(
        &self,
        mut request: BuildRequest,
        screen: &mut dyn Screen,
        stop: &CancellationToken,
    ) -> Result<Ended, ClientError> {
        let archive = request.outputs.iter().any(ClientOutput::is_stdout);
        if archive && rustix::termios::isatty(std::io::stdout()) {
            return Err(ClientError::Terminal);
        }
        // What went to standard output cannot be taken back.
        let mut repeats = if archive { 0 } else { REPEATS_MAX };
        let mut earlier = None;
        // What is lost once more; what is lost for the first time is one fault of its own.
        let mut lost = BTreeSet::new();
        loop {
            for (name, context) in &request.contexts {
                self.contexts.insert(request.id, name.clone(), context.clone());
            }
            let show = Show::new(request.mode, screen, self.clock.clone());
            let mut show = show.after(earlier.take());
            let ended = self.build_shown(&request, (&mut show, repeats), stop).await;
            self.contexts.remove(request.id);
            match ended? {
                Shown::Ended(ended) => return Ok(ended),
                Shown::Lost(what) => {
                    if !lost.insert(what) || lost.len() > LOST_MAX {
                        repeats -= 1;
                    }
                    earlier = Some(show.summary());
                }
            }
            request.id = BuildId::from_bits(new_bits(&*self.clock));
        }
    }

    async fn build_shown(
        &self,
        request: &BuildRequest,
        (show, repeats): (&mut Show<'_>, u32),
        stop: &CancellationToken,
    ) -> Result<Shown, ClientError> {
        self.forget_id(request)?;
        if !self.submit(request, show, stop).await? {
            return Ok(interrupted(show));
        }
        let layouts = request.layouts.clone();
        let mut sources = self.sources(request.id, layouts, request.agents.clone());
        sources.rego.clone_from(&request.rego);
        sources.caches = request.caches.clone();
        let sources = Arc::new(sources);
        let secrets = request.secrets.clone();
        let stay = if request.submission.detached { Stay::Briefly } else { Stay::ToTheEnd };
        let presence = Presence::Owner { sources, secrets, stay };
        let follow = Follow { client: self, id: request.id, presence };
        let followed = follow.run(show, stop).await;
        let outcome = match followed {
            Ok(Followed::Ended(outcome)) => *outcome,
            Ok(Followed::Left) => {
                show.finish();
                let stdout = format!("{}\n", request.id);
                return Ok(Shown::Ended(Ended { outcome: None, stdout, code: 0 }));
            }
            Err(error) => {
                show.finish();
                return Err(error.into());
            }
        };
        // A layout of this machine is sent again.
        if let Outcome::Failed(failed) = &outcome
            && failed.code == BASE_LOST
            && repeats > 0
            && !request.layouts.is_empty()
        {
            show.finish();
            show.write(&format!("warning: {}; it is sent again\n", failed.message));
            return Ok(Shown::Lost(failed.message.clone()));
        }
        let mut delivery = self.deliver(request, &made_by(&outcome), show, stop).await;
        if let (Outcome::Done { caches, .. }, true) = (&outcome, delivery.errors.is_empty()) {
            self.deliver_caches(request, caches, (show, &mut delivery), stop).await;
        }
        show.finish();
        for warning in &delivery.warnings {
            show.write(&format!("warning: {warning}\n"));
        }
        if delivery.stopped {
            return Ok(interrupted(show));
        }
        if let Some(error) = delivery.errors.iter().find(|error| error.is_lost())
            && repeats > 0
        {
            show.write("warning: the store has lost a part of what was made; it is made again\n");
            return Ok(Shown::Lost(dcbuild_process::story(error)));
        }
        let well = matches!(outcome, Outcome::Done { .. }) && delivery.errors.is_empty();
        if well || !delivery.results.is_empty() {
            self.tell(request, &mut delivery, (&outcome, show.warned()), stop).await;
        }
        if delivery.stopped {
            return Ok(interrupted(show));
        }
        if well && delivery.errors.is_empty() {
            show.sum_up();
        }
        Ok(Shown::Ended(conclude(request, outcome, &delivery, (show, stop))))
    }

    fn sources(
        &self,
        build: BuildId,
        layouts: BTreeMap<String, LayoutRef>,
        agents: BTreeMap<String, Agent>,
    ) -> Sources {
        Sources {
            build,
            agents,
            contexts: self.contexts.clone(),
            layouts,
            blobs: self.blobs.clone(),
            layers: self.layers.clone(),
            caches: Arc::default(),
            rego: None,
            logins: self.config.logins.clone(),
        }
    }

    /// Submits, and says whether it did so before it was told to stop.
    async fn submit(
        &self,
        request: &BuildRequest,
        show: &mut Show<'_>,
        stop: &CancellationToken,
    ) -> Result<bool, RpcError> {
        tokio::select! {
            submitted = self.submitted(request, show) => submitted.map(|()| true),
            () = stop.cancelled() => {
                // It may have been taken, and not be known to be.
                follow::cancel_if_known(&self.builds, request.id).await;
                Ok(false)
            }
        }
    }

    /// Submits; the same id again is the same build, so an outcome that nobody knows is asked for again.
    async fn submitted(&self, request: &BuildRequest, show: &mut Show<'_>) -> Result<(), RpcError> {
        let mut patience = follow::Patience::of_first(self.config.first_answer);
        let mut said = self.config.first_answer.is_zero();
        loop {
            match self.builds.submit(request.id, &request.submission).await {
                Err(error) if error.may_pass() => {
                    // One whose name is misspelt looks like one that is being started.
                    if !std::mem::replace(&mut said, true) {
                        show.write(&format!("warning: {error}; it is tried again for a while\n"));
                    }
                    if !patience.wait().await {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Follows a build from its first event on, and gives it the credentials that it asks for; `stop` leaves it alone.
    pub async fn attach(
        &self,
        id: BuildId,
        mode: Mode,
        screen: &mut dyn Screen,
        stop: &CancellationToken,
    ) -> Result<Ended, ClientError> {
        let sources = Arc::new(self.sources(id, BTreeMap::new(), BTreeMap::new()));
        let presence = Presence::Attached { sources };
        self.follow_only(id, mode, presence, (screen, stop)).await
    }

    /// Follows a build from its first event on, and only looks on.
    pub async fn logs(
        &self,
        id: BuildId,
        mode: Mode,
        screen: &mut dyn Screen,
        stop: &CancellationToken,
    ) -> Result<Ended, ClientError> {
        self.follow_only(id, mode, Presence::LooksOn, (screen, stop)).await
    }

    async fn follow_only(
        &self,
        id: BuildId,
        mode: Mode,
        presence: Presence,
        (screen, stop): (&mut dyn Screen, &CancellationToken),
    ) -> Result<Ended, ClientError> {
        let mut show = Show::new(mode, screen, self.clock.clone());
        let is_attached = matches!(presence, Presence::Attached { .. });
        let followed = Follow { client: self, id, presence }.run(&mut show, stop).await;
        show.finish();
        let outcome = match followed? {
            Followed::Ended(outcome) => *outcome,
            Followed::Left => return Ok(left()),
        };
        let ending = Ending { request: None, notes: Vec::new() };
        let code = failed(&outcome, ending, &mut show, stop).unwrap_or(0);
        // A log ends with its last line.
        if is_attached && matches!(outcome, Outcome::Done { .. }) {
            show.sum_up_joined();
        }
        Ok(Ended { outcome: Some(outcome), stdout: String::new(), code })
    }

    /// Lists builds, newest first.
    pub async fn builds(&self) -> Result<Vec<ListedBuild>, RpcError> {
        self.builds.list().await
    }

    /// Ends a build.
    pub async fn cancel(&self, id: BuildId) -> Result<(), RpcError> {
        self.builds.cancel(id).await
    }

    /// Lists the workers.
    pub async fn workers(&self) -> Result<Vec<ListedWorker>, RpcError> {
        self.builds.workers().await
    }

    /// Lists the images that have a name.
    pub async fn images(&self) -> Result<Vec<ListedImage>, RpcError> {
        self.builds.images().await
    }

    /// Takes a name away from an image and says whether it had it.
    pub async fn remove_image(&self, name: &str) -> Result<bool, RpcError> {
        self.builds.remove_image(name).await
    }

    /// Lists, counts or sweeps the coordinator's cache.
    pub async fn cache(&self, ask: &CacheAsk) -> Result<CacheTold, RpcError> {
        self.builds.cache(ask).await
    }

    /// Explains the misses of a build, or of the last one; of one step, where one is named.
    pub async fn explain(
        &self,
        build: Option<BuildId>,
        step: Option<String>,
    ) -> Result<Explanation, RpcError> {
        self.builds.explain(build, step).await
    }
}

/// The outputs that there are, in the order in which they were asked for.
fn made_by(outcome: &Outcome) -> Vec<Option<OutputResult>> {
    match outcome {
        Outcome::Done { outputs, .. } => outputs.iter().cloned().map(Some).collect(),
        Outcome::Failed(failed) => failed.outputs.clone(),
        Outcome::Planned { .. } | Outcome::Reported { .. } | Outcome::Canceled { .. } => Vec::new(),
    }
}

/// What is said to whoever did not wait for the outputs.
fn interrupted(show: &mut Show<'_>) -> Shown {
    show.write("error: interrupted\n");
    Shown::Ended(left())
}

/// What a client that went before its build ended leaves behind.
fn left() -> Ended {
    Ended { outcome: None, stdout: String::new(), code: INTERRUPTED }
}

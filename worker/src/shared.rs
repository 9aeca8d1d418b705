//! What all attempts of a worker share.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use dcbuild_model::UnixTime;
use dcbuild_proto::document::{Lease, RegistryCredentials, StepErrorKind};
use dcbuild_registry::{
    Anonymous, Credential, CredentialSource, Login, RegistryClient, Secret, StaticCredentials,
};
use dcbuild_sandbox::{IsolatedConfig, Sandbox, SandboxConfig, has_way_out, remove_groups};
use dcbuild_snapshot::Snapshots;
use dcbuild_store::KeyLocks;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caches::Caches;
use crate::error::{Failed, blocking};
use crate::held::Held;
use crate::layers::{Elsewhere, Layers, SENDING_MAX};
use crate::peers::OpenDoor;
use crate::portable::WriteBacks;
use crate::presence::{self, Presence};
use crate::publish::Making;
use crate::running::Attempts;
use crate::{DefaultNetwork, Parts, WorkerConfig, WorkerError};

/// How many layers are made durable at once.
const PUBLISHED_AT_ONCE: usize = 2;
/// Where control groups are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

pub(crate) struct Shared {
    pub(crate) config: WorkerConfig,
    pub(crate) parts: Parts,
    pub(crate) layers: Arc<Layers>,
    sandbox: OnceCell<Sandbox>,
    presence: Presence,
    pub(crate) locks: KeyLocks,
    pub(crate) caches: Caches,
    pub(crate) attempts: Attempts,
    pub(crate) tasks: TaskTracker,
    pub(crate) publishing: Semaphore,
    pub(crate) making: Making,
    pub(crate) held: Held,
    /// One at a time: they are in nobody's way.
    pub(crate) writing_back: Semaphore,
    pub(crate) write_backs: WriteBacks,
    /// Cancelled once the worker is to stop: nothing is tried again from then on.
    pub(crate) ending: CancellationToken,
    pub(crate) cores: usize,
    /// Where other workers reach this one, if they can.
    pub(crate) door: OnceLock<OpenDoor>,
    /// When this worker was opened, as the clock of files has it or a little before.
    pub(crate) began: UnixTime,
}

impl Shared {
    pub(crate) fn open(config: WorkerConfig, parts: Parts) -> Result<Shared, WorkerError> {
        let dir = &config.data_dir;
        for name in ["cache", "tmp", "sandbox"] {
            make_private_folder(&dir.join(name))?;
        }
        let snapshots = Snapshots::open(&dir.join("snapshots")).map_err(WorkerError::Snapshots)?;
        if let Err(error) = snapshots.sweep(&BTreeSet::new()) {
            tracing::warn!(%error, "could not sweep what earlier attempts left");
        }
        let tmp = dir.join("tmp");
        let state = dir.join("sandbox");
        let groups = |name: &str| remove_groups(Path::new(CGROUP_ROOT), &state, name);
        if let Err(error) = presence::sweep(&tmp, groups) {
            tracing::warn!(%error, "could not sweep what earlier workers left");
        }
        let presence = Presence::begin(&tmp, &name_of(&config))
            .map_err(|source| WorkerError::Folder { path: tmp, source })?;
        // Processes that share a state folder share its locks, whether a bucket lies behind it or not.
        let locks = match parts.folder.as_ref().or(parts.near.as_ref()) {
            Some(folder) => folder.locks(),
            None => KeyLocks::open(&dir.join("lock")),
        }
        .map_err(WorkerError::Locks)?;
        let layers = Arc::new(Layers::new(
            snapshots,
            &parts,
            Elsewhere {
                handle: Handle::current(),
                tmp: presence.folder().to_owned(),
                sending_max: SENDING_MAX,
            },
        ));
        Ok(Shared {
            began: earlier(parts.clock.now()),
            caches: Caches::of(&config.data_dir, locks.clone()),
            config,
            parts,
            layers,
            sandbox: OnceCell::new(),
            presence,
            locks,
            attempts: Attempts::default(),
            tasks: TaskTracker::new(),
            publishing: Semaphore::new(PUBLISHED_AT_ONCE),
            making: Making::default(),
            held: Held::default(),
            writing_back: Semaphore::new(1),
            write_backs: WriteBacks::default(),
            ending: CancellationToken::new(),
            door: OnceLock::new(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        })
    }

    /// A client of the registries that a lease needs, with the credentials that came with it.
    pub(crate) fn registry(&self, lease: &Lease) -> Result<RegistryClient, Failed> {
        let credentials: Arc<dyn CredentialSource> = if lease.credentials.is_empty() {
            Arc::new(Anonymous)
        } else {
            let entries =
                lease.credentials.iter().map(|(host, given)| (host.clone(), login(given)));
            Arc::new(StaticCredentials::new(entries))
        };
        RegistryClient::new(self.config.registries.clone(), credentials)
            .map_err(|error| Failed::of(StepErrorKind::Network {}, &error))
    }

    /// A folder for what lasts as long as an operation.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.presence.folder().to_owned()
    }

    /// Where RUNs run; made ready for the first one, since many builds have none.
    pub(crate) async fn sandbox(&self) -> Result<&Sandbox, Failed> {
        let open = || async {
            let config = SandboxConfig {
                exe: self.config.exe.clone(),
                state: self.config.data_dir.join("sandbox"),
                cgroup_root: PathBuf::from(CGROUP_ROOT),
                // Processes share a machine, and each sweeps only what is its own or nobody's.
                cgroup_name: self.name(),
            };
            let (network, in_process) = (self.config.network, self.config.in_process);
            blocking(move || {
                let sandbox = Sandbox::new(config).map_err(|error| Failed::sandbox(&error))?;
                match network {
                    DefaultNetwork::Outward => Ok(with_networks(sandbox, in_process)),
                    DefaultNetwork::Isolated => isolated(sandbox).map_err(|why| unisolated(&why)),
                    DefaultNetwork::None | DefaultNetwork::Host => Ok(sandbox),
                }
            })
            .await
        };
        self.sandbox.get_or_try_init(open).await
    }

    /// Removes what shows that this worker lives, and the control groups of its name.
    pub(crate) async fn close(&self) {
        let (name, used) = (self.name(), self.sandbox.initialized());
        let state = self.config.data_dir.join("sandbox");
        let groups = blocking(move || {
            let remove = || remove_groups(Path::new(CGROUP_ROOT), &state, &name);
            let removed = if used { remove() } else { Ok(()) };
            removed.map_err(|error| Failed::sandbox(&error))
        });
        if let Err(error) = groups.await {
            // The folder stays, so that the next worker tries again.
            tracing::warn!(%error, "could not remove the worker's control groups");
        } else if let Err(error) = self.presence.end() {
            tracing::warn!(%error, "could not remove the worker's temporary folder");
        }
    }

    fn name(&self) -> String {
        name_of(&self.config)
    }
}

/// A time as the clock of files may have it, which lags behind.
pub(crate) fn earlier(time: UnixTime) -> UnixTime {
    UnixTime { secs: time.secs - 1, ..time }
}

/// The name of a worker's folder and control groups.
fn name_of(config: &WorkerConfig) -> String {
    format!("dcbuild-{}", config.id)
}

/// Adds networks of their own for steps where that can be done here, and where they reach no less than the host does. The
/// operator of a worker that others use hears where not: their steps are on his machine's network then.
fn with_networks(sandbox: Sandbox, in_process: bool) -> Sandbox {
    let why = match isolated(sandbox.clone()) {
        Ok(isolated) => return isolated,
        Err(why) => why,
    };
    if in_process {
        tracing::debug!(why, "steps have the host's network");
    } else {
        tracing::warn!(
            why,
            "steps have this machine's own network: whoever builds reaches its loopback and what it reaches, such as its \
             cloud's credentials"
        );
    }
    sandbox
}

/// A sandbox whose steps have networks of their own, or why there is none.
fn isolated(sandbox: Sandbox) -> Result<Sandbox, String> {
    if !has_way_out() {
        return Err("theirs would have no way out".to_owned());
    }
    let isolated = sandbox.isolated(IsolatedConfig::default());
    isolated.map_err(|error| dcbuild_process::story(&error))
}

fn unisolated(why: &str) -> Failed {
    let words = format!("steps cannot have networks of their own here: {why}");
    Failed::new(StepErrorKind::Sandbox {}, words).with_hint(Some(
        "`network = \"default\"` in the configuration gives them this machine's where that is so",
    ))
}

/// Whether a RUN is anything for this process; what else one needs is seen when it begins.
pub fn is_able_to_run() -> bool {
    can_snapshot()
}

/// Whether snapshots can be made here: only root of a namespace may own files as an image wants.
pub(crate) fn can_snapshot() -> bool {
    rustix::process::geteuid().is_root()
}

/// A folder that other accounts of the machine may not enter: what a RUN leaves in it, such as programs that become root,
/// is for RUNs alone.
fn make_private_folder(path: &Path) -> Result<(), WorkerError> {
    let made = std::fs::create_dir_all(path)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)));
    made.map_err(|source| WorkerError::Folder { path: path.into(), source })
}

/// Credentials that came with a lease, as those who use them know them.
fn login(given: &RegistryCredentials) -> Login {
    let secret = |text: &String| Secret::new(text.clone());
    let credential = if given.is_nothing() {
        Credential::Nothing {}
    } else if !given.identity_token.is_empty() {
        Credential::Identity { token: secret(&given.identity_token) }
    } else if !given.registry_token.is_empty() {
        Credential::Bearer { token: secret(&given.registry_token) }
    } else {
        let password = secret(&given.password);
        Credential::Basic { username: given.username.clone(), password }
    };
    Login { credential, source: given.source.clone() }
}

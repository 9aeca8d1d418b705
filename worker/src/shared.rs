//! What all attempts of a worker share.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcbuild_proto::document::Lease;
use dcbuild_registry::StaticCredentials;
use dcbuild_registry::{Anonymous, Credential, CredentialSource, RegistryClient, Secret};
use dcbuild_sandbox::{Sandbox, SandboxConfig};
use dcbuild_snapshot::Snapshots;
use dcbuild_store::KeyLocks;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::error::Failed;
use crate::layers::Layers;
use crate::running::Attempts;
use crate::{Parts, WorkerConfig, WorkerError};

/// How many layers are made durable at once.
const PUBLISHED_AT_ONCE: usize = 2;

pub(crate) struct Shared {
    pub(crate) config: WorkerConfig,
    pub(crate) parts: Parts,
    pub(crate) layers: Arc<Layers>,
    pub(crate) sandbox: Sandbox,
    pub(crate) locks: KeyLocks,
    pub(crate) attempts: Attempts,
    pub(crate) tasks: TaskTracker,
    pub(crate) publishing: Semaphore,
    pub(crate) cores: usize,
}

impl Shared {
    pub(crate) fn open(config: WorkerConfig, parts: Parts) -> Result<Shared, WorkerError> {
        let dir = &config.data_dir;
        for name in ["cache", "tmp", "sandbox"] {
            make_folder(&dir.join(name))?;
        }
        let snapshots = Snapshots::open(&dir.join("snapshots")).map_err(WorkerError::Snapshots)?;
        if let Err(error) = snapshots.sweep(&BTreeSet::new()) {
            tracing::warn!(%error, "could not sweep what earlier attempts left");
        }
        let sandbox = Sandbox::new(SandboxConfig {
            exe: config.exe.clone(),
            state: dir.join("sandbox"),
            cgroup_root: PathBuf::from("/sys/fs/cgroup"),
            // Processes share a machine, and each sweeps only what is its own.
            cgroup_name: format!("dcbuild-{}", config.id),
        })
        .map_err(WorkerError::Sandbox)?;
        let locks = match &parts.folder {
            Some(folder) => folder.locks(),
            None => KeyLocks::open(&dir.join("lock")),
        }
        .map_err(WorkerError::Locks)?;
        let layers = Arc::new(Layers::new(snapshots, &parts, Handle::current()));
        Ok(Shared {
            config,
            parts,
            layers,
            sandbox,
            locks,
            attempts: Attempts::default(),
            tasks: TaskTracker::new(),
            publishing: Semaphore::new(PUBLISHED_AT_ONCE),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        })
    }

    /// A client of the registries that a lease needs, with the credentials that came with it.
    pub(crate) fn registry(&self, lease: &Lease) -> Result<RegistryClient, Failed> {
        let credentials: Arc<dyn CredentialSource> = if lease.credentials.is_empty() {
            Arc::new(Anonymous)
        } else {
            let entries = lease.credentials.iter().map(|(host, given)| {
                let credential = if given.identity_token.is_empty() {
                    Credential::Basic {
                        username: given.username.clone(),
                        password: Secret::new(given.password.clone()),
                    }
                } else {
                    Credential::Identity { token: Secret::new(given.identity_token.clone()) }
                };
                (host.clone(), credential)
            });
            Arc::new(StaticCredentials::new(entries))
        };
        RegistryClient::new(self.config.registries.clone(), credentials)
            .map_err(|error| Failed::of(dcbuild_proto::document::StepErrorKind::Network {}, &error))
    }

    /// A folder for what lasts as long as an operation.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.config.data_dir.join("tmp")
    }
}

/// Whether snapshots can be made here: only root of a namespace may own files as an image wants.
pub(crate) fn can_snapshot() -> bool {
    rustix::process::geteuid().is_root()
}

fn make_folder(path: &Path) -> Result<(), WorkerError> {
    std::fs::create_dir_all(path)
        .map_err(|source| WorkerError::Folder { path: path.into(), source })
}

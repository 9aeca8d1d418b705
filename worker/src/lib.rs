//! The worker: takes jobs from a coordinator, runs their steps, and makes images of what they leave.
//!
//! It decides nothing about what is built or what may be taken from the cache: a lease says what to do, and every report
//! carries the lease's fence. Trees come before bytes: a COPY is computed on tables of contents, and a layer is unpacked
//! only when a RUN stands on it. Start with [`Worker`]; `attempt` is the life of one lease.

mod assemble;
mod attempt;
mod attest;
mod base;
mod blobs;
pub mod caches;
mod ceiling;
mod contents;
pub mod contexts;
mod error;
mod held;
mod kept;
mod layers;
mod output;
mod packs;
mod parcel;
mod part;
mod peers;
mod portable;
mod presence;
mod publish;
mod push;
mod report;
mod room;
mod rpc;
mod running;
mod shared;
mod spool;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::{Platform, WorkerId};
use dcbuild_process::Clock;
use dcbuild_registry::RegistryConfig;
use dcbuild_remote::Peers;
use dcbuild_snapshot::OpenSnapshotsError;
use dcbuild_store::{BlobStore, CacheVersions, FolderStore, ImageNames, LayerIndex, LockError};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub use contexts::{ContextError, ContextTree, Contexts, Finds, NoContexts};
pub use peers::Door;
pub use shared::is_able_to_run;

/// The network of a RUN that asks for the usual one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DefaultNetwork {
    /// Its own with a way out where the sandbox can make one, else the host's.
    #[default]
    Outward,
    /// Its own with a way out; a RUN that cannot have one fails.
    Isolated,
    /// None.
    None,
    /// The host's.
    Host,
}

/// What a worker is.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its name, for as long as its process lives.
    pub id: WorkerId,
    /// How many jobs it takes at once.
    pub slots: u32,
    /// What people know it by.
    pub labels: BTreeMap<String, String>,
    /// The platforms that its steps can run for.
    pub platforms: Vec<Platform>,
    /// Those of them whose programs an interpreter runs, which takes its time.
    pub emulated: Vec<Platform>,
    /// Snapshots, cache mounts and what is temporary.
    pub data_dir: PathBuf,
    /// The binary whose `cell` subcommand is the sandbox's helper.
    pub exe: PathBuf,
    /// How registries are reached.
    pub registries: RegistryConfig,
    /// The network of a RUN that asks for the usual one.
    pub network: DefaultNetwork,
    /// The memory that one RUN may take; none for all that there is.
    pub step_memory_max: Option<u64>,
    /// What may stay in the data folder; none where somebody else sees to that.
    pub keep_bytes: Option<u64>,
    /// Whether the coordinator lives in the same process: a snapshot is durable then, no blob is needed.
    pub in_process: bool,
    /// How large a cache mount may be that is written back to the store, in bytes.
    pub cache_mount_bytes_max: u64,
    /// What a RUN may be granted, where the coordinator does not live in the same process.
    pub allow: BTreeSet<String>,
    /// How long running jobs may go on once the worker is to stop.
    pub grace: Duration,
}

/// What a worker leans on.
#[derive(Clone)]
pub struct Parts {
    /// Blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// Which forms layers have.
    pub layers: Arc<dyn LayerIndex>,
    /// Versions of cache mounts; without them a mount stays on this worker.
    pub caches: Option<Arc<dyn CacheVersions>>,
    /// Where images are kept by name; without it the coordinator gives images their names.
    pub images: Option<Arc<dyn ImageNames>>,
    /// The same store, where it is a folder of this machine.
    pub folder: Option<Arc<FolderStore>>,
    /// Where tables of contents lie until a store elsewhere has them; `blobs` looks there first. Without it, a step waits
    /// for the store.
    pub near: Option<Arc<FolderStore>>,
    /// The other workers, where there are any: what they make is taken from them until the store has it.
    pub peers: Option<Peers>,
    /// The client's folders, where they can be read.
    pub contexts: Arc<dyn Contexts>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Says why a worker cannot be.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A folder of the worker could not be made.
    #[error("could not make '{}'", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The snapshots could not be opened.
    #[error("could not open the snapshots")]
    Snapshots(#[source] OpenSnapshotsError),
    /// The locks could not be opened.
    #[error("could not open the locks")]
    Locks(#[source] LockError),
    /// No RUN can be run as the configuration wants it.
    #[error("{0}")]
    Sandbox(String),
}

/// A worker, ready to take jobs.
pub struct Worker {
    shared: Arc<shared::Shared>,
    door: Option<Door>,
}

impl Worker {
    /// Opens the worker's folders; must be called inside a tokio runtime.
    pub fn new(config: WorkerConfig, parts: Parts) -> Result<Worker, WorkerError> {
        shared::Shared::open(config, parts)
            .map(|shared| Worker { shared: Arc::new(shared), door: None })
    }

    /// Lets other workers in, to take layers that the store lacks yet.
    #[must_use]
    pub fn with_door(self, door: Option<Door>) -> Worker {
        Worker { door, ..self }
    }

    /// Makes ready where RUNs run, which else the first one does: where none can be run, it is known before one comes.
    pub async fn ready_sandbox(&self) -> Result<(), WorkerError> {
        match self.shared.sandbox().await {
            Ok(_) => Ok(()),
            Err(error::Failed::Step(error)) => {
                let hint = error.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                Err(WorkerError::Sandbox(format!("{}{hint}", error.message)))
            }
            Err(failed) => Err(WorkerError::Sandbox(failed.to_string())),
        }
    }

    /// Which of these layers are at hand on this worker, as snapshots or as recipes.
    pub fn holds(&self, layers: &[dcbuild_model::LayerId]) -> Vec<bool> {
        layers.iter().map(|layer| self.shared.layers.holds(layer)).collect()
    }

    /// Something that answers [`Worker::holds`] while the worker runs elsewhere.
    pub fn holdings(&self) -> Holdings {
        Holdings(self.shared.layers.clone())
    }

    /// Makes the blob of a layer that is at hand here, unless the store has one; false if its bytes are not to be had.
    pub async fn pack(
        &self,
        layer: dcbuild_model::LayerId,
        compression: dcbuild_model::Compression,
    ) -> bool {
        pack(&self.shared, layer, compression).await
    }

    /// Something that does as [`Worker::pack`] while the worker runs elsewhere.
    pub fn packing(&self) -> Packing {
        Packing(self.shared.clone())
    }

    /// Takes jobs over this channel until `stop` is cancelled, then lets go of what runs and returns.
    pub async fn run(self, channel: Channel, stop: CancellationToken) {
        let over = CancellationToken::new();
        let serving = peers::serve(self.shared.clone(), self.door, over.clone());
        let session = async {
            let _over = over.drop_guard();
            rpc::serve(self.shared, channel, stop).await;
        };
        tokio::join!(serving, session);
    }
}

async fn pack(
    shared: &Arc<shared::Shared>,
    layer: dcbuild_model::LayerId,
    compression: dcbuild_model::Compression,
) -> bool {
    let form = dcbuild_layer::BlobForm { compression, level: None, threads: shared.cores };
    let made = publish::layer_blob(shared, layer, form).await;
    made.inspect_err(|error| tracing::debug!(%layer, %error, "a layer has no bytes here")).is_ok()
}

/// Makes blobs of layers that are at hand on a worker of this process.
#[derive(Clone)]
pub struct Packing(Arc<shared::Shared>);

impl Packing {
    /// Makes the blob of a layer that is at hand, unless the store has one; false if its bytes are not to be had.
    pub async fn pack(
        &self,
        layer: dcbuild_model::LayerId,
        compression: dcbuild_model::Compression,
    ) -> bool {
        self.0.layers.holds(&layer) && pack(&self.0, layer, compression).await
    }
}

/// Knows which layers are at hand on a worker of this process.
#[derive(Clone)]
pub struct Holdings(Arc<layers::Layers>);

impl Holdings {
    /// Which of these layers are at hand, as snapshots or as recipes.
    pub fn holds(&self, layers: &[dcbuild_model::LayerId]) -> Vec<bool> {
        layers.iter().map(|layer| self.0.holds(layer)).collect()
    }

    /// Lets the snapshots of these layers count after another boot; a sync of their file system has covered them.
    pub fn mark_synced<'l>(
        &self,
        layers: impl IntoIterator<Item = &'l dcbuild_model::LayerId>,
    ) -> Result<(), dcbuild_snapshot::At> {
        self.0.snapshots.mark_synced(layers)
    }
}

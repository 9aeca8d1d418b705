//! What a coordinator is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_carry::{Lent, Packs, Shelf};
use dcbuild_fetch::FetchConfig;
use dcbuild_model::{BuildId, LayerId, Platform, Scope, limits};
use dcbuild_process::Clock;
use dcbuild_registry::RegistryConfig;
use dcbuild_store::{
    Backlog, BlobStore, CacheVersions, Ceilings, FolderMark, FolderStore, Grants, ImageNames,
    LayerIndex, Leftovers, Notes, Seal, StepIndex, StoreCounts, Swept, Using,
};
use tokio::sync::watch;

/// What a coordinator is told at its start.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Where the log and the events of builds lie; without a folder all is in memory and ends with the process.
    pub data_dir: Option<PathBuf>,
    /// How registries are reached.
    pub registries: RegistryConfig,
    /// What ADD may fetch, and with what.
    pub fetch: FetchConfig,
    /// The scope that builds read and write whose clients' credentials give no other.
    pub scope: Scope,
    /// The scopes that certificates give, by a name or the digest of each.
    pub access: BTreeMap<String, Scope>,
    /// Builds that may be under way at a time.
    pub builds_max: usize,
    /// How long a build waits for a worker of a kind that is not there.
    pub no_worker_max: Duration,
    /// How long a build goes on without a client that answers, unless it was submitted to go on without one.
    pub grace: Duration,
    /// What a build may be granted that asks for it.
    pub granting: Granting,
    /// How much may stay in the store; nothing is swept without a ceiling.
    pub ceilings: Ceilings,
    /// How often the store is swept.
    pub sweep_every: Duration,
    /// The platforms whose programs run here, where the only worker that there will ever be is in this process; none
    /// where workers come and go.
    pub platforms: Vec<Platform>,
    /// How long the log may be at a start at which no build goes on; a longer one is begun again.
    pub log_bytes_max: u64,
}

/// Which of what a build asks for with `--allow` it is granted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Granting {
    /// All of it: who asks is who owns the machine.
    Everything,
    /// What the operator says.
    Only(BTreeSet<String>),
}

impl Granting {
    /// The first thing asked that is not granted.
    pub(crate) fn refused<'a>(&self, asked: &'a BTreeSet<String>) -> Option<&'a str> {
        let Granting::Only(granted) = self else { return None };
        asked.iter().find(|what| !granted.contains(*what)).map(String::as_str)
    }
}

impl Default for CoordinatorConfig {
    fn default() -> CoordinatorConfig {
        CoordinatorConfig {
            data_dir: None,
            registries: RegistryConfig::default(),
            fetch: FetchConfig::default(),
            scope: Scope::local(),
            access: BTreeMap::new(),
            builds_max: 1_000,
            no_worker_max: Duration::from_mins(10),
            grace: limits::CLIENT_GONE,
            granting: Granting::Only(BTreeSet::new()),
            ceilings: Ceilings::default(),
            sweep_every: Duration::from_mins(10),
            platforms: Vec::new(),
            log_bytes_max: 16 << 20,
        }
    }
}

/// The store, by what it can do.
#[derive(Clone)]
pub struct Stores {
    /// Blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// Records of steps.
    pub steps: Arc<dyn StepIndex>,
    /// Forms of layers.
    pub layers: Arc<dyn LayerIndex>,
    /// Names of images.
    pub names: Arc<dyn ImageNames>,
    /// Notes that explain.
    pub notes: Arc<dyn Notes>,
    /// The mark that builds go on, so that nothing that they use is removed.
    pub using: Option<Arc<Using>>,
    /// What of it can be removed.
    pub swept: Arc<dyn Swept>,
    /// Uploads that were begun and never ended, where the store has any.
    pub leftovers: Option<Arc<dyn Leftovers>>,
    /// Versions of cache mounts.
    pub caches: Arc<dyn CacheVersions>,
    /// Leave to move blobs past the coordinator, where the store gives any.
    pub grants: Option<Arc<dyn Grants>>,
    /// What waits to be sent to a store that is far, to be shown.
    pub backlog: Option<watch::Receiver<Backlog>>,
    /// What records are sealed with that go to other places, and opened with that come from there.
    pub seal: Seal,
    /// What is lent to builds from other places.
    pub lent: Option<Arc<Lent>>,
    /// What the store and its index have met so far.
    pub met: Met,
}

/// Tells what a store and its index have met.
pub type Met = Arc<dyn Fn() -> MetCounts + Send + Sync>;

/// What a store and its index have met; each costs time, and no build.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MetCounts {
    /// Corrupt blobs that were put aside.
    pub quarantined: u64,
    /// Documents that were no sealed ones, in the store or in its index.
    pub refused: u64,
    /// Documents that the store was asked for since the index did not have them.
    pub reads: u64,
    /// Listings of the store for keys that the index did not know while it was incomplete.
    pub lists: u64,
    /// Reads and writes that the store failed.
    pub store_faults: u64,
    /// Questions and notes that the index failed.
    pub index_faults: u64,
}

impl Stores {
    /// A folder store, in all its parts.
    pub fn folder(store: FolderStore) -> Stores {
        let store = Arc::new(store);
        let counted = store.clone();
        let met: Met = Arc::new(move || {
            let StoreCounts { quarantined, unreadable } = counted.counts();
            MetCounts { quarantined, refused: unreadable, ..MetCounts::default() }
        });
        Stores {
            blobs: store.clone(),
            steps: store.clone(),
            layers: store.clone(),
            names: store.clone(),
            notes: store.clone(),
            using: Some(Arc::new(Using::new(Box::new(FolderMark::new((*store).clone()))))),
            swept: store.clone(),
            leftovers: None,
            caches: store,
            grants: None,
            backlog: None,
            seal: Seal::unkeyed(),
            lent: None,
            met,
        }
    }

    /// The store, as far as records need it.
    pub fn shelf(&self) -> Shelf {
        let (blobs, layers) = (self.blobs.clone(), self.layers.clone());
        Shelf { blobs, layers, steps: self.steps.clone() }
    }

    /// Lets builds take from other places what this store lacks; a second time changes nothing.
    #[must_use]
    pub fn lending(self) -> Stores {
        if self.lent.is_some() {
            return self;
        }
        let lent = Arc::new(Lent::new(self.shelf()));
        // Records are found by the builds that they are lent to.
        let (blobs, layers) = (lent.clone(), lent.clone());
        Stores { blobs, layers, lent: Some(lent), ..self }
    }

    /// The stores as a build sees them, with what it may take from other places.
    #[must_use]
    pub(crate) fn of_build(self, build: BuildId) -> Stores {
        let Some(lent) = &self.lent else { return self };
        let view = Arc::new(lent.to(build));
        Stores { blobs: view.clone(), steps: view.clone(), layers: view, ..self }
    }
}

/// Knows which layers a worker of this process has on its disk.
#[async_trait::async_trait]
pub trait Holds: Send + Sync {
    /// Says for each layer whether a RUN can stand on it without the store's blob.
    async fn holds(&self, layers: &[LayerId]) -> Vec<bool>;
}

/// What a coordinator leans on.
#[derive(Clone)]
pub struct Parts {
    /// The store.
    pub stores: Stores,
    /// What a worker of this process has on its disk, if there is one.
    pub holds: Option<Arc<dyn Holds>>,
    /// What makes blobs of layers that a worker of this process has, if there is one.
    pub packs: Option<Arc<dyn Packs>>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

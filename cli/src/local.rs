//! Client, coordinator and worker in one process, joined by streams in memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use dcbuild_carry::Packs;
use dcbuild_client::{Client, ClientConfig, environment};
use dcbuild_context::LocalContexts;
use dcbuild_coordinator::{
    Coordinator, CoordinatorConfig, Granting, Holds, MetCounts, Stores, in_memory,
};
use dcbuild_fetch::{Cache, FetchConfig, Reach};
use dcbuild_model::{Compression, LayerId, Scope, WorkerId};
use dcbuild_process::config::{CacheUpload, NetworkDefault};
use dcbuild_process::{SystemClock, new_bits};
use dcbuild_progress::Mode;
use dcbuild_store::{
    BlobStore, Both, CacheVersions, FolderStore, InUse, LayerIndex, Near, Policy, Seal, StepIndex,
    Told,
};
use dcbuild_worker::{DefaultNetwork, Holdings, Packing, Worker, WorkerConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::build::{App, FETCHED_BYTES_MAX, working};
use crate::drain;
use crate::registries::registries;
use crate::remote::scope_here;
use crate::roles::executable;
use crate::silence::Silence;
use crate::stores::{Aside, Bucket, BucketSettings, StoreFlags, seal_of};

/// How long a worker may take to let go of its work once nobody wants it any more.
const LET_GO: Duration = Duration::from_secs(5);

/// Coordinator, worker and client of this process.
pub(crate) struct Local {
    pub(crate) client: Client,
    coordinator: Coordinator,
    worker: TaskTracker,
    server: TaskTracker,
    stop_worker: CancellationToken,
    stop_server: CancellationToken,
    store: Arc<FolderStore>,
    bucket: Option<Bucket>,
    in_use: InUse,
    held: Holdings,
}

/// What this process keeps things in: the state folder, alone or before a bucket.
struct Keeping {
    blobs: Arc<dyn BlobStore>,
    layers: Arc<dyn LayerIndex>,
    steps: Arc<dyn StepIndex>,
    /// All builds of this machine share the folders of cache mounts; to other machines these go through a bucket.
    caches: Option<Arc<dyn CacheVersions>>,
    /// Whether a snapshot in the state folder is all that a result needs.
    in_process: bool,
}

impl Keeping {
    fn folder(store: &Arc<FolderStore>) -> Keeping {
        Keeping {
            blobs: store.clone(),
            layers: store.clone(),
            steps: store.clone(),
            caches: None,
            in_process: true,
        }
    }

    fn bucket(store: &Arc<FolderStore>, bucket: &Bucket, upload: CacheUpload) -> Keeping {
        let told = match upload {
            CacheUpload::All => Told::All,
            CacheUpload::Outputs => Told::OfItsOwn,
            CacheUpload::None => Told::Nothing,
        };
        let behind = bucket.behind.clone();
        let both = Both::new(store.clone(), bucket.catalog.clone(), behind.clone(), told);
        let both = Arc::new(both);
        Keeping {
            blobs: Arc::new(Near::new(store.clone(), behind)),
            layers: both.clone(),
            steps: both,
            caches: match upload {
                CacheUpload::All => Some(bucket.catalog.clone()),
                CacheUpload::Outputs | CacheUpload::None => None,
            },
            in_process: upload != CacheUpload::All,
        }
    }
}

/// What the coordinator of this process keeps, and where.
fn stores(
    keeping: &Keeping,
    store: &Arc<FolderStore>,
    (bucket, seal): (Option<&Bucket>, Seal),
) -> Stores {
    let stores = Stores {
        blobs: keeping.blobs.clone(),
        steps: keeping.steps.clone(),
        layers: keeping.layers.clone(),
        names: store.clone(),
        notes: store.clone(),
        // The state folder has a time of use of this process; a bucket wants a mark.
        using: bucket.map(Bucket::using),
        swept: store.clone(),
        leftovers: None,
        caches: store.clone(),
        grants: None,
        backlog: None,
        seal,
        lent: None,
        // Nobody looks at a page of this process.
        met: Arc::new(MetCounts::default),
    };
    // Worker and client read what is lent as well.
    stores.lending()
}

/// What records are sealed with that a build takes elsewhere, or finds there.
fn sealing(app: &App, bucket: Option<&Bucket>) -> anyhow::Result<Seal> {
    bucket.map_or_else(|| seal_of(&app.env, &[]), |bucket| Ok(bucket.seal.clone()))
}

/// What a user of this machine may fetch: whatever it reaches.
fn fetching(app: &App) -> FetchConfig {
    FetchConfig {
        reach: Reach::Anywhere,
        env: environment(&app.env),
        cache: Some(Cache::new(app.state.fetched(), FETCHED_BYTES_MAX)),
        ..FetchConfig::default()
    }
}

impl Local {
    pub(crate) async fn start(
        app: &App,
        flags: &StoreFlags,
        upload: Option<CacheUpload>,
        scope: Option<Scope>,
    ) -> anyhow::Result<Local> {
        let store = Arc::new(app.state.open_store()?);
        // Before anything is looked for: from now on no other process prunes what this build finds.
        let in_use = store.begin_use().context("could not take the store into use")?;
        let upload = upload.unwrap_or(app.config.build.cache_upload);
        let bucket = open_bucket(app, flags, (&store, upload)).await?;
        let keeping = match &bucket {
            None => Keeping::folder(&store),
            Some(bucket) => Keeping::bucket(&store, bucket, upload),
        };
        let seal = sealing(app, bucket.as_ref())?;
        let stores = stores(&keeping, &store, (bucket.as_ref(), seal));
        let contexts = Arc::new(LocalContexts::new());
        let registries = registries(&app.config, &app.env)?;
        let parts = dcbuild_worker::Parts {
            blobs: stores.blobs.clone(),
            layers: stores.layers.clone(),
            caches: keeping.caches.clone(),
            images: Some(store.clone()),
            folder: bucket.is_none().then(|| store.clone()),
            near: bucket.is_some().then(|| store.clone()),
            peers: None,
            contexts: contexts.clone(),
            clock: Arc::new(SystemClock),
        };
        let settings = worker_config(app, registries.clone(), keeping.in_process)?;
        let worker = Worker::new(settings, parts).context("could not start the worker")?;
        let held = worker.holdings();
        let (blobs, layers) = (stores.blobs.clone(), stores.layers.clone());
        let parts = dcbuild_coordinator::Parts {
            stores,
            holds: Some(Arc::new(Held(held.clone()))),
            packs: Some(Arc::new(Packed(worker.packing()))),
            clock: Arc::new(SystemClock),
        };
        let settings = CoordinatorConfig {
            registries,
            fetch: fetching(app),
            granting: Granting::Everything,
            scope: scope_here(app, scope),
            platforms: dcbuild_sandbox::platforms(),
            ..CoordinatorConfig::default()
        };
        let coordinator =
            Coordinator::start(settings, parts).context("could not start the coordinator")?;
        let (incoming, connector) = in_memory();
        let (stop_worker, stop_server) = (CancellationToken::new(), CancellationToken::new());
        let (worker_task, server) = (TaskTracker::new(), TaskTracker::new());
        let (serving, stopping) = (coordinator.clone(), stop_server.clone());
        server.spawn(async move {
            if let Err(error) = serving.serve(incoming, stopping).await {
                let error = dcbuild_process::story(&error);
                tracing::error!(error, "the coordinator of this process failed");
            }
        });
        worker_task.spawn(worker.run(connector.channel(), stop_worker.clone()));
        let config = ClientConfig::new(&app.env, working()?);
        let client = Client::in_process(connector.channel(), blobs, layers, contexts, config);
        Ok(Local {
            client,
            coordinator,
            worker: worker_task,
            server,
            stop_worker,
            stop_server,
            store,
            bucket,
            in_use,
            held,
        })
    }

    /// Stops in the order in which one leans on the other, and makes what was written count after the next boot. What a
    /// bucket is to get is sent to the end, unless `stop` is cancelled: then it waits for the next build.
    pub(crate) async fn stop(self, stop: &CancellationToken, mode: Mode) {
        let Local { client, coordinator, worker, server, stop_worker, stop_server, .. } = self;
        drop(client);
        stop_worker.cancel();
        worker.close();
        let let_go = async {
            stop.cancelled().await;
            tokio::time::sleep(LET_GO).await;
        };
        tokio::select! {
            () = worker.wait() => {}
            // What it was still compressing is dropped whole.
            () = let_go => {}
        }
        stop_server.cancel();
        coordinator.stop().await;
        server.close();
        server.wait().await;
        let (store, held) = (self.store, self.held);
        let synced = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
            let confirmed = store.confirm_synced()?;
            held.mark_synced(&confirmed.layers)?;
            Ok(confirmed.files)
        });
        match synced.await.map_err(|error| anyhow!(error)).flatten() {
            Ok(records) => tracing::debug!(records, "records are durable"),
            Err(error) => tracing::warn!(error = %format!("{error:#}"), "the store was not synced"),
        }
        if let Some(bucket) = self.bucket {
            drain::drain(&bucket.behind, stop, mode).await;
            bucket.close().await;
        }
        drop(self.in_use);
    }
}

const ONLY_BUCKETS: &str = "a build keeps what it makes in the state folder, and has no other store than a bucket, \
                            s3://BUCKET/PREFIX, beside it; DCBUILD_STATE_DIR says where the state folder is";

async fn open_bucket(
    app: &App,
    flags: &StoreFlags,
    (store, upload): (&Arc<FolderStore>, CacheUpload),
) -> anyhow::Result<Option<Bucket>> {
    let settings = &app.config.build;
    let configured = (settings.store.as_ref(), &settings.index);
    let Some(named) = BucketSettings::find(flags, &app.env, configured)? else {
        if let Some(store) = &flags.store {
            bail!("--store {store}: {ONLY_BUCKETS}");
        }
        // A coordinator of this machine may be meant.
        if let Some(store) = app.env.store() {
            tracing::warn!(DCBUILD_STORE = store, "not used: {ONLY_BUCKETS}");
        }
        return Ok(None);
    };
    let notes = app.state.waiting(&named.url);
    let policy = if upload == CacheUpload::None { Policy::Never } else { Policy::Always };
    let folder = FolderStore::clone(store);
    let silence = Some(Silence::beside(&notes));
    let aside = Aside { folder, notes, policy, mark: None, silence };
    Ok(Some(Bucket::open(&named, &app.env, aside).await?))
}

/// A worker that takes no jobs, for what it has on its disk.
pub(crate) fn packer(app: &App, store: &Arc<FolderStore>) -> anyhow::Result<Worker> {
    let parts = dcbuild_worker::Parts {
        blobs: store.clone(),
        layers: store.clone(),
        caches: None,
        images: None,
        folder: Some(store.clone()),
        near: None,
        peers: None,
        contexts: Arc::new(LocalContexts::new()),
        clock: Arc::new(SystemClock),
    };
    let settings = worker_config(app, registries(&app.config, &app.env)?, true)?;
    Worker::new(settings, parts).context("could not open what the worker has")
}

/// The network of a RUN that says nothing of it, as a worker knows it.
pub(crate) fn usual_network(configured: NetworkDefault) -> DefaultNetwork {
    match configured {
        NetworkDefault::Default => DefaultNetwork::Outward,
        NetworkDefault::Isolated => DefaultNetwork::Isolated,
        NetworkDefault::None => DefaultNetwork::None,
        NetworkDefault::Host => DefaultNetwork::Host,
    }
}

fn worker_config(
    app: &App,
    registries: dcbuild_registry::RegistryConfig,
    in_process: bool,
) -> anyhow::Result<WorkerConfig> {
    Ok(WorkerConfig {
        id: WorkerId::from_bits(new_bits(&SystemClock)),
        slots: app.config.build.parallelism,
        platforms: dcbuild_sandbox::platforms(),
        emulated: dcbuild_sandbox::emulated(),
        data_dir: app.state.worker(),
        exe: executable()?,
        registries,
        network: usual_network(app.config.build.network),
        in_process,
        keep_bytes: None,
        labels: std::collections::BTreeMap::new(),
        step_memory_max: app.config.build.step_memory.map(|size| size.0),
        cache_mount_bytes_max: app.config.worker.cache_mount_max.0,
        allow: BTreeSet::new(),
        grace: Duration::from_secs(1),
    })
}

/// Makes blobs of what the worker of this process has on its disk.
struct Packed(Packing);

#[tonic::async_trait]
impl Packs for Packed {
    async fn pack(&self, layer: LayerId, compression: Compression) -> bool {
        self.0.pack(layer, compression).await
    }
}

/// What the worker of this process has on its disk.
struct Held(Holdings);

#[tonic::async_trait]
impl Holds for Held {
    async fn holds(&self, layers: &[LayerId]) -> Vec<bool> {
        let (holdings, layers) = (self.0.clone(), layers.to_vec());
        let count = layers.len();
        let held = tokio::task::spawn_blocking(move || holdings.holds(&layers)).await;
        held.unwrap_or_else(|_| vec![false; count])
    }
}

//! The long-running roles: a coordinator, and a worker of a cluster.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dcbuild_client::environment;
use dcbuild_coordinator::{
    Coordinator, CoordinatorConfig, Granting, Page, Readers, ServeError, Stores,
};
use dcbuild_fetch::{Cache, FetchConfig, Reach};
use dcbuild_model::WorkerId;
use dcbuild_process::config::{HttpTls, StoreConfig};
use dcbuild_process::{SystemClock, new_bits};
use dcbuild_remote::{
    EncryptedIncoming, Peers, RemoteStore, ServerCertificates, ServerTls, Speech,
};
use dcbuild_store::{Ceilings, FolderStore, Near, Policy, Seal};
use dcbuild_worker::{DefaultNetwork, NoContexts, Worker, WorkerConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

use crate::args;
use crate::build::{App, FETCHED_BYTES_MAX};
use crate::door;
use crate::registries::registries;
use crate::secure::{channel, server_tls};
use crate::state::{absolute, make_private};
use crate::stores::{Aside, Bucket, BucketSettings, StoreFlags, Straight, seal_of, unmarked};

/// What a worker of a cluster keeps of small blobs, such as tables of contents.
const NEAR_BYTES_MAX: u64 = 1 << 30;

/// Runs a coordinator until it is told to stop.
pub(crate) async fn coordinator(flags: args::Coordinator, app: &App) -> anyhow::Result<()> {
    let (config, stop) = (&app.config, app.stop.clone());
    let settings = &config.coordinator;
    let tls = match (flags.tls_cert, flags.tls_key) {
        (Some(cert), Some(key)) => Some(ServerTls { cert, key, client_ca: flags.tls_client_ca }),
        _ => settings.tls.clone().map(server_tls),
    };
    let listen = flags.listen.unwrap_or(settings.listen);
    let data_dir = absolute(flags.data_dir.as_ref().unwrap_or(&settings.data_dir))?;
    let opened = open_store(&flags.store, &data_dir, app).await?;
    let mut stores = opened.stores();
    if let Opened::Folder(_) = &opened {
        // A store that nobody else writes to needs no seal; what goes elsewhere, or comes from there, does.
        stores.seal = seal_of(&app.env, &[])?;
    }
    let clock = Arc::new(SystemClock);
    let parts = dcbuild_coordinator::Parts { stores, holds: None, packs: None, clock };
    let fetch = FetchConfig {
        reach: Reach::Public { allow: config.fetch.allow.clone() },
        env: environment(&app.env),
        cache: Some(Cache::new(data_dir.join("fetched"), FETCHED_BYTES_MAX)),
        ..FetchConfig::default()
    };
    let settings = CoordinatorConfig {
        data_dir: Some(data_dir),
        registries: registries(config, &app.env)?,
        fetch,
        scope: flags.scope.unwrap_or_else(|| settings.scope.clone()),
        access: settings.scopes.clone(),
        no_worker_max: settings.no_worker_timeout,
        grace: settings.grace,
        granting: Granting::Only(settings.allow.clone()),
        ceilings: Ceilings {
            keep_bytes: flags.keep_storage.or(settings.keep_storage).map(|size| size.0),
            max_age: flags.keep_unused.or(settings.keep_unused),
            all: false,
            within: None,
        },
        ..CoordinatorConfig::default()
    };
    let incoming = Incoming::new(bind(listen, "--listen").await?, tls.clone())?;
    let http_listen = flags.http_listen.unwrap_or(config.coordinator.http_listen);
    let http =
        bind(http_listen, "--http-listen").await.context("health and metrics have no address")?;
    let page = page(http, tls.clone(), config.coordinator.http_tls)?;
    let coordinator =
        Coordinator::start(settings, parts).context("could not start the coordinator")?;
    let clients = match &tls {
        None => "anybody, not encrypted",
        Some(ServerTls { client_ca: None, .. }) => "anybody, encrypted",
        Some(ServerTls { client_ca: Some(_), .. }) => "whoever has a certificate, encrypted",
    };
    tracing::info!(%listen, http = %http_listen, clients, "the coordinator is ready");
    let written = CancellationToken::new();
    let (served, metrics, ()) = tokio::join!(
        async {
            let served = incoming.serve(&coordinator, stop).await;
            coordinator.stop().await;
            tracing::info!("the coordinator has stopped; builds go on when it is started again");
            written.cancel();
            served
        },
        coordinator.serve_metrics(page),
        opened.make_last(&written)
    );
    served.context("the coordinator failed")?;
    if let Some(failure) = coordinator.failure() {
        anyhow::bail!("the coordinator stopped: {failure}");
    }
    metrics.context("the page of health and metrics failed")
}

/// The page of health and metrics: as open as the coordinator itself, unless it is said otherwise.
fn page(listener: TcpListener, tls: Option<ServerTls>, http_tls: HttpTls) -> anyhow::Result<Page> {
    let Some(tls) = tls.filter(|_| http_tls != HttpTls::Off) else {
        return Ok(Page::Plain(listener));
    };
    let client_ca = tls.client_ca.clone().filter(|_| http_tls == HttpTls::Same);
    let readers = if client_ca.is_some() { Readers::Known } else { Readers::Everybody };
    let certificates = ServerCertificates::open(ServerTls { client_ca, ..tls }, Speech::Pages);
    let certificates = certificates.context("could not use the certificates of coordinator.tls")?;
    Ok(Page::Encrypted { listener, certificates: Arc::new(certificates), readers })
}

/// What comes in at a coordinator's port.
enum Incoming {
    Plain(TcpIncoming),
    Encrypted(EncryptedIncoming),
}

impl Incoming {
    fn new(listener: TcpListener, tls: Option<ServerTls>) -> anyhow::Result<Incoming> {
        match tls {
            None => Ok(Incoming::Plain(dcbuild_remote::incoming(listener))),
            Some(files) => {
                let certificates = ServerCertificates::open(files, Speech::Calls)
                    .context("could not use the certificates of coordinator.tls")?;
                let incoming = dcbuild_remote::encrypted(listener, Arc::new(certificates));
                Ok(Incoming::Encrypted(incoming))
            }
        }
    }

    async fn serve(
        self,
        coordinator: &Coordinator,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        match self {
            Incoming::Plain(incoming) => coordinator.serve(incoming, stop).await,
            Incoming::Encrypted(incoming) => coordinator.serve(incoming, stop).await,
        }
    }
}

/// How long the records of a folder store may count in this boot of the machine only.
const CONFIRM_EVERY: Duration = Duration::from_secs(2);

/// The store of a coordinator.
enum Opened {
    Folder(FolderStore),
    Bucket(Bucket),
}

impl Opened {
    fn stores(&self) -> Stores {
        match self {
            Opened::Folder(store) => Stores::folder(store.clone()),
            Opened::Bucket(bucket) => bucket.stores(),
        }
    }

    /// Makes last what is written, until nothing more is.
    async fn make_last(self, written: &CancellationToken) {
        match self {
            Opened::Folder(store) => confirm_records(store, written).await,
            Opened::Bucket(bucket) => {
                written.cancelled().await;
                bucket.close().await;
            }
        }
    }
}

/// Makes records last that were written lately, together: a sync for each would stand in the way of the log's own.
async fn confirm_records(store: FolderStore, written: &CancellationToken) {
    let mut over = false;
    while !over {
        over = written.run_until_cancelled(tokio::time::sleep(CONFIRM_EVERY)).await.is_none();
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.confirm_synced()).await {
            Ok(Ok(confirmed)) => tracing::debug!(files = confirmed.files, "records are durable"),
            Ok(Err(error)) => {
                let error = dcbuild_process::story(&error);
                tracing::warn!(error, "the last records count until this machine restarts");
            }
            Err(error) => tracing::error!(%error, "the store was not synced"),
        }
    }
}

/// The store that one command is about.
pub(crate) enum Named {
    /// A folder, and what is sealed that goes from it to other places.
    Folder(FolderStore, Seal),
    Bucket(Straight),
}

impl Named {
    /// The store that flags, environment or configuration name.
    pub(crate) async fn open(flags: &StoreFlags, app: &App) -> anyhow::Result<Named> {
        Ok(match place_of(flags, &app.config.coordinator.data_dir, app)? {
            Place::Folder(dir) => {
                let seal = seal_of(&app.env, key_files(&app.config.coordinator.store))?;
                Named::Folder(open_folder(&dir)?, seal)
            }
            Place::Bucket(settings) => Named::Bucket(Straight::open(&settings, &app.env).await?),
        })
    }

    pub(crate) fn stores(&self) -> Stores {
        match self {
            Named::Folder(store, seal) => {
                Stores { seal: seal.clone(), ..Stores::folder(store.clone()) }
            }
            Named::Bucket(bucket) => bucket.stores(),
        }
    }

    /// Does work in whose time no sweeper takes what it found or stored.
    pub(crate) async fn in_use<T>(&self, work: impl Future<Output = T>) -> T {
        match self {
            Named::Folder(store, _) => {
                let _in_use = store.begin_use().inspect_err(unmarked);
                work.await
            }
            Named::Bucket(bucket) => bucket.in_use(work).await,
        }
    }

    /// Says to coordinators that have an index of their own that records were brought.
    pub(crate) async fn tell_brought(&self) {
        let Named::Bucket(bucket) = self else { return };
        if let Err(error) = bucket.tell_brought().await {
            let error = dcbuild_process::story(&error);
            tracing::warn!(
                error,
                "a coordinator without a Redis sees what was brought after its next start"
            );
        }
    }

    /// Makes last what was written, and closes.
    pub(crate) async fn close(self) {
        match self {
            Named::Folder(store, _) => {
                let written = CancellationToken::new();
                written.cancel();
                confirm_records(store, &written).await;
            }
            Named::Bucket(bucket) => bucket.close().await,
        }
    }
}

/// The signing keys that the configuration of a store names.
fn key_files(store: &StoreConfig) -> &[PathBuf] {
    match store {
        StoreConfig::Bucket(bucket) => &bucket.signing_key_files,
        StoreConfig::Folder { .. } => &[],
    }
}

/// Where a store is.
enum Place {
    Folder(PathBuf),
    Bucket(Box<BucketSettings>),
}

/// The place that flags, environment or configuration name, else a folder in the coordinator's own.
fn place_of(flags: &StoreFlags, data_dir: &Path, app: &App) -> anyhow::Result<Place> {
    let settings = &app.config.coordinator;
    let configured = match &settings.store {
        StoreConfig::Bucket(bucket) => Some(bucket),
        StoreConfig::Folder { .. } => None,
    };
    let named = BucketSettings::find(flags, &app.env, (configured, &settings.index))?;
    if let Some(named) = named {
        return Ok(Place::Bucket(Box::new(named)));
    }
    let dir = match (flags.store.as_deref().or_else(|| app.env.store()), &settings.store) {
        (Some(store), _) => store_dir(store)?,
        (None, StoreConfig::Folder { dir: Some(dir) }) => dir.clone(),
        (None, StoreConfig::Folder { dir: None }) => own_store(data_dir, &settings.data_dir)?,
        (None, StoreConfig::Bucket(bucket)) => bail!("{} is no folder", bucket.url),
    };
    Ok(Place::Folder(absolute(&dir)?))
}

/// The store in a coordinator's own folder. Earlier versions had it in the configured one, whatever --data-dir said.
fn own_store(data_dir: &Path, configured: &Path) -> anyhow::Result<PathBuf> {
    let (own, former) = (data_dir.join("store"), configured.join("store"));
    if former != own && former.exists() && !own.exists() && data_dir.join("log-1").exists() {
        bail!(
            "the store of {} is not there, as an earlier version of dcbuild kept it in {}: go on with that one by \
             --store dir:{}, or move it",
            data_dir.display(),
            former.display(),
            former.display()
        );
    }
    Ok(own)
}

/// The store of a coordinator. What a bucket does not take now lies in its own folder, which no other process may use.
async fn open_store(flags: &StoreFlags, data_dir: &Path, app: &App) -> anyhow::Result<Opened> {
    let aside = data_dir.join("behind");
    // A folder that cannot be made is told of where something is put into it.
    let _private = make_private(data_dir);
    match place_of(flags, data_dir, app)? {
        Place::Folder(dir) => Ok(Opened::Folder(open_folder(&dir)?)),
        Place::Bucket(settings) => {
            let folder = open_folder(&aside)?;
            let (notes, mark) = (aside.join("waiting"), Some(aside.join("mark-of-use")));
            let aside = Aside { folder, notes, policy: Policy::Failing, mark, silence: None };
            Ok(Opened::Bucket(Bucket::open(&settings, &app.env, aside).await?))
        }
    }
}

fn open_folder(dir: &Path) -> anyhow::Result<FolderStore> {
    let _private = if dir.exists() { Ok(()) } else { make_private(dir) };
    FolderStore::open(dir).with_context(|| format!("could not open the store in {}", dir.display()))
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    let kind = bound.as_ref().err().map(io::Error::kind);
    bound.with_context(|| format!("could not listen on {address}: {}", place_hint(kind, flag)))
}

/// What to do about a place where nothing can listen.
pub(crate) fn place_hint(kind: Option<io::ErrorKind>, flag: &str) -> String {
    match kind {
        Some(io::ErrorKind::AddrInUse) => {
            format!("end what listens there already, or name another address with {flag}")
        }
        Some(io::ErrorKind::AddrNotAvailable) => {
            format!("name an address of this machine with {flag}, or 0.0.0.0 for all of them")
        }
        _ => format!("name another address with {flag}"),
    }
}

pub(crate) fn store_dir(store: &str) -> anyhow::Result<PathBuf> {
    match store.strip_prefix("dir:") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => bail!("--store {store}: a store is dir:PATH or s3://BUCKET/PREFIX"),
    }
}

/// Runs a worker of a cluster until it is told to stop.
pub(crate) async fn worker(flags: args::WorkerFlags, app: &App) -> anyhow::Result<()> {
    let (config, stop) = (&app.config, app.stop.clone());
    let (settings, store_ca) = (&config.worker, app.env.aws_ca_bundle());
    let coordinator = flags.coordinator.unwrap_or_else(|| settings.coordinator.clone());
    let channel = channel(&coordinator, &settings.tls)?;
    let id = WorkerId::from_bits(new_bits(&SystemClock));
    let listen = flags.listen.unwrap_or(settings.listen);
    let advertise = flags.advertise.or_else(|| settings.advertise.clone());
    let known = door::Known::read(settings, &coordinator)?;
    let opening = door::open(listen, advertise, (&coordinator, &known));
    let door = stop.run_until_cancelled(opening).await;
    let Some(door) = door.transpose()? else { return Ok(()) };
    let data_dir = absolute(flags.data_dir.as_ref().unwrap_or(&settings.data_dir))?;
    let _private = make_private(&data_dir);
    let (to, spool) = (channel.clone(), data_dir.clone());
    let remote = RemoteStore::of_worker(to, coordinator.clone(), store_ca, spool);
    let remote = Arc::new(remote);
    let near = open_folder(&data_dir.join("near")).with_context(|| {
        let folder = data_dir.display();
        format!(
            "could not use the data folder {folder}: name one that can be written with --data-dir"
        )
    })?;
    let near = Arc::new(near);
    let parts = dcbuild_worker::Parts {
        blobs: Arc::new(Near::with_ceiling(near.clone(), remote.clone(), NEAR_BYTES_MAX)),
        layers: remote.clone(),
        caches: Some(remote),
        images: None,
        folder: None,
        near: Some(near),
        peers: Some(Peers::new(channel.clone(), id).with_certificates(known.others)),
        contexts: Arc::new(NoContexts),
        clock: Arc::new(SystemClock),
    };
    // Who runs for no platform is sent no RUN.
    let (platforms, emulated) = if dcbuild_worker::is_able_to_run() {
        (dcbuild_sandbox::platforms(), dcbuild_sandbox::emulated())
    } else {
        tracing::warn!(
            "this worker takes no RUN, for which it needs root: other workers do those; FROM, COPY, ADD and WORKDIR need none"
        );
        (Vec::new(), Vec::new())
    };
    let settings = WorkerConfig {
        id,
        slots: flags.slots.unwrap_or(settings.slots),
        platforms,
        emulated,
        data_dir,
        exe: executable()?,
        registries: registries(config, &app.env)?,
        network: crate::local::usual_network(settings.network),
        in_process: false,
        keep_bytes: Some(settings.keep_storage.0),
        labels: settings.labels.clone(),
        step_memory_max: settings.step_memory.map(|size| size.0),
        cache_mount_bytes_max: settings.cache_mount_max.0,
        allow: settings.allow.clone(),
        grace: settings.grace,
    };
    let peers = door.as_ref().map(|door| door.address.clone());
    let worker = ready_worker(settings, parts, door).await.context("could not start the worker")?;
    tracing::info!(worker = %id, %coordinator, peers, "the worker is ready");
    worker.run(channel, stop).await;
    Ok(())
}

/// A worker that can take jobs; one whose RUNs must have networks of their own has to be able to make them.
async fn ready_worker(
    config: WorkerConfig,
    parts: dcbuild_worker::Parts,
    door: Option<dcbuild_worker::Door>,
) -> Result<Worker, dcbuild_worker::WorkerError> {
    let must_isolate = config.network == DefaultNetwork::Isolated && !config.platforms.is_empty();
    let worker = Worker::new(config, parts)?.with_door(door);
    if must_isolate {
        worker.ready_sandbox().await?;
    }
    Ok(worker)
}

/// This very binary, whose `cell` subcommand is the sandbox's helper.
pub(crate) fn executable() -> anyhow::Result<PathBuf> {
    // The path in /proc stays right when the binary is replaced by an upgrade.
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        Ok(own.to_owned())
    } else {
        std::env::current_exe().context("could not find this program's file")
    }
}

//! Builds on this machine: client, coordinator and worker in one process, joined by streams in memory.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use dcbuild_client::{
    BuildFlags, BuildRequest, Client, ClientConfig, Console, Ended, Handover, Place, Purpose,
    Wanted, environment, gather, prepare,
};
use dcbuild_context::LocalContexts;
use dcbuild_coordinator::{Coordinator, CoordinatorConfig, Holds, Stores, in_memory};
use dcbuild_fetch::{Cache, FetchConfig, Reach};
use dcbuild_model::{BuildId, LayerId, Platform, WorkerId};
use dcbuild_plan::{Plan, show};
use dcbuild_process::{
    Clock as _, Config, Env, Hint, SystemClock, config::NetworkDefault, new_bits, report_with_hint,
};
use dcbuild_progress::Mode;
use dcbuild_proto::document::Outcome;
use dcbuild_store::{FolderStore, InUse};
use dcbuild_worker::{DefaultNetwork, Holdings, Worker, WorkerConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::{PlanFlags, PlanFormat};
use crate::registries::registries;
use crate::roles::executable;
use crate::state::{ELSEWHERE, State};
use crate::{complain, say};

/// What every command that talks to somebody has at hand.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) state: State,
    /// Cancelled by the first Ctrl-C.
    pub(crate) stop: CancellationToken,
}

/// `dcbuild build`.
pub(crate) async fn build(app: &App, flags: BuildFlags) -> anyhow::Result<ExitCode> {
    let handover = Handover { purpose: Purpose::Build, in_place: true };
    let request = match request(app, &flags, handover).await? {
        Ok(request) => request,
        Err(code) => return Ok(code),
    };
    let local = Local::start(app)?;
    let kept = request.kept.clone();
    let ended = local.client.build(request, &mut Console::stderr(&app.env), &app.stop).await;
    local.stop().await;
    drop(kept);
    let keep = app.config.build.keep_storage;
    if has_grown(&ended)
        && let Err(error) = app.state.hold_ceiling(keep)
    {
        tracing::warn!(error = %format!("{error:#}"), "the state folder was not pruned");
    }
    finish(ended)
}

/// Whether a build may have added to the state folder; to look costs a walk through all of it.
fn has_grown(ended: &Result<Ended, dcbuild_client::ClientError>) -> bool {
    let outcome = ended.as_ref().ok().and_then(|ended| ended.outcome.as_ref());
    !matches!(outcome, Some(Outcome::Done { summary, .. }) if summary.ran == 0)
}

/// `dcbuild plan`: the same path, which ends when the plan is there.
pub(crate) async fn plan(app: &App, flags: PlanFlags) -> anyhow::Result<ExitCode> {
    let handover = Handover { purpose: Purpose::Plan, in_place: true };
    let mut build = flags.build;
    // The plan is what is printed; how it came about is only worth showing where somebody asks for it.
    build.progress.get_or_insert_with(|| "none".into());
    let request = match request(app, &build, handover).await? {
        Ok(request) => request,
        Err(code) => return Ok(code),
    };
    let local = Local::start(app)?;
    let ended = local.client.build(request, &mut Console::stderr(&app.env), &app.stop).await;
    local.stop().await;
    match ended {
        Ok(Ended { outcome: Some(Outcome::Planned { plan }), .. }) => {
            say(&print(&plan, flags.format))
        }
        other => finish(other),
    }
}

fn print(plan: &Plan, format: PlanFormat) -> String {
    match format {
        PlanFormat::Text => show::text(plan),
        PlanFormat::Json => show::json(plan),
        PlanFormat::Dot => show::dot(plan),
        PlanFormat::Svg => show::svg(plan),
    }
}

/// What is kept of files that ADD fetched.
pub(crate) const FETCHED_BYTES_MAX: u64 = 2 << 30;

/// What a shell reports of a command line that is not understood, and of a command that Ctrl-C ended.
const USAGE: u8 = 2;
const INTERRUPTED: u8 = 130;

/// Reads flags and what they name on disk; an exit code if something was wrong, which is said already.
pub(crate) async fn request(
    app: &App,
    flags: &BuildFlags,
    handover: Handover,
) -> anyhow::Result<Result<BuildRequest, ExitCode>> {
    for flag in flags.without_effect() {
        complain(&format!("warning: --{flag} has no effect, as with `docker buildx build`\n"));
    }
    for cache in flags.skipped_caches() {
        complain(&format!("warning: {cache}\n"));
    }
    let wanted = match Wanted::new(flags, &app.env) {
        Ok(wanted) => wanted,
        Err(error) => return Ok(Err(refused(&error, USAGE))),
    };
    if let (Purpose::Detached, Err(error)) = (handover.purpose, wanted.refuse_to_stay()) {
        return Ok(Err(refused(&error, USAGE)));
    }
    let stat_cache = app.state.stat_cache();
    std::fs::create_dir_all(&stat_cache).with_context(|| {
        format!("could not make the folder {} ({ELSEWHERE})", stat_cache.display())
    })?;
    let working = working()?;
    let place =
        Place { working: &working, stat_cache: &stat_cache, now: SystemClock.now(), env: &app.env };
    let shows = matches!(wanted.mode, Mode::Auto | Mode::Tty | Mode::Plain);
    let mut tell = |what: &str| {
        if shows {
            complain(&format!("fetching {what}\n"));
        }
    };
    let gathered = tokio::select! {
        () = app.stop.cancelled() => return Ok(Err(ExitCode::from(INTERRUPTED))),
        gathered = gather(&wanted, place, std::io::stdin(), &mut tell) => gathered,
    };
    let gathered = match gathered {
        Ok(gathered) => gathered,
        Err(error) => return Ok(Err(refused(&error, error.fault().exit_code()))),
    };
    match prepare(&wanted, gathered, place) {
        Ok(prepared) => {
            let id = BuildId::from_bits(new_bits(&SystemClock));
            Ok(Ok(BuildRequest::new(id, &wanted, prepared, handover)))
        }
        Err(error) => Ok(Err(refused(&error, error.fault().exit_code()))),
    }
}

fn refused(error: &(impl std::error::Error + Hint + 'static), code: u8) -> ExitCode {
    complain(&report_with_hint(error));
    ExitCode::from(code)
}

pub(crate) fn working() -> anyhow::Result<PathBuf> {
    std::env::current_dir().context("could not find the working folder")
}

/// Prints what belongs on standard output, or why the build did not come to it.
pub(crate) fn finish(
    ended: Result<Ended, dcbuild_client::ClientError>,
) -> anyhow::Result<ExitCode> {
    match ended {
        Ok(ended) => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(ended.stdout.as_bytes()).context("could not print")?;
            Ok(ExitCode::from(ended.code))
        }
        Err(error) => {
            complain(&report_with_hint(&error));
            Ok(ExitCode::from(error.fault().exit_code()))
        }
    }
}

/// Coordinator, worker and client of this process.
struct Local {
    client: Client,
    coordinator: Coordinator,
    worker: TaskTracker,
    server: TaskTracker,
    stop_worker: CancellationToken,
    stop_server: CancellationToken,
    store: Arc<FolderStore>,
    in_use: InUse,
    held: Holdings,
}

impl Local {
    fn start(app: &App) -> anyhow::Result<Local> {
        let store = Arc::new(app.state.open_store()?);
        // Before anything is looked for: from now on no other process prunes what this build finds.
        let in_use = store.begin_use().context("could not take the store into use")?;
        let contexts = Arc::new(LocalContexts::new());
        let registries = registries(&app.config)?;
        let parts = dcbuild_worker::Parts {
            blobs: store.clone(),
            layers: store.clone(),
            // All builds of this machine share the folders themselves.
            caches: None,
            images: Some(store.clone()),
            folder: Some(store.clone()),
            contexts: contexts.clone(),
            clock: Arc::new(SystemClock),
        };
        let settings = worker_config(app, registries.clone())?;
        let worker = Worker::new(settings, parts).context("could not start the worker")?;
        let held = worker.holdings();
        let parts = dcbuild_coordinator::Parts {
            stores: Stores {
                blobs: store.clone(),
                steps: store.clone(),
                layers: store.clone(),
                names: store.clone(),
                notes: store.clone(),
                // This process holds a time of use of its own.
                using: None,
                swept: store.clone(),
                leftovers: None,
                caches: store.clone(),
                grants: None,
            },
            holds: Some(Arc::new(Held(held.clone()))),
            clock: Arc::new(SystemClock),
        };
        let fetch = FetchConfig {
            reach: Reach::Anywhere,
            env: environment(&app.env),
            cache: Some(Cache::new(app.state.fetched(), FETCHED_BYTES_MAX)),
            ..FetchConfig::default()
        };
        let settings = CoordinatorConfig { registries, fetch, ..CoordinatorConfig::default() };
        let coordinator =
            Coordinator::start(settings, parts).context("could not start the coordinator")?;
        let (incoming, connector) = in_memory();
        let (stop_worker, stop_server) = (CancellationToken::new(), CancellationToken::new());
        let (worker_task, server) = (TaskTracker::new(), TaskTracker::new());
        let (serving, stopping) = (coordinator.clone(), stop_server.clone());
        server.spawn(async move {
            if let Err(error) = serving.serve(incoming, stopping).await {
                tracing::error!(error = %dcbuild_process::report(&error), "the coordinator of this process failed");
            }
        });
        worker_task.spawn(worker.run(connector.channel(), stop_worker.clone()));
        let config = ClientConfig::new(&app.env, working()?);
        let client =
            Client::in_process(connector.channel(), store.clone(), store.clone(), contexts, config);
        Ok(Local {
            client,
            coordinator,
            worker: worker_task,
            server,
            stop_worker,
            stop_server,
            store,
            in_use,
            held,
        })
    }

    /// Stops in the order in which one leans on the other, and makes what was written count after the next boot.
    async fn stop(self) {
        let Local { client, coordinator, worker, server, .. } = self;
        let Local { stop_worker, stop_server, store, in_use, held, .. } = self;
        drop(client);
        stop_worker.cancel();
        worker.close();
        worker.wait().await;
        stop_server.cancel();
        coordinator.stop().await;
        server.close();
        server.wait().await;
        let synced = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
            let confirmed = store.confirm_synced()?;
            held.mark_synced(&confirmed.layers)?;
            Ok(confirmed.files)
        });
        match synced.await.map_err(|error| anyhow!(error)).flatten() {
            Ok(records) => tracing::debug!(records, "records are durable"),
            Err(error) => tracing::warn!(error = %format!("{error:#}"), "the store was not synced"),
        }
        drop(in_use);
    }
}

/// A worker that takes no jobs, for what it has on its disk.
pub(crate) fn packer(app: &App, store: &Arc<FolderStore>) -> anyhow::Result<Worker> {
    let parts = dcbuild_worker::Parts {
        blobs: store.clone(),
        layers: store.clone(),
        caches: None,
        images: None,
        folder: Some(store.clone()),
        contexts: Arc::new(LocalContexts::new()),
        clock: Arc::new(SystemClock),
    };
    let settings = worker_config(app, registries(&app.config)?)?;
    Worker::new(settings, parts).context("could not open what the worker has")
}

fn worker_config(
    app: &App,
    registries: dcbuild_registry::RegistryConfig,
) -> anyhow::Result<WorkerConfig> {
    Ok(WorkerConfig {
        id: WorkerId::from_bits(new_bits(&SystemClock)),
        slots: app.config.build.parallelism,
        platforms: vec![Platform { os: "linux".into(), ..Platform::host() }],
        data_dir: app.state.worker(),
        exe: executable()?,
        registries,
        network: match app.config.build.network {
            NetworkDefault::Default => DefaultNetwork::Outward,
            NetworkDefault::None => DefaultNetwork::None,
            NetworkDefault::Host => DefaultNetwork::Host,
        },
        in_process: true,
        step_memory_max: app.config.build.step_memory.map(|size| size.0),
        cache_mount_bytes_max: app.config.worker.cache_mount_max.0,
        grace: std::time::Duration::from_secs(1),
    })
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

//! Puts the parts together, and serves them.

use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dcbuild_model::{BuildId, Digest, Scope, UnixTime};
use dcbuild_process::{Clock, new_bits};
use dcbuild_proto::document::Submission;
use futures::{FutureExt as _, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::{Connected, Server};

use crate::access::Access;
use crate::book::{Book, BookParts, MakeDesk, Now};
use crate::build::Build;
use crate::config::{CoordinatorConfig, Parts};
use crate::core::{Command, Core, CoreHandle, CoreParts};
use crate::driver::DriverParts;
use crate::journal::Journal;
use crate::keeping::Keeping;
use crate::log::{Entry, FileLog, Log, LogError, MemoryLog, VERSION, renewal};
use crate::metrics::{self, Encrypted, Page, Shown};
use crate::records::{Records, WrittenScopes};
use crate::rpc::{self, Services};
use crate::sweeper::Sweeper;
use crate::sweeps::Sweeps;

/// How long a stopping coordinator waits for connections to end.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// Says why a coordinator could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder could not be made.
    #[error(
        "could not make the data folder {path}: name one that can be written with --data-dir",
        path = path.display()
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The log could not be read.
    #[error("could not open the log")]
    Log(#[source] LogError),
    /// The log is of another form, or does not begin with its foundation.
    #[error("the log has the form {found}, and this version knows form {VERSION}")]
    Form {
        /// The form; 0 where the log does not say.
        found: u32,
    },
}

/// Says why a coordinator stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server failed.
    #[error("could not serve")]
    Server(#[source] tonic::transport::Error),
    /// The page of health and metrics failed.
    #[error("could not serve health and metrics")]
    Metrics(#[source] io::Error),
    /// Nothing can be written down any more.
    #[error("its log failed: {0}")]
    Log(String),
    /// The core met a fault of its own.
    #[error("its core met a fault of its own, which is in the log of this process")]
    Core,
}

/// A coordinator that runs; clones are the same one.
#[derive(Clone)]
pub struct Coordinator {
    services: Services,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// How the core failed, once it has.
    core_failure: Arc<OnceLock<ServeError>>,
}

fn sweeper(
    config: &CoordinatorConfig,
    parts: &Parts,
    (sweeps, written): (&Sweeps, &WrittenScopes),
) -> Sweeper {
    Sweeper {
        stores: parts.stores.clone(),
        written: written.clone(),
        scope: config.scope.clone(),
        ceilings: config.ceilings.clone(),
        every: config.sweep_every,
        clock: parts.clock.clone(),
        sweeps: sweeps.clone(),
        holder: format!("{:x}", rand::random::<u128>()),
    }
}

fn records(config: &CoordinatorConfig, parts: &Parts) -> Records {
    Records {
        stores: parts.stores.clone(),
        holds: parts.holds.clone(),
        scope: config.scope.clone(),
        keeping: Keeping::default(),
        noting: Keeping::default(),
        written: WrittenScopes::default(),
    }
}

fn mac_key(clock: &dyn Clock) -> Digest {
    Digest::of(&[new_bits(clock).to_le_bytes(), rand::random::<[u8; 16]>()].concat())
}

/// Runs the core until it is stopped; gives why it has, once that is nobody's wish.
fn run_core(
    core: Core,
    commands: mpsc::Receiver<Command>,
    (tracker, stop): (&TaskTracker, &CancellationToken),
) -> Arc<OnceLock<ServeError>> {
    let (stopping, core_failure) = (stop.clone(), Arc::<OnceLock<ServeError>>::default());
    let failure = core_failure.clone();
    tracker.spawn(async move {
        // A core that panics must end the process, too: whoever starts it again has all that the log has.
        let failed = match AssertUnwindSafe(core.run(commands)).catch_unwind().await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(ServeError::Log(dcbuild_process::story(&error))),
            Err(_) => Some(ServeError::Core),
        };
        if let Some(error) = failed {
            tracing::error!(%error, "the coordinator stops");
            failure.get_or_init(|| error);
        }
        stopping.cancel();
    });
    core_failure
}

impl Coordinator {
    /// Opens the log, goes on with what it says, and begins to take commands.
    pub fn start(config: CoordinatorConfig, parts: Parts) -> Result<Coordinator, StartError> {
        let parts = Parts { stores: parts.stores.lending(), ..parts };
        let (log, entries) = open_log(&config, parts.clock.now())?;
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let records = records(&config, &parts);
        let written = records.written.clone();
        let clock = parts.clock.clone();
        let driver = DriverParts {
            records: records.clone(),
            registries: config.registries.clone(),
            fetch: config.fetch.clone(),
            granting: config.granting.clone(),
            platforms: config.platforms.clone().into(),
            build_platform: None,
            packs: parts.packs.clone(),
            clock: clock.clone(),
            mac_key: mac_key(&*clock),
        };
        let now = Now { wall: clock.now(), instant: Instant::now() };
        let book_parts = BookParts {
            builds_max: config.builds_max,
            no_worker_max: config.no_worker_max,
            grace: config.grace,
            make_desk: make_desk(config.scope.clone(), config.data_dir.clone()),
        };
        let book = match seed_of(&entries)? {
            Some(seed) => Book::replay(book_parts, seed, entries, now),
            None => Book::new(book_parts, rand::random(), now),
        };
        if let Some(dir) = &config.data_dir {
            remove_strays(dir, &book);
        }
        let (handle, commands) = CoreHandle::new();
        let services_driver = driver.clone();
        let core_parts = CoreParts {
            clock,
            driver,
            tracker: tracker.clone(),
            handle: handle.clone(),
            stop: stop.clone(),
            forget: forget(config.data_dir.clone()),
        };
        let core = Core { book, log, parts: core_parts };
        let core_failure = run_core(core, commands, (&tracker, &stop));
        let sweeps = Sweeps::default();
        // In the process of a client it is the client who holds the ceiling.
        if parts.holds.is_none() {
            let sweeper = sweeper(&config, &parts, (&sweeps, &written));
            tracker.spawn(sweeper.run(stop.clone()));
        }
        let access = Arc::new(Access::new(config.scope.clone(), config.access.clone()));
        let services = Services {
            access,
            clock: parts.clock,
            core: handle,
            records,
            driver: services_driver,
            tracker: tracker.clone(),
            stop: stop.clone(),
            sweeps,
        };
        Ok(Coordinator { services, tracker, stop, core_failure })
    }

    /// Serves connections until the coordinator or `stop` is stopped, which stops the coordinator: a stream that somebody
    /// holds open ends by that alone. Who does not go in time is cut off.
    pub async fn serve<I, C>(&self, incoming: I, stop: CancellationToken) -> Result<(), ServeError>
    where
        I: Stream<Item = io::Result<C>>,
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let stopped = self.stop.clone();
        let either = async {
            tokio::select! {
                () = stop.cancelled() => stopped.cancel(),
                () = stopped.cancelled() => {}
            }
        };
        let late = async {
            stopped.cancelled().await;
            tokio::time::sleep(FAREWELL_MAX).await;
        };
        let serving = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .add_routes(rpc::routes(&self.services))
            .serve_with_incoming_shutdown(incoming, either);
        tokio::select! {
            served = serving => served.map_err(ServeError::Server),
            () = late => {
                tracing::info!("connections are still open, and are cut");
                Ok(())
            }
        }
    }

    /// Serves `/healthz` and `/metrics` until the coordinator stops.
    pub async fn serve_metrics(&self, page: Page) -> Result<(), ServeError> {
        let Services { core, records, sweeps, .. } = self.services.clone();
        let (backlog, met) = (records.stores.backlog, records.stores.met);
        let readers = page.readers();
        let (shown, stop) = (Shown { core, backlog, sweeps, met, readers }, self.stop.clone());
        let served = match page {
            Page::Plain(listener) => metrics::serve(listener, shown, stop).await,
            Page::Encrypted { listener, certificates, .. } => {
                match Encrypted::new(listener, certificates) {
                    Ok(listener) => metrics::serve(listener, shown, stop).await,
                    Err(error) => Err(error),
                }
            }
        };
        served.map_err(ServeError::Metrics)
    }

    /// A token that is cancelled when the coordinator has stopped, by itself or by [`Coordinator::stop`].
    pub fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Why it has stopped, where nobody asked it to.
    pub fn failure(&self) -> Option<&ServeError> {
        self.core_failure.get()
    }

    /// Stops: streams end, builds wait for the next start, and the log is let go.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        // The builds of a process of its own end with it; a cluster's go on when it is started again.
        if self.services.records.holds.is_some() {
            self.services.records.end_use().await;
        }
    }
}

fn open_log(
    config: &CoordinatorConfig,
    now: UnixTime,
) -> Result<(Box<dyn Log>, Vec<Entry>), StartError> {
    let Some(dir) = &config.data_dir else { return Ok((Box::new(MemoryLog), Vec::new())) };
    let builds = builds_dir(dir);
    let made = std::fs::create_dir_all(&builds);
    made.map_err(|source| StartError::Folder { path: builds, source })?;
    let (mut log, mut entries) = FileLog::open(dir).map_err(StartError::Log)?;
    // A log of another form is not to be touched.
    seed_of(&entries)?;
    if log.bytes().map_err(StartError::Log)? > config.log_bytes_max
        && let Some(left) = renewal::left_over(&entries, now)
    {
        // Another seed: ids of the old log's attempts must not come again.
        let seed = format!("{:x}", rand::random::<u128>());
        entries = [vec![Entry::Founded { version: VERSION, seed }], left].concat();
        log.replace(&entries).map_err(StartError::Log)?;
    }
    Ok((Box::new(log), entries))
}

/// The scheduler's seed, from the first entry; none for a log that is still empty.
fn seed_of(entries: &[Entry]) -> Result<Option<u128>, StartError> {
    match entries.first() {
        None => Ok(None),
        Some(Entry::Founded { version: VERSION, seed }) => {
            let seed = u128::from_str_radix(seed, 16);
            seed.map(Some).map_err(|_| StartError::Form { found: VERSION })
        }
        Some(Entry::Founded { version, .. }) => Err(StartError::Form { found: *version }),
        Some(_) => Err(StartError::Form { found: 0 }),
    }
}

fn builds_dir(dir: &Path) -> PathBuf {
    dir.join("builds")
}

fn events_path(dir: &Path, build: BuildId) -> PathBuf {
    builds_dir(dir).join(format!("{build}.events"))
}

/// Removes the events of builds that the log does not know: nobody can ask for them.
fn remove_strays(dir: &Path, book: &Book) {
    let Ok(files) = std::fs::read_dir(builds_dir(dir)) else { return };
    for file in files.flatten() {
        let name = file.file_name();
        let build = name.to_str().and_then(|name| name.strip_suffix(".events")?.parse().ok());
        if build.is_some_and(|build| book.find(build).is_none())
            && let Err(error) = std::fs::remove_file(file.path())
        {
            tracing::warn!(path = %file.path().display(), %error, "old events stay behind");
        }
    }
}

fn make_desk(own: Scope, dir: Option<PathBuf>) -> MakeDesk {
    Box::new(move |id: BuildId, submission: Submission, submitted: UnixTime| {
        let journal = match &dir {
            None => Journal::in_memory(),
            // A build whose events cannot be kept on disk is built all the same.
            Some(dir) => Journal::open(&events_path(dir, id)).unwrap_or_else(|error| {
                tracing::warn!(error = dcbuild_process::story(&error), "events stay in memory");
                Journal::in_memory()
            }),
        };
        Arc::new(Build::new(id, submission, submitted, (&own, journal)))
    })
}

fn forget(dir: Option<PathBuf>) -> Box<dyn Fn(BuildId) + Send> {
    Box::new(move |build| {
        if let Some(dir) = &dir
            && let Err(error) = std::fs::remove_file(events_path(dir, build))
        {
            tracing::debug!(%build, %error, "the events of a forgotten build stay behind");
        }
    })
}

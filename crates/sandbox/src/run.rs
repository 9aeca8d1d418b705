//! The caller's side: starts a helper, feeds it, carries its output, waits for its end.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dcbuild_model::TreePath;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cell::CELL_ARGUMENT;
use crate::cgroup::{self, Cgroup, Hierarchy, NotThere, Parent};
use crate::error::{CellError, SandboxError};
use crate::network::{IsolateError, IsolatedConfig, Loopbacks, Networks, Slot};
use crate::privilege::able;
use crate::report::{Failure, Order, Places, Report};
use crate::spec::{CellSpec, Network};

/// How long a helper may take to end what it was told to end.
const STOP_MAX: Duration = Duration::from_secs(3);
/// One piece of output.
const OUTPUT_BYTES_MAX: usize = 32 << 10;
/// All reports of one cell.
const REPORT_BYTES_MAX: u64 = 16 << 20;

/// Where cells live.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// The binary that calls [`crate::cell_main`].
    pub exe: PathBuf,
    /// A folder of this sandbox alone, made when missing.
    pub state: PathBuf,
    /// Where control groups are mounted, usually `/sys/fs/cgroup`.
    pub cgroup_root: PathBuf,
    /// The group below which each attempt has its own.
    pub cgroup_name: String,
}

/// Which of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

/// How a step ended.
#[derive(Clone, Debug)]
pub struct CellExit {
    /// How its program ended.
    pub outcome: Outcome,
    /// Whether the kernel killed something of it for want of memory.
    pub oom_killed: bool,
    /// Whether it was refused a process for having too many.
    pub pids_limit_hit: bool,
    /// What the cell made in the tree to mount on, parents first; `/dev`, `/proc` and `/sys` stay and are not named.
    pub stubs: Vec<TreePath>,
    /// How long it took.
    pub timings: CellTimings,
}

/// How long the parts of a step took.
#[derive(Clone, Copy, Debug, Default)]
pub struct CellTimings {
    /// Until the program was about to start.
    pub setup: Duration,
    /// From there until everything was gone.
    pub run: Duration,
}

/// Runs steps in cells.
#[derive(Clone, Debug)]
pub struct Sandbox {
    exe: PathBuf,
    places: Places,
    hierarchy: Arc<Hierarchy>,
    groups: Groups,
    loopbacks: Arc<Loopbacks>,
    networks: Option<Arc<Networks>>,
}

/// Where control groups are made, and where it is noted.
#[derive(Clone, Debug)]
struct Groups {
    root: PathBuf,
    name: String,
    state: PathBuf,
}

impl Groups {
    /// The hierarchy below a group that a build names.
    fn beneath(&self, text: &str) -> Result<Hierarchy, CellError> {
        let refused = |why: &str| CellError::Refused {
            reason: format!("the step can have no control group below '{text}': {why}"),
        };
        let parent = Parent::parse(text).ok_or_else(|| refused("it is no path of groups"))?;
        cgroup::note_parent(&self.state, &self.name, &parent)
            .and_then(|()| Hierarchy::beneath(&self.root, &parent, &self.name))
            .map_err(|error| refused(&error.to_string()))
    }
}

impl Sandbox {
    /// Makes ready what all cells share.
    pub fn new(config: SandboxConfig) -> Result<Sandbox, SandboxError> {
        let place = |name: &str| {
            let path = config.state.join(name);
            std::fs::create_dir_all(&path)
                .map_err(|source| SandboxError::State { path: path.clone(), source })?;
            // A symbolic link in the state's path would make the names of mount points differ from those asked for.
            path.canonicalize().map_err(|source| SandboxError::State { path, source })
        };
        let places = Places {
            root: place("root")?,
            stage: place("stage")?,
            empty: place("empty")?,
            files: place("files")?,
        };
        let hierarchy = Arc::new(Hierarchy::find(&config.cgroup_root, &config.cgroup_name));
        let groups =
            Groups { root: config.cgroup_root, name: config.cgroup_name, state: config.state };
        Ok(Sandbox {
            exe: config.exe,
            places,
            hierarchy,
            groups,
            loopbacks: Arc::default(),
            networks: None,
        })
    }

    /// Adds networks of their own for steps; it changes the host's rules for packets and lets it forward them.
    pub fn isolated(mut self, config: IsolatedConfig) -> Result<Sandbox, IsolateError> {
        self.networks = Some(Arc::new(Networks::start(config)?));
        Ok(self)
    }

    /// Whether limits on memory, processes and processors can be set here.
    pub fn has_limits(&self) -> bool {
        !matches!(*self.hierarchy, Hierarchy::Absent)
    }

    /// Whether steps can have this kind of network here.
    pub fn has_network(&self, kind: Network) -> bool {
        kind != Network::Isolated || self.networks.is_some()
    }

    /// Kills and removes what attempts left that are not `live`; call it before the first step.
    pub fn sweep(&self, live: &BTreeSet<String>) -> Result<(), SandboxError> {
        self.hierarchy.sweep(live).map_err(SandboxError::Sweep)
    }

    /// Runs a step to its end; nothing of it is left when this returns. A full `output` slows the step.
    pub async fn run(
        &self,
        spec: CellSpec,
        output: mpsc::Sender<(Stream, Bytes)>,
        stop: CancellationToken,
    ) -> Result<CellExit, CellError> {
        check(&spec)?;
        able(&spec.rootfs.upper, spec.network, spec.security)?;
        let network = self.network(spec.network).await?;
        let attempt = spec.attempt.clone();
        let cgroup = self.cgroup(&spec).await?;
        let ended = {
            let order = Order {
                spec,
                cgroup: cgroup.paths().clone(),
                devices: cgroup.has_devices(),
                places: self.places.clone(),
                network: network.as_ref().map(Slot::path),
                open_files: crate::open_files::before(),
            };
            self.supervise(order, &cgroup, output, stop).await
        };
        drop(network);
        let counts = cgroup.counts();
        if let Err(error) = blocking(move || cgroup.remove()).await {
            // The step's end is worth more than an empty group, which the next sweep finds.
            tracing::warn!(%attempt, %error, "could not remove a control group");
        }
        let (reports, timings) = ended?;
        let exit = conclude(reports, timings)?;
        Ok(CellExit {
            oom_killed: counts.oom_kills > 0,
            pids_limit_hit: counts.pids_refused > 0,
            ..exit
        })
    }

    async fn cgroup(&self, spec: &CellSpec) -> Result<Cgroup, CellError> {
        let (attempt, limits) = (spec.attempt.clone(), spec.limits.clone());
        let security = spec.security;
        let (hierarchy, groups) = (Arc::clone(&self.hierarchy), self.groups.clone());
        let made = tokio::task::spawn_blocking(move || {
            let failed = |attempt| {
                move |source: std::io::Error| match source.get_ref() {
                    Some(inner) if inner.is::<NotThere>() => {
                        CellError::Refused { reason: inner.to_string() }
                    }
                    _ => CellError::Cgroup { attempt, source },
                }
            };
            let parent = limits.cgroup_parent.as_ref();
            let beneath = parent.map(|text| groups.beneath(text)).transpose()?;
            let hierarchy = beneath.as_ref().unwrap_or(&hierarchy);
            if let Some(what) = hierarchy.lacks(&limits.resources) {
                let reason = format!("no control group of this machine limits {what}");
                return Err(CellError::Refused { reason });
            }
            hierarchy.make(&attempt, (&limits, security)).map_err(failed(attempt))
        });
        made.await.unwrap_or_else(|died| {
            let action = "make a control group".to_owned();
            Err(CellError::Machine { action, reason: died.to_string(), lasting: false })
        })
    }

    /// Takes a network for a step that is to have one of its own.
    async fn network(&self, kind: Network) -> Result<Option<Slot>, CellError> {
        if kind == Network::Host {
            return Ok(None);
        }
        let (loopbacks, networks) = (Arc::clone(&self.loopbacks), self.networks.clone());
        let taken = tokio::task::spawn_blocking(move || match kind {
            Network::Host => Ok(None),
            Network::None => loopbacks.take().map(Some).map_err(CellError::Network),
            Network::Isolated => {
                let networks = networks.ok_or(CellError::NetworkUnavailable { kind })?;
                networks.take().map(Some).map_err(CellError::Network)
            }
        });
        taken.await.unwrap_or_else(|died| {
            Err(CellError::Machine {
                action: "make a network for the step".to_owned(),
                reason: died.to_string(),
                lasting: false,
            })
        })
    }

    async fn supervise(
        &self,
        order: Order,
        cgroup: &Cgroup,
        output: mpsc::Sender<(Stream, Bytes)>,
        stop: CancellationToken,
    ) -> Result<(Vec<Report>, CellTimings), CellError> {
        let limit = order.spec.limits.timeout;
        let started = Instant::now();
        let (mut child, (reader, mut writer)) = start(&self.exe)?;
        let mut line = serde_json::to_vec(&order).map_err(|error| CellError::Refused {
            reason: format!("the step cannot be written down: {error}"),
        })?;
        line.push(b'\n');
        // A helper that dies early is found by the silence it leaves.
        let _died = writer.write_all(&line).await;

        let quiet = CancellationToken::new();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let ((reports, setup), (), ()) = tokio::join!(
                hear(reader, started),
                carry(stdout, Stream::Stdout, &output, &quiet),
                carry(stderr, Stream::Stderr, &output, &quiet),
            );
            child.wait().await.map(|_status| (reports, setup))
        };
        tokio::pin!(work);
        let overdue = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = &mut work => Ok(ended),
            () = stop.cancelled() => Err(CellError::Stopped),
            () = overdue => Err(CellError::TimedOut { limit: limit.unwrap_or_default() }),
        };
        let failed = |source| CellError::Helper { action: "wait for", source };
        match ended {
            Ok(ended) => {
                let (reports, setup) = ended.map_err(failed)?;
                let run = started.elapsed().saturating_sub(setup);
                Ok((reports, CellTimings { setup, run }))
            }
            Err(why) => {
                quiet.cancel();
                // The end of the order's stream tells the helper to end everything.
                drop(writer);
                if tokio::time::timeout(STOP_MAX, &mut work).await.is_err() {
                    cgroup.kill();
                    tokio::time::timeout(STOP_MAX, &mut work).await.ok();
                }
                Err(why)
            }
        }
    }
}

fn check(spec: &CellSpec) -> Result<(), CellError> {
    let refuse = |reason: &str| Err(CellError::Refused { reason: reason.to_owned() });
    if spec.attempt.is_empty() || spec.attempt.starts_with('.') || spec.attempt.contains('/') {
        return refuse("the attempt's name is not a plain file name");
    }
    if spec.argv.is_empty() {
        return refuse("there is no command to run");
    }
    let mut texts = spec.argv.iter().chain(spec.env.iter().flat_map(|(name, value)| [name, value]));
    if texts.any(|text| text.contains('\0')) {
        return refuse("the command or its environment holds a NUL byte");
    }
    Ok(())
}

fn start(exe: &std::path::Path) -> Result<(Child, (OwnedReadHalf, OwnedWriteHalf)), CellError> {
    let failed = |action| move |source| CellError::Helper { action, source };
    let (ours, theirs) = UnixStream::pair().map_err(failed("talk to"))?;
    let theirs = theirs.into_std().map_err(failed("talk to"))?;
    theirs.set_nonblocking(false).map_err(failed("talk to"))?;
    let child = Command::new(exe)
        .arg(CELL_ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("start"))?;
    Ok((child, ours.into_split()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Reads reports to their end, and notes when the program was about to start.
async fn hear(reader: OwnedReadHalf, started: Instant) -> (Vec<Report>, Duration) {
    let mut setup = None;
    let mut reader = reader.take(REPORT_BYTES_MAX);
    let mut bytes = Vec::new();
    while matches!(reader.read_buf(&mut bytes).await, Ok(read) if read > 0) {
        setup.get_or_insert_with(|| started.elapsed());
    }
    let reports = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    (reports, setup.unwrap_or_else(|| started.elapsed()))
}

/// Carries one stream to the caller; once `quiet`, what still comes is dropped.
async fn carry(
    stream: Option<impl AsyncRead + Unpin>,
    name: Stream,
    output: &mpsc::Sender<(Stream, Bytes)>,
    quiet: &CancellationToken,
) {
    let Some(mut stream) = stream else { return };
    loop {
        let mut piece = BytesMut::with_capacity(OUTPUT_BYTES_MAX);
        match stream.read_buf(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        tokio::select! {
            () = quiet.cancelled() => {}
            // A caller that no longer listens does not end the step.
            _unheard = output.send((name, piece.freeze())) => {}
        }
    }
}

fn conclude(reports: Vec<Report>, timings: CellTimings) -> Result<CellExit, CellError> {
    let mut made = Vec::new();
    let mut outcome = None;
    for report in reports {
        match report {
            Report::Made { stubs } => made = stubs,
            Report::Failed(Failure::Refused(reason)) => return Err(CellError::Refused { reason }),
            Report::Failed(Failure::Stranger(reason)) => {
                return Err(CellError::Stranger { reason });
            }
            Report::Failed(Failure::Limit { ulimit, reason, of_kernel }) => {
                return Err(CellError::Limit { ulimit, reason, of_kernel });
            }
            Report::Failed(Failure::Machine { action, reason, lasting }) => {
                return Err(CellError::Machine { action, reason, lasting });
            }
            Report::Exited { code } => outcome = Some(Outcome::Exited(code)),
            Report::Signaled { signal } => outcome = Some(Outcome::Signaled(signal)),
        }
    }
    let outcome = outcome.ok_or(CellError::HelperDied)?;
    let stubs = made
        .iter()
        .map(|path| TreePath::clean(path))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CellError::Refused { reason: error.to_string() })?;
    Ok(CellExit { outcome, oom_killed: false, pids_limit_hit: false, stubs, timings })
}

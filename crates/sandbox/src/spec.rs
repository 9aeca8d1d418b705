//! What a step is to run and what it is to see.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One RUN step, as its cell is told it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CellSpec {
    /// The attempt: it names the control group, so it must be one plain file name.
    pub attempt: String,
    /// The tree that the step stands in.
    pub rootfs: Rootfs,
    /// The program and its arguments; without a slash the program is looked for in the environment's `PATH`.
    pub argv: Vec<String>,
    /// The whole environment in order; `HOME` is added when it is absent.
    pub env: Vec<(String, String)>,
    /// The working folder inside the tree, made when missing.
    pub cwd: String,
    /// The user as USER writes it, resolved against the tree's own files; empty is root.
    pub user: String,
    /// What is mounted over the tree.
    pub mounts: Vec<Mount>,
    /// The host name.
    pub hostname: String,
    /// Further lines of `/etc/hosts`.
    pub hosts: Vec<(String, IpAddr)>,
    /// What the step may reach.
    pub network: Network,
    /// What the step may do.
    pub security: Security,
    /// What the step may use.
    pub limits: Limits,
}

/// The folders below a step's root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rootfs {
    /// The layers, lowest first; none for an empty tree.
    pub lowers: Vec<PathBuf>,
    /// Where changes go.
    pub upper: PathBuf,
    /// The overlay's work folder, on the file system of `upper`.
    pub work: PathBuf,
    /// Whether the overlay may leave out syncing.
    pub volatile: bool,
}

/// One mount of a step. Targets are paths inside the tree; an ssh agent's socket is a [`Mount::Bind`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Mount {
    /// A folder or file of the host.
    Bind {
        /// The trusted path on the host.
        source: PathBuf,
        /// An untrusted path below it; empty for itself.
        subpath: String,
        /// Where it is seen.
        target: String,
        /// Whether writing fails.
        readonly: bool,
    },
    /// A merged tree, as `--mount=from=STAGE` asks for.
    Overlay {
        /// The layers, lowest first.
        lowers: Vec<PathBuf>,
        /// The throw-away upper and work folders; without them writing fails.
        scratch: Option<(PathBuf, PathBuf)>,
        /// An untrusted path inside the tree; empty for its root.
        subpath: String,
        /// Where it is seen.
        target: String,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Where it is seen.
        target: String,
        /// Its size; half of the memory without one.
        bytes_max: Option<u64>,
        /// Whether writing fails.
        readonly: bool,
    },
    /// A file in memory that never touches a disk.
    Secret {
        /// Where it is seen.
        target: String,
        /// What it holds.
        bytes: SecretBytes,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

impl Mount {
    /// Where the mount is seen.
    pub fn target(&self) -> &str {
        match self {
            Mount::Bind { target, .. }
            | Mount::Overlay { target, .. }
            | Mount::Tmpfs { target, .. }
            | Mount::Secret { target, .. } => target,
        }
    }
}

/// Bytes that are never printed.
#[derive(Clone, Serialize, Deserialize)]
pub struct SecretBytes(pub Vec<u8>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// What a step may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The host's own network.
    Host,
    /// A network namespace with nothing but a loopback.
    None,
    /// A network namespace with a way out, but none to the host.
    Isolated,
}

/// What a step may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Docker's fourteen capabilities and a system call filter.
    Default,
    /// Every capability of the worker and no filter.
    Insecure,
}

/// What a step may use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Memory and swap together.
    pub memory_bytes_max: Option<u64>,
    /// Processes and threads.
    pub pids_max: u64,
    /// What the build itself asked for: a step that cannot have it does not run.
    pub resources: Resources,
    /// The size of `/dev/shm`.
    pub shm_bytes_max: u64,
    /// Limits of each process.
    pub ulimits: Vec<Ulimit>,
    /// How long the step may take.
    pub timeout: Option<Duration>,
    /// The control group below which the step has its own, instead of the sandbox's: a path, or a slice of systemd's.
    pub cgroup_parent: Option<String>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes_max: None,
            pids_max: 4096,
            resources: Resources::default(),
            shm_bytes_max: 64 << 20,
            ulimits: Vec::new(),
            timeout: None,
            cgroup_parent: None,
        }
    }
}

/// What a step may use of memory and processors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes of memory.
    pub memory_bytes_max: Option<u64>,
    /// Swap beside it.
    pub swap: Swap,
    /// Its weight against others, where 1024 is the usual.
    pub cpu_shares: Option<u64>,
    /// The period that the quota refers to.
    pub cpu_period_micros: Option<u64>,
    /// Processor time in each period.
    pub cpu_quota_micros: Option<u64>,
    /// The processors, such as `0-3`.
    pub cpus: Option<String>,
    /// The nodes of memory.
    pub memory_nodes: Option<String>,
}

impl Resources {
    /// Whether anything of processor time is limited.
    pub(crate) fn limits_cpu(&self) -> bool {
        let Resources { cpu_shares, cpu_period_micros, cpu_quota_micros, .. } = self;
        cpu_shares.is_some() || cpu_period_micros.is_some() || cpu_quota_micros.is_some()
    }

    /// Whether processors or memory are chosen.
    pub(crate) fn chooses(&self) -> bool {
        self.cpus.is_some() || self.memory_nodes.is_some()
    }
}

/// How much swap a step may use beside its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Swap {
    /// None.
    #[default]
    None,
    /// So much that both together have these bytes.
    Together(u64),
    /// All there is.
    Any,
}

impl Limits {
    /// The memory that a step may use, and the swap: the lesser of what the machine's owner gives and the build asks for.
    pub(crate) fn memory(&self) -> Option<(u64, Swap)> {
        let asked = self.resources.memory_bytes_max;
        match (self.memory_bytes_max, asked) {
            (None, None) => None,
            (None, Some(asked)) => Some((asked, self.resources.swap)),
            (Some(given), asked) => Some((given.min(asked.unwrap_or(given)), Swap::None)),
        }
    }
}

/// One limit of each process, as `--ulimit` writes it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ulimit {
    /// What is limited.
    pub resource: UlimitResource,
    /// The limit that counts; none for no limit.
    pub soft: Option<u64>,
    /// The limit up to which a process may raise it; none for no limit.
    pub hard: Option<u64>,
}

/// What a [`Ulimit`] limits, by its name on a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UlimitResource {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl std::str::FromStr for UlimitResource {
    type Err = serde_json::Error;

    fn from_str(name: &str) -> Result<UlimitResource, serde_json::Error> {
        serde_json::from_value(serde_json::Value::String(name.to_owned()))
    }
}

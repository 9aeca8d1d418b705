//! The operations that steps carry out, with every word expanded: what a worker needs, and what a key covers.

use dcbuild_model::{
    ConfigDigest, DiffId, LayerDigest, ManifestDigest, Selection, SelectionDigest, StepIndex,
};
use serde::{Deserialize, Serialize};

/// What a step does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "op")]
pub enum Op {
    /// Takes the layers of an image.
    Image(ImageOp),
    /// Runs a process on the parent's state.
    Run(Box<RunOp>),
    /// Copies files of inputs, or files written in the Dockerfile, onto the parent's state.
    Copy(CopyOp),
    /// Makes the working folder.
    Workdir(WorkdirOp),
}

/// Whence an image's blobs are read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "from")]
pub enum ImageSource {
    /// A registry: `HOST/NAME`.
    Registry {
        /// The repository, with its host.
        repository: String,
    },
    /// An OCI layout that the client named with `--build-context`.
    Layout {
        /// The context's name.
        context: String,
    },
    /// The store, where an earlier build kept the image by name.
    Store {},
}

/// A layer of an image, as its manifest and config claim it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageLayer {
    /// The compressed blob.
    pub digest: LayerDigest,
    /// The tar inside, as the config claims; whoever reads the blob checks it.
    pub diff_id: DiffId,
    /// The blob's size in bytes.
    pub size: u64,
    /// The media type in the manifest.
    pub media_type: String,
}

/// Takes the layers of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageOp {
    /// The reference, for people.
    pub name: String,
    /// The manifest that was resolved.
    pub manifest: ManifestDigest,
    /// The config that the manifest names.
    pub config: ConfigDigest,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// Whence the blobs are read.
    pub source: ImageSource,
}

/// The network of a RUN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunNetwork {
    /// Its own namespace, with a way out.
    #[default]
    Default,
    /// Its own namespace, with nothing but loopback.
    None,
    /// The host's.
    Host,
}

/// How far a RUN is confined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunSecurity {
    /// As Docker confines a container.
    #[default]
    Sandbox,
    /// With all capabilities; granted by worker and coordinator, never by the request alone.
    Insecure,
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheSharing {
    /// Everybody.
    #[default]
    Shared,
    /// Each its own copy while another uses it.
    Private,
    /// One after the other.
    Locked,
}

/// A secret inside a RUN.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretMount {
    /// The secret's id, as `--secret id=` names it.
    pub id: String,
    /// The file that holds it; none if only a variable does.
    pub target: Option<String>,
    /// The variable that holds it.
    pub env: Option<String>,
    /// Whether the step fails without it.
    pub required: bool,
    /// The file's mode.
    pub mode: u32,
    /// The file's owner.
    pub uid: u32,
    /// The file's group.
    pub gid: u32,
}

/// What is mounted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "type")]
pub enum MountKind {
    /// A path of an input; writes go to a throw-away layer, or are refused.
    Bind {
        /// The place in the step's inputs.
        input: usize,
        /// The path inside the input.
        source: String,
        /// Whether writes are taken, and thrown away.
        writable: bool,
        /// Where it stands in the container.
        target: String,
    },
    /// A folder that later builds see again.
    Cache {
        /// The cache's id; part of the key, its content is not.
        id: String,
        /// Who may use it at the same time.
        sharing: CacheSharing,
        /// The input that it starts from, by its place.
        input: Option<usize>,
        /// The path inside that input or inside the cache.
        source: String,
        /// Whether writes are refused.
        readonly: bool,
        /// The mode of the folder when it is made.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Where it stands in the container.
        target: String,
    },
    /// A file system in memory.
    Tmpfs {
        /// Its size in bytes; 0 leaves it to the kernel.
        size: u64,
        /// Whether nothing can be written into it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        readonly: bool,
        /// Where it stands in the container.
        target: String,
    },
    /// A secret, as a file or a variable.
    Secret(SecretMount),
    /// An agent's socket.
    Ssh {
        /// The agent's id, as `--ssh` names it.
        id: String,
        /// Where the socket stands.
        target: String,
        /// Whether the step fails without it.
        required: bool,
        /// The socket's mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// A mount of a RUN.
pub type RunMount = MountKind;

/// A resource limit, as `--ulimit` gives it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// The name, such as `nofile`.
    pub name: String,
    /// The soft limit; -1 is unlimited.
    pub soft: i64,
    /// The hard limit.
    pub hard: i64,
}

/// Bytes that a document carries, as text where they are text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum BytesText {
    Text(String),
    Hex { hex: String },
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => BytesText::Text(text.into()),
            Err(_) => BytesText::Hex { hex: hex(&self.0) },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match BytesText::deserialize(deserializer)? {
            BytesText::Text(text) => Ok(Bytes(text.into_bytes())),
            BytesText::Hex { hex } => {
                let digit = |at: usize| {
                    hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok())
                };
                let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(digit).collect();
                bytes.map(Bytes).ok_or_else(|| serde::de::Error::custom("hex digits, in pairs"))
            }
        }
    }
}

/// A file that the Dockerfile itself holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InlineFile {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub content: Bytes,
}

/// What stands for the address of the machine that runs a step, among the lines of its `/etc/hosts`.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Runs a process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunOp {
    /// The process's arguments.
    pub argv: Vec<String>,
    /// The environment, in order: the image's ENV and the ARGs in scope.
    pub env: Vec<(String, String)>,
    /// The working folder.
    pub cwd: String,
    /// USER, as written; empty means root.
    pub user: String,
    /// The network.
    pub network: RunNetwork,
    /// The confinement.
    pub security: RunSecurity,
    /// Mounts, in order.
    pub mounts: Vec<MountKind>,
    /// Scripts that stand under `/dev/pipes` while the process runs.
    pub scripts: Vec<InlineFile>,
    /// Lines of `/etc/hosts` beyond the usual: name and address, or [`HOST_GATEWAY`].
    pub hosts: Vec<(String, String)>,
    /// The host's name inside.
    pub hostname: String,
    /// The size of `/dev/shm` in bytes; 0 is the usual 64 MiB.
    pub shm_bytes: u64,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Proxy variables that no ARG declares: they are seen, but are in no key.
    pub proxies: Vec<(String, String)>,
    /// The control group below which the process has its own, as `--cgroup-parent` gives it; it is in no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_parent: Option<String>,
    /// Whether its cache mounts begin with nothing but what this build has left in them; it is in no key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_caches: bool,
    /// What it may use of memory and processors; it is in no key.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
}

/// What a process may use of memory and processors, as `--resource` has it; zero and an empty text are the usual.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of memory and swap together, negative for any number of them; no swap where it is not there.
    pub swap: Option<i64>,
    /// The weight against others, where 1024 is the usual.
    pub cpu_shares: u64,
    /// The period that the quota refers to, in microseconds.
    pub cpu_period: u64,
    /// Processor time in each period, in microseconds.
    pub cpu_quota: u64,
    /// The processors, such as `0-3`.
    pub cpuset_cpus: String,
    /// The nodes of memory.
    pub cpuset_mems: String,
}

impl Resources {
    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        *self == Resources::default()
    }
}

/// What is copied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "of")]
pub enum CopySource {
    /// Paths of an input.
    Paths {
        /// The place in the step's inputs.
        input: usize,
        /// The sources, expanded, as written.
        patterns: Vec<String>,
        /// ADD: archives are unpacked, known by their content.
        unpack: bool,
    },
    /// A file of the Dockerfile.
    Inline(InlineFile),
}

impl CopySource {
    /// How many bytes of it the step itself carries.
    pub fn inline_bytes(&self) -> usize {
        match self {
            CopySource::Paths { .. } => 0,
            CopySource::Inline(file) => file.content.0.len(),
        }
    }
}

/// Copies files.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the Dockerfile, free of the others"
)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyOp {
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// The destination: absolute, with its last slash if it had one.
    pub dest: String,
    /// `--chown`, expanded.
    pub chown: Option<String>,
    /// `--chmod`, expanded.
    pub chmod: Option<String>,
    /// `--exclude`, as written.
    pub exclude: Vec<String>,
    /// `--parents`.
    pub parents: bool,
    /// `--link`: the layer knows nothing of its parent.
    pub link: bool,
    /// Whether files of stages or images are among the sources. Owners are kept in any case: the files of a client's folder
    /// belong to nobody.
    pub keep_owners: bool,
}

/// Makes the working folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkdirOp {
    /// The folder, absolute.
    pub path: String,
    /// USER, as written: new folders belong to it.
    pub user: String,
}

/// Whence an input comes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "of")]
pub enum InputSource {
    /// The state after a step.
    Step {
        /// The step.
        step: StepIndex,
    },
    /// Nothing: the state of `FROM scratch`.
    Scratch {},
    /// A folder of the client, or something that the coordinator fetched.
    Context {
        /// The context's name; `context` is the build's own.
        name: String,
        /// What the selection sees of it, as it was hashed.
        digest: SelectionDigest,
    },
}

/// A tree that a step reads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Whence it comes.
    pub source: InputSource,
    /// What is read of it.
    pub selection: Selection,
}

impl Input {
    /// The step whose state it is, if it is one's.
    pub fn step(&self) -> Option<StepIndex> {
        match self.source {
            InputSource::Step { step } => Some(step),
            InputSource::Scratch {} | InputSource::Context { .. } => None,
        }
    }
}

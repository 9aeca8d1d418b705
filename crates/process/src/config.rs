//! The configuration: what was written ([`raw`]) becomes what is meant ([`Config`]), or every mistake in it is said.

mod keys;
mod peers;
mod raw;
mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dcbuild_model::Scope;

pub use keys::reference;
pub use peers::{InvalidPeerAddress, InvalidPeerListen, PeerAddress, PeerListen};

use crate::trace::LogFormat;
use crate::{ByteSize, Env};

/// The configuration of every role; each reads its own section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// `[registry."HOST"]`, by host.
    pub registries: BTreeMap<String, RegistryTable>,
    /// `[build]`
    pub build: BuildConfig,
    /// `[coordinator]`
    pub coordinator: CoordinatorConfig,
    /// `[worker]`
    pub worker: WorkerConfig,
    /// `[submit]`
    pub submit: SubmitConfig,
    /// `[fetch]`
    pub fetch: FetchConfig,
    /// `[log]`
    pub log: LogConfig,
}

/// How one registry is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegistryTable {
    /// Hosts that are asked first, in this order.
    pub mirrors: Vec<String>,
    /// Plain http.
    pub http: bool,
    /// https whose certificate is not checked.
    pub insecure: bool,
    /// Files of certificates that are trusted besides the system's.
    pub ca: Vec<PathBuf>,
    /// The files of the key and of the certificate that it is shown.
    pub keypair: Option<(PathBuf, PathBuf)>,
    /// Other origins whose token service may see its credentials.
    pub token_origins: Vec<String>,
    /// How large the chunks of a pushed blob are; it goes in one request, if none.
    pub upload_chunk: Option<ByteSize>,
}

/// What network a RUN has that says nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDefault {
    /// Its own, with a way out, where one can be made; else the host's.
    #[default]
    Default,
    /// Its own, with a way out; none is run where that cannot be made.
    Isolated,
    /// None.
    None,
    /// The host's.
    Host,
}

/// Builds on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuildConfig {
    /// Where blobs, records, snapshots and cache mounts are kept.
    pub state_dir: PathBuf,
    /// How many steps run at once.
    pub parallelism: u32,
    /// What may stay in the state folder after a build.
    pub keep_storage: ByteSize,
    /// The network of a RUN that says nothing of it.
    pub network: NetworkDefault,
    /// The memory that one RUN may take; none for all that there is.
    pub step_memory: Option<ByteSize>,
    /// A bucket that shares what is built, where one is set.
    pub store: Option<BucketConfig>,
    /// What knows fast what the bucket has.
    pub index: IndexConfig,
    /// What of a build goes to the bucket.
    pub cache_upload: CacheUpload,
    /// Whose records builds of this machine read and write; its own, if none.
    pub scope: Option<Scope>,
}

/// What of a build goes to a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheUpload {
    /// The result of each step.
    #[default]
    All,
    /// What the outputs are made of.
    Outputs,
    /// Nothing: the bucket is only read.
    None,
}

/// Where a coordinator keeps blobs and records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreConfig {
    /// In a folder that it serves itself.
    Folder {
        /// The folder; one in the data folder, if none.
        dir: Option<PathBuf>,
    },
    /// In a bucket.
    Bucket(BucketConfig),
}

/// A bucket of S3 as a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketConfig {
    /// `s3://BUCKET/PREFIX?endpoint=..&region=..`; read by whoever opens it.
    pub url: String,
    /// Files of the keys that records are signed with: the first signs, all are trusted.
    pub signing_key_files: Vec<PathBuf>,
    /// A file of certificates that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
}

/// What knows fast what a bucket has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum IndexConfig {
    /// This process, for itself.
    #[default]
    Embedded,
    /// A Redis, for all.
    Redis(RedisTable),
}

/// A Redis, and who we are to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RedisTable {
    /// `redis://HOST:PORT`, `rediss://..` or `redis+sentinel://..`; read by whoever opens it.
    pub url: String,
    /// A file of certificates that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// The files of the certificate that is shown to the server, and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// A file with `[USER:]PASSWORD` for the sentinels.
    pub sentinel_auth_file: Option<PathBuf>,
}

/// The certificates of a coordinator, as files in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerTlsConfig {
    /// Its certificate, with what leads to its CA.
    pub cert: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// Whose certificates clients and workers must have; anybody may come where there is none.
    pub client_ca: Option<PathBuf>,
}

/// Who sees health and metrics, and how, where the coordinator has a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpTls {
    /// Over TLS, the metrics as the coordinator itself: who may come there may read them.
    #[default]
    Same,
    /// Over TLS, and everybody.
    Open,
    /// In the clear, and everybody.
    Off,
}

/// What a client or worker knows a coordinator by, and is known by; as files in PEM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientTls {
    /// Certificates that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown to the coordinator, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A coordinator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoordinatorConfig {
    /// Where clients and workers reach it.
    pub listen: SocketAddr,
    /// What it is known by; nothing is encrypted where there is none.
    pub tls: Option<ServerTlsConfig>,
    /// Where health, metrics and the page are.
    pub http_listen: SocketAddr,
    /// Who sees them.
    pub http_tls: HttpTls,
    /// Where its log is kept.
    pub data_dir: PathBuf,
    /// Where blobs and records are.
    pub store: StoreConfig,
    /// How long a build waits for a worker of a platform that is not there.
    pub no_worker_timeout: Duration,
    /// What may stay in the store; all of it, if none.
    pub keep_storage: Option<ByteSize>,
    /// How long something in the store may stay unused; for ever, if none.
    pub keep_unused: Option<Duration>,
    /// What knows fast what a bucket has.
    pub index: IndexConfig,
    /// How long a build goes on whose client is lost.
    pub grace: Duration,
    /// What a build may be granted that asks for it with `--allow`.
    pub allow: BTreeSet<String>,
    /// Whose records builds read and write whose clients have no other scope.
    pub scope: Scope,
    /// The scopes of those who show a certificate of this name.
    pub scopes: BTreeMap<String, Scope>,
}

/// A worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerConfig {
    /// The coordinator that it works for, as a URL.
    pub coordinator: String,
    /// What it knows the coordinator by.
    pub tls: ClientTls,
    /// Whose certificates other workers must have, where that is not `tls.ca`.
    pub peer_ca: Option<PathBuf>,
    /// Where other workers reach it.
    pub listen: PeerListen,
    /// What they are told, where that is something else.
    pub advertise: Option<PeerAddress>,
    /// Where its snapshots and blobs are kept.
    pub data_dir: PathBuf,
    /// How many jobs it runs at once.
    pub slots: u32,
    /// The network of a RUN that says nothing of it.
    pub network: NetworkDefault,
    /// What people know it by.
    pub labels: BTreeMap<String, String>,
    /// What may stay in the data folder.
    pub keep_storage: ByteSize,
    /// The memory that one RUN may take; none for all that there is.
    pub step_memory: Option<ByteSize>,
    /// How large a cache mount may be that is written back to the store.
    pub cache_mount_max: ByteSize,
    /// How long jobs may go on after it was asked to stop.
    pub grace: Duration,
    /// What a RUN may be granted that its build was granted.
    pub allow: BTreeSet<String>,
}

/// What a coordinator fetches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FetchConfig {
    /// Hosts that may be reached though their address is not public.
    pub allow: Vec<String>,
}

/// A client that submits builds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SubmitConfig {
    /// The coordinator, as a URL, where one is set.
    pub coordinator: Option<String>,
    /// The scope that it is asked for.
    pub scope: Option<Scope>,
    /// How long it may take to answer for the first time.
    pub wait: Duration,
    /// What it is known by.
    pub tls: ClientTls,
}

/// The log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// The level, or a filter by target.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// One mistake in a configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mistake {
    /// The key, as in `worker.slots`.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Says why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadConfigError {
    /// The file failed.
    #[error("could not read the configuration {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is no TOML or JSON.
    #[error("could not understand the configuration {path}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file says what cannot be meant.
    #[error("the configuration {path} has mistakes:{}", list(mistakes), path = path.display())]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// All of them, by key.
        mistakes: Vec<Mistake>,
    },
}

fn list(mistakes: &[Mistake]) -> String {
    mistakes.iter().fold(String::new(), |text, Mistake { key, problem }| {
        text + &format!("\n  {key}: {problem}")
    })
}

impl Config {
    /// Reads the file that is named, or `DCBUILD_CONFIG`, or the user's, or the machine's; without any, all is default.
    pub fn load(named: Option<&Path>, env: &Env) -> Result<Config, LoadConfigError> {
        if let Some(path) = named.map(PathBuf::from).or_else(|| env.config_file()) {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| LoadConfigError::Read { path: path.clone(), source })?;
            return Config::parse(&path, &text, env);
        }
        let user = env.config_home().map(|home| home.join("dcbuild/config.toml"));
        for path in user.into_iter().chain([PathBuf::from("/etc/dcbuild/config.toml")]) {
            match std::fs::read_to_string(&path) {
                Ok(text) => return Config::parse(&path, &text, env),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(LoadConfigError::Read { path, source }),
            }
        }
        Config::parse(Path::new("(defaults)"), "", env)
    }

    /// Reads a configuration's text, TOML or JSON; the path is for messages.
    pub fn parse(path: &Path, text: &str, env: &Env) -> Result<Config, LoadConfigError> {
        let mut document: serde_json::Value = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(Into::into)
        } else {
            toml::from_str(text).map_err(Into::into)
        }
        .map_err(|source| LoadConfigError::Syntax { path: path.into(), source })?;
        let wrong = |mistakes| LoadConfigError::Mistakes { path: path.into(), mistakes };
        let mut mistakes = keys::weed(&mut document);
        let (build, coordinator) = (("build", "store"), ("coordinator", "store"));
        keys::weed_alternative::<raw::RawBuildStore>(&mut document, build, &mut mistakes);
        keys::weed_alternative::<raw::RawStore>(&mut document, coordinator, &mut mistakes);
        for index in [("build", "index"), ("coordinator", "index")] {
            keys::weed_alternative::<raw::RawIndex>(&mut document, index, &mut mistakes);
        }
        let raw: raw::RawConfig = match serde_json::from_value(document) {
            Ok(raw) => raw,
            Err(source) if mistakes.is_empty() => {
                return Err(LoadConfigError::Syntax { path: path.into(), source: source.into() });
            }
            // Whatever it is, it may come of what was taken out.
            Err(_) => raw::RawConfig::default(),
        };
        match resolve::resolve(raw, env) {
            Ok(config) if mistakes.is_empty() => Ok(config),
            resolved => {
                mistakes.extend(resolved.err().unwrap_or_default());
                mistakes.sort();
                Err(wrong(mistakes))
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! A configuration as it is written: everything may be left out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{CacheUpload, HttpTls, NetworkDefault};
use crate::trace::LogFormat;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) registry: BTreeMap<String, RawRegistry>,
    pub(super) build: RawBuild,
    pub(super) coordinator: RawCoordinator,
    pub(super) worker: RawWorker,
    pub(super) submit: RawSubmit,
    pub(super) fetch: RawFetch,
    pub(super) log: RawLog,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRegistry {
    pub(super) mirrors: Vec<String>,
    pub(super) http: bool,
    pub(super) insecure: bool,
    pub(super) ca: Vec<PathBuf>,
    pub(super) keypair: Vec<RawKeypair>,
    pub(super) token_origins: Vec<String>,
    pub(super) upload_chunk: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKeypair {
    pub(super) key: PathBuf,
    pub(super) cert: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBuild {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) parallelism: Option<u32>,
    pub(super) keep_storage: Option<String>,
    pub(super) network: Option<NetworkDefault>,
    pub(super) step_memory: Option<String>,
    pub(super) store: Option<RawBuildStore>,
    pub(super) index: Option<RawIndex>,
    pub(super) cache_upload: Option<CacheUpload>,
    pub(super) scope: Option<String>,
}

/// Beside the state folder, which there always is.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum RawBuildStore {
    S3(RawBucket),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum RawStore {
    Folder { dir: Option<PathBuf> },
    S3(RawBucket),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBucket {
    pub(super) url: String,
    #[serde(default)]
    pub(super) signing_key_files: Vec<PathBuf>,
    pub(super) ca: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum RawIndex {
    Embedded {},
    Redis(RawRedis),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRedis {
    pub(super) url: String,
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) sentinel_auth_file: Option<PathBuf>,
}

/// Of a coordinator and of those who reach it; each has a part of it.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) client_ca: Option<PathBuf>,
    pub(super) peer_ca: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCoordinator {
    pub(super) listen: Option<String>,
    pub(super) tls: RawTls,
    pub(super) http_listen: Option<String>,
    pub(super) http_tls: Option<HttpTls>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) store: Option<RawStore>,
    pub(super) no_worker_timeout: Option<String>,
    pub(super) keep_storage: Option<String>,
    pub(super) keep_unused: Option<String>,
    pub(super) index: Option<RawIndex>,
    pub(super) grace: Option<String>,
    pub(super) allow: Vec<String>,
    pub(super) scope: Option<String>,
    pub(super) scopes: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWorker {
    pub(super) coordinator: Option<String>,
    pub(super) tls: RawTls,
    pub(super) listen: Option<String>,
    pub(super) advertise: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) slots: Option<u32>,
    pub(super) network: Option<NetworkDefault>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) keep_storage: Option<String>,
    pub(super) step_memory: Option<String>,
    pub(super) cache_mount_max: Option<String>,
    pub(super) grace: Option<String>,
    pub(super) allow: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSubmit {
    pub(super) scope: Option<String>,
    pub(super) coordinator: Option<String>,
    pub(super) wait: Option<String>,
    pub(super) tls: RawTls,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFetch {
    pub(super) allow: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) level: Option<String>,
    pub(super) format: Option<LogFormat>,
}

//! From what was written to what is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::num::NonZero;
use std::path::PathBuf;

use dcbuild_model::{Digest, InvalidScope, Scope};

use super::keys::default_of;
use super::raw::{
    RawBucket, RawBuild, RawBuildStore, RawConfig, RawCoordinator, RawIndex, RawLog, RawRegistry,
    RawStore, RawSubmit, RawTls, RawWorker,
};
use super::{
    BucketConfig, BuildConfig, ClientTls, Config, CoordinatorConfig, FetchConfig, IndexConfig,
    LogConfig, Mistake, PeerAddress, PeerListen, RedisTable, RegistryTable, ServerTlsConfig,
    StoreConfig, SubmitConfig, WorkerConfig,
};
use crate::{ByteSize, Env, parse_duration, trace};

/// Collects mistakes, so that all are said at once.
#[derive(Default)]
struct Mistakes(Vec<Mistake>);

impl Mistakes {
    fn add(&mut self, key: &str, problem: impl Display) {
        let mistake = Mistake { key: key.into(), problem: problem.to_string() };
        // Of one variable several tables are made.
        if !self.0.contains(&mistake) {
            self.0.push(mistake);
        }
    }

    /// Reads a text or the key's default; a mistake yields the default, since nothing of the result is used then.
    fn read<T, E: Display>(
        &mut self,
        key: &str,
        text: Option<String>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = text.unwrap_or_else(|| default_of(key).into());
        parse(&text).map_err(|problem| self.add(key, problem)).ok()
    }

    /// A size that need not be there.
    fn size(&mut self, key: &str, written: Option<String>) -> Option<ByteSize> {
        written.and_then(|text| self.read(key, Some(text), str::parse::<ByteSize>))
    }

    /// A scope that need not be there; the environment's goes first.
    fn scope(&mut self, key: &str, written: Option<String>, env: &Env) -> Option<Scope> {
        let (key, text) = match env.scope() {
            Some(text) => ("DCBUILD_SCOPE", text.to_owned()),
            None => (key, written.filter(|text| text != "none")?),
        };
        text.parse().map_err(|problem: InvalidScope| self.add(key, problem)).ok()
    }

    fn positive(&mut self, key: &str, written: Option<u32>) -> u32 {
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        let value = written.unwrap_or(u32::try_from(cpus).unwrap_or(1));
        if value == 0 {
            self.add(key, "must be at least 1");
        }
        value
    }

    fn url(&mut self, key: &str, url: &str) {
        let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        if host.is_none_or(str::is_empty) {
            self.add(key, format!("'{url}' is not a URL such as \"http://host:7070\""));
        }
    }
}

pub(super) fn resolve(raw: RawConfig, env: &Env) -> Result<Config, Vec<Mistake>> {
    let mut mistakes = Mistakes::default();
    let registries = raw
        .registry
        .into_iter()
        .map(|(host, table)| {
            let table = registry(&host, table, &mut mistakes);
            (host, table)
        })
        .collect();
    let build = build(raw.build, env, &mut mistakes);
    let coordinator = coordinator(raw.coordinator, &mut mistakes);
    let worker = worker(raw.worker, env, &mut mistakes);
    let submit = submit(raw.submit, env, &mut mistakes);
    let log = log(raw.log, &mut mistakes);
    match (build, coordinator, worker, submit) {
        (Some(build), Some(coordinator), Some(worker), Some(submit)) if mistakes.0.is_empty() => {
            let fetch = FetchConfig { allow: raw.fetch.allow };
            Ok(Config { registries, build, coordinator, worker, submit, fetch, log })
        }
        _ => {
            mistakes.0.sort();
            Err(mistakes.0)
        }
    }
}

fn registry(host: &str, raw: RawRegistry, mistakes: &mut Mistakes) -> RegistryTable {
    if raw.keypair.len() > 1 {
        let key = format!("registry.{host}.keypair");
        mistakes.add(&key, "has more than one: a registry is shown one certificate");
    }
    RegistryTable {
        mirrors: raw.mirrors,
        http: raw.http,
        insecure: raw.insecure,
        ca: raw.ca,
        keypair: raw.keypair.into_iter().next().map(|pair| (pair.key, pair.cert)),
        token_origins: raw.token_origins,
        upload_chunk: mistakes.size(&format!("registry.{host}.upload_chunk"), raw.upload_chunk),
    }
}

fn build(raw: RawBuild, env: &Env, mistakes: &mut Mistakes) -> Option<BuildConfig> {
    let state_dir = env
        .state_dir()
        .or(raw.state_dir)
        .or_else(|| Some(env.data_home()?.join("dcbuild")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/dcbuild"));
    let parallelism = mistakes.positive("build.parallelism", raw.parallelism);
    let keep_storage =
        mistakes.read("build.keep_storage", raw.keep_storage, str::parse::<ByteSize>)?;
    Some(BuildConfig {
        state_dir,
        parallelism,
        keep_storage,
        network: raw.network.unwrap_or_default(),
        step_memory: mistakes.size("build.step_memory", raw.step_memory),
        store: raw
            .store
            .map(|RawBuildStore::S3(bucket)| bucket_of("build.store", bucket, mistakes)),
        index: index("build.index", raw.index, mistakes),
        cache_upload: raw.cache_upload.unwrap_or_default(),
        scope: mistakes.scope("build.scope", raw.scope, env),
    })
}

fn coordinator(raw: RawCoordinator, mistakes: &mut Mistakes) -> Option<CoordinatorConfig> {
    let listen = mistakes.read("coordinator.listen", raw.listen, str::parse);
    let http_listen = mistakes.read("coordinator.http_listen", raw.http_listen, str::parse);
    let key = "coordinator.no_worker_timeout";
    let no_worker_timeout = mistakes.read(key, raw.no_worker_timeout, parse_duration);
    let grace = mistakes.read("coordinator.grace", raw.grace, parse_duration);
    let data_dir = raw.data_dir.unwrap_or_else(|| default_of("coordinator.data_dir").into());
    let store = match raw.store {
        Some(RawStore::S3(bucket)) => {
            StoreConfig::Bucket(bucket_of("coordinator.store", bucket, mistakes))
        }
        Some(RawStore::Folder { dir }) => StoreConfig::Folder { dir },
        None => StoreConfig::Folder { dir: None },
    };
    let keep_storage = mistakes.read("coordinator.keep_storage", raw.keep_storage, |text| {
        or_none(text, str::parse::<ByteSize>)
    });
    let keep_unused = mistakes
        .read("coordinator.keep_unused", raw.keep_unused, |text| or_none(text, parse_duration));
    let index = index("coordinator.index", raw.index, mistakes);
    let scope = mistakes.read("coordinator.scope", raw.scope, str::parse::<Scope>);
    let scopes = scopes(raw.scopes, mistakes);
    let tls = server_tls(raw.tls, mistakes);
    Some(CoordinatorConfig {
        listen: listen?,
        tls,
        http_listen: http_listen?,
        http_tls: raw.http_tls.unwrap_or_default(),
        data_dir,
        store,
        no_worker_timeout: no_worker_timeout?,
        keep_storage: keep_storage?,
        keep_unused: keep_unused?,
        index,
        grace: grace?,
        allow: allow("coordinator.allow", raw.allow, mistakes),
        scope: scope?,
        scopes,
    })
}

/// Scopes by names of certificates.
fn scopes(raw: BTreeMap<String, String>, mistakes: &mut Mistakes) -> BTreeMap<String, Scope> {
    let mut scopes = BTreeMap::new();
    for (name, text) in raw {
        let key = format!("coordinator.scopes.{name}");
        let hex = name.strip_prefix("sha256:");
        if name.is_empty() || hex.is_some_and(|hex| Digest::from_hex(hex).is_err()) {
            let problem = "is neither a name that a certificate is for, nor sha256: and 64 small hexadecimal digits";
            mistakes.add(&key, problem);
        }
        match text.parse() {
            Ok(scope) => drop(scopes.insert(name, scope)),
            Err(problem) => mistakes.add(&key, InvalidScope::to_string(&problem)),
        }
    }
    scopes
}

/// What may be granted to a build.
const GRANTS: [&str; 3] = ["network.host", "security.insecure", "cgroup-parent"];

fn allow(key: &str, written: Vec<String>, mistakes: &mut Mistakes) -> BTreeSet<String> {
    for what in written.iter().filter(|what| !GRANTS.contains(&what.as_str())) {
        mistakes.add(key, format!("'{what}' is none of {}", GRANTS.join(", ")));
    }
    written.into_iter().collect()
}

/// Reads a value that may also be `none`.
fn or_none<T, E>(text: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<Option<T>, E> {
    if text == "none" { Ok(None) } else { parse(text).map(Some) }
}

fn bucket_of(key: &str, raw: RawBucket, mistakes: &mut Mistakes) -> BucketConfig {
    if !raw.url.starts_with("s3://") {
        let problem = format!("'{}' is not of the form s3://BUCKET/PREFIX", raw.url);
        mistakes.add(&format!("{key}.url"), problem);
    }
    BucketConfig { url: raw.url, signing_key_files: raw.signing_key_files, ca: raw.ca }
}

fn index(key: &str, raw: Option<RawIndex>, mistakes: &mut Mistakes) -> IndexConfig {
    match raw {
        None | Some(RawIndex::Embedded {}) => IndexConfig::Embedded,
        Some(RawIndex::Redis(raw)) => {
            if !raw.url.starts_with("redis") {
                // The URL may hold a password.
                mistakes.add(&format!("{key}.url"), "is not of the form redis://HOST:PORT");
            }
            IndexConfig::Redis(RedisTable {
                identity: pair(key, (raw.cert, raw.key), mistakes),
                url: raw.url,
                ca: raw.ca,
                sentinel_auth_file: raw.sentinel_auth_file,
            })
        }
    }
}

/// A certificate is of no use without its key.
fn pair(
    section: &str,
    written: (Option<PathBuf>, Option<PathBuf>),
    mistakes: &mut Mistakes,
) -> Option<(PathBuf, PathBuf)> {
    match written {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            mistakes.add(&format!("{section}.key"), "is missing: cert needs its key");
            None
        }
        (None, Some(_)) => {
            mistakes.add(&format!("{section}.cert"), "is missing: key needs its certificate");
            None
        }
    }
}

fn server_tls(raw: RawTls, mistakes: &mut Mistakes) -> Option<ServerTlsConfig> {
    let RawTls { ca: _, cert, key, client_ca, peer_ca: _ } = raw;
    let found = pair("coordinator.tls", (cert, key), mistakes);
    if found.is_none() && client_ca.is_some() {
        mistakes.add("coordinator.tls.client_ca", "needs cert and key beside it");
    }
    found.map(|(cert, key)| ServerTlsConfig { cert, key, client_ca })
}

fn client_tls(section: &str, raw: RawTls, env: &Env, mistakes: &mut Mistakes) -> ClientTls {
    let RawTls { ca, cert, key, client_ca: _, peer_ca: _ } = raw;
    let written = (env.tls_cert().or(cert), env.tls_key().or(key));
    ClientTls { ca: env.tls_ca().or(ca), identity: pair(section, written, mistakes) }
}

/// The coordinator, of the environment or else of the file.
fn coordinator_url(
    key: &str,
    written: Option<String>,
    env: &Env,
    mistakes: &mut Mistakes,
) -> Option<String> {
    let (key, url) = match env.coordinator() {
        Some(url) => ("DCBUILD_COORDINATOR", url.to_owned()),
        None => (key, written?),
    };
    mistakes.url(key, &url);
    Some(url)
}

fn worker(raw: RawWorker, env: &Env, mistakes: &mut Mistakes) -> Option<WorkerConfig> {
    let key = "worker.coordinator";
    let coordinator = coordinator_url(key, raw.coordinator, env, mistakes);
    let coordinator = coordinator.unwrap_or_else(|| default_of(key).into());
    let listen = mistakes.read("worker.listen", raw.listen, str::parse::<PeerListen>);
    let advertise = mistakes
        .read("worker.advertise", raw.advertise, |text| or_none(text, str::parse::<PeerAddress>));
    if let (Some(listen), Some(Some(_))) = (&listen, &advertise)
        && !matches!(listen, PeerListen::At(_))
    {
        mistakes.add("worker.advertise", "needs worker.listen to be IP:PORT");
    }
    let slots = mistakes.positive("worker.slots", raw.slots);
    let keep_storage =
        mistakes.read("worker.keep_storage", raw.keep_storage, str::parse::<ByteSize>);
    let cache_mount_max =
        mistakes.read("worker.cache_mount_max", raw.cache_mount_max, str::parse::<ByteSize>);
    let grace = mistakes.read("worker.grace", raw.grace, parse_duration);
    let step_memory = mistakes.size("worker.step_memory", raw.step_memory);
    let data_dir = raw.data_dir.unwrap_or_else(|| default_of("worker.data_dir").into());
    let peer_ca = raw.tls.peer_ca.clone();
    let tls = client_tls("worker.tls", raw.tls, env, mistakes);
    if peer_ca.is_some() && tls.identity.is_none() {
        mistakes.add("worker.tls.peer_ca", "needs cert and key beside it");
    }
    Some(WorkerConfig {
        coordinator,
        tls,
        peer_ca,
        listen: listen?,
        advertise: advertise?,
        data_dir,
        slots,
        network: raw.network.unwrap_or_default(),
        labels: raw.labels,
        keep_storage: keep_storage?,
        step_memory,
        cache_mount_max: cache_mount_max?,
        grace: grace?,
        allow: allow("worker.allow", raw.allow, mistakes),
    })
}

fn submit(raw: RawSubmit, env: &Env, mistakes: &mut Mistakes) -> Option<SubmitConfig> {
    let coordinator = coordinator_url("submit.coordinator", raw.coordinator, env, mistakes);
    let scope = mistakes.scope("submit.scope", raw.scope, env);
    let wait = mistakes.read("submit.wait", raw.wait, parse_duration);
    let tls = client_tls("submit.tls", raw.tls, env, mistakes);
    Some(SubmitConfig { coordinator, scope, wait: wait?, tls })
}

fn log(raw: RawLog, mistakes: &mut Mistakes) -> LogConfig {
    let level = raw.level.unwrap_or_else(|| default_of("log.level").into());
    if let Err(problem) = trace::filter(&level) {
        mistakes.add("log.level", problem);
    }
    LogConfig { level, format: raw.format.unwrap_or_default() }
}

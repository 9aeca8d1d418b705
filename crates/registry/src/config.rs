//! How each registry is reached: mirrors, plain http, certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dcbuild_model::HttpProxies;
use dcbuild_trust::{certificates, pair};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::origin::{Origin, is_local};

/// The registries' part of a configuration file, as written: `[registry."HOST"]`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawRegistryConfig(pub BTreeMap<String, RawHostConfig>);

/// What is written about one registry.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHostConfig {
    /// Registries that are asked first when pulling: `HOST[:PORT][/PREFIX]`.
    pub mirrors: Vec<String>,
    /// Speak plain http.
    pub http: bool,
    /// Accept any certificate.
    pub insecure: bool,
    /// Certificates in PEM that are trusted besides the system's.
    pub ca: Vec<PathBuf>,
    /// The certificate that the registry is shown, where it asks who we are.
    pub keypair: Option<Keypair>,
    /// Other origins, such as `https://auth.example.com`, whose token service may see this registry's credentials.
    pub token_origins: Vec<String>,
    /// Push blobs in chunks of this many bytes, for a registry behind a proxy that limits bodies.
    pub upload_chunk_bytes: Option<u64>,
}

/// The files of a certificate and of its key, in PEM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keypair {
    /// The key.
    pub key: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
}

/// Says what is wrong with what was written about registries.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("registry configuration is wrong: {}", problems.join("; "))]
pub struct InvalidRegistryConfig {
    /// Each mistake, with its key.
    pub problems: Vec<String>,
}

/// How each registry is reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    hosts: BTreeMap<String, HostConfig>,
    pub(crate) proxies: HttpProxies,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostConfig {
    mirrors: Vec<String>,
    http: bool,
    pub(crate) insecure: bool,
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) keypair: Option<Keypair>,
    token_origins: Vec<Origin>,
    pub(crate) upload_chunk_bytes: Option<u64>,
}

/// One way to reach the repositories of a registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    pub(crate) origin: Origin,
    /// Ends with a slash; repositories follow it.
    pub(crate) base: Url,
    /// What configuration and credentials call it.
    pub(crate) name: String,
    /// The registry that a mirror stands for.
    pub(crate) namespace: Option<String>,
    pub(crate) token_origins: Vec<Origin>,
    /// Whether it may do without TLS, which it is asked with.
    pub(crate) may_be_plain: bool,
}

impl RawRegistryConfig {
    /// Turns what was written into what is meant, or reports every mistake.
    pub fn resolve(self) -> Result<RegistryConfig, InvalidRegistryConfig> {
        let mut problems = Vec::new();
        let mut hosts = BTreeMap::new();
        for (name, raw) in self.0 {
            let key = |field: &str| format!("registry.\"{name}\".{field}");
            if base_url(&name, true).is_none() || name.contains('/') {
                problems.push(format!("registry.\"{name}\" is no registry (HOST or HOST:PORT)"));
            }
            for mirror in raw.mirrors.iter().filter(|mirror| base_url(mirror, true).is_none()) {
                problems.push(format!(
                    "{}: '{mirror}' is no registry (HOST or HOST:PORT; whether it speaks http stands in its own table)",
                    key("mirrors")
                ));
            }
            if raw.http && !raw.insecure && (!raw.ca.is_empty() || raw.keypair.is_some()) {
                problems.push(format!("{}: plain http has no certificates", key("http")));
            }
            if raw.upload_chunk_bytes.is_some_and(|bytes| bytes < 64 << 10) {
                problems.push(format!("{}: less than 64 KiB", key("upload_chunk")));
            }
            let mut token_origins = Vec::new();
            for text in &raw.token_origins {
                match Url::parse(text).ok().as_ref().and_then(Origin::of) {
                    Some(origin) => token_origins.push(origin),
                    None => {
                        problems.push(format!("{}: '{text}' is no origin", key("token_origins")));
                    }
                }
            }
            let host = HostConfig {
                mirrors: raw.mirrors,
                http: raw.http,
                insecure: raw.insecure,
                ca: raw.ca,
                keypair: raw.keypair,
                token_origins,
                upload_chunk_bytes: raw.upload_chunk_bytes,
            };
            hosts.insert(canonical(&name).to_owned(), host);
        }
        if problems.is_empty() {
            return Ok(RegistryConfig { hosts, proxies: HttpProxies::default() });
        }
        Err(InvalidRegistryConfig { problems })
    }
}

impl RegistryConfig {
    /// Trusts and shows what docker does as well: the certificates in each `HOST/*.crt` below a folder,
    /// `/etc/docker/certs.d`, and `HOST/*.cert` with the `*.key` of the same name.
    ///
    /// A folder that is not there adds nothing, and neither does a file that holds no certificate.
    #[must_use]
    pub fn with_certificates_of(mut self, folder: &Path) -> RegistryConfig {
        for host in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(name) = host.file_name().into_string() else { continue };
            let Found { ca, keypair } = Found::in_folder(&host.path());
            if (ca.is_empty() && keypair.is_none()) || base_url(&name, true).is_none() {
                continue;
            }
            let host = self.hosts.entry(canonical(&name).to_owned()).or_default();
            if !host.http || host.insecure {
                host.ca.extend(ca);
                host.keypair = host.keypair.take().or(keypair);
            }
        }
        self
    }

    /// Goes by these proxies; without them by none.
    #[must_use]
    pub fn by_proxies(self, proxies: HttpProxies) -> RegistryConfig {
        RegistryConfig { proxies, ..self }
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = (&String, &HostConfig)> {
        self.hosts.iter()
    }

    pub(crate) fn host(&self, name: &str) -> Option<&HostConfig> {
        self.hosts.get(canonical(name))
    }

    /// Where a pull is tried, in order: mirrors, then the registry itself.
    pub(crate) fn pull_endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirrors = self.host(registry).map_or(&[][..], |host| host.mirrors.as_slice());
        let mut endpoints: Vec<Endpoint> = mirrors
            .iter()
            .filter_map(|mirror| {
                let mut endpoint = self.endpoint(mirror)?;
                endpoint.namespace = Some(registry.to_owned());
                Some(endpoint)
            })
            .collect();
        endpoints.extend(self.endpoint(registry));
        endpoints
    }

    /// The hosts that may be asked in the place of others, by those.
    pub fn mirrors(&self) -> BTreeMap<String, BTreeSet<String>> {
        let named = |mirrors: &[String]| -> BTreeSet<String> {
            mirrors.iter().filter_map(|mirror| Some(self.endpoint(mirror)?.name)).collect()
        };
        let mirrored = self.hosts.iter().filter(|(_, host)| !host.mirrors.is_empty());
        mirrored.map(|(name, host)| (name.clone(), named(&host.mirrors))).collect()
    }

    /// The registry itself; none only if its name is no host, which a parsed reference excludes.
    pub(crate) fn endpoint(&self, registry: &str) -> Option<Endpoint> {
        let name = registry.split('/').next().unwrap_or_default();
        let host = self.host(name);
        let is_certified = |host: &HostConfig| !host.ca.is_empty() || host.keypair.is_some();
        let may_be_plain = host.is_some_and(|host| host.insecure && (host.http || is_local(name)));
        let plain = match host {
            _ if may_be_plain => false,
            Some(host) => host.http || (is_local(name) && !host.insecure && !is_certified(host)),
            None => is_local(name),
        };
        let address = if canonical(name) == "docker.io" {
            registry.replacen(name, "registry-1.docker.io", 1)
        } else {
            registry.to_owned()
        };
        let base = base_url(&address, !plain)?;
        Some(Endpoint {
            origin: Origin::of(&base)?,
            base,
            name: canonical(name).to_owned(),
            namespace: None,
            token_origins: host.map(|host| host.token_origins.clone()).unwrap_or_default(),
            may_be_plain,
        })
    }
}

impl Endpoint {
    /// What errors call it.
    pub(crate) fn whole(&self) -> String {
        self.origin.whole()
    }

    /// The same place, without TLS; none if there is no such URL.
    pub(crate) fn in_the_clear(mut self) -> Option<Endpoint> {
        self.base.set_scheme("http").ok()?;
        self.origin = Origin::of(&self.base)?;
        Some(self)
    }
}

/// What docker keeps of a registry.
#[derive(Default)]
struct Found {
    ca: Vec<PathBuf>,
    keypair: Option<Keypair>,
}

impl Found {
    fn in_folder(folder: &Path) -> Found {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = files.map(|file| file.path()).collect();
        files.sort();
        let unused =
            |problem: String| tracing::warn!(problem, "a certificate of docker's is not used");
        let mut found = Found::default();
        for path in files {
            match path.extension().and_then(|it| it.to_str()) {
                Some("crt") => match certificates(&path) {
                    Ok(_) => found.ca.push(path),
                    Err(error) => unused(error.with_cause()),
                },
                Some("cert") => {
                    let keypair = Keypair { key: path.with_extension("key"), cert: path };
                    match pair(&keypair.cert, &keypair.key) {
                        Ok(_) if found.keypair.is_none() => found.keypair = Some(keypair),
                        Ok(_) => {
                            let cert = keypair.cert.display();
                            unused(format!("'{cert}' is the second of its registry"));
                        }
                        Err(error) => unused(error.with_cause()),
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// Docker Hub has several names; its credentials and settings go by one.
pub(crate) fn canonical(name: &str) -> &str {
    match name {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io",
        other => other,
    }
}

fn base_url(address: &str, tls: bool) -> Option<Url> {
    let (host, prefix) = address.split_once('/').unwrap_or((address, ""));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte);
    let path = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if host.is_empty()
        || host.ends_with(':')
        || !host.bytes().all(plain)
        || !prefix.bytes().all(path)
    {
        return None;
    }
    let scheme = if tls { "https" } else { "http" };
    let prefix = prefix.trim_matches('/');
    let slash = if prefix.is_empty() { "" } else { "/" };
    let url = Url::parse(&format!("{scheme}://{host}/v2/{prefix}{slash}")).ok()?;
    url.path().starts_with("/v2/").then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: serde_json::Value) -> RawRegistryConfig {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn endpoints_follow_the_configuration() {
        let config = raw(serde_json::json!({
            "docker.io": { "mirrors": ["mirror.example", "127.0.0.1:5000/hub"] },
            "plain.example:8080": { "http": true },
            "localhost:5001": { "ca": ["/ca.pem"] },
            "either.example": { "http": true, "insecure": true },
        }))
        .resolve()
        .unwrap();
        for (registry, want) in [
            (
                "docker.io",
                "https://mirror.example/v2/ http://127.0.0.1:5000/v2/hub/ https://registry-1.docker.io/v2/",
            ),
            ("plain.example:8080", "http://plain.example:8080/v2/"),
            ("localhost:5001", "https://localhost:5001/v2/"),
            ("localhost:5002", "http://localhost:5002/v2/"),
            ("ghcr.io", "https://ghcr.io/v2/"),
            ("[::1]:5000", "http://[::1]:5000/v2/"),
            ("either.example", "https://either.example/v2/"),
        ] {
            let endpoints = config.pull_endpoints(registry);
            let urls: Vec<&str> = endpoints.iter().map(|one| one.base.as_str()).collect();
            assert_eq!(urls.join(" "), want);
        }
        let either = config.endpoint("either.example").unwrap();
        assert!(either.may_be_plain);
        let plain = either.in_the_clear().unwrap();
        assert_eq!(plain.base.as_str(), "http://either.example/v2/");
        assert_eq!(plain.origin.whole(), "http://either.example:80");
        assert!(!config.endpoint("plain.example:8080").unwrap().may_be_plain);
    }

    #[test]
    fn every_mistake_is_reported() {
        let error = raw(serde_json::json!({
            "a b": {},
            "x": { "mirrors": ["http://y"], "http": true, "ca": ["/ca.pem"] },
            "z": { "token_origins": ["auth"], "upload_chunk_bytes": 1 },
        }))
        .resolve()
        .unwrap_err();
        assert_eq!(error.problems.len(), 5, "{error}");
        assert!(serde_json::from_str::<RawHostConfig>(r#"{"mirror":[]}"#).is_err());
    }
}

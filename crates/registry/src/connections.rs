//! Connections to registries: which are in the clear, whose certificates are trusted, and which are shown.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::{Client, Identity};

use crate::config::{HostConfig, Keypair, RegistryConfig};
use crate::error::HttpError;
use crate::names::SystemNames;
use crate::origin::{Origin, is_local};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// One client for each way to reach registries.
pub(crate) struct Connections {
    plain: Client,
    local: Client,
    tls: OnceLock<Result<Client, String>>,
    own: BTreeMap<String, Client>,
}

impl Connections {
    pub(crate) fn new(config: &RegistryConfig) -> Result<Connections, HttpError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may install it first, which is as good.
            let _installed = rustls::crypto::ring::default_provider().install_default();
        }
        let setup = |host: &str, what: String| HttpError::Setup { host: host.to_owned(), what };
        // These two never speak TLS: https goes to `tls` or to a host's own client.
        let plain = base_client().tls_danger_accept_invalid_certs(true).build();
        let local = base_client().no_proxy().tls_danger_accept_invalid_certs(true).build();
        let mut own = BTreeMap::new();
        for (name, host) in config.hosts() {
            if host.insecure || !host.ca.is_empty() || host.keypair.is_some() {
                own.insert(name.clone(), own_client(name, host).map_err(|what| setup(name, what))?);
            }
        }
        Ok(Connections {
            plain: plain.map_err(|error| setup("registries", error.to_string()))?,
            local: local.map_err(|error| setup("registries", error.to_string()))?,
            tls: OnceLock::new(),
            own,
        })
    }

    /// The client by which an origin is reached.
    pub(crate) fn of(&self, origin: &Origin) -> Result<&Client, HttpError> {
        if !origin.is_tls() {
            return Ok(if is_local(origin.host()) { &self.local } else { &self.plain });
        }
        if let Some(own) = self.own.get(&origin.name()) {
            return Ok(own);
        }
        let tls = self.tls.get_or_init(|| base_client().build().map_err(|error| chain(&error)));
        tls.as_ref().map_err(|what| HttpError::Setup { host: origin.name(), what: what.clone() })
    }
}

fn base_client() -> reqwest::ClientBuilder {
    Client::builder()
        .user_agent(concat!("dcbuild/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .dns_resolver(Arc::new(SystemNames))
        .connect_timeout(CONNECT_TIME_MAX)
        .pool_idle_timeout(Duration::from_secs(30))
        .tcp_keepalive(Duration::from_secs(30))
}

fn own_client(name: &str, host: &HostConfig) -> Result<Client, String> {
    let mut builder = base_client();
    if is_local(name) {
        builder = builder.no_proxy();
    }
    if host.insecure {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    let mut certificates = Vec::new();
    for path in &host.ca {
        certificates.extend(read_certificates(path)?);
    }
    if !certificates.is_empty() {
        builder = builder.tls_certs_merge(certificates);
    }
    if let Some(keypair) = &host.keypair {
        builder = builder.identity(read_identity(keypair)?);
    }
    builder.build().map_err(|error| chain(&error))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("could not read '{}': {error}", path.display()))
}

pub(crate) fn read_certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, String> {
    let shown = path.display();
    match reqwest::Certificate::from_pem_bundle(&read(path)?) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("'{shown}' holds no certificate")),
        Err(error) => Err(format!("'{shown}' holds no certificate: {}", chain(&error))),
    }
}

/// A certificate to show and its key.
pub(crate) fn read_identity(keypair: &Keypair) -> Result<Identity, String> {
    let Keypair { key, cert } = keypair;
    let mut pem = read(cert)?;
    pem.push(b'\n');
    pem.extend(read(key)?);
    Identity::from_pem(&pem).map_err(|error| {
        let (cert, key) = (cert.display(), key.display());
        format!("'{cert}' and '{key}' are no certificate and its key: {}", chain(&error))
    })
}

/// An error with all that caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let links = std::iter::successors(Some(error), |error| error.source());
    links.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

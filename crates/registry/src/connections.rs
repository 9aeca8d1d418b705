//! Connections to registries: which are in the clear, whose certificates are trusted, and which are shown.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dcbuild_model::HttpProxies;
use dcbuild_model::http_proxy::is_unreached;
use dcbuild_trust::{Roots, anybody, certificates};
use reqwest::Client;
use url::Url;

use crate::config::{HostConfig, Keypair, RegistryConfig};
use crate::error::{Asked, HttpError};
use crate::names::SystemNames;
use crate::obstacle::Obstacle;
use crate::origin::{Origin, is_local};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// One client for each way to reach registries.
pub(crate) struct Connections {
    plain: Client,
    local: Client,
    tls: OnceLock<Result<Client, String>>,
    own: BTreeMap<String, Own>,
    proxies: HttpProxies,
}

/// The client of a registry of which something is configured, made when it is first asked.
struct Own {
    host: HostConfig,
    client: OnceLock<Result<Client, String>>,
}

impl Connections {
    pub(crate) fn new(config: &RegistryConfig) -> Result<Connections, HttpError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may install it first, which is as good.
            let _installed = rustls::crypto::ring::default_provider().install_default();
        }
        let setup = |error: reqwest::Error| HttpError::Setup {
            host: "registries".into(),
            what: chain(&error),
        };
        // These two never speak TLS: https goes to `tls` or to a host's own client.
        let client = || base_client(&config.proxies);
        let plain = client().tls_danger_accept_invalid_certs(true).build().map_err(setup)?;
        let local = client().no_proxy().tls_danger_accept_invalid_certs(true);
        let is_own =
            |host: &HostConfig| host.insecure || !host.ca.is_empty() || host.keypair.is_some();
        let own = config.hosts().filter(|(_, host)| is_own(host)).map(|(name, host)| {
            (name.clone(), Own { host: host.clone(), client: OnceLock::new() })
        });
        Ok(Connections {
            plain,
            local: local.build().map_err(setup)?,
            tls: OnceLock::new(),
            own: own.collect(),
            proxies: config.proxies.clone(),
        })
    }

    /// The client by which an origin is reached; where nothing is configured for it, one that trusts as for `like`.
    pub(crate) fn of(&self, origin: &Origin, like: Option<&Origin>) -> Result<&Client, HttpError> {
        if !origin.is_tls() {
            return Ok(if is_local(origin.host()) { &self.local } else { &self.plain });
        }
        let mut name = origin.name();
        if let Some(like) = like.map(Origin::name)
            && !self.own.contains_key(&name)
            && self.own.contains_key(&like)
        {
            name = like;
        }
        let made = match self.own.get(&name) {
            Some(own) => own.client.get_or_init(|| own_client(&self.proxies, &name, &own.host)),
            None => self
                .tls
                .get_or_init(|| tls_client(base_client(&self.proxies), &HostConfig::default())),
        };
        made.as_ref().map_err(|what| HttpError::Setup { host: name, what: what.clone() })
    }

    /// Why an exchange failed. Where a proxy stands on the way, a connection that nobody took is one to the proxy.
    pub(crate) fn failed(&self, asked: Asked, url: &Url, source: reqwest::Error) -> HttpError {
        let source = source.without_url();
        match self.proxy(url).filter(|proxy| source.is_connect() && is_of_proxy(proxy, &source)) {
            Some(proxy) => HttpError::Proxy { asked: Box::new(asked), proxy, source },
            None => HttpError::Connect { asked, source },
        }
    }

    /// The proxy that a request goes by, in words.
    fn proxy(&self, url: &Url) -> Option<String> {
        self.proxies.words(url.scheme(), url.host_str()?, url.port_or_known_default()?)
    }
}

/// Whether it is the proxy that was not reached. Of a SOCKS proxy the name that is looked up here may be the registry's.
fn is_of_proxy(proxy: &str, error: &reqwest::Error) -> bool {
    let unknown = matches!(Obstacle::of(error), Some(Obstacle::Unknown | Obstacle::NoNames));
    is_unreached(error) || (unknown && proxy.starts_with("http"))
}

fn base_client(proxies: &HttpProxies) -> reqwest::ClientBuilder {
    let proxies = proxies.clone();
    let proxy = reqwest::Proxy::custom(move |url| {
        let port = url.port_or_known_default()?;
        proxies.proxy(url.scheme(), url.host_str()?, port).map(str::to_owned)
    });
    Client::builder()
        .no_proxy()
        .proxy(proxy)
        .user_agent(concat!("dcbuild/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .dns_resolver(Arc::new(SystemNames))
        .connect_timeout(CONNECT_TIME_MAX)
        .pool_idle_timeout(Duration::from_secs(30))
        .tcp_keepalive(Duration::from_secs(30))
}

fn own_client(proxies: &HttpProxies, name: &str, host: &HostConfig) -> Result<Client, String> {
    let builder = base_client(proxies);
    tls_client(if is_local(name) { builder.no_proxy() } else { builder }, host)
}

/// Speaks TLS as a host's configuration says.
fn tls_client(builder: reqwest::ClientBuilder, host: &HostConfig) -> Result<Client, String> {
    let verifier = if host.insecure {
        // A file that cannot be read is said all the same: who names it means it.
        host.ca.iter().try_for_each(|path| certificates(path).map(drop)).map(|()| anybody())
    } else {
        let mut roots = Roots::of_system();
        host.ca.iter().try_for_each(|path| roots.add(path)).and_then(|()| roots.verifier())
    };
    let shown = host.keypair.as_ref().map(|Keypair { key, cert }| (cert.as_path(), key.as_path()));
    let tls = verifier.and_then(|verifier| dcbuild_trust::client(verifier, shown));
    let tls = tls.map_err(|error| error.with_cause())?;
    builder.tls_backend_preconfigured(tls).build().map_err(|error| chain(&error))
}

/// An error with all that caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let links = std::iter::successors(Some(error), |error| error.source());
    links.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawRegistryConfig;
    use url::Url;

    #[test]
    fn a_token_service_is_trusted_like_its_registry_unless_something_is_said_of_it() {
        let table = serde_json::json!({ "insecure": true });
        let of = |text: &str| Origin::of(&Url::parse(text).unwrap()).unwrap();
        let (registry, service) = (of("https://git.example:5050"), of("https://git.example"));
        for (raw, same) in [
            (serde_json::json!({ "git.example:5050": table }), true),
            (serde_json::json!({ "git.example:5050": table, "git.example": table }), false),
        ] {
            let raw: RawRegistryConfig = serde_json::from_value(raw).unwrap();
            let connections = Connections::new(&raw.resolve().unwrap()).unwrap();
            let own = std::ptr::from_ref(connections.of(&registry, None).unwrap());
            let like = std::ptr::from_ref(connections.of(&service, Some(&registry)).unwrap());
            assert_eq!(own == like, same);
        }
    }
}

//! Connections that go out encrypted: certificates are read again when their files change, and whoever is turned away by
//! a server hears why, each time.

mod connector;
mod pinned;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dcbuild_process::config::ClientTls;
use dcbuild_process::{TlsFault, find_cause};
use dcbuild_trust::{Roots, TlsSetupError, pair};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tonic::codegen::Service as _;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::certificates::{CertificateDigest, Files, Kept};
use crate::reach::BoxError;
pub use connector::HandshakeError;
use connector::SecureConnector;
use pinned::pinned;

/// Where a server is that does not say it.
const HTTPS: u16 = 443;

/// How a client knows that a server is the one that it means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Its certificate is from a CA that is trusted, and for the name or address by which it is reached.
    Name,
    /// It has this certificate, which is from a CA that is trusted; its name does not matter.
    Certificate(CertificateDigest),
}

/// What a client knows servers by and is known by, as it is now.
#[derive(Debug)]
pub struct ClientCertificates(Kept<Known>);

#[derive(Debug)]
struct Known(ClientTls);

/// What was read of it.
struct Ready {
    roots: Roots,
    identity: Option<(PathBuf, Arc<CertifiedKey>)>,
}

impl Files for Known {
    type Made = Ready;

    fn paths(&self) -> [Option<&Path>; 4] {
        let (cert, key) = self.0.identity.as_ref().map(|(cert, key)| (cert, key)).unzip();
        let [cert, key] = [cert, key].map(|path| path.map(PathBuf::as_path));
        [self.0.ca.as_deref(), cert, key, None]
    }

    fn load(&self) -> Result<Ready, TlsSetupError> {
        let ClientTls { ca, identity } = &self.0;
        let roots = match ca {
            // These count instead of the system's: a company's CA is to vouch for nobody else's cluster.
            Some(path) => Roots::of_file(path)?,
            None => Roots::of_system(),
        };
        let identity = match identity {
            Some((cert, key)) => Some((cert.clone(), Arc::new(pair(cert, key)?))),
            None => None,
        };
        if roots.is_empty() {
            return Err(TlsSetupError::NoneTrusted);
        }
        Ok(Ready { roots, identity })
    }
}

/// Notes that the server asked who the client is.
#[derive(Debug)]
struct Asked {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

impl Asked {
    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Ready {
    fn config(&self, trust: Trust, asked: Arc<Asked>) -> Result<ClientConfig, TlsSetupError> {
        let verifier = match trust {
            Trust::Name => self.roots.verifier()?,
            Trust::Certificate(digest) => pinned(digest, self.roots.authorities().clone())
                .map_err(|error| TlsSetupError::Setup(rustls::Error::General(error.to_string())))?,
        };
        let mut config = dcbuild_trust::client_with(verifier, asked)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

impl ClientCertificates {
    /// Reads the files.
    pub fn open(files: ClientTls) -> Result<ClientCertificates, TlsSetupError> {
        Kept::open(Known(files)).map(ClientCertificates)
    }

    /// The files.
    pub fn files(&self) -> &ClientTls {
        &self.0.files().0
    }
}

/// A channel to a server at HOST:PORT, encrypted; it connects when it is first used, and again when it was cut.
/// `limit` is for each of the two parts of that, and `settings` says all else about it.
pub fn secure_channel(
    authority: &str,
    trusted: (Arc<ClientCertificates>, Trust),
    limit: Duration,
    settings: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, tonic::codegen::http::Error> {
    let meant = Uri::builder().scheme("https").authority(authority).path_and_query("/").build()?;
    let place = match meant.port() {
        Some(_) => authority.to_owned(),
        None => format!("{authority}:{HTTPS}"),
    };
    // The connector encrypts by itself, which the transport must not do a second time.
    let shown = Uri::builder().scheme("http").authority(place).path_and_query("/").build()?;
    let endpoint = Endpoint::from(shown).origin(meant);
    let connector = SecureConnector::new(trusted, limit);
    Ok(settings(endpoint).connect_with_connector_lazy(connector))
}

/// Connects to a server at HOST:PORT and goes again: says whether it is the one that it should be, and lets this one in.
pub async fn knock(
    authority: &str,
    trusted: (Arc<ClientCertificates>, Trust),
    limit: Duration,
) -> Result<(), BoxError> {
    let place = Uri::builder().scheme("https").authority(authority).path_and_query("/").build()?;
    let mut connector = SecureConnector::new(trusted, limit);
    std::future::poll_fn(|ctx| connector.poll_ready(ctx)).await?;
    connector.call(place).await.map(drop)
}

/// Why the two ends of a connection do not trust each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Distrust {
    /// What is wrong.
    pub fault: TlsFault,
    /// The file of the certificate that this side showed, if it was asked for one and has it.
    pub shown: Option<PathBuf>,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fault)?;
        match &self.shown {
            Some(path) if self.fault.is_of_client() => write!(f, ", {}", path.display()),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Distrust {}

impl Distrust {
    /// Finds it among an error and its causes, if it is that.
    pub fn find(error: &(dyn std::error::Error + 'static)) -> Option<Distrust> {
        let fault = TlsFault::find(error)?;
        let shown =
            find_cause(error, |error| Some(error.downcast_ref::<HandshakeError>()?.shown.clone()));
        Some(Distrust { fault, shown: shown.flatten() })
    }
}

#[cfg(test)]
mod tests;

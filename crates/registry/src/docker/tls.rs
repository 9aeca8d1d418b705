//! TLS to a docker daemon: by which certificates both ends know each other.

use std::sync::Arc;

use dcbuild_model::{DaemonTls, DaemonTrust};
use dcbuild_trust::{Roots, TlsSetupError, anybody};
use rustls::ClientConfig;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Says why TLS could not be spoken to a daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonTlsError {
    /// The host has a name that no certificate could be for.
    #[error("'{host}' is no name of a host")]
    Host {
        /// The name.
        host: String,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// The two do not come to an understanding.
    #[error("the two ends do not trust each other, or one does not speak TLS")]
    Handshake(#[source] std::io::Error),
    /// Certificates or their keys cannot be used.
    #[error(transparent)]
    Setup(#[from] TlsSetupError),
}

/// Encrypts a connection to the daemon at HOST:PORT.
pub(super) async fn encrypt(
    stream: TcpStream,
    place: &str,
    tls: &DaemonTls,
) -> Result<TlsStream<TcpStream>, DaemonTlsError> {
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())
        .map_err(|source| DaemonTlsError::Host { host: host.to_owned(), source })?;
    let connector = TlsConnector::from(Arc::new(settings(tls)?));
    connector.connect(name, stream).await.map_err(DaemonTlsError::Handshake)
}

fn settings(tls: &DaemonTls) -> Result<ClientConfig, TlsSetupError> {
    let verifier = match &tls.trust {
        // As docker's client does without `DOCKER_TLS_VERIFY`.
        DaemonTrust::Anybody => anybody(),
        DaemonTrust::System => Roots::of_system().verifier()?,
        DaemonTrust::Authority(path) => Roots::of_file(path)?.verifier()?,
    };
    let shown = tls.identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
    dcbuild_trust::client(verifier, shown)
}

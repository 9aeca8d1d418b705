//! TLS to a docker daemon: by which certificates both ends know each other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcbuild_model::{DaemonTls, DaemonTrust};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Says why TLS could not be spoken to a daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonTlsError {
    /// A file of certificates or keys cannot be used.
    #[error("could not read '{}'", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("'{}' holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate cannot be used, or its key is another's.
    #[error("could not use the certificate '{}'", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Error,
    },
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
    /// The library could not be set up.
    #[error("could not prepare TLS")]
    Setup(#[source] Error),
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

fn settings(tls: &DaemonTls) -> Result<ClientConfig, DaemonTlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(DaemonTlsError::Setup)?;
    let builder = match &tls.trust {
        DaemonTrust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider.clone()))),
        DaemonTrust::System => builder.with_root_certificates(of_system()),
        DaemonTrust::Authority(path) => builder.with_root_certificates(authority(path)?),
    };
    let Some((cert, key)) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| DaemonTlsError::File { path: key.clone(), source })?;
    builder
        .with_client_auth_cert(certificates(cert)?, key)
        .map_err(|source| DaemonTlsError::Certificate { path: cert.clone(), source })
}

fn of_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Where none can be read, the daemon's is trusted by nobody, which the handshake says.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn authority(path: &Path) -> Result<RootCertStore, DaemonTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let wrong = |source| DaemonTlsError::Certificate { path: path.into(), source };
        roots.add(certificate).map_err(wrong)?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, DaemonTlsError> {
    let wrong = |source| DaemonTlsError::File { path: path.into(), source };
    let found = CertificateDer::pem_file_iter(path).map_err(wrong)?;
    let found: Vec<CertificateDer<'static>> = found.collect::<Result<_, _>>().map_err(wrong)?;
    if found.is_empty() { Err(DaemonTlsError::Empty { path: path.into() }) } else { Ok(found) }
}

/// Takes any certificate, as docker's client does without `DOCKER_TLS_VERIFY`; that its owner has the key is still seen to.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

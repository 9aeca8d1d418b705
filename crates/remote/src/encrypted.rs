//! Connections that come in encrypted: certificates are read again when their files change, and who speaks no TLS is told
//! so in words that it understands.

mod farewell;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dcbuild_trust::{Roots, TlsSetupError, certificates, private_key};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificates::{CertificateDigest, Files, Kept};
use crate::incoming::incoming;
use farewell::{FAREWELL, linger, say_goodbye};

/// How long a client may take until it speaks TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many clients may be about it at once; others wait in the kernel.
const HANDSHAKES_MAX: usize = 256;
/// How long the next connection waits after one could not be taken, for want of files that may be open.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Begins what a client says that speaks TLS.
const TLS: u8 = 0x16;

/// The files of a server's certificates, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerTls {
    /// Its certificate, and what leads from there to its CA.
    pub cert: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// Whose certificates clients must have; anybody may come where there is none.
    pub client_ca: Option<PathBuf>,
}

/// What is spoken over a connection once it is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speech {
    /// gRPC: a client without a certificate is turned away where one is asked for.
    Calls,
    /// Pages: a client without a certificate is let in, and each page sees for itself whom it answers.
    Pages,
}

impl ServerTls {
    /// Reads the files, and says what is wrong with them.
    pub fn check(&self) -> Result<(), TlsSetupError> {
        ServerCertificates::open(self.clone(), Speech::Calls).map(drop)
    }
}

/// The certificates of a server as they are now.
#[derive(Debug)]
pub struct ServerCertificates(Kept<Served>);

#[derive(Debug)]
struct Served {
    files: ServerTls,
    speech: Speech,
}

struct Ready {
    config: Arc<ServerConfig>,
    digest: CertificateDigest,
}

impl ServerCertificates {
    /// Reads the files.
    pub fn open(files: ServerTls, speech: Speech) -> Result<ServerCertificates, TlsSetupError> {
        Kept::open(Served { files, speech }).map(ServerCertificates)
    }

    /// Names the certificate that the next client is shown.
    pub fn digest(&self) -> CertificateDigest {
        self.0.current().digest
    }
}

impl Files for Served {
    type Made = Ready;

    fn paths(&self) -> [Option<&Path>; 4] {
        let ServerTls { cert, key, client_ca } = &self.files;
        [Some(cert), Some(key), client_ca.as_deref(), None]
    }

    fn load(&self) -> Result<Ready, TlsSetupError> {
        let ServerTls { cert, key, client_ca } = &self.files;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pair = |source| TlsSetupError::pair(cert, key, source);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(pair)?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Roots::of_file(path)?.authorities().clone();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match self.speech {
                    Speech::Calls => verifier,
                    Speech::Pages => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|error| TlsSetupError::Ca {
                    path: path.clone(),
                    source: error.into(),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates(cert)?;
        // There is at least one.
        let digest = chain.first().map(CertificateDigest::of);
        let digest =
            digest.ok_or(TlsSetupError::Pem { path: cert.clone(), what: "certificate" })?;
        let mut config = builder.with_single_cert(chain, private_key(key)?).map_err(pair)?;
        let spoken: &[u8] = match self.speech {
            Speech::Calls => b"h2",
            Speech::Pages => b"http/1.1",
        };
        config.alpn_protocols = vec![spoken.to_vec()];
        Ok(Ready { config: Arc::new(config), digest })
    }
}

/// A connection that is encrypted.
pub type EncryptedStream = TlsStream<TcpStream>;

/// Connections that are encrypted, each as soon as it is.
pub type EncryptedIncoming = BoxStream<'static, io::Result<EncryptedStream>>;

/// The connections that a listener accepts, once they are encrypted and their clients are known.
pub fn encrypted(
    listener: TcpListener,
    certificates: Arc<ServerCertificates>,
) -> EncryptedIncoming {
    let greeted = incoming(listener).map(move |accepted| {
        let certificates = certificates.clone();
        async move {
            match accepted {
                Ok(stream) => greet(stream, &certificates).await,
                Err(error) => {
                    tracing::warn!(%error, "could not take a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    None
                }
            }
        }
    });
    let greeted = greeted.buffer_unordered(HANDSHAKES_MAX);
    greeted.filter_map(|stream| async { stream.map(Ok) }).boxed()
}

async fn greet(stream: TcpStream, certificates: &ServerCertificates) -> Option<EncryptedStream> {
    let client = stream.peer_addr().ok()?;
    match tokio::time::timeout(HANDSHAKE, shake(stream, certificates)).await {
        Ok(Ok(stream)) => return Some(stream),
        // Whoever only looks whether the port is open goes at once.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%client, "a connection ended before it was encrypted");
        }
        Ok(Err(error)) => tracing::warn!(%client, %error, "a client was turned away"),
        Err(_) => tracing::debug!(%client, "a client did not begin to speak TLS in time"),
    }
    None
}

async fn shake(
    mut stream: TcpStream,
    certificates: &ServerCertificates,
) -> io::Result<EncryptedStream> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first != [TLS] {
        // That it does not hear the reason is no further harm.
        tokio::time::timeout(FAREWELL, say_goodbye(&mut stream)).await.ok();
        return Err(io::Error::other("it speaks no TLS"));
    }
    let config = certificates.0.current().config.clone();
    match TlsAcceptor::from(config).accept(stream).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((error, mut stream)) => {
            tokio::time::timeout(FAREWELL, linger(&mut stream)).await.ok();
            Err(error)
        }
    }
}

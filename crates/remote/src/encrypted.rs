//! Connections that come in encrypted: certificates are read again when their files change, and who speaks no TLS is told
//! so in words that it understands.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::incoming::incoming;

/// How long a client may take until it speaks TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many clients may be about it at once; others wait in the kernel.
const HANDSHAKES_MAX: usize = 256;
/// Begins what a client says that speaks TLS.
const TLS: u8 = 0x16;
/// What a client says first that speaks HTTP/2 in the clear, and the frames of HTTP/2 that it takes to answer one.
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const ACKNOWLEDGED: u8 = 1;
const ENDS_ALL: u8 = 5;
/// The answer of gRPC: a precondition failed.
const STATUS: &str = "9";
const WORDS: &str = "this port speaks TLS only: write https:// in place of http://";
/// How long and how much is read of such a client, so that it hears the answer.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: u64 = 64 << 10;

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

/// Says why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file cannot be read.
    #[error("could not read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {what} in PEM", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// They do not go together.
    #[error(
        "could not use the certificate {cert} with the key {key}",
        cert = cert.display(), key = key.display()
    )]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with them.
        source: rustls::Error,
    },
    /// Nobody can be checked by them.
    #[error("could not check clients by the certificates in {path}", path = path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Reads the certificates of a file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let bytes =
        std::fs::read(path).map_err(|source| TlsSetupError::Read { path: path.into(), source })?;
    let none = || TlsSetupError::Pem { path: path.into(), what: "certificate" };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(none)
}

/// Reads the key of a file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsSetupError> {
    let bytes =
        std::fs::read(path).map_err(|source| TlsSetupError::Read { path: path.into(), source })?;
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| TlsSetupError::Pem { path: path.into(), what: "private key" })
}

impl ServerTls {
    /// Reads the files, and says what is wrong with them.
    pub fn check(&self) -> Result<(), TlsSetupError> {
        self.load().map(drop)
    }

    fn load(&self) -> Result<ServerConfig, TlsSetupError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pair =
            |source| TlsSetupError::Pair { cert: self.cert.clone(), key: self.key.clone(), source };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(pair)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let wrong = |source| TlsSetupError::Ca { path: path.clone(), source };
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| wrong(error.into()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                let verifier = verifier.build().map_err(|error| wrong(error.into()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates(&self.cert)?;
        let mut config = builder.with_single_cert(chain, private_key(&self.key)?).map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// Tells one state of the files from the next.
    fn stamp(&self) -> Stamp {
        let files = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        files.map(|file| {
            let found = std::fs::metadata(file?).ok()?;
            Some((found.len(), found.modified().ok()?))
        })
    }
}

type Stamp = [Option<(u64, SystemTime)>; 3];

/// Knows the certificates as they are now.
struct Keeper {
    files: ServerTls,
    known: Mutex<(Stamp, Arc<ServerConfig>)>,
}

impl Keeper {
    fn new(files: ServerTls) -> Result<Keeper, TlsSetupError> {
        let known = Mutex::new((files.stamp(), Arc::new(files.load()?)));
        Ok(Keeper { files, known })
    }

    fn current(&self) -> Arc<ServerConfig> {
        let stamp = self.files.stamp();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != stamp {
            known.0 = stamp;
            match self.files.load() {
                Ok(config) => {
                    known.1 = Arc::new(config);
                    tracing::info!("the certificates were read again");
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "the certificates from before stay in use");
                }
            }
        }
        known.1.clone()
    }
}

/// Connections that are encrypted, each as soon as it is.
pub type EncryptedIncoming = BoxStream<'static, io::Result<TlsStream<TcpStream>>>;

/// The connections that a listener accepts, once they are encrypted and their clients are known.
pub fn encrypted(
    listener: TcpListener,
    files: ServerTls,
) -> Result<EncryptedIncoming, TlsSetupError> {
    let keeper = Arc::new(Keeper::new(files)?);
    let greeted = incoming(listener).map(move |accepted| {
        let keeper = keeper.clone();
        async move { greet(accepted.ok()?, &keeper).await }
    });
    let greeted = greeted.buffer_unordered(HANDSHAKES_MAX);
    Ok(greeted.filter_map(|stream| async { stream.map(Ok) }).boxed())
}

async fn greet(stream: TcpStream, keeper: &Keeper) -> Option<TlsStream<TcpStream>> {
    let client = stream.peer_addr().ok()?;
    match tokio::time::timeout(HANDSHAKE, shake(stream, keeper)).await {
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

async fn shake(mut stream: TcpStream, keeper: &Keeper) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first != [TLS] {
        // That it does not hear the reason is no further harm.
        tokio::time::timeout(FAREWELL, say_goodbye(&mut stream)).await.ok();
        return Err(io::Error::other("it speaks no TLS"));
    }
    match TlsAcceptor::from(keeper.current()).accept(stream).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((error, mut stream)) => {
            tokio::time::timeout(FAREWELL, linger(&mut stream)).await.ok();
            Err(error)
        }
    }
}

/// Answers the first request in the clear, whatever it is.
async fn say_goodbye(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&frame((SETTINGS, 0), 0, &[])).await?;
    stream.read_exact(&mut [0; PREFACE_BYTES]).await?;
    let request = loop {
        let mut head = [0; FRAME_HEAD];
        stream.read_exact(&mut head).await?;
        let [high, middle, low, kind, _, id @ ..] = head;
        let len = u64::from(u32::from_be_bytes([0, high, middle, low]));
        tokio::io::copy(&mut (&mut *stream).take(len), &mut tokio::io::sink()).await?;
        if kind == HEADERS {
            break u32::from_be_bytes(id);
        }
    };
    // The first is `:status: 200`; the others stand in full, each after a zero that says so.
    let mut fields = vec![0x88];
    let named =
        [("content-type", "application/grpc"), ("grpc-status", STATUS), ("grpc-message", WORDS)];
    for text in named.iter().flat_map(|(name, value)| [None, Some(name), Some(value)]) {
        let text = text.copied().unwrap_or_default();
        fields.push(u8::try_from(text.len()).unwrap_or(0));
        fields.extend_from_slice(text.as_bytes());
    }
    let mut answer = frame((SETTINGS, ACKNOWLEDGED), 0, &[]);
    answer.extend_from_slice(&frame((HEADERS, ENDS_ALL), request, &fields));
    stream.write_all(&answer).await?;
    linger(stream).await
}

fn frame((kind, flags): (u8, u8), stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = len.get(1..).unwrap_or_default().to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Waits until the client has gone: with bytes unread, the system would break the connection and take the answer back.
async fn linger(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(FAREWELL_BYTES);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(drop)
}

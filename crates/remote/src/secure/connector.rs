//! The making of an encrypted connection, up to where the server has accepted its client.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use super::{Asked, ClientCertificates, Trust};
use crate::reach::{BoxError, TcpConnector, late, place_of};

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a server that asked for a certificate may take for its first word.
const FIRST_WORD_MAX: Duration = Duration::from_secs(2);

/// Says why an encrypted connection did not come about.
#[derive(Debug, thiserror::Error)]
#[error("could not begin to speak TLS with {server}{}", shown_as(shown.as_ref()))]
pub struct HandshakeError {
    /// The other side.
    pub server: String,
    /// The file of the certificate that this side showed, if it was asked for one and has it.
    pub shown: Option<PathBuf>,
    /// Why not.
    pub source: io::Error,
}

fn shown_as(shown: Option<&PathBuf>) -> String {
    shown.map(|path| format!(", which was shown {}", path.display())).unwrap_or_default()
}

/// Makes encrypted connections.
#[derive(Clone)]
pub(super) struct SecureConnector {
    tcp: TcpConnector,
    certificates: Arc<ClientCertificates>,
    trust: Trust,
}

impl SecureConnector {
    pub(super) fn new(
        (certificates, trust): (Arc<ClientCertificates>, Trust),
        limit: Duration,
    ) -> SecureConnector {
        SecureConnector { tcp: TcpConnector::new(limit), certificates, trust }
    }
}

impl Service<Uri> for SecureConnector {
    type Response = TokioIo<Begun>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<TokioIo<Begun>, BoxError>>;

    fn poll_ready(&mut self, ctx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(ctx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (server, limit) = (place_of(&uri), self.tcp.limit);
        // An address of IPv6 stands in brackets.
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned());
        let reaching = self.tcp.reach(uri);
        let (certificates, trust) = (self.certificates.clone(), self.trust);
        async move {
            let (stream, name) = (reaching.await?, name?);
            let beginning = begin(stream, (&server, name), (&certificates, trust));
            match tokio::time::timeout(limit, beginning).await {
                Ok(begun) => Ok(TokioIo::new(begun?)),
                Err(_) => Err(HandshakeError { server, shown: None, source: late(limit) }.into()),
            }
        }
        .boxed()
    }
}

async fn begin(
    stream: TcpStream,
    (server, name): (&str, ServerName<'static>),
    (certificates, trust): (&ClientCertificates, Trust),
) -> Result<Begun, HandshakeError> {
    let ready = certificates.0.current();
    let key = ready.identity.as_ref().map(|(_, key)| key.clone());
    let asked = Arc::new(Asked { key, asked: AtomicBool::new(false) });
    let failed = |source| {
        let identity = ready.identity.as_ref().filter(|_| asked.was_asked());
        let shown = identity.map(|(path, _)| path.clone());
        HandshakeError { server: server.to_owned(), shown, source }
    };
    let config = ready.config(trust, asked.clone());
    let config = config.map_err(|error| failed(io::Error::other(error)))?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.map_err(&failed)?;
    if !asked.was_asked() {
        return Ok(Begun { stream, said: 0 });
    }
    // In TLS 1.3 a client is through before the server has looked at its certificate. What it thinks of it comes with its
    // first word, and would be lost among requests that are under way by then.
    hear(&mut stream).await.map_err(failed)?;
    Ok(Begun { stream, said: PREFACE.len() })
}

/// Waits for the server's first word. Some have none before they have heard one.
async fn hear(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let said = async {
        stream.write_all(PREFACE).await?;
        stream.flush().await
    };
    let said = said.await;
    match tokio::time::timeout(FIRST_WORD_MAX, stream.fill_buf()).await {
        Ok(Ok([])) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it closed the connection before it said a word",
        )),
        Ok(heard) => heard.map(drop),
        // Whatever it says later is heard by those who ask.
        Err(_) => said,
    }
}

/// An encrypted connection, of which the first bytes may have been said.
pub(super) struct Begun {
    stream: TlsStream<TcpStream>,
    /// So many bytes were said that will be said again.
    said: usize,
}

impl AsyncRead for Begun {
    fn poll_read(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(ctx, buffer)
    }
}

impl AsyncWrite for Begun {
    fn poll_write(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.said > 0 {
            let count = self.said.min(bytes.len());
            self.said -= count;
            return Poll::Ready(Ok(count));
        }
        Pin::new(&mut self.stream).poll_write(ctx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(ctx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(ctx)
    }
}

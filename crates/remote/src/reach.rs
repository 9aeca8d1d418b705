//! How a server is reached: whoever it is not hears which one it was.

use std::error::Error;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use dcbuild_process::find_cause;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::codegen::http::{self, Uri};
use tonic::transport::{Channel, Endpoint};

/// Says that a server was not reached.
#[derive(Debug, thiserror::Error)]
#[error("could not reach {server}")]
pub struct Unreached {
    /// The server, as HOST:PORT.
    pub server: String,
    /// Why not.
    pub source: io::Error,
}

impl Unreached {
    /// Finds the server among an error and its causes, if it is that.
    pub fn find(error: &(dyn Error + 'static)) -> Option<String> {
        find_cause(error, |error| Some(error.downcast_ref::<Unreached>()?.server.clone()))
    }
}

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Makes connections that send at once.
#[derive(Clone)]
pub(crate) struct TcpConnector {
    http: HttpConnector,
    /// How long it may take.
    pub(crate) limit: Duration,
}

impl TcpConnector {
    pub(crate) fn new(limit: Duration) -> TcpConnector {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        TcpConnector { http, limit }
    }

    pub(crate) fn poll_ready(&mut self, ctx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(ctx).map_err(Into::into)
    }

    /// Connects to the server of a URL.
    pub(crate) fn reach(
        &mut self,
        uri: Uri,
    ) -> impl Future<Output = Result<TcpStream, Unreached>> + Send + use<> {
        let server = place_of(&uri);
        let (connecting, limit) = (self.http.call(uri), self.limit);
        async move {
            let source = match tokio::time::timeout(limit, connecting).await {
                Ok(Ok(stream)) => return Ok(stream.into_inner()),
                Ok(Err(error)) => innermost(&error),
                Err(_) => late(limit),
            };
            Err(Unreached { server, source })
        }
    }
}

/// Host and port of a URL.
pub(crate) fn place_of(uri: &Uri) -> String {
    let place = uri.authority().map(ToString::to_string).unwrap_or_default();
    match uri.port() {
        Some(_) => place,
        None => format!("{place}:80"),
    }
}

pub(crate) fn late(limit: Duration) -> io::Error {
    let words = format!("there was no answer within {} seconds", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, words)
}

/// What an error comes down to; what lies between says only that it was about a connection.
fn innermost(error: &(dyn Error + 'static)) -> io::Error {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    match last.downcast_ref::<io::Error>() {
        Some(error) => io::Error::new(error.kind(), error.to_string()),
        None => io::Error::other(last.to_string()),
    }
}

/// Makes connections in the clear.
#[derive(Clone)]
struct PlainConnector(TcpConnector);

impl Service<Uri> for PlainConnector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<TokioIo<TcpStream>, BoxError>>;

    fn poll_ready(&mut self, ctx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(ctx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let reaching = self.0.reach(uri);
        async move { Ok(TokioIo::new(reaching.await?)) }.boxed()
    }
}

/// A channel to a server at HOST:PORT, in the clear; it connects when it is first used, and again when it was cut.
/// `settings` says all else about it.
pub fn plain_channel(
    authority: &str,
    limit: Duration,
    settings: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, http::Error> {
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query("/").build()?;
    let connector = PlainConnector(TcpConnector::new(limit));
    Ok(settings(Endpoint::from(uri)).connect_with_connector_lazy(connector))
}

#[cfg(test)]
mod tests {
    use dcbuild_proto::pb;
    use dcbuild_proto::pb::builds_client::BuildsClient;

    use super::*;
    use crate::answer::told;

    #[tokio::test]
    async fn a_server_that_is_not_reached_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap().to_string();
        drop(listener);
        let channel = plain_channel(&place, Duration::from_secs(5), |it| it).unwrap();
        let status = BuildsClient::new(channel).list(pb::ListRequest {}).await.unwrap_err();
        assert_eq!(Unreached::find(&status), Some(place.clone()));
        let words = format!("could not reach {place}: Connection refused (os error 111)");
        assert_eq!(told(&status), words);
    }
}

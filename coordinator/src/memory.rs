//! Connections inside one process: streams in memory that a server accepts and a client dials.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use dcbuild_model::limits;
use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Uri};

const STREAM_BYTES: usize = limits::CHUNK_BYTES;
const WAITING_MAX: usize = 16;

/// What a server accepts.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<DuplexStream>);

/// Dials the server of the same pair; clones dial the same server.
#[derive(Clone, Debug)]
pub struct MemoryConnector(mpsc::Sender<DuplexStream>);

/// Makes a pair of both.
pub fn in_memory() -> (Incoming, MemoryConnector) {
    let (tx, rx) = mpsc::channel(WAITING_MAX);
    (Incoming(rx), MemoryConnector(tx))
}

impl Stream for Incoming {
    type Item = io::Result<DuplexStream>;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(ctx).map(|stream| stream.map(Ok))
    }
}

impl MemoryConnector {
    /// A channel that connects when it is first used.
    pub fn channel(&self) -> Channel {
        let connector = self.clone();
        let dial = tower::service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move { connector.dial().await.map(TokioIo::new) }
        });
        // The address is never looked up; windows as large as a piece keep blobs flowing.
        Endpoint::from_static("http://in-memory.invalid")
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_with_connector_lazy(dial)
    }

    async fn dial(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(STREAM_BYTES);
        let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "the server has stopped");
        self.0.send(theirs).await.map_err(gone)?;
        Ok(ours)
    }
}

//! The side that has a layer.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dcbuild_model::{LayerId, TreePath};
use dcbuild_proto::pb;
use dcbuild_proto::pb::peers_server::{Peers, PeersServer};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Request, Response, Status};

use super::ticket::PeerKey;
use crate::service::guarded;

/// What one message holds, and how many of them wait for one reader. Together with the limits below it is what serving
/// takes of memory: less than 16 MiB.
const PIECE_BYTES: usize = 256 << 10;
const QUEUE: usize = 2;
/// How many reads are served at once, and how many of them are of whole layers, each of which keeps a core busy.
const READS_MAX: usize = 12;
const WHOLES_MAX: usize = 2;
/// How long one waits for its turn before it is sent away.
const TURN_MAX: Duration = Duration::from_millis(500);
/// How long a reader may take for one piece.
const SILENCE_MAX: Duration = Duration::from_secs(20);

type Pieces = mpsc::Sender<Result<pb::Piece, Status>>;

/// Gives what a worker has of layers, out of its own folders and without waiting for anybody; blocks.
pub trait Held: Send + Sync + 'static {
    /// A layer's table of contents.
    fn table(&self, layer: &LayerId) -> io::Result<Option<Bytes>>;
    /// The bytes of a file.
    fn file(&self, layer: &LayerId, path: &TreePath) -> io::Result<Option<Box<dyn Read + Send>>>;
    /// Writes all of a layer as a tar; says whether it is here.
    fn write(&self, layer: &LayerId, out: &mut dyn Write) -> io::Result<bool>;
}

/// Answers the `Peers` service from what a worker holds, to whoever has a ticket.
#[derive(Clone)]
pub struct PeerService {
    held: Arc<dyn Held>,
    key: PeerKey,
    reads: Arc<Semaphore>,
    wholes: Arc<Semaphore>,
}

impl PeerService {
    /// Serves these layers under tickets of this key.
    pub fn new(held: Arc<dyn Held>, key: PeerKey) -> PeerService {
        let (reads, wholes) = (Semaphore::new(READS_MAX), Semaphore::new(WHOLES_MAX));
        PeerService { held, key, reads: Arc::new(reads), wholes: Arc::new(wholes) }
    }

    /// The service, ready to be added to a server.
    pub fn into_server(self) -> PeersServer<PeerService> {
        PeersServer::new(self).max_decoding_message_size(64 << 10)
    }

    fn open(&self, layer: &str, ticket: &[u8]) -> Result<LayerId, Status> {
        let layer = layer.parse::<LayerId>();
        let layer = layer.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if self.key.opens(&layer, ticket) {
            return Ok(layer);
        }
        tracing::warn!(%layer, "a layer was asked for without a ticket of this worker");
        Err(Status::permission_denied("the ticket is not one of this worker for this layer"))
    }

    /// Has `give` write into the answer, on a thread where it may block.
    fn answer(
        &self,
        turn: OwnedSemaphorePermit,
        give: impl FnOnce(&dyn Held, &mut Sink) -> io::Result<bool> + Send + 'static,
    ) -> Answer {
        let (pieces, answer) = mpsc::channel(QUEUE);
        let (held, handle) = (self.held.clone(), Handle::current());
        let work = move || {
            let _turn = turn;
            let mut sink = Sink { handle, pieces, buffer: BytesMut::new() };
            let given = give(held.as_ref(), &mut sink);
            sink.end(given);
        };
        // It ends with its reader, at the latest after the longest silence.
        drop(tokio::task::spawn_blocking(work));
        tokio_stream_of(answer)
    }
}

type Answer = BoxStream<'static, Result<pb::Piece, Status>>;

fn tokio_stream_of(mut answer: mpsc::Receiver<Result<pb::Piece, Status>>) -> Answer {
    futures::stream::poll_fn(move |ctx| answer.poll_recv(ctx)).boxed()
}

async fn turn(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    match tokio::time::timeout(TURN_MAX, of.clone().acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        // The semaphores are never closed.
        Ok(Err(_)) | Err(_) => Err(Status::resource_exhausted("as many are served as may be")),
    }
}

/// Cuts what is written into messages; waits for the reader, but not for ever.
struct Sink {
    handle: Handle,
    pieces: Pieces,
    buffer: BytesMut,
}

impl Sink {
    fn send(&self, piece: Result<pb::Piece, Status>) -> io::Result<()> {
        let sending = async { tokio::time::timeout(SILENCE_MAX, self.pieces.send(piece)).await };
        let sent = self.handle.block_on(sending);
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn send_buffer(&mut self) -> io::Result<()> {
        let bytes = self.buffer.split().freeze();
        if bytes.is_empty() { Ok(()) } else { self.send(Ok(pb::Piece { bytes })) }
    }

    fn end(mut self, given: io::Result<bool>) {
        let last = match given {
            Ok(true) => self.send_buffer(),
            Ok(false) => self.send(Err(Status::not_found("the layer is not here"))),
            Err(error) => {
                tracing::debug!(%error, "a layer could not be given to another worker");
                self.send(Err(Status::aborted(error.to_string())))
            }
        };
        if let Err(error) = last {
            tracing::debug!(%error, "whoever read a layer went away");
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(bytes.get(..count).unwrap_or_default());
        if self.buffer.len() >= PIECE_BYTES {
            self.send_buffer()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn give_file(
    held: &dyn Held,
    sink: &mut Sink,
    (layer, path, start): (&LayerId, &TreePath, u64),
) -> io::Result<bool> {
    let Some(mut file) = held.file(layer, path)? else { return Ok(false) };
    io::copy(&mut file.by_ref().take(start), &mut io::sink())?;
    io::copy(&mut file, sink).map(|_| true)
}

#[async_trait::async_trait]
impl Peers for PeerService {
    type GetTableStream = Answer;
    type GetFileStream = Answer;
    type GetLayerStream = Answer;

    async fn get_table(
        &self,
        request: Request<pb::PeerRequest>,
    ) -> Result<Response<Answer>, Status> {
        guarded("GetTable", async {
            let pb::PeerRequest { layer, ticket } = request.into_inner();
            let layer = self.open(&layer, &ticket)?;
            let turn = turn(&self.reads).await?;
            Ok(self.answer(turn, move |held, sink| match held.table(&layer)? {
                Some(table) => sink.write_all(&table).map(|()| true),
                None => Ok(false),
            }))
        })
        .await
    }

    async fn get_file(
        &self,
        request: Request<pb::PeerFileRequest>,
    ) -> Result<Response<Answer>, Status> {
        guarded("GetFile", async {
            let pb::PeerFileRequest { layer, ticket, path, start } = request.into_inner();
            let layer = self.open(&layer, &ticket)?;
            let path = TreePath::clean(&path);
            let path = path.map_err(|error| Status::invalid_argument(error.to_string()))?;
            let turn = turn(&self.reads).await?;
            Ok(self.answer(turn, move |held, sink| give_file(held, sink, (&layer, &path, start))))
        })
        .await
    }

    async fn get_layer(
        &self,
        request: Request<pb::PeerRequest>,
    ) -> Result<Response<Answer>, Status> {
        guarded("GetLayer", async {
            let pb::PeerRequest { layer, ticket } = request.into_inner();
            let layer = self.open(&layer, &ticket)?;
            let turn = turn(&self.wholes).await?;
            Ok(self.answer(turn, move |held, sink| held.write(&layer, sink)))
        })
        .await
    }
}

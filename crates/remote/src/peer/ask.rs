//! The side that lacks a layer.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dcbuild_model::limits::MESSAGE_BYTES_MAX;
use dcbuild_model::{ContentDigest, Digest, LayerId, TreePath, WorkerId};
use dcbuild_proto::pb;
use dcbuild_proto::pb::peers_client::PeersClient;
use dcbuild_proto::pb::workers_client::WorkersClient;
use dcbuild_tree::toc;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::answer::Answer;

/// How long a connection may take, an answer to begin, and a peer be silent in its middle.
const CONNECT_MAX: Duration = Duration::from_secs(2);
const FIRST_MAX: Duration = Duration::from_secs(3);
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long the coordinator may take to say who made a layer.
const MAKER_MAX: Duration = Duration::from_secs(3);
/// How often a file is taken up again where it broke off.
const TRIES: u32 = 3;
/// How long a peer that failed is left alone, one that had too much to do, and one that sent other bytes than the
/// layer's: that is for as long as anybody will ask.
const FAILED_FOR: Duration = Duration::from_secs(10);
const BUSY_FOR: Duration = Duration::from_secs(1);
const LIED_FOR: Duration = Duration::from_hours(24);
/// Files up to here are held in memory while they are checked.
const MEMORY_BYTES_MAX: u64 = 8 << 20;
/// Connections that are kept.
const CHANNELS_MAX: usize = 256;

/// Who has a layer that the store may lack yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The worker.
    pub worker: WorkerId,
    /// Where it is reached, as HOST:PORT.
    pub address: String,
    /// Opens the layer.
    pub ticket: Bytes,
}

/// What the coordinator knows of a layer that the store lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maker {
    /// Whether a worker that lives is sending it to the store.
    pub coming: bool,
    /// Whoever has it, if it can be reached and has not failed lately.
    pub peer: Option<Peer>,
}

/// Says why a peer did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Its address is none.
    #[error("'{address}' is not the address of a worker")]
    Address {
        /// What was taken for one.
        address: String,
    },
    /// It could not be reached, or answered with an error.
    #[error("worker {worker} at {address} does not give it")]
    Answer {
        /// The peer.
        worker: WorkerId,
        /// Where.
        address: String,
        /// What it answered.
        source: Answer,
    },
    /// It said nothing for too long.
    #[error("worker {worker} at {address} is silent")]
    Silent {
        /// The peer.
        worker: WorkerId,
        /// Where.
        address: String,
    },
    /// It sent something else.
    #[error("worker {worker} sent bytes that are not the layer's")]
    Lied {
        /// The peer.
        worker: WorkerId,
    },
    /// What it sent could not be kept here.
    #[error("could not keep what a worker sent")]
    Spool(#[source] io::Error),
}

/// A file of a layer that is wanted of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The layer.
    pub layer: LayerId,
    /// Where the layer has it.
    pub path: &'a TreePath,
    /// What it holds.
    pub content: ContentDigest,
    /// How long it is.
    pub size: u64,
}

/// By which way a layer is to come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Whichever there is.
    Any,
    /// By the store: its maker does not give it.
    Store,
}

#[derive(Default)]
struct Known {
    channels: HashMap<String, Channel>,
    /// Peers that are not asked for a layer until then; without a layer, for none.
    avoided: HashMap<(WorkerId, Option<LayerId>), Instant>,
}

/// The other workers of a cluster, as one that lacks a layer sees them.
#[derive(Clone)]
pub struct Peers {
    client: WorkersClient<Channel>,
    own: WorkerId,
    known: Arc<Mutex<Known>>,
}

impl Peers {
    /// Asks the coordinator behind a channel who has what.
    pub fn new(channel: Channel, own: WorkerId) -> Peers {
        Peers { client: WorkersClient::new(channel), own, known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who made a layer; none if the coordinator does not answer.
    pub async fn maker(&self, layer: &LayerId) -> Option<Maker> {
        let (coming, peer) = self.ask(layer, Way::Any).await?;
        match peer.filter(|peer| peer.worker != self.own) {
            // It is to come by way of the store, then.
            Some(peer) if self.avoids(peer.worker, layer) => {
                let (coming, _) = self.ask(layer, Way::Store).await?;
                Some(Maker { coming, peer: None })
            }
            peer => Some(Maker { coming, peer }),
        }
    }

    async fn ask(&self, layer: &LayerId, way: Way) -> Option<(bool, Option<Peer>)> {
        let (worker, layer_id, send) = (self.own, layer.to_string(), way == Way::Store);
        let request = pb::FindMakerRequest { worker: worker.to_string(), layer: layer_id, send };
        let mut client = self.client.clone();
        let reply = tokio::time::timeout(MAKER_MAX, client.find_maker(request)).await;
        let reply = match reply {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(%layer, error = status.message(), "could not ask who made a layer");
                return None;
            }
            Err(_) => return None,
        };
        let peer = reply.peer.and_then(|peer| {
            let worker = peer.worker.parse().ok()?;
            Some(Peer { worker, address: peer.address, ticket: peer.ticket })
        });
        Some((reply.coming, peer))
    }

    pub(super) fn avoids(&self, worker: WorkerId, layer: &LayerId) -> bool {
        let (known, now) = (self.known(), Instant::now());
        let avoided = |layer| known.avoided.get(&(worker, layer)).is_some_and(|until| now < *until);
        avoided(None) || avoided(Some(*layer))
    }

    fn avoid(&self, peer: &Peer, layer: Option<LayerId>, time: Duration) {
        let (mut known, now) = (self.known(), Instant::now());
        known.avoided.retain(|_, until| now < *until);
        known.avoided.insert((peer.worker, layer), now + time);
    }

    fn client(&self, peer: &Peer) -> Result<PeersClient<Channel>, PeerError> {
        let mut known = self.known();
        let channel = if let Some(channel) = known.channels.get(&peer.address) {
            channel.clone()
        } else {
            let endpoint = Endpoint::from_shared(format!("http://{}", peer.address));
            let endpoint =
                endpoint.map_err(|_| PeerError::Address { address: peer.address.clone() })?;
            let channel = endpoint
                .connect_timeout(CONNECT_MAX)
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_timeout(SILENCE_MAX)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .connect_lazy();
            if known.channels.len() >= CHANNELS_MAX {
                known.channels.clear();
            }
            known.channels.insert(peer.address.clone(), channel.clone());
            channel
        };
        Ok(PeersClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// What a peer's answer means for the next question.
    fn failed(&self, peer: &Peer, layer: LayerId, status: Status) -> PeerError {
        match status.code() {
            Code::NotFound => self.avoid(peer, Some(layer), LIED_FOR),
            Code::ResourceExhausted => self.avoid(peer, Some(layer), BUSY_FOR),
            // It is well, and cannot give this one.
            Code::Aborted | Code::PermissionDenied => self.avoid(peer, Some(layer), FAILED_FOR),
            _ => self.avoid(peer, None, FAILED_FOR),
        }
        let (worker, address) = (peer.worker, peer.address.clone());
        PeerError::Answer { worker, address, source: status.into() }
    }

    fn silent(&self, peer: &Peer) -> PeerError {
        self.avoid(peer, None, FAILED_FOR);
        PeerError::Silent { worker: peer.worker, address: peer.address.clone() }
    }

    /// Leaves a peer alone for good, whose bytes were not what they should have been.
    pub fn lied(&self, peer: &Peer, layer: LayerId) -> PeerError {
        tracing::warn!(worker = %peer.worker, address = peer.address, %layer,
            "a worker sent bytes that are not the layer's; it is not asked again");
        self.avoid(peer, None, LIED_FOR);
        PeerError::Lied { worker: peer.worker }
    }

    /// Bytes of a peer as they come, no more than `max` of them, with a deadline on silence.
    fn pieces(
        &self,
        pieces: Streaming<pb::Piece>,
        (peer, layer, max): (&Peer, LayerId, u64),
    ) -> BoxStream<'static, Result<Bytes, PeerError>> {
        let start = (self.clone(), pieces, peer.clone(), max);
        let next = move |(peers, mut pieces, peer, left): (
            Peers,
            Streaming<pb::Piece>,
            Peer,
            u64,
        )| async move {
            let bytes = match tokio::time::timeout(SILENCE_MAX, pieces.message()).await {
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(piece))) => piece.bytes,
                Ok(Err(status)) => return Err(peers.failed(&peer, layer, status)),
                Err(_) => return Err(peers.silent(&peer)),
            };
            let left = left.checked_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            match left {
                Some(left) => Ok(Some((bytes, (peers, pieces, peer, left)))),
                None => Err(peers.lied(&peer, layer)),
            }
        };
        futures::stream::try_unfold(start, next).boxed()
    }

    /// A layer's table of contents, which is the layer's by its hash.
    pub async fn table(
        &self,
        peer: &Peer,
        layer: LayerId,
        bytes_max: u64,
    ) -> Result<Bytes, PeerError> {
        let request = pb::PeerRequest { layer: layer.to_string(), ticket: peer.ticket.clone() };
        let mut client = self.client(peer)?;
        let reply = tokio::time::timeout(FIRST_MAX, client.get_table(request)).await;
        let reply = reply.map_err(|_| self.silent(peer))?;
        let reply = reply.map_err(|status| self.failed(peer, layer, status))?;
        let mut pieces = self.pieces(reply.into_inner(), (peer, layer, bytes_max));
        let mut table = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            table.extend_from_slice(&piece?);
        }
        if toc::layer_id(&table) == layer {
            return Ok(table.freeze());
        }
        Err(self.lied(peer, layer))
    }

    /// All of a layer as a tar of at most `bytes_max`. Whoever reads it finds out whether it is the layer, and says so with
    /// [`Peers::lied`] if it is not.
    pub async fn layer(
        &self,
        peer: &Peer,
        layer: LayerId,
        bytes_max: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, PeerError>>, PeerError> {
        let request = pb::PeerRequest { layer: layer.to_string(), ticket: peer.ticket.clone() };
        let mut client = self.client(peer)?;
        let reply = tokio::time::timeout(FIRST_MAX, client.get_layer(request)).await;
        let reply = reply.map_err(|_| self.silent(peer))?;
        let reply = reply.map_err(|status| self.failed(peer, layer, status))?;
        Ok(self.pieces(reply.into_inner(), (peer, layer, bytes_max)))
    }

    /// A file of a layer: all of it came, and was found to be what it should be. Large ones lie in `folder` meanwhile.
    pub async fn file(
        &self,
        peer: &Peer,
        wanted: Wanted<'_>,
        folder: &Path,
    ) -> Result<Box<dyn Read + Send>, PeerError> {
        let mut spool = Spool::new(wanted.size, folder)?;
        let mut tries = 1;
        loop {
            match self.fill(peer, wanted, &mut spool).await {
                Ok(()) => break,
                // What came is kept: the rest is asked for.
                Err(PeerError::Answer { source, .. })
                    if tries < TRIES && source.code == Code::Unavailable && spool.size > 0 =>
                {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
        if !spool.is(wanted) {
            return Err(self.lied(peer, wanted.layer));
        }
        if tries > 1 {
            self.known().avoided.remove(&(peer.worker, None));
        }
        spool.into_reader()
    }

    async fn fill(
        &self,
        peer: &Peer,
        wanted: Wanted<'_>,
        spool: &mut Spool,
    ) -> Result<(), PeerError> {
        let layer = wanted.layer;
        let request = pb::PeerFileRequest {
            layer: layer.to_string(),
            ticket: peer.ticket.clone(),
            path: wanted.path.as_bytes().to_vec().into(),
            start: spool.size,
        };
        let mut client = self.client(peer)?;
        let reply = tokio::time::timeout(FIRST_MAX, client.get_file(request)).await;
        let reply = reply.map_err(|_| self.silent(peer))?;
        let reply = reply.map_err(|status| self.failed(peer, layer, status))?;
        let left = wanted.size.saturating_sub(spool.size);
        let mut pieces = self.pieces(reply.into_inner(), (peer, layer, left));
        while let Some(piece) = pieces.next().await {
            spool.add(&piece?)?;
        }
        Ok(())
    }
}

/// A file that is on its way.
struct Spool {
    place: Place,
    size: u64,
    hash: Sha256,
}

enum Place {
    Memory(Vec<u8>),
    File(File),
}

impl Spool {
    fn new(size: u64, folder: &Path) -> Result<Spool, PeerError> {
        let place = if size <= MEMORY_BYTES_MAX {
            Place::Memory(Vec::with_capacity(usize::try_from(size).unwrap_or(0)))
        } else {
            Place::File(tempfile::tempfile_in(folder).map_err(PeerError::Spool)?)
        };
        Ok(Spool { place, size: 0, hash: Sha256::new() })
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), PeerError> {
        match &mut self.place {
            Place::Memory(memory) => memory.extend_from_slice(bytes),
            Place::File(file) => file.write_all(bytes).map_err(PeerError::Spool)?,
        }
        self.hash.update(bytes);
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn is(&self, wanted: Wanted<'_>) -> bool {
        let digest = Digest(self.hash.clone().finalize().into());
        self.size == wanted.size && ContentDigest(digest) == wanted.content
    }

    fn into_reader(self) -> Result<Box<dyn Read + Send>, PeerError> {
        match self.place {
            Place::Memory(memory) => Ok(Box::new(Cursor::new(memory))),
            Place::File(mut file) => {
                file.rewind().map_err(PeerError::Spool)?;
                Ok(Box::new(file))
            }
        }
    }
}

//! The side that lacks a layer.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dcbuild_model::limits::MESSAGE_BYTES_MAX;
use dcbuild_model::{ContentDigest, LayerId, TreePath, WorkerId};
use dcbuild_proto::pb;
use dcbuild_proto::pb::peers_client::PeersClient;
use dcbuild_proto::pb::workers_client::WorkersClient;
use dcbuild_tree::toc;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::spool::Spool;
use super::trust::way_out;
use crate::answer::{Answer, told};
use crate::certificates::CertificateDigest;
use crate::reach::plain_channel;
use crate::secure::{ClientCertificates, Distrust, Trust, secure_channel};

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
/// Connections that are kept.
const CHANNELS_MAX: usize = 256;
/// Workers of which it is remembered that something was said about their certificates.
const SAID_MAX: usize = 1024;

/// Who has a layer that the store may lack yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The worker.
    pub worker: WorkerId,
    /// Where it is reached, as HOST:PORT.
    pub address: String,
    /// Opens the layer.
    pub ticket: Bytes,
    /// The certificate that it shows; none where nothing is encrypted.
    pub certificate: Option<CertificateDigest>,
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
    /// The two do not trust each other, or cannot know each other.
    #[error("worker {worker} at {address} is not trusted, or does not trust this one")]
    Distrusted {
        /// The peer.
        worker: WorkerId,
        /// Where.
        address: String,
        /// Why not.
        source: Distrust,
    },
    /// One of the two encrypts and the other does not.
    #[error("only one of this worker and worker {worker} encrypts")]
    Unlike {
        /// The peer.
        worker: WorkerId,
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

/// Where a peer is, and what it shows there.
type Place = (String, Option<CertificateDigest>);

#[derive(Default)]
struct Known {
    channels: HashMap<Place, Channel>,
    /// Peers that are not asked for a layer until then; without a layer, for none.
    avoided: HashMap<(WorkerId, Option<LayerId>), Instant>,
    /// Those with whose certificates something is wrong, which was said.
    said: HashSet<WorkerId>,
}

/// What came from peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerBytes {
    /// Over TLS.
    pub encrypted: u64,
    /// In the clear.
    pub plain: u64,
}

#[derive(Default)]
struct Counters {
    encrypted: AtomicU64,
    plain: AtomicU64,
}

/// The other workers of a cluster, as one that lacks a layer sees them.
#[derive(Clone)]
pub struct Peers {
    client: WorkersClient<Channel>,
    own: WorkerId,
    certificates: Option<Arc<ClientCertificates>>,
    known: Arc<Mutex<Known>>,
    read: Arc<Counters>,
}

impl Peers {
    /// Asks the coordinator behind a channel who has what.
    pub fn new(channel: Channel, own: WorkerId) -> Peers {
        let (client, known, read) = (WorkersClient::new(channel), Arc::default(), Arc::default());
        Peers { client, own, certificates: None, known, read }
    }

    /// Reads over TLS alone from now on, from whoever is trusted and shows what it announced.
    #[must_use]
    pub fn with_certificates(self, certificates: Option<Arc<ClientCertificates>>) -> Peers {
        Peers { certificates, ..self }
    }

    /// What came from peers since the worker started.
    pub fn read_bytes(&self) -> PeerBytes {
        let Counters { encrypted, plain } = &*self.read;
        let [encrypted, plain] = [encrypted, plain].map(|count| count.load(Ordering::Relaxed));
        PeerBytes { encrypted, plain }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who made a layer; none if the coordinator does not answer.
    pub async fn maker(&self, layer: &LayerId) -> Option<Maker> {
        let (coming, peer) = self.ask(layer, Way::Any).await?;
        match peer.filter(|peer| peer.worker != self.own) {
            // It is to come by way of the store, then.
            Some(peer) if self.avoids(peer.worker, layer) || !self.is_alike(&peer) => {
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
            let certificate = CertificateDigest::read(&peer.certificate).ok()?;
            Some(Peer { worker, address: peer.address, ticket: peer.ticket, certificate })
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

    /// Whether this worker and a peer encrypt both, or neither does. A read that is not encrypted, or that nobody can
    /// check, is none where the cluster has TLS: the store is waited for.
    fn is_alike(&self, peer: &Peer) -> bool {
        let words = match (&self.certificates, &peer.certificate) {
            (None, None) | (Some(_), Some(_)) => return true,
            (Some(_), None) => "it does not encrypt: give it worker.tls.cert and worker.tls.key",
            (None, Some(_)) => {
                "it encrypts, and this one does not: let this one reach the coordinator by https://"
            }
        };
        if self.says_first(peer.worker) {
            tracing::warn!(worker = %peer.worker, address = peer.address, why = words,
                "nothing is read from another worker, only from the store");
        }
        false
    }

    /// Whether this is the first time that something is said about a peer's certificates.
    fn says_first(&self, worker: WorkerId) -> bool {
        let mut known = self.known();
        if known.said.len() >= SAID_MAX {
            known.said.clear();
        }
        known.said.insert(worker)
    }

    fn client(&self, peer: &Peer) -> Result<PeersClient<Channel>, PeerError> {
        let place = (peer.address.clone(), peer.certificate);
        let known = self.known().channels.get(&place).cloned();
        let channel = if let Some(channel) = known {
            channel
        } else {
            let channel = self.channel(peer)?;
            let mut known = self.known();
            if known.channels.len() >= CHANNELS_MAX {
                known.channels.clear();
            }
            known.channels.entry(place).or_insert(channel).clone()
        };
        Ok(PeersClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn channel(&self, peer: &Peer) -> Result<Channel, PeerError> {
        let address = &peer.address;
        let is_none = || PeerError::Address { address: address.clone() };
        match (&self.certificates, peer.certificate) {
            (None, None) => plain_channel(address, CONNECT_MAX, settings).map_err(|_| is_none()),
            (Some(certificates), Some(digest)) => {
                let trusted = (certificates.clone(), Trust::Certificate(digest));
                secure_channel(address, trusted, CONNECT_MAX, settings).map_err(|_| is_none())
            }
            (None, Some(_)) | (Some(_), None) => Err(PeerError::Unlike { worker: peer.worker }),
        }
    }

    /// What a peer's answer means for the next question.
    fn failed(&self, peer: &Peer, layer: LayerId, status: Status) -> PeerError {
        if let Some(distrust) = Distrust::find(&status) {
            return self.distrusted(peer, distrust);
        }
        match status.code() {
            Code::NotFound => self.avoid(peer, Some(layer), LIED_FOR),
            Code::ResourceExhausted => self.avoid(peer, Some(layer), BUSY_FOR),
            // It is well, and cannot give this one.
            Code::Aborted | Code::PermissionDenied => self.avoid(peer, Some(layer), FAILED_FOR),
            _ => self.avoid(peer, None, FAILED_FOR),
        }
        let (worker, address) = (peer.worker, peer.address.clone());
        let message = told(&status);
        PeerError::Answer { worker, address, source: Answer { message, ..status.into() } }
    }

    fn distrusted(&self, peer: &Peer, source: Distrust) -> PeerError {
        self.avoid(peer, None, FAILED_FOR);
        let (worker, address) = (peer.worker, peer.address.clone());
        if self.says_first(worker) {
            tracing::warn!(%worker, address, why = %source, hint = way_out(source.fault),
                "nothing is read from another worker, only from the store");
        }
        PeerError::Distrusted { worker, address, source }
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

    fn count(&self, peer: &Peer, bytes: u64) {
        let Counters { encrypted, plain } = &*self.read;
        let counted = if peer.certificate.is_some() { encrypted } else { plain };
        counted.fetch_add(bytes, Ordering::Relaxed);
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
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            peers.count(&peer, count);
            let left = left.checked_sub(count);
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

fn settings(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(SILENCE_MAX)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
}

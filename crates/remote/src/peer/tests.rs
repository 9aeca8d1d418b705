use std::io::{self, Cursor, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dcbuild_model::{ContentDigest, Digest, LayerId, TreePath, WorkerId};
use dcbuild_proto::pb;
use dcbuild_proto::pb::workers_server::{Workers, WorkersServer};
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::certificates::CertificateDigest;
use crate::encrypted::{ServerCertificates, encrypted};
use crate::secure::ClientCertificates;

mod secure;

const TABLE: &[u8] = b"what a table of contents looks like does not matter here";

fn layer() -> LayerId {
    LayerId(Digest::of(TABLE))
}

fn large() -> Vec<u8> {
    (0..20_000_000_u32).map(|number| number.to_le_bytes()[1] ^ number.to_le_bytes()[0]).collect()
}

/// How a worker behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    Honest,
    /// Another byte than there should be.
    Lies,
    /// More than there should be.
    Endless,
    /// Its files break off once.
    Breaks,
    /// It has nothing.
    Empty,
}

struct Worker {
    manner: Manner,
    files: AtomicU32,
}

impl Worker {
    fn say(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self.manner {
            Manner::Lies => bytes[3] ^= 1,
            Manner::Endless => bytes.extend_from_slice(&bytes.clone()),
            Manner::Honest | Manner::Breaks | Manner::Empty => {}
        }
        bytes
    }
}

/// Breaks off in the middle.
struct Broken(Cursor<Vec<u8>>);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.position() > 9_000_000 {
            return Err(io::Error::other("the disk fails"));
        }
        self.0.read(buffer)
    }
}

impl Held for Worker {
    fn table(&self, _: &LayerId) -> io::Result<Option<Bytes>> {
        Ok((self.manner != Manner::Empty).then(|| self.say(TABLE).into()))
    }

    fn file(&self, _: &LayerId, path: &TreePath) -> io::Result<Option<Box<dyn Read + Send>>> {
        if self.manner == Manner::Empty {
            return Ok(None);
        }
        let number = self.files.fetch_add(1, Ordering::SeqCst);
        let content = if path.as_bytes() == b"large" { large() } else { b"small".to_vec() };
        let content = Cursor::new(self.say(&content));
        if self.manner == Manner::Breaks && number == 0 {
            return Ok(Some(Box::new(Broken(content))));
        }
        Ok(Some(Box::new(content)))
    }

    fn write(&self, _: &LayerId, out: &mut dyn Write) -> io::Result<bool> {
        out.write_all(&self.say(&large()))?;
        Ok(self.manner != Manner::Empty)
    }
}

/// Says who made a layer, as it was told.
#[derive(Clone, Default)]
struct Coordinator(Arc<Mutex<pb::FindMakerReply>>);

#[tonic::async_trait]
impl Workers for Coordinator {
    type WorkStream = ReceiverStream<Result<pb::WorkerOrder, Status>>;

    async fn work(
        &self,
        _: Request<Streaming<pb::WorkerReport>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        Err(Status::unimplemented("nobody works here"))
    }

    async fn find_outcome(
        &self,
        _: Request<pb::FindOutcomeRequest>,
    ) -> Result<Response<pb::FindOutcomeReply>, Status> {
        Ok(Response::new(pb::FindOutcomeReply { record: None }))
    }

    async fn ask_agent(
        &self,
        _: Request<pb::AskAgentRequest>,
    ) -> Result<Response<pb::AskAgentReply>, Status> {
        Err(Status::unimplemented("nobody has keys here"))
    }

    async fn pack_inline(
        &self,
        _: Request<pb::PackInlineRequest>,
    ) -> Result<Response<pb::PackInlineReply>, Status> {
        Ok(Response::new(pb::PackInlineReply::default()))
    }

    async fn find_maker(
        &self,
        _: Request<pb::FindMakerRequest>,
    ) -> Result<Response<pb::FindMakerReply>, Status> {
        Ok(Response::new(self.0.lock().unwrap().clone()))
    }
}

/// A worker that has a layer, a coordinator that knows it, and the other workers as a third sees them.
struct World {
    peers: Peers,
    worker: WorkerId,
    address: SocketAddr,
    key: PeerKey,
    /// What the worker shows, in a cluster with TLS.
    certificates: Option<Arc<ServerCertificates>>,
    said: Coordinator,
    folder: tempfile::TempDir,
    _tasks: TaskTracker,
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

impl World {
    async fn with(manner: Manner) -> World {
        World::known(manner, None, None).await
    }

    /// One whose worker shows a certificate, and one who reads who knows it, and is known.
    async fn known(
        manner: Manner,
        certificates: Option<Arc<ServerCertificates>>,
        reader: Option<Arc<ClientCertificates>>,
    ) -> World {
        let (tasks, key, said) = (TaskTracker::new(), PeerKey::random(), Coordinator::default());
        let (listener, address) = listen().await;
        let held = Arc::new(Worker { manner, files: AtomicU32::new(0) });
        let service = PeerService::new(held, key.clone()).into_server();
        let serving = Server::builder().add_service(service);
        match certificates.clone() {
            None => tasks.spawn(serving.serve_with_incoming(TcpListenerStream::new(listener))),
            Some(shown) => tasks.spawn(serving.serve_with_incoming(encrypted(listener, shown))),
        };
        let (listener, coordinator) = listen().await;
        let serving = Server::builder().add_service(WorkersServer::new(said.clone()));
        tasks.spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        let channel: Channel =
            Endpoint::from_shared(format!("http://{coordinator}")).unwrap().connect_lazy();
        let peers = Peers::new(channel, WorkerId::from_bits(1)).with_certificates(reader);
        let folder = tempfile::tempdir().unwrap();
        let worker = WorkerId::from_bits(2);
        let world =
            World { peers, worker, address, key, certificates, said, folder, _tasks: tasks };
        world.tell(true, &world.peer());
        world
    }

    fn peer(&self) -> Peer {
        let ticket = self.key.ticket(&layer()).into();
        let certificate = self.certificates.as_ref().map(|shown| shown.digest());
        Peer { worker: self.worker, address: self.address.to_string(), ticket, certificate }
    }

    fn tell(&self, coming: bool, peer: &Peer) {
        let Peer { worker, address, ticket, certificate } = peer.clone();
        let worker = worker.to_string();
        let certificate = certificate.map(|it| it.bytes().into()).unwrap_or_default();
        let peer = Some(pb::Peer { worker, address, ticket, certificate });
        *self.said.0.lock().unwrap() = pb::FindMakerReply { coming, peer };
    }

    async fn file(&self, peer: &Peer, name: &str, content: &[u8]) -> Result<Vec<u8>, PeerError> {
        let path = TreePath::clean(name.as_bytes()).unwrap();
        let content_digest = ContentDigest(Digest::of(content));
        let size = u64::try_from(content.len()).unwrap();
        let wanted = Wanted { layer: layer(), path: &path, content: content_digest, size };
        let mut reader = self.peers.file(peer, wanted, self.folder.path()).await?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    async fn table(&self, peer: &Peer) -> Result<Bytes, PeerError> {
        self.peers.table(peer, layer(), 1 << 20).await
    }

    async fn whole(&self, bytes_max: u64) -> Result<Vec<u8>, PeerError> {
        let mut pieces = self.peers.layer(&self.peer(), layer(), bytes_max).await?;
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    /// The one that the coordinator names, unless it is left alone.
    async fn named(&self) -> Option<Peer> {
        self.peers.maker(&layer()).await.unwrap().peer
    }
}

#[tokio::test]
async fn what_a_worker_has_is_read_under_its_ticket() {
    let world = World::with(Manner::Honest).await;
    let peer = world.named().await.unwrap();
    assert_eq!(peer, world.peer());
    assert_eq!(world.table(&peer).await.unwrap(), TABLE);
    assert_eq!(world.file(&peer, "small", b"small").await.unwrap(), b"small");
    assert!(world.file(&peer, "large", &large()).await.unwrap() == large());
    assert!(world.whole(20_000_000).await.unwrap() == large());
    assert!(world.named().await.is_some());

    for ticket in [
        Vec::new(),
        PeerKey::random().ticket(&layer()),
        world.key.ticket(&LayerId(Digest::of(b"x"))),
    ] {
        let error = world.table(&Peer { ticket: ticket.into(), ..peer.clone() }).await.unwrap_err();
        let PeerError::Answer { source, .. } = error else { panic!("{error:?}") };
        assert_eq!(source.code, tonic::Code::PermissionDenied);
    }
}

#[tokio::test]
async fn a_worker_does_not_ask_itself_and_is_told_when_nothing_comes() {
    let world = World::with(Manner::Honest).await;
    world.tell(false, &Peer { worker: WorkerId::from_bits(1), ..world.peer() });
    assert_eq!(world.peers.maker(&layer()).await, Some(Maker { coming: false, peer: None }));
}

#[tokio::test]
async fn other_bytes_than_the_layer_s_are_found_and_their_sender_left_alone() {
    for manner in [Manner::Lies, Manner::Endless] {
        let lied = |error: PeerError| assert!(matches!(error, PeerError::Lied { .. }), "{error:?}");
        let world = World::with(manner).await;
        lied(world.table(&world.peer()).await.unwrap_err());
        assert_eq!(world.named().await, None, "{manner:?}");
        let world = World::with(manner).await;
        lied(world.file(&world.peer(), "small", b"small").await.unwrap_err());
        lied(world.file(&world.peer(), "large", &large()).await.unwrap_err());
        assert_eq!(world.named().await, None, "{manner:?}");
    }
    let world = World::with(Manner::Endless).await;
    let error = world.whole(20_000_000).await.unwrap_err();
    assert!(matches!(error, PeerError::Lied { .. }), "{error:?}");
}

#[tokio::test]
async fn a_dead_worker_is_left_alone_for_a_while() {
    let world = World::with(Manner::Honest).await;
    let (listener, address) = listen().await;
    drop(listener);
    let dead = Peer { address: address.to_string(), ..world.peer() };
    let error = world.table(&dead).await.unwrap_err();
    assert!(matches!(error, PeerError::Answer { .. }), "{error:?}");
    assert_eq!(world.named().await, None);
}

#[tokio::test]
async fn a_worker_that_does_not_have_it_is_not_asked_for_it_again() {
    let world = World::with(Manner::Empty).await;
    let error = world.table(&world.peer()).await.unwrap_err();
    let PeerError::Answer { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.code, tonic::Code::NotFound);
    assert_eq!(world.named().await, None);
    assert!(!world.peers.avoids(world.worker, &LayerId(Digest::of(b"another"))));
}

#[tokio::test]
async fn a_file_that_broke_off_is_not_half_a_file() {
    let world = World::with(Manner::Breaks).await;
    let error = world.file(&world.peer(), "large", &large()).await.unwrap_err();
    assert!(matches!(error, PeerError::Answer { .. }), "{error:?}");
    assert_eq!(world.named().await, None);
    assert!(world.file(&world.peer(), "large", &large()).await.unwrap() == large());
}

#[tokio::test]
async fn a_silent_worker_costs_a_deadline() {
    let world = World::with(Manner::Honest).await;
    // Connections are taken, and nobody answers.
    let (_listener, address) = listen().await;
    let silent = Peer { address: address.to_string(), ..world.peer() };
    let error = world.table(&silent).await.unwrap_err();
    assert!(matches!(error, PeerError::Silent { .. } | PeerError::Answer { .. }), "{error:?}");
    assert_eq!(world.named().await, None);
}

#[tokio::test]
async fn a_worker_that_serves_many_sends_the_next_away() {
    let world = World::with(Manner::Honest).await;
    let mut open = Vec::new();
    // Nobody reads these on.
    for _ in 0..2 {
        open.push(world.peers.layer(&world.peer(), layer(), 20_000_000).await.unwrap());
    }
    let error = world.peers.layer(&world.peer(), layer(), 20_000_000).await.err().unwrap();
    let PeerError::Answer { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.code, tonic::Code::ResourceExhausted);
    // Small reads have turns of their own, and the next whole one has when another has gone.
    assert_eq!(world.table(&world.peer()).await.unwrap(), TABLE);
    drop(open.pop());
    // The other side hears of it when it hears of it, and each try waits for a turn.
    let mut last = world.whole(20_000_000).await;
    for _ in 0..20 {
        if last.is_err() {
            last = world.whole(20_000_000).await;
        }
    }
    assert!(last.unwrap() == large());
}

#[test]
fn a_key_has_a_length() {
    assert_eq!(PeerKey::new(&[1; 15]), Err(InvalidPeerKey { bytes: 15 }));
    assert_eq!(PeerKey::new(&[1; 65]), Err(InvalidPeerKey { bytes: 65 }));
    let key = PeerKey::new(&[1; 16]).unwrap();
    assert_eq!(format!("{key:?}"), "PeerKey { .. }");
    assert_ne!(key.ticket(&layer()), PeerKey::new(&[2; 16]).unwrap().ticket(&layer()));
}

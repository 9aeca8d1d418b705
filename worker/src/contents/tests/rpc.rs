//! A coordinator that names one maker, and the maker, which turns away whom it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dcbuild_proto::pb;
use dcbuild_proto::pb::peers_server::{Peers, PeersServer};
use dcbuild_proto::pb::workers_server::{Workers, WorkersServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

type Pieces = ReceiverStream<Result<pb::Piece, Status>>;

/// A worker that has too much to do for a number of questions, and then gives these bytes.
#[derive(Clone)]
pub(super) struct Maker {
    refusals: u64,
    asked: Arc<AtomicU64>,
    bytes: &'static [u8],
}

impl Maker {
    pub(super) fn new(refusals: u64, bytes: &'static [u8]) -> Maker {
        Maker { refusals, asked: Arc::default(), bytes }
    }

    /// How often it was asked for a file.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Serves, behind a coordinator that says that the layer is on its way and that this worker has it.
    pub(super) async fn serve(&self, tasks: &TaskTracker) -> Channel {
        let (listener, address) = listen().await;
        let serving = Server::builder().add_service(PeersServer::new(self.clone()));
        tasks.spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        let worker = dcbuild_model::WorkerId::from_bits(2).to_string();
        let peer = pb::Peer { worker, address, ..pb::Peer::default() };
        let peer = Some(peer);
        let coordinator = Coordinator(pb::FindMakerReply { coming: true, peer });
        let (listener, address) = listen().await;
        let serving = Server::builder().add_service(WorkersServer::new(coordinator));
        tasks.spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tonic::async_trait]
impl Peers for Maker {
    type GetTableStream = Pieces;
    type GetFileStream = Pieces;
    type GetLayerStream = Pieces;

    async fn get_table(&self, _: Request<pb::PeerRequest>) -> Result<Response<Pieces>, Status> {
        Err(Status::resource_exhausted("busy"))
    }

    async fn get_file(&self, _: Request<pb::PeerFileRequest>) -> Result<Response<Pieces>, Status> {
        if self.asked.fetch_add(1, Ordering::SeqCst) < self.refusals {
            return Err(Status::resource_exhausted("busy"));
        }
        let (pieces, answer) = tokio::sync::mpsc::channel(1);
        pieces.try_send(Ok(pb::Piece { bytes: self.bytes.into() })).unwrap();
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    async fn get_layer(&self, _: Request<pb::PeerRequest>) -> Result<Response<Pieces>, Status> {
        Err(Status::resource_exhausted("busy"))
    }
}

struct Coordinator(pb::FindMakerReply);

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
        Ok(Response::new(self.0.clone()))
    }
}

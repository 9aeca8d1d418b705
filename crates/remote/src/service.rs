//! The side that has the store.

use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::limits::CHUNK_BYTES;
use dcbuild_model::{BlobDigest, Compression, LayerDigest, LayerId};
use dcbuild_proto::document::{from_bytes, to_bytes};
use dcbuild_proto::pb::store_server::{Store, StoreServer};
use dcbuild_proto::{document::InvalidDocument, pb};
use dcbuild_store::{BlobStore, BlobStream, ByteRange, LayerIndex, StoreError};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::answer::status_of;

/// Answers the `Store` service from a store of this process.
#[derive(Clone)]
pub struct StoreService {
    blobs: Arc<dyn BlobStore>,
    layers: Arc<dyn LayerIndex>,
}

impl StoreService {
    /// Serves these blobs and what is known of these layers.
    pub fn new(blobs: Arc<dyn BlobStore>, layers: Arc<dyn LayerIndex>) -> StoreService {
        StoreService { blobs, layers }
    }

    /// The service, ready to be added to a server.
    pub fn into_server(self) -> StoreServer<StoreService> {
        StoreServer::new(self).max_decoding_message_size(dcbuild_model::limits::MESSAGE_BYTES_MAX)
    }
}

/// Cuts content into pieces that fit a message.
pub(crate) fn pieces(content: BlobStream) -> BlobStream {
    let cut = content.flat_map(|item| {
        let items = match item {
            Ok(bytes) => chunks(bytes).map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(items)
    });
    cut.boxed()
}

fn chunks(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let length = bytes.len().min(CHUNK_BYTES);
        (length > 0).then(|| bytes.split_to(length))
    })
}

fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Status> {
    text.parse().map_err(|error: T::Err| Status::invalid_argument(error.to_string()))
}

fn malformed(error: InvalidDocument) -> Status {
    Status::invalid_argument(format!("{error}: {}", error.source))
}

fn compression(name: &str) -> Result<Compression, Status> {
    [Compression::None, Compression::Gzip, Compression::Zstd]
        .into_iter()
        .find(|compression| compression.name() == name)
        .ok_or_else(|| Status::invalid_argument("no known compression"))
}

fn answer<T>(reply: Result<T, StoreError>) -> Result<T, Status> {
    reply.map_err(|error| status_of(&error))
}

#[async_trait::async_trait]
impl Store for StoreService {
    type GetStream = Pin<Box<dyn Stream<Item = Result<pb::Piece, Status>> + Send>>;

    async fn find_missing(
        &self,
        request: Request<pb::FindMissingRequest>,
    ) -> Result<Response<pb::FindMissingReply>, Status> {
        let blobs = request.into_inner().blobs;
        let blobs = blobs.iter().map(|blob| parse(blob)).collect::<Result<Vec<_>, _>>()?;
        let missing = answer(self.blobs.find_missing(&blobs).await)?;
        let missing = missing.iter().map(ToString::to_string).collect();
        Ok(Response::new(pb::FindMissingReply { missing }))
    }

    async fn get(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let pb::GetRequest { blob, start, length } = request.into_inner();
        let content = self.blobs.get(&parse(&blob)?, ByteRange { start, length }).await;
        let pieces = pieces(answer(content)?)
            .map(|piece| answer(piece).map(|bytes| pb::Piece { bytes }))
            .boxed();
        Ok(Response::new(pieces))
    }

    async fn put(
        &self,
        request: Request<Streaming<pb::PutPiece>>,
    ) -> Result<Response<pb::PutReply>, Status> {
        let mut pieces = request.into_inner();
        let first = pieces.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("no piece names the blob"))?;
        let blob: BlobDigest = parse(&first.blob)?;
        let rest = pieces.map(|piece| match piece {
            Ok(piece) => Ok(piece.bytes),
            Err(status) => Err(StoreError::Content { source: status.into() }),
        });
        let content = futures::stream::iter([Ok(first.bytes)]).chain(rest).boxed();
        let size = answer(self.blobs.put(&blob, content).await)?;
        Ok(Response::new(pb::PutReply { size }))
    }

    async fn find_layer(
        &self,
        request: Request<pb::FindLayerRequest>,
    ) -> Result<Response<pb::FindLayerReply>, Status> {
        let pb::FindLayerRequest { layer, compression: name } = request.into_inner();
        let layer: LayerId = parse(&layer)?;
        let found = answer(self.layers.find_blob(&layer, compression(&name)?).await)?;
        let stored = found.map(|stored| to_bytes(&stored).into());
        Ok(Response::new(pb::FindLayerReply { stored }))
    }

    async fn put_layer(
        &self,
        request: Request<pb::PutLayerRequest>,
    ) -> Result<Response<pb::PutLayerReply>, Status> {
        let pb::PutLayerRequest { layer, stored } = request.into_inner();
        let stored = from_bytes("stored blob", &stored).map_err(malformed)?;
        answer(self.layers.put_blob(&parse(&layer)?, &stored).await)?;
        Ok(Response::new(pb::PutLayerReply {}))
    }

    async fn find_base(
        &self,
        request: Request<pb::FindBaseRequest>,
    ) -> Result<Response<pb::FindBaseReply>, Status> {
        let digest: LayerDigest = parse(&request.into_inner().digest)?;
        let found = answer(self.layers.find_base(&digest).await)?;
        let base = found.map(|base| to_bytes(&base).into());
        Ok(Response::new(pb::FindBaseReply { base }))
    }

    async fn put_base(
        &self,
        request: Request<pb::PutBaseRequest>,
    ) -> Result<Response<pb::PutBaseReply>, Status> {
        let pb::PutBaseRequest { digest, base } = request.into_inner();
        let base = from_bytes("hashed base", &base).map_err(malformed)?;
        answer(self.layers.put_base(&parse(&digest)?, &base).await)?;
        Ok(Response::new(pb::PutBaseReply {}))
    }
}

//! The store, for those who cannot open it themselves.

use std::pin::Pin;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, Compression, LayerDigest, LayerId, limits};
use dcbuild_proto::{document, pb};
use dcbuild_store::{ByteRange, HashedBase, StoreError, StoredBlob};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::builds::store_failed;
use super::{Services, guarded, invalid};
use crate::config::Stores;

const BLOBS_MAX: usize = 50_000;

pub(super) struct StoreService(pub(super) Services);

impl StoreService {
    fn stores(&self) -> &Stores {
        &self.0.records.stores
    }
}

fn blob(text: &str) -> Result<BlobDigest, Status> {
    text.parse().map_err(|error: dcbuild_model::ParseDigestError| invalid(error))
}

fn compression(name: &str) -> Result<Compression, Status> {
    [Compression::None, Compression::Gzip, Compression::Zstd]
        .into_iter()
        .find(|form| form.name() == name)
        .ok_or_else(|| Status::invalid_argument(format!("'{name}' is no known compression")))
}

/// Cuts what a store reads into pieces that fit a message.
fn pieces(bytes: Bytes) -> impl Iterator<Item = Result<pb::Piece, Status>> {
    let count = bytes.len().div_ceil(limits::CHUNK_BYTES);
    (0..count).map(move |at| {
        let start = at * limits::CHUNK_BYTES;
        let end = (start + limits::CHUNK_BYTES).min(bytes.len());
        Ok(pb::Piece { bytes: bytes.slice(start..end) })
    })
}

#[tonic::async_trait]
impl pb::store_server::Store for StoreService {
    async fn find_missing(
        &self,
        request: Request<pb::FindMissingRequest>,
    ) -> Result<Response<pb::FindMissingReply>, Status> {
        guarded("FindMissing", async {
            let blobs = request.into_inner().blobs;
            if blobs.len() > BLOBS_MAX {
                return Err(Status::invalid_argument(format!("more than {BLOBS_MAX} blobs")));
            }
            let blobs: Vec<BlobDigest> =
                blobs.iter().map(|text| blob(text)).collect::<Result<_, _>>()?;
            let missing = self.stores().blobs.find_missing(&blobs).await.map_err(store_failed)?;
            Ok(pb::FindMissingReply { missing: missing.iter().map(ToString::to_string).collect() })
        })
        .await
    }

    type GetStream = Pin<Box<dyn Stream<Item = Result<pb::Piece, Status>> + Send>>;

    async fn get(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        guarded("Get", async {
            let request = request.into_inner();
            let range = ByteRange { start: request.start, length: request.length };
            let content = self.stores().blobs.get(&blob(&request.blob)?, range).await;
            let content = content.map_err(store_failed)?.flat_map(|part| {
                let parts: Box<dyn Iterator<Item = _> + Send> = match part {
                    Ok(bytes) => Box::new(pieces(bytes)),
                    Err(error) => Box::new(std::iter::once(Err(store_failed(error)))),
                };
                futures::stream::iter(parts)
            });
            Ok(content.boxed())
        })
        .await
    }

    async fn put(
        &self,
        request: Request<Streaming<pb::PutPiece>>,
    ) -> Result<Response<pb::PutReply>, Status> {
        guarded("Put", async {
            let mut pieces = request.into_inner();
            let first = pieces.message().await?;
            let first = first.ok_or_else(|| Status::invalid_argument("a Put without a piece"))?;
            let name = blob(&first.blob)?;
            let rest = pieces.map(|piece| match piece {
                Ok(piece) if piece.blob.is_empty() => Ok(piece.bytes),
                Ok(_) => {
                    Err(broken(Status::invalid_argument("only the first piece names the blob")))
                }
                Err(status) => Err(broken(status)),
            });
            let begin = futures::stream::iter([Ok(first.bytes)]);
            let stored = self.stores().blobs.put(&name, begin.chain(rest).boxed()).await;
            Ok(pb::PutReply { size: stored.map_err(store_failed)? })
        })
        .await
    }

    async fn find_layer(
        &self,
        request: Request<pb::FindLayerRequest>,
    ) -> Result<Response<pb::FindLayerReply>, Status> {
        guarded("FindLayer", async {
            let request = request.into_inner();
            let layer = LayerId(blob(&request.layer)?.0);
            let form = compression(&request.compression)?;
            let found = self.stores().layers.find_blob(&layer, form).await.map_err(store_failed)?;
            let stored = found.map(|stored| document::to_bytes(&stored).into());
            Ok(pb::FindLayerReply { stored })
        })
        .await
    }

    async fn put_layer(
        &self,
        request: Request<pb::PutLayerRequest>,
    ) -> Result<Response<pb::PutLayerReply>, Status> {
        guarded("PutLayer", async {
            let request = request.into_inner();
            let layer = LayerId(blob(&request.layer)?.0);
            let stored: StoredBlob =
                document::from_bytes("stored blob", &request.stored).map_err(invalid)?;
            self.stores().layers.put_blob(&layer, &stored).await.map_err(store_failed)?;
            Ok(pb::PutLayerReply {})
        })
        .await
    }

    async fn find_base(
        &self,
        request: Request<pb::FindBaseRequest>,
    ) -> Result<Response<pb::FindBaseReply>, Status> {
        guarded("FindBase", async {
            let digest = LayerDigest(blob(&request.into_inner().digest)?.0);
            let found = self.stores().layers.find_base(&digest).await.map_err(store_failed)?;
            Ok(pb::FindBaseReply { base: found.map(|base| document::to_bytes(&base).into()) })
        })
        .await
    }

    async fn put_base(
        &self,
        request: Request<pb::PutBaseRequest>,
    ) -> Result<Response<pb::PutBaseReply>, Status> {
        guarded("PutBase", async {
            let request = request.into_inner();
            let digest = LayerDigest(blob(&request.digest)?.0);
            let base: HashedBase =
                document::from_bytes("hashed base", &request.base).map_err(invalid)?;
            self.stores().layers.put_base(&digest, &base).await.map_err(store_failed)?;
            Ok(pb::PutBaseReply {})
        })
        .await
    }
}

fn broken(status: Status) -> StoreError {
    StoreError::Content { source: Box::new(status) }
}

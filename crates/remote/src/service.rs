//! The side that has the store.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::limits::{CHUNK_BYTES, MESSAGE_BYTES_MAX};
use dcbuild_model::{BlobDigest, LayerDigest, LayerId, Scope};
use dcbuild_proto::document::{from_bytes, to_bytes};
use dcbuild_proto::pb::store_server::{Store, StoreServer};
use dcbuild_proto::{document::InvalidDocument, pb};
use dcbuild_store::{
    BlobStore, BlobStream, ByteRange, CacheVersion, CacheVersions, Grant, Grants, LayerIndex,
    StoreError, WriteGrant, Written,
};
use futures::{FutureExt as _, Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::answer::status_of;
use crate::door::{Door, caller_names};
use crate::proof::prove;

/// Things asked about in one request.
const ASKED_MAX: usize = 50_000;
/// Whose word of layers is not taken writes no more than this to a store past the one that hashes it: it is the most that
/// S3 takes in one request, whose bytes are signed, and not in parts, which may be anything.
const GUEST_WRITE_BYTES_MAX: u64 = 5 << 20;

/// What is to be done with versions of cache mounts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Read,
    Write,
}

/// Answers the `Store` service from a store of this process.
#[derive(Clone)]
pub struct StoreService {
    blobs: Arc<dyn BlobStore>,
    layers: Arc<dyn LayerIndex>,
    grants: Option<Arc<dyn Grants>>,
    caches: Option<Arc<dyn CacheVersions>>,
    door: Option<Arc<dyn Door>>,
}

impl StoreService {
    /// Serves these blobs and what is known of these layers.
    pub fn new(blobs: Arc<dyn BlobStore>, layers: Arc<dyn LayerIndex>) -> StoreService {
        StoreService { blobs, layers, grants: None, caches: None, door: None }
    }

    /// Has bytes go past this process wherever the store grants it.
    #[must_use]
    pub fn with_grants(mut self, grants: Option<Arc<dyn Grants>>) -> StoreService {
        self.grants = grants;
        self
    }

    /// Answers for cache mounts.
    #[must_use]
    pub fn with_caches(mut self, caches: Arc<dyn CacheVersions>) -> StoreService {
        self.caches = Some(caches);
        self
    }

    /// Lets nobody say what layers and cache mounts are who is not let in; without a door everybody may.
    #[must_use]
    pub fn with_door(mut self, door: Arc<dyn Door>) -> StoreService {
        self.door = Some(door);
        self
    }

    /// Whether the store has a form of a layer, and all of that.
    async fn is_stored(&self, layer: LayerId) -> Result<bool, StoreError> {
        for form in self.layers.find_forms(&[layer]).await?.into_iter().flatten() {
            let parts = [BlobDigest(form.blob.digest.0), form.index];
            if self.blobs.find_missing(&parts).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Refuses whoever may not do what workers do.
    fn let_work<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some(door) = &self.door else { return Ok(()) };
        door.lets_work(&caller_names(request)).map_err(Status::permission_denied)
    }

    /// The versions of cache mounts that builds of a scope may read, or write.
    fn caches(&self, scope: &str, purpose: Purpose) -> Result<(Scope, &dyn CacheVersions), Status> {
        let asked: Scope = parse(scope)?;
        let Some(caches) = &self.caches else {
            return Err(Status::failed_precondition("no cache mounts are kept here"));
        };
        let is_let = self.door.as_ref().is_none_or(|door| match purpose {
            Purpose::Read => door.reads(&asked),
            Purpose::Write => door.writes(&asked),
        });
        if is_let {
            return Ok((asked, caches.as_ref()));
        }
        Err(Status::permission_denied(format!("the scope {asked} is not one that is served")))
    }

    /// The service, ready to be added to a server.
    pub fn into_server(self) -> StoreServer<StoreService> {
        StoreServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// Answers a request; a panic fails this request alone.
pub async fn guarded<T>(
    name: &'static str,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    let answer = AssertUnwindSafe(work).catch_unwind().await;
    answer.map_or_else(
        |_| {
            tracing::error!(name, "a request met a fault of this process");
            Err(Status::internal(format!("{name} met a fault of this process")))
        },
        |answer| answer.map(Response::new),
    )
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

/// Reads a list that is not too long.
fn parse_all<T: FromStr<Err: std::fmt::Display>>(texts: &[String]) -> Result<Vec<T>, Status> {
    if texts.len() > ASKED_MAX {
        let message = format!("{} things asked at once; the limit is {ASKED_MAX}", texts.len());
        return Err(Status::invalid_argument(message));
    }
    texts.iter().map(|text| parse(text)).collect()
}

fn grant_of(grant: Grant) -> pb::HttpGrant {
    let header = |(name, value): (String, String)| pb::HttpHeader { name, value };
    pb::HttpGrant {
        url: grant.url,
        headers: grant.headers.into_iter().map(header).collect(),
        valid_millis: u64::try_from(grant.valid_for.as_millis()).unwrap_or(u64::MAX),
    }
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
        guarded("FindMissing", async {
            let blobs = parse_all(&request.into_inner().blobs)?;
            let missing = answer(self.blobs.find_missing(&blobs).await)?;
            Ok(pb::FindMissingReply { missing: missing.iter().map(ToString::to_string).collect() })
        })
        .await
    }

    async fn get(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        guarded("Get", async {
            let pb::GetRequest { blob, start, length } = request.into_inner();
            let content = self.blobs.get(&parse(&blob)?, ByteRange { start, length }).await;
            let pieces = pieces(answer(content)?)
                .map(|piece| answer(piece).map(|bytes| pb::Piece { bytes }));
            Ok(pieces.boxed())
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
            let first = first.ok_or_else(|| Status::invalid_argument("no piece names the blob"))?;
            let blob: BlobDigest = parse(&first.blob)?;
            let broken = |status: Status| StoreError::Content { source: status.into() };
            let rest = pieces.map(move |piece| match piece {
                Ok(piece) if piece.blob.is_empty() => Ok(piece.bytes),
                Ok(_) => {
                    Err(broken(Status::invalid_argument("only the first piece names the blob")))
                }
                Err(status) => Err(broken(status)),
            });
            let content = futures::stream::iter([Ok(first.bytes)]).chain(rest).boxed();
            let size = answer(self.blobs.put(&blob, content).await)?;
            Ok(pb::PutReply { size })
        })
        .await
    }

    async fn grant(
        &self,
        request: Request<pb::GrantRequest>,
    ) -> Result<Response<pb::GrantReply>, Status> {
        guarded("Grant", async {
            let is_guest = self.let_work(&request).is_err();
            let pb::GrantRequest { blob, write_bytes } = request.into_inner();
            let blob = parse(&blob)?;
            let Some(grants) = &self.grants else { return Ok(pb::GrantReply::default()) };
            if is_guest && write_bytes.is_some_and(|size| size > GUEST_WRITE_BYTES_MAX) {
                return Ok(pb::GrantReply::default());
            }
            let one =
                |grant| pb::GrantReply { grants: vec![grant_of(grant)], ..Default::default() };
            match write_bytes {
                None => Ok(one(answer(grants.read(&blob).await)?)),
                Some(size) => Ok(match answer(grants.write(&blob, size).await)? {
                    WriteGrant::Whole(grant) => one(grant),
                    WriteGrant::Parts { upload, part_bytes, parts } => {
                        let grants = parts.into_iter().map(grant_of).collect();
                        pb::GrantReply { grants, upload, part_bytes }
                    }
                }),
            }
        })
        .await
    }

    async fn finish_put(
        &self,
        request: Request<pb::FinishPutRequest>,
    ) -> Result<Response<pb::FinishPutReply>, Status> {
        guarded("FinishPut", async {
            let is_guest = self.let_work(&request).is_err();
            let pb::FinishPutRequest { blob, size, upload, etags } = request.into_inner();
            let blob = parse(&blob)?;
            let Some(grants) = &self.grants else {
                return Err(Status::failed_precondition("nothing was granted"));
            };
            // Parts are granted to nobody else.
            if is_guest && !upload.is_empty() {
                return Err(Status::permission_denied("nothing was granted in parts"));
            }
            let upload = (!upload.is_empty()).then_some(upload);
            answer(grants.finish(&blob, &Written { size, upload, etags }).await)?;
            Ok(pb::FinishPutReply {})
        })
        .await
    }

    async fn find_layers(
        &self,
        request: Request<pb::FindLayersRequest>,
    ) -> Result<Response<pb::FindLayersReply>, Status> {
        guarded("FindLayers", async {
            let layers: Vec<LayerId> = parse_all(&request.into_inner().layers)?;
            let found = answer(self.layers.find_forms(&layers).await)?;
            let forms = |forms: Vec<_>| pb::LayerForms {
                stored: forms.iter().map(|stored| to_bytes(stored).into()).collect(),
            };
            Ok(pb::FindLayersReply { layers: found.into_iter().map(forms).collect() })
        })
        .await
    }

    async fn put_layer(
        &self,
        request: Request<pb::PutLayerRequest>,
    ) -> Result<Response<pb::PutLayerReply>, Status> {
        guarded("PutLayer", async {
            let may_work = self.let_work(&request);
            let pb::PutLayerRequest { layer, stored } = request.into_inner();
            let (layer, stored) =
                (parse(&layer)?, from_bytes("stored blob", &stored).map_err(malformed)?);
            // Whoever builds sends files; of their packs nobody's word is taken who is not trusted with more, nor in the
            // place of another's.
            if let Err(refusal) = may_work {
                if answer(self.is_stored(layer).await)? {
                    return Ok(pb::PutLayerReply {});
                }
                let proven = prove(self.blobs.as_ref(), layer, &stored).await;
                proven.map_err(|why| why.status(&refusal))?;
            }
            answer(self.layers.put_form(&layer, &stored).await)?;
            Ok(pb::PutLayerReply {})
        })
        .await
    }

    async fn find_bases(
        &self,
        request: Request<pb::FindBasesRequest>,
    ) -> Result<Response<pb::FindBasesReply>, Status> {
        guarded("FindBases", async {
            let digests: Vec<LayerDigest> = parse_all(&request.into_inner().digests)?;
            let found = answer(self.layers.find_bases(&digests).await)?;
            let known =
                |base: Option<_>| pb::KnownBase { base: base.map(|base| to_bytes(&base).into()) };
            Ok(pb::FindBasesReply { bases: found.into_iter().map(known).collect() })
        })
        .await
    }

    async fn put_base(
        &self,
        request: Request<pb::PutBaseRequest>,
    ) -> Result<Response<pb::PutBaseReply>, Status> {
        guarded("PutBase", async {
            self.let_work(&request)?;
            let pb::PutBaseRequest { digest, base } = request.into_inner();
            let base = from_bytes("hashed base", &base).map_err(malformed)?;
            answer(self.layers.put_base(&parse(&digest)?, &base).await)?;
            Ok(pb::PutBaseReply {})
        })
        .await
    }

    async fn find_cache(
        &self,
        request: Request<pb::FindCacheRequest>,
    ) -> Result<Response<pb::FindCacheReply>, Status> {
        guarded("FindCache", async {
            self.let_work(&request)?;
            let pb::FindCacheRequest { scope, id } = request.into_inner();
            let (scope, caches) = self.caches(&scope, Purpose::Read)?;
            let found = answer(caches.find(&scope, &id).await)?;
            Ok(pb::FindCacheReply { version: found.map(|found| to_bytes(&found).into()) })
        })
        .await
    }

    async fn put_cache(
        &self,
        request: Request<pb::PutCacheRequest>,
    ) -> Result<Response<pb::PutCacheReply>, Status> {
        guarded("PutCache", async {
            self.let_work(&request)?;
            let pb::PutCacheRequest { scope, version } = request.into_inner();
            let version: CacheVersion = from_bytes("cache version", &version).map_err(malformed)?;
            let (scope, caches) = self.caches(&scope, Purpose::Write)?;
            answer(caches.put(&scope, &version).await)?;
            Ok(pb::PutCacheReply {})
        })
        .await
    }
}

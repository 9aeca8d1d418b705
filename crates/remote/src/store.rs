//! The side that has no store.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, LayerDigest, LayerId, Scope, limits};
use dcbuild_proto::document::{from_bytes, to_bytes};
use dcbuild_proto::pb;
use dcbuild_proto::pb::store_client::StoreClient;
use dcbuild_store::{
    BlobStore, BlobStream, ByteRange, CacheVersion, CacheVersions, HashedBase, Hedge, LayerIndex,
    Patience, StoreError, StoredBlob, Verified,
};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::answer::{error_of, may_pass, unavailable};
use crate::away::{Away, WORKERS_AWAY_MAX};
use crate::granted::{Begun, Granted, Spooled};
use crate::service::pieces;

/// How long a worker waits for the answer to a write of little: an image's last blobs are among them.
const WORKERS_PATIENCE: Patience =
    Patience { first: Duration::from_secs(2), stall: Duration::from_secs(4), hedge: Hedge::Never };
/// How often a read that makes no headway is taken up again.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How many digests one question holds.
const ASKED_MAX: usize = 10_000;

/// How long what is waited for.
struct Waits {
    small_writes: Patience,
    away_max: Duration,
}

/// A store that is reached over a connection; every byte of a whole read is hashed here.
#[derive(Clone)]
pub struct RemoteStore {
    paths: Arc<Verified<Paths>>,
}

/// The two ways of bytes: straight to the store, and through the other side.
struct Paths {
    wire: Wire,
    granted: Arc<Granted>,
}

struct Wire {
    client: StoreClient<Channel>,
    /// What errors call the store.
    name: String,
    /// How long the other side is waited for.
    away_max: Duration,
}

impl RemoteStore {
    /// Reaches the store behind a channel; `name` is what errors call it.
    pub fn new(channel: Channel, name: impl Into<String>) -> RemoteStore {
        RemoteStore::trusting(channel, name, None)
    }

    /// The same, where the store behind the other side is reached by https and known by these certificates alone, in PEM.
    pub fn trusting(
        channel: Channel,
        name: impl Into<String>,
        store_ca: Option<PathBuf>,
    ) -> RemoteStore {
        let waits = Waits { small_writes: Patience::SMALL, away_max: Duration::ZERO };
        RemoteStore::patient(channel, name, (store_ca, waits), std::env::temp_dir())
    }

    /// The same for a worker, for most of whose writes no build waits: a store that takes its time is not left for the
    /// other side at once, and the other side is waited for while it is started again. What is on its way there lies in the
    /// worker's folder.
    pub fn of_worker(
        channel: Channel,
        name: impl Into<String>,
        store_ca: Option<PathBuf>,
        folder: PathBuf,
    ) -> RemoteStore {
        let waits = Waits { small_writes: WORKERS_PATIENCE, away_max: WORKERS_AWAY_MAX };
        RemoteStore::patient(channel, name, (store_ca, waits), folder)
    }

    fn patient(
        channel: Channel,
        name: impl Into<String>,
        (store_ca, waits): (Option<PathBuf>, Waits),
        spool: PathBuf,
    ) -> RemoteStore {
        let Waits { small_writes, away_max } = waits;
        let (max, name) = (limits::MESSAGE_BYTES_MAX, name.into());
        let client = StoreClient::new(channel).max_decoding_message_size(max);
        let granted = Granted::new(client.clone(), name.clone(), (store_ca, small_writes), spool);
        let granted = Arc::new(granted);
        RemoteStore {
            paths: Arc::new(Verified(Paths { wire: Wire { client, name, away_max }, granted })),
        }
    }
}

#[async_trait::async_trait]
impl BlobStore for RemoteStore {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.paths.find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let content = self.paths.get(blob, range).await?;
        let (paths, blob) = (self.paths.clone(), *blob);
        let watched = content.then(move |piece| {
            let paths = paths.clone();
            async move {
                if let Err(StoreError::Corrupt { .. }) = piece {
                    paths.0.wire.doubt(&blob).await;
                }
                piece
            }
        });
        Ok(watched.boxed())
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        self.paths.put(blob, content).await
    }
}

#[async_trait::async_trait]
impl BlobStore for Paths {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.wire.find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        match self.granted.get(blob, range).await {
            Ok(Some(content)) => Ok(content),
            Ok(None) => self.wire.get(blob, range).await,
            Err(error) if may_go_through(&error) => {
                let error = text_of(&error);
                tracing::info!(%blob, error, "a blob is read through the coordinator");
                self.wire.get(blob, range).await
            }
            // The other side learns in this way that it is gone, whatever its index says.
            Err(error) if error.is_miss() => self.wire.get(blob, range).await,
            Err(error) => Err(error),
        }
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        if !self.granted.may() {
            return match Begun::of(content).await? {
                Begun::Whole(bytes) => self.wire.put_again(blob, &Spooled::Memory(bytes)).await,
                Begun::More(begin, rest) => {
                    let begin = futures::stream::iter([Ok(begin)]);
                    self.wire.put(blob, begin.chain(rest).boxed()).await
                }
            };
        }
        let content = self.granted.spooled(content).await?;
        match self.granted.put(blob, &content).await {
            Ok(true) => return Ok(content.size()),
            Ok(false) => {}
            // What was damaged on its way is sent once more.
            Err(error) if may_go_through(&error) || matches!(error, StoreError::Corrupt { .. }) => {
                let error = text_of(&error);
                tracing::info!(%blob, error, "a blob is written through the coordinator");
            }
            Err(error) => return Err(error),
        }
        self.wire.put_again(blob, &content).await
    }
}

/// Whether the other side may reach the store where we cannot, or keep what the store has no room for.
fn may_go_through(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. } | StoreError::Full { .. })
        || error.is_of_configuration()
}

fn text_of(error: &StoreError) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

impl Wire {
    /// Has the other side read a blob that came corrupt: if it is so in the store, it is put aside there.
    async fn doubt(&self, blob: &BlobDigest) {
        if let Ok(mut content) = self.get(blob, ByteRange::ALL).await {
            while let Some(Ok(_)) = content.next().await {}
        }
    }

    fn unavailable(&self, status: Status) -> StoreError {
        unavailable(&self.name, status)
    }

    fn away(&self) -> Away {
        Away::new(self.away_max)
    }

    /// Writes what can be sent as often as it takes.
    async fn put_again(&self, blob: &BlobDigest, content: &Spooled) -> Result<u64, StoreError> {
        let mut away = self.away();
        loop {
            match self.put_once(blob, content.stream()).await? {
                Ok(size) => return Ok(size),
                Err(status) => {
                    away.wait(status).await.map_err(|status| error_of(&self.name, blob, status))?;
                }
            }
        }
    }

    /// Writes a blob; what failed is the content, or what the other side said.
    async fn put_once(
        &self,
        blob: &BlobDigest,
        content: BlobStream,
    ) -> Result<Result<u64, Status>, StoreError> {
        let broken = Broken::default();
        let request = put_pieces(*blob, content, broken.clone());
        let reply = self.client.clone().put(request).await;
        if let Some(error) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        Ok(reply.map(|reply| reply.into_inner().size))
    }

    fn nonsense(&self, message: impl Into<String>) -> StoreError {
        self.unavailable(Status::internal(message))
    }
}

#[async_trait::async_trait]
impl BlobStore for Wire {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        let mut missing = Vec::new();
        for blobs in blobs.chunks(ASKED_MAX) {
            let blobs = blobs.iter().map(ToString::to_string).collect();
            let request = pb::FindMissingRequest { blobs };
            let ask = || {
                let (mut client, request) = (self.client.clone(), request.clone());
                async move { client.find_missing(request).await }
            };
            let reply = self.away().ask(ask).await;
            for text in reply.map_err(|status| self.unavailable(status))?.missing {
                let blob = text.parse().map_err(|_| self.nonsense("a digest is malformed"))?;
                missing.push(blob);
            }
        }
        Ok(missing)
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let mut reading = Reading {
            client: self.client.clone(),
            name: self.name.clone(),
            blob: *blob,
            range,
            pieces: None,
            failed: 0,
            away: self.away(),
        };
        reading.open().await?;
        let pieces = futures::stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|bytes| (bytes, reading)))
        });
        Ok(pieces.boxed())
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        let size = self.put_once(blob, content).await?;
        size.map_err(|status| error_of(&self.name, blob, status))
    }
}

/// Why content ended early, if it did.
type Broken = Arc<Mutex<Option<StoreError>>>;

/// A type without a lifetime in it, which the compiler would lose where it proves that a call is `Send`.
struct PutPieces(BoxStream<'static, pb::PutPiece>);

impl Stream for PutPieces {
    type Item = pb::PutPiece;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<pb::PutPiece>> {
        self.0.poll_next_unpin(cx)
    }
}

/// A stream of requests cannot carry an error. It ends early instead, and the other side finds that the bytes so far are
/// not the blob.
fn put_pieces(blob: BlobDigest, content: BlobStream, broken: Broken) -> PutPieces {
    let first = pb::PutPiece { blob: blob.to_string(), bytes: Bytes::new() };
    let rest = pieces(content).scan(broken, |broken, item| {
        let piece = match item {
            Ok(bytes) => Some(pb::PutPiece { blob: String::new(), bytes }),
            Err(error) => {
                *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                None
            }
        };
        std::future::ready(piece)
    });
    PutPieces(futures::stream::iter([first]).chain(rest).boxed())
}

/// A read that goes on where it was cut.
struct Reading {
    client: StoreClient<Channel>,
    name: String,
    blob: BlobDigest,
    /// What is still to come.
    range: ByteRange,
    pieces: Option<Streaming<pb::Piece>>,
    /// How often it failed since the last byte came.
    failed: u32,
    away: Away,
}

impl Reading {
    async fn open(&mut self) -> Result<(), StoreError> {
        loop {
            let ByteRange { start, length } = self.range;
            let request = pb::GetRequest { blob: self.blob.to_string(), start, length };
            match self.client.get(request).await {
                Ok(reply) => {
                    self.pieces = Some(reply.into_inner());
                    return Ok(());
                }
                Err(status) => self.pause(status).await?,
            }
        }
    }

    /// Waits before another try, unless that is of no use.
    async fn pause(&mut self, status: Status) -> Result<(), StoreError> {
        self.failed += 1;
        let Err(status) = self.away.wait(status).await else { return Ok(()) };
        if self.failed >= TRIES || !may_pass(&status) {
            return Err(error_of(&self.name, &self.blob, status));
        }
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.failed - 1)).await;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            let Some(pieces) = &mut self.pieces else {
                self.open().await?;
                continue;
            };
            match pieces.message().await {
                Ok(None) => return Ok(None),
                Ok(Some(piece)) => {
                    let length = u64::try_from(piece.bytes.len()).unwrap_or(u64::MAX);
                    self.range.start = self.range.start.saturating_add(length);
                    self.range.length = self.range.length.map(|left| left.saturating_sub(length));
                    self.failed = 0;
                    self.away.over();
                    return Ok(Some(piece.bytes));
                }
                Err(status) => {
                    self.pieces = None;
                    self.pause(status).await?;
                }
            }
        }
    }
}

impl RemoteStore {
    /// Asks the other side, while it is away as well.
    async fn ask<Q: Clone, T, F>(
        &self,
        request: Q,
        question: impl Fn(StoreClient<Channel>, Q) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let wire = &self.paths.0.wire;
        let ask = || question(wire.client.clone(), request.clone());
        wire.away().ask(ask).await.map_err(|status| wire.unavailable(status))
    }

    fn same_count(&self, asked: usize, answered: usize) -> Result<(), StoreError> {
        if asked == answered {
            return Ok(());
        }
        Err(self.paths.0.wire.nonsense(format!("{answered} answers to {asked} questions")))
    }

    fn malformed(&self, error: dcbuild_proto::document::InvalidDocument) -> StoreError {
        StoreError::Unavailable { store: self.paths.0.wire.name.clone(), source: error.into() }
    }
}

#[async_trait::async_trait]
impl LayerIndex for RemoteStore {
    async fn find_forms(&self, layers: &[LayerId]) -> Result<Vec<Vec<StoredBlob>>, StoreError> {
        let mut found = Vec::with_capacity(layers.len());
        for layers in layers.chunks(ASKED_MAX) {
            let asked = layers.iter().map(ToString::to_string).collect();
            let request = pb::FindLayersRequest { layers: asked };
            let ask =
                async |mut client: StoreClient<Channel>, request| client.find_layers(request).await;
            let reply = self.ask(request, ask).await?.layers;
            self.same_count(layers.len(), reply.len())?;
            for forms in reply {
                let read = |bytes: &Bytes| from_bytes("stored blob", bytes);
                let forms: Result<Vec<StoredBlob>, _> = forms.stored.iter().map(read).collect();
                found.push(forms.map_err(|error| self.malformed(error))?);
            }
        }
        Ok(found)
    }

    async fn put_form(&self, layer: &LayerId, stored: &StoredBlob) -> Result<(), StoreError> {
        let stored = to_bytes(stored).into();
        let request = pb::PutLayerRequest { layer: layer.to_string(), stored };
        self.ask(request, async |mut client: StoreClient<Channel>, it| client.put_layer(it).await)
            .await?;
        Ok(())
    }

    async fn find_bases(
        &self,
        digests: &[LayerDigest],
    ) -> Result<Vec<Option<HashedBase>>, StoreError> {
        let mut found = Vec::with_capacity(digests.len());
        for digests in digests.chunks(ASKED_MAX) {
            let asked = digests.iter().map(ToString::to_string).collect();
            let request = pb::FindBasesRequest { digests: asked };
            let ask =
                async |mut client: StoreClient<Channel>, request| client.find_bases(request).await;
            let reply = self.ask(request, ask).await?.bases;
            self.same_count(digests.len(), reply.len())?;
            for base in reply {
                let read = |bytes: Bytes| from_bytes("hashed base", &bytes);
                let base = base.base.map(read).transpose();
                found.push(base.map_err(|error| self.malformed(error))?);
            }
        }
        Ok(found)
    }

    async fn put_base(&self, digest: &LayerDigest, base: &HashedBase) -> Result<(), StoreError> {
        let base = to_bytes(base).into();
        let request = pb::PutBaseRequest { digest: digest.to_string(), base };
        self.ask(request, async |mut client: StoreClient<Channel>, it| client.put_base(it).await)
            .await?;
        Ok(())
    }
}

#[async_trait::async_trait]
impl CacheVersions for RemoteStore {
    async fn find(&self, scope: &Scope, id: &str) -> Result<Option<CacheVersion>, StoreError> {
        let request = pb::FindCacheRequest { scope: scope.to_string(), id: id.to_owned() };
        let ask = async |mut client: StoreClient<Channel>, it| client.find_cache(it).await;
        let found = self.ask(request, ask).await?.version;
        let found = found.map(|bytes| from_bytes("cache version", &bytes)).transpose();
        found.map_err(|error| self.malformed(error))
    }

    async fn put(&self, scope: &Scope, version: &CacheVersion) -> Result<(), StoreError> {
        let version = to_bytes(version).into();
        let request = pb::PutCacheRequest { scope: scope.to_string(), version };
        self.ask(request, async |mut client: StoreClient<Channel>, it| client.put_cache(it).await)
            .await?;
        Ok(())
    }
}

//! Moves whole caches: from a store to a place, and from a place to a store.

use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, Digest, Fault, Scope};
use dcbuild_registry::{BlobReader, ByteStream, BytesBlob};
use dcbuild_store::{BlobStore, ByteRange, Seal, StoreError};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::artifact::{Artifact, Measured};
use crate::look::Borrowed;
use crate::pack::Shelf;
use crate::place::{Place, PlaceError};

/// Blobs under way at a time.
const AT_ONCE: usize = 8;

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Blobs that the place lacked.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// Records.
    pub records: u64,
    /// Blobs that the store lacked.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Says why a cache was not sent.
#[derive(Debug, thiserror::Error)]
#[error("could not write the cache to {place}")]
pub struct SendError {
    /// Where to.
    pub place: String,
    /// Why not.
    pub source: PlaceError,
}

impl SendError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        self.source.fault()
    }
}

/// Says why a cache was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The place failed.
    #[error("could not read the cache from {place}")]
    Place {
        /// The place.
        place: String,
        /// Why not.
        source: PlaceError,
    },
    /// The store failed, or what came is not what its name says.
    #[error("could not store what came from {place}")]
    Store {
        /// The place.
        place: String,
        /// Why not.
        source: StoreError,
    },
}

/// A blob of a store, to be sent.
struct StoreBlob {
    store: Arc<dyn BlobStore>,
    blob: Measured,
}

#[async_trait::async_trait]
impl BlobReader for StoreBlob {
    fn digest(&self) -> Digest {
        self.blob.0.0
    }

    fn size(&self) -> u64 {
        self.blob.1
    }

    async fn open(&self, offset: u64) -> std::io::Result<ByteStream> {
        let range = if offset == 0 {
            // A whole read is hashed.
            ByteRange::ALL
        } else {
            ByteRange { start: offset, length: None }
        };
        let content = self.store.get(&self.blob.0, range).await.map_err(std::io::Error::other)?;
        Ok(content.map_err(std::io::Error::other).boxed())
    }
}

/// Sends a cache: its blobs, its documents, and then the manifest that makes them one.
pub async fn send(
    artifact: &Artifact,
    store: &Arc<dyn BlobStore>,
    place: &dyn Place,
) -> Result<Sent, SendError> {
    let sent = async {
        let blob = |blob: &Measured| {
            let reader = StoreBlob { store: store.clone(), blob: *blob };
            let reader: Arc<dyn BlobReader> = Arc::new(reader);
            (reader, blob.1)
        };
        let config: Arc<dyn BlobReader> = Arc::new(BytesBlob::new(artifact.config.clone()));
        let size = config.size();
        let readers: Vec<_> = artifact.blobs.iter().map(blob).chain([(config, size)]).collect();
        let puts = readers.into_iter().map(|(reader, size)| async move {
            Ok::<_, PlaceError>((place.put(reader).await?, size))
        });
        let puts: Vec<_> = puts.collect();
        let mut puts = futures::stream::iter(puts).buffer_unordered(AT_ONCE);
        let mut sent = Sent::default();
        while let Some((new, size)) = puts.try_next().await? {
            if new {
                sent.blobs += 1;
                sent.bytes = sent.bytes.saturating_add(size);
            }
        }
        place.finish(artifact.manifest.clone()).await?;
        Ok(sent)
    };
    sent.await.map_err(|source| SendError { place: place.name(), source })
}

/// Takes a whole cache into a scope of a store: blobs first, each hashed on its way in, then what describes layers, then
/// records. Whoever sealed them is believed.
pub async fn take(
    borrowed: &Borrowed,
    place: &dyn Place,
    shelf: &Shelf,
    scope: &Scope,
) -> Result<Carried, TakeError> {
    let name = || place.name();
    let failed = |source| TakeError::Store { place: name(), source };
    let mut carried = Carried::default();
    for (blob, bytes) in &borrowed.embedded {
        let content = dcbuild_store::stream_of(Bytes::clone(bytes));
        shelf.blobs.put(blob, content).await.map_err(failed)?;
    }
    let offered: Vec<BlobDigest> = borrowed.offered.keys().copied().collect();
    let missing = shelf.blobs.find_missing(&offered).await.map_err(failed)?;
    let bring = missing.iter().map(|blob| async move {
        let size = borrowed.offered.get(blob).copied().unwrap_or_default();
        let content = place.get(blob, size).await;
        let content = content.map_err(|source| TakeError::Place { place: name(), source })?;
        shelf.blobs.put(blob, content).await.map_err(failed)
    });
    let bring: Vec<_> = bring.collect();
    let mut bring = futures::stream::iter(bring).buffer_unordered(AT_ONCE);
    while let Some(size) = bring.try_next().await? {
        carried.blobs += 1;
        carried.bytes = carried.bytes.saturating_add(size);
    }
    let contents = borrowed.documents.read(Seal::credulous()).await.map_err(failed)?;
    for (layer, form) in &contents.forms {
        shelf.layers.put_form(layer, form).await.map_err(failed)?;
    }
    for (digest, base) in &contents.bases {
        shelf.layers.put_base(digest, base).await.map_err(failed)?;
    }
    for record in &contents.records {
        shelf.steps.put(scope, record).await.map_err(failed)?;
        carried.records += 1;
    }
    Ok(carried)
}

//! Moves a whole cache from a store to a place.

use std::sync::Arc;

use dcbuild_model::{Digest, Fault};
use dcbuild_registry::{BlobReader, ByteStream, BytesBlob};
use dcbuild_store::{BlobStore, ByteRange};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::artifact::{Artifact, Measured};
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

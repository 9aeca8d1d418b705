//! Moves a whole cache from a store to a place.

use std::sync::Arc;

use dcbuild_model::{Digest, Fault};
use dcbuild_registry::{BlobReader, ByteStream, BytesBlob};
use dcbuild_store::{BlobStore, ByteRange};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::artifact::{Artifact, Measured, Section, Seen, recognise};
use crate::place::{Place, PlaceError};

/// Blobs under way at a time.
const AT_ONCE: usize = 8;

/// What was sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Blobs that the place lacked.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Caches of other signing keys that lie there still.
    pub kept: usize,
    /// What lay there and does not any more, and what follows from it; none if it was nothing, or one's own.
    pub replaced: Option<String>,
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
        artifact.check_size()?;
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
        drop(puts);
        (sent.kept, sent.replaced) = finish(artifact, place).await?;
        Ok(sent)
    };
    sent.await.map_err(|source| SendError { place: place.name(), source })
}

/// Puts the manifest in the place of what is there: beside the caches of other keys; says how many these are, and what is
/// not there any more.
async fn finish(
    artifact: &Artifact,
    place: &dyn Place,
) -> Result<(usize, Option<String>), PlaceError> {
    let former = match place.former().await {
        Ok(former) => former,
        // Caches of others may lie there: nobody knows while it cannot be looked at.
        Err(error) if error.fault() == Fault::Cluster => return Err(error),
        // What is damaged is written anew.
        Err(_) => None,
    };
    let (others, replaced) = match former.as_deref().map(recognise) {
        None => (Vec::new(), None),
        Some(Seen::Records { key, config, blobs, others }) => {
            (foreign(artifact, key.map(|key| Section { key, config, blobs }), others), None)
        }
        Some(Seen::BuildKit) => {
            let text = "a cache of BuildKit lay there and is replaced: builds of BuildKit find nothing there any more, and \
                        replace this one in turn; give each a name of its own";
            (Vec::new(), Some(text.to_owned()))
        }
        Some(Seen::Image { .. } | Seen::Index(_)) => {
            let text = "an image lay there and is replaced: who pulls that name gets no image any more; give the cache a \
                        name of its own";
            (Vec::new(), Some(text.to_owned()))
        }
        Some(Seen::Other(what)) => (Vec::new(), Some(format!("{what} lay there and is replaced"))),
    };
    let (manifest, kept) = artifact.beside(&others);
    let kept = match place.finish(manifest).await {
        Ok(()) => kept,
        // A registry may have lost blobs of others.
        Err(error) if kept > 0 && error.fault() != Fault::Cluster => {
            tracing::debug!(%error, place = place.name(), "caches of other keys are left out");
            place.finish(artifact.manifest.clone()).await?;
            0
        }
        Err(error) => return Err(error),
    };
    let lost = others.len() - kept;
    let lost = (lost > 0).then(|| {
        format!(
            "caches of {lost} other signing keys lay there and are replaced: there is no room for them beside this one, or \
             the place has not all of them; give each key a name of its own"
        )
    });
    Ok((kept, replaced.or(lost)))
}

/// The caches of other keys, the one that was written last before the others; what was written without the name of a key
/// counts as one's own, and so does all where one's own key is not known.
fn foreign(artifact: &Artifact, last: Option<Section>, others: Vec<Section>) -> Vec<Section> {
    let Some(own) = &artifact.key else { return Vec::new() };
    last.into_iter().chain(others).filter(|section| section.key != *own).collect()
}

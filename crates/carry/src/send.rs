//! Moves a whole cache from a store to a place.

use std::collections::BTreeSet;
use std::sync::Arc;

use dcbuild_model::{Digest, Fault, ManifestDigest};
use dcbuild_oci::manifest::media_type;
use dcbuild_registry::{BlobReader, ByteStream, BytesBlob};
use dcbuild_store::{BlobStore, ByteRange};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::artifact::{
    Artifact, Child, Measured, PARTS_MAX, PartLimits, Section, Seen, index_of, recognise,
};
use crate::place::{Place, PlaceError};

/// Blobs under way at a time; of small ones more, since most of their time is the way there and back.
const AT_ONCE: usize = 8;
const SMALL_AT_ONCE: usize = 32;
const SMALL_BYTES: u64 = 256 << 10;

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

/// Sends a cache: its blobs, its documents, and then the manifest that makes them one, or the index of several.
pub async fn send(
    artifact: &Artifact,
    store: &Arc<dyn BlobStore>,
    place: &dyn Place,
) -> Result<Sent, SendError> {
    send_in_parts(artifact, PartLimits::default(), store, place).await
}

/// The same, where it is said how large a part may be.
pub async fn send_in_parts(
    artifact: &Artifact,
    limits: PartLimits,
    store: &Arc<dyn BlobStore>,
    place: &dyn Place,
) -> Result<Sent, SendError> {
    let sent = async {
        let parts = artifact.parts(limits);
        if parts.len() > PARTS_MAX {
            return Err(PlaceError::TooMany { parts: parts.len(), max: PARTS_MAX });
        }
        let blob = |blob: &Measured| {
            let reader = StoreBlob { store: store.clone(), blob: *blob };
            let reader: Arc<dyn BlobReader> = Arc::new(reader);
            (reader, blob.1)
        };
        let config = |part: &Artifact| {
            let config: Arc<dyn BlobReader> = Arc::new(BytesBlob::new(part.config.clone()));
            let size = config.size();
            (config, size)
        };
        let readers = artifact.blobs.iter().map(blob).chain(parts.iter().map(config));
        let (small, large): (Vec<_>, Vec<_>) = readers.partition(|(_, size)| *size <= SMALL_BYTES);
        let mut sent = Sent::default();
        for (readers, at_once) in [(small, SMALL_AT_ONCE), (large, AT_ONCE)] {
            let puts = readers.into_iter().map(|(reader, size)| async move {
                Ok::<_, PlaceError>((place.put(reader).await?, size))
            });
            let puts: Vec<_> = puts.collect();
            let mut puts = futures::stream::iter(puts).buffer_unordered(at_once);
            while let Some((new, size)) = puts.try_next().await? {
                if new {
                    sent.blobs += 1;
                    sent.bytes = sent.bytes.saturating_add(size);
                }
            }
        }
        (sent.kept, sent.replaced) = finish(&parts, place).await?;
        Ok(sent)
    };
    sent.await.map_err(|source| SendError { place: place.name(), source })
}

/// What lies at a place where a cache is to go.
#[derive(Default)]
struct Former {
    /// Caches of other keys, in the manifest of the last one.
    sections: Vec<Section>,
    /// Manifests of other keys in an index.
    children: Vec<Child>,
    /// What will not be there any more, and what follows from it.
    replaced: Option<String>,
}

impl Former {
    fn replaced(text: impl Into<String>) -> Former {
        Former { replaced: Some(text.into()), ..Former::default() }
    }

    async fn at(place: &dyn Place, own: Option<&str>) -> Result<Former, PlaceError> {
        let former = match place.former().await {
            Ok(former) => former,
            // Caches of others may lie there: nobody knows while it cannot be looked at.
            Err(error) if error.fault() == Fault::Cluster => return Err(error),
            // What is damaged is written anew.
            Err(_) => None,
        };
        Ok(match former.as_deref().map(recognise) {
            None => Former::default(),
            Some(Seen::Records { key, config, blobs, others }) => {
                let last = key.map(|key| Section { key, config, blobs });
                Former { sections: foreign(own, last, others), ..Former::default() }
            }
            Some(Seen::Index(children)) => Former::listed(place, own, children).await?,
            Some(Seen::BuildKit) => Former::replaced(
                "a cache of BuildKit lay there and is replaced: builds of BuildKit find nothing there any more, and replace \
                 this one in turn; give each a name of its own",
            ),
            Some(Seen::Image { .. }) => Former::replaced(AN_IMAGE),
            Some(Seen::Other(what)) => {
                Former::replaced(format!("{what} lay there and is replaced"))
            }
        })
    }

    /// What an index lists: parts of caches, or an image for each of several platforms.
    async fn listed(
        place: &dyn Place,
        own: Option<&str>,
        children: Vec<Measured>,
    ) -> Result<Former, PlaceError> {
        let (mut former, mut any) = (Former::default(), false);
        for (digest, size) in children.into_iter().take(PARTS_MAX) {
            let manifest = match place.manifest(Some(ManifestDigest(digest.0))).await {
                Err(error) if error.fault() == Fault::Cluster => return Err(error),
                manifest => manifest.ok().flatten(),
            };
            let Some(Seen::Records { key, others, .. }) = manifest.as_deref().map(recognise) else {
                continue;
            };
            any = true;
            former.sections.extend(foreign(own, None, others));
            let is_foreign = own.is_some_and(|own| key.as_ref().is_some_and(|key| key != own));
            if is_foreign {
                former.children.push(Child { key, manifest: (digest, size) });
            }
        }
        // Each key once, and the parts of its own before what was beside another's.
        let mut keys: BTreeSet<String> =
            former.children.iter().filter_map(|child| child.key.clone()).collect();
        former.sections.retain(|section| keys.insert(section.key.clone()));
        Ok(if any { former } else { Former::replaced(AN_IMAGE) })
    }

    /// How many keys of others have something there.
    fn keys(&self) -> usize {
        let children = self.children.iter().map(|child| child.key.as_deref());
        let keys = self.sections.iter().map(|section| Some(section.key.as_str())).chain(children);
        keys.collect::<BTreeSet<_>>().len()
    }
}

const AN_IMAGE: &str = "an image lay there and is replaced: who pulls that name gets no image any more; give the cache a name \
                        of its own";

/// Puts the manifests in the place of what is there: beside the caches of other keys; says how many these are, and what is
/// not there any more.
async fn finish(
    parts: &[Artifact],
    place: &dyn Place,
) -> Result<(usize, Option<String>), PlaceError> {
    let own = parts.first().and_then(|part| part.key.as_deref());
    let mut former = Former::at(place, own).await?;
    let replaced = former.replaced.take();
    let others = former.keys();
    let kept = match put(parts, &former, place).await {
        Ok(left_out) => others - left_out,
        // A registry may have lost blobs of others.
        Err(error) if others > 0 && error.fault() != Fault::Cluster => {
            tracing::debug!(%error, place = place.name(), "caches of other keys are left out");
            put(parts, &Former::default(), place).await?;
            0
        }
        Err(error) => return Err(error),
    };
    let lost = others - kept;
    let lost = (lost > 0).then(|| {
        format!(
            "caches of {lost} other signing keys lay there and are replaced: there is no room for them beside this one, or \
             the place has not all of them; give each key a name of its own"
        )
    });
    Ok((kept, replaced.or(lost)))
}

/// Puts the manifests, with what others have; says how many of these there was no room for.
async fn put(parts: &[Artifact], former: &Former, place: &dyn Place) -> Result<usize, PlaceError> {
    let Some((main, more)) = parts.split_first() else { return Ok(0) };
    let (manifest, kept) = main.beside(&former.sections);
    let mut left_out = former.sections.len() - kept;
    if more.is_empty() && former.children.is_empty() {
        place.finish(manifest, media_type::MANIFEST).await?;
        return Ok(left_out);
    }
    let mut children = vec![main.child(&manifest)];
    place.put_manifest(manifest).await?;
    for part in more {
        children.push(part.child(&part.manifest));
        place.put_manifest(part.manifest.clone()).await?;
    }
    if children.len() + former.children.len() <= PARTS_MAX {
        children.extend(former.children.iter().cloned());
    } else {
        left_out = former.keys() - kept;
    }
    place.finish(index_of(&children), media_type::INDEX).await?;
    Ok(left_out)
}

/// The caches of other keys, the one that was written last before the others; what was written without the name of a key
/// counts as one's own, and so does all where one's own key is not known.
fn foreign(own: Option<&str>, last: Option<Section>, others: Vec<Section>) -> Vec<Section> {
    let Some(own) = own else { return Vec::new() };
    last.into_iter().chain(others).filter(|section| section.key != own).collect()
}

//! Pushing an image under its names.

use std::sync::Arc;

use async_trait::async_trait;
use dcbuild_model::{BlobDigest, Digest, LayerId, LayerRef, ManifestDigest};
use dcbuild_oci::{Descriptor, ImageRef, Repository};
use dcbuild_proto::document::{LeasedImage, OutputKind, OutputLayer};
use dcbuild_registry::{BlobReader, ByteStream, BytesBlob, RegistryClient};
use dcbuild_store::{BlobStore, ByteRange};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use crate::attempt::Attempt;
use crate::attest::Attested;
use crate::base;
use crate::blobs::held_back;
use crate::error::Failed;
use crate::output::{Image, Job, MadeImages};
use crate::report::Progress;

/// How many blobs are sent at once.
const SENT_AT_ONCE: usize = 8;

/// A layer's blob in the store.
struct StoreBlob {
    store: Arc<dyn BlobStore>,
    layer: LayerId,
    digest: Digest,
    size: u64,
}

impl StoreBlob {
    /// Reads it to its end; bytes that are not the blob's are put aside, and the layer is lost.
    async fn check(&self) -> Result<(), Failed> {
        let mut content = self.open(0).await.map_err(|error| Failed::refused(&error))?;
        while let Some(piece) = content.next().await {
            piece.map_err(|error| Failed::refused(&error))?;
        }
        Ok(())
    }
}

#[async_trait]
impl BlobReader for StoreBlob {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn open(&self, offset: u64) -> std::io::Result<ByteStream> {
        let range = ByteRange { start: offset, length: None };
        let stream = self.store.get(&BlobDigest(self.digest), range).await;
        let stream = stream.map_err(|error| crate::blobs::lost(self.layer, error))?;
        Ok(held_back(crate::blobs::of_layer(stream, self.layer)))
    }
}

/// A blob of another registry, streamed through.
struct RemoteBlob {
    client: RegistryClient,
    repository: Repository,
    descriptor: Descriptor,
}

#[async_trait]
impl BlobReader for RemoteBlob {
    fn digest(&self) -> Digest {
        self.descriptor.digest
    }

    fn size(&self) -> u64 {
        self.descriptor.size
    }

    async fn open(&self, offset: u64) -> std::io::Result<ByteStream> {
        let stream = self.client.blob(&self.repository, &self.descriptor).await;
        let stream = crate::blobs::of_registry(stream.map_err(std::io::Error::other)?);
        // The stream begins at the first byte; what was sent before is passed over.
        let mut skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = stream.map_ok(move |mut piece| {
            let now = skip.min(piece.len());
            skip -= now;
            piece.split_off(now)
        });
        Ok(rest.boxed())
    }
}

/// Pushes layers, config and manifest of each image to each name, and the index behind them.
pub(crate) async fn push(
    attempt: &Arc<Attempt>,
    job: &Job,
    made: &MadeImages,
    by_digest: bool,
    progress: &Progress,
) -> Result<(), Failed> {
    let OutputKind::Image { names, .. } = &job.spec.kind else { return Ok(()) };
    let registry = attempt.registry.heard_by(progress.ear());
    for name in names {
        let name: ImageRef = name.parse().map_err(|error| Failed::refused(&error))?;
        let line = progress.begin("pushing layers", None);
        for (image, leased) in made.all().iter().zip(&job.images) {
            push_blobs((attempt, &registry), leased, image, name.repository()).await?;
        }
        line.done();
        let digested = |digest| ImageRef::of_digest(name.repository().clone(), digest);
        let target = if by_digest { digested(made.root()) } else { name.clone() };
        let line = progress.begin(format!("pushing manifest for {name}"), None);
        let (kind, bytes) = match made {
            MadeImages::One(image) => (&image.assembled.media_type, &image.assembled.manifest),
            MadeImages::Index { written, images, .. } => {
                // A registry takes an index only when it has what the index names.
                for Image { manifest, assembled, attested, .. } in images {
                    let bytes = assembled.manifest.clone().into();
                    let target = digested(*manifest);
                    registry.push_manifest(&target, &assembled.media_type, bytes).await?;
                    // What an attestation speaks of is there before it: some registries ask for that.
                    let Some(Attested { stored }) = attested else { continue };
                    let target = digested(ManifestDigest(stored.entry.digest));
                    let bytes = stored.manifest.clone().into();
                    registry.push_manifest(&target, &stored.entry.media_type, bytes).await?;
                }
                (&written.media_type, &written.bytes)
            }
        };
        registry.push_manifest(&target, kind, bytes.clone().into()).await?;
        line.done();
    }
    Ok(())
}

async fn push_blobs(
    (attempt, registry): (&Arc<Attempt>, &RegistryClient),
    leased: &LeasedImage,
    image: &Image,
    to: &Repository,
) -> Result<(), Failed> {
    let layers: Vec<BoxFuture<'_, _>> = image
        .layers
        .iter()
        .zip(&leased.state)
        .map(|(layer, state)| push_layer((attempt, registry), layer, state, to).boxed())
        .collect();
    let sent = futures::stream::iter(layers).buffer_unordered(SENT_AT_ONCE);
    sent.try_collect::<Vec<()>>().await?;
    let config = Arc::new(BytesBlob::new(image.assembled.config.clone()));
    registry.push_blob(to, config, &[]).await?;
    for bytes in image.attested.iter().flat_map(Attested::loose) {
        let blob = Arc::new(BytesBlob::new(bytes.to_vec()));
        registry.push_blob(to, blob, &[]).await?;
    }
    Ok(())
}

async fn push_layer(
    (attempt, registry): (&Arc<Attempt>, &RegistryClient),
    layer: &OutputLayer,
    state: &LayerRef,
    to: &Repository,
) -> Result<(), Failed> {
    let base = state.base.as_ref();
    let store = attempt.shared.parts.blobs.clone();
    let (digest, size) = (layer.digest.0, layer.size);
    let from = match base {
        Some(base) if base.digest == layer.digest && !base.repository.is_empty() => {
            Some((base::repository(&base.repository)?, base))
        }
        Some(_) | None => None,
    };
    let here = store.find_missing(&[BlobDigest(digest)]).await?.is_empty();
    let mounts: Vec<Repository> = from
        .iter()
        .map(|(repository, _)| repository.clone())
        .filter(|repository| repository.host() == to.host())
        .collect();
    if let Some((repository, base)) = from
        && !here
    {
        let descriptor = Descriptor::new(&base.media_type, digest, size);
        let blob = RemoteBlob { client: attempt.registry.clone(), repository, descriptor };
        registry.push_blob(to, Arc::new(blob), &mounts).await?;
        return Ok(());
    }
    let blob = Arc::new(StoreBlob { store, layer: state.layer, digest, size });
    let Err(refused) = registry.push_blob(to, blob.clone(), &mounts).await else { return Ok(()) };
    if refused.is_of_content() {
        // Sent piece by piece, nobody but the registry saw all of it.
        blob.check().await?;
    }
    Err(refused.into())
}

//! Base images' layers, and blobs that dcbuild made: fetched, hashed, unpacked.

use std::io::Read;
use std::sync::Arc;

use dcbuild_layer::{LayerForm, Ratio, compression_of_media_type};
use dcbuild_model::{BaseLayer, BlobDigest, Compression, LayerDigest, LayerId};
use dcbuild_oci::{Descriptor, ImageRef, Repository};
use dcbuild_registry::RegistryClient;
use dcbuild_snapshot::Snapshot;
use dcbuild_store::{ByteRange, forms_of};

use crate::blobs::{self, Blocking, Pieces};
use crate::error::Failed;
use crate::layers::Layers;

/// A base layer, and who fetches it.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) layer: BaseLayer,
    pub(crate) client: RegistryClient,
}

/// Reads a repository, `HOST/NAME`.
pub(crate) fn repository(text: &str) -> Result<Repository, Failed> {
    let image: ImageRef = text.parse().map_err(|error| Failed::refused(&error))?;
    Ok(image.repository().clone())
}

impl Base {
    /// Opens the blob: from the store if it is there, else from its registry.
    pub(crate) async fn open(&self, layers: &Layers) -> Result<Pieces, Failed> {
        let blob = BlobDigest(self.layer.digest.0);
        if layers.blobs.find_missing(&[blob]).await?.is_empty() {
            return Ok(blobs::of_store(layers.blobs.get(&blob, ByteRange::ALL).await?));
        }
        if self.layer.repository.is_empty() {
            return Err(Failed::rejected(format!(
                "the base image's layer {} is no longer in the store",
                self.layer.digest
            )));
        }
        let repository = repository(&self.layer.repository)?;
        let (digest, size) = (self.layer.digest.0, self.layer.size);
        let descriptor = Descriptor::new(&self.layer.media_type, digest, size);
        Ok(blobs::of_registry(self.client.blob(&repository, &descriptor).await?))
    }

    /// Unpacks the blob; blocks.
    pub(crate) fn unpack(&self, layers: &Arc<Layers>, layer: LayerId) -> Result<Snapshot, Failed> {
        let pieces = layers.handle.block_on(self.open(layers))?;
        let reader = Blocking::new(layers.handle.clone(), pieces);
        let form = LayerForm { compression: self.compression()?, ratio: Ratio::Limited };
        let digest = self.layer.digest;
        let (snapshot, _) = layers
            .snapshots
            .unpack(reader, form, |read| read.digest == digest && read.layer == layer)?;
        Ok(snapshot)
    }

    pub(crate) fn compression(&self) -> Result<Option<Compression>, Failed> {
        compression_of_media_type(&self.layer.media_type)
            .map(Some)
            .map_err(|error| Failed::refused(&error))
    }
}

/// Unpacks a layer that dcbuild made from its blob in the store; blocks, while another worker may be sending it too.
pub(crate) fn unpack_stored(layers: &Arc<Layers>, layer: &LayerId) -> Result<Snapshot, Failed> {
    layers.look_again(|| unpack_if_stored(layers, layer))?.ok_or(Failed::Lost { layer: *layer })
}

fn unpack_if_stored(layers: &Arc<Layers>, layer: &LayerId) -> Result<Option<Snapshot>, Failed> {
    for stored in layers.handle.block_on(forms_of(layers.index.as_ref(), layer))? {
        let compression = stored.blob.compression;
        let blob = BlobDigest(stored.blob.digest.0);
        let reader = match open_blob(layers, blob) {
            Ok(reader) => reader,
            Err(Failed::Lost { .. }) => continue,
            Err(error) => return Err(error),
        };
        let form = LayerForm { compression: Some(compression), ratio: Ratio::Free };
        let LayerDigest(digest) = stored.blob.digest;
        let (snapshot, _) = layers
            .snapshots
            .unpack(reader, form, |read| read.digest.0 == digest && read.layer == *layer)?;
        return Ok(Some(snapshot));
    }
    Ok(None)
}

fn open_blob(layers: &Layers, blob: BlobDigest) -> Result<Box<dyn Read + Send>, Failed> {
    if let Some(folder) = &layers.folder {
        return Ok(Box::new(folder.open_blob(&blob)?));
    }
    let stream = layers.handle.block_on(layers.blobs.get(&blob, ByteRange::ALL))?;
    Ok(Box::new(Blocking::new(layers.handle.clone(), blobs::of_store(stream))))
}

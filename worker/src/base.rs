//! Base images' layers, and blobs that dcbuild made: fetched, hashed, unpacked.

use std::io::{self, Read};
use std::sync::Arc;

use dcbuild_layer::{LayerForm, Ratio, ReadLayer, ReadLayerError, compression_of_media_type};
use dcbuild_model::{BaseLayer, BlobDigest, Compression, LayerDigest, LayerId};
use dcbuild_oci::{Descriptor, ImageRef, Repository};
use dcbuild_proto::document::StepErrorKind;
use dcbuild_registry::RegistryClient;
use dcbuild_remote::peer::PeerError;
use dcbuild_remote::{Peer, Peers};
use dcbuild_snapshot::{Snapshot, UnpackError};
use dcbuild_store::{ByteRange, StoreError, forms_of};
use futures::StreamExt as _;

use crate::blobs::{self, Blocking, Pieces};
use crate::error::{Failed, is_of_store, story};
use crate::layers::{Layers, Search};

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
        let doubted = layers.is_doubted(&LayerId(blob.0));
        if !doubted && layers.blobs.find_missing(&[blob]).await?.is_empty() {
            match layers.blobs.get(&blob, ByteRange::ALL).await {
                Ok(content) => return Ok(blobs::of_store(content)),
                Err(error) if error.is_miss() && !self.layer.repository.is_empty() => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.layer.repository.is_empty() {
            return Err(self.gone());
        }
        let repository = repository(&self.layer.repository)?;
        let (digest, size) = (self.layer.digest.0, self.layer.size);
        let descriptor = Descriptor::new(&self.layer.media_type, digest, size);
        Ok(blobs::of_registry(self.client.blob(&repository, &descriptor).await?))
    }

    /// Reads the blob with `read`, and once more from its registry if what the store has of it is no good; blocks.
    pub(crate) fn read<T>(
        &self,
        layers: &Layers,
        mut read: impl FnMut(Pieces) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let blob = BlobDigest(self.layer.digest.0);
        // Asked before: what is found to be damaged while it is read is not there afterwards.
        let missing = layers.handle.block_on(layers.blobs.find_missing(&[blob]))?;
        let first = read(layers.handle.block_on(self.open(layers))?);
        let Err(error) = first else { return first };
        if matches!(error, Failed::Stopped) || !missing.is_empty() {
            return Err(error);
        }
        let is_whole = layers.examine(&blob);
        if self.layer.repository.is_empty() {
            return Err(if is_whole { error } else { self.gone() });
        }
        tracing::warn!(%blob, %error, "a base layer is read again, from its registry");
        layers.doubt(LayerId(blob.0));
        read(layers.handle.block_on(self.open(layers))?)
    }

    /// A layer that no registry has: of an image that was kept by name, or that a client sent from a folder of its own.
    fn gone(&self) -> Failed {
        let message =
            format!("the base image's layer {} is not in the store any more", self.layer.digest);
        Failed::new(StepErrorKind::BaseLost {}, message).with_hint(Some(
            "the same command again sends what comes from a folder of yours anew; an image that was kept by name is \
             not whole: build it again with -t under its name",
        ))
    }

    /// Unpacks the blob; blocks.
    pub(crate) fn unpack(&self, layers: &Arc<Layers>, layer: LayerId) -> Result<Snapshot, Failed> {
        self.read(layers, |pieces| self.unpack_pieces(layers, layer, pieces))
    }

    fn unpack_pieces(
        &self,
        layers: &Arc<Layers>,
        layer: LayerId,
        pieces: Pieces,
    ) -> Result<Snapshot, Failed> {
        let reader = Blocking::new(layers.handle.clone(), pieces);
        let form = LayerForm { compression: self.compression()?, ratio: Ratio::Limited };
        let digest = self.layer.digest;
        let (snapshot, _) = layers
            .snapshots
            .unpack(reader, form, |read| read.digest == digest && is_layer(layers, layer, read))?;
        Ok(snapshot)
    }

    pub(crate) fn compression(&self) -> Result<Option<Compression>, Failed> {
        compression_of_media_type(&self.layer.media_type)
            .map(Some)
            .map_err(|error| Failed::refused(&error))
    }
}

/// Unpacks a layer that dcbuild made, from its blob in the store or as its maker has it; blocks.
pub(crate) fn unpack_stored(layers: &Arc<Layers>, layer: &LayerId) -> Result<Snapshot, Failed> {
    let unpacked = layers.search(layer, &SnapshotSearch { layers, layer })?;
    unpacked.ok_or(Failed::Lost { layer: *layer })
}

/// Makes a snapshot of a layer of another worker.
struct SnapshotSearch<'a> {
    layers: &'a Arc<Layers>,
    layer: &'a LayerId,
}

impl Search for SnapshotSearch<'_> {
    type Found = Snapshot;

    fn find(&self) -> Result<Option<Snapshot>, Failed> {
        unpack_if_stored(self.layers, self.layer)
    }

    fn take(&self, peers: &Peers, peer: Peer) -> Result<Option<Snapshot>, Failed> {
        let (layers, layer) = (self.layers, *self.layer);
        let bytes_max = crate::peers::tar_bytes_max(&*layers.table(&layer)?);
        let opened = layers.handle.block_on(peers.layer(&peer, layer, bytes_max));
        let pieces = match opened {
            Ok(pieces) => pieces.map(|piece| piece.map_err(io::Error::other)).boxed(),
            Err(error) => {
                tracing::info!(error = story(&error), %layer, "a layer is not taken from its maker");
                return Ok(None);
            }
        };
        let reader = Blocking::new(layers.handle.clone(), pieces);
        let form = LayerForm { compression: None, ratio: Ratio::Free };
        match layers.snapshots.unpack(reader, form, |read| is_layer(layers, layer, read)) {
            Ok((snapshot, _)) => {
                tracing::info!(%layer, worker = %peer.worker, "a layer comes from the worker that made it");
                Ok(Some(snapshot))
            }
            Err(error) if is_damage(&error) => {
                // One that broke off is known to have failed.
                if !is_of_peer(&error) {
                    peers.lied(&peer, layer);
                }
                tracing::info!(error = story(&error), %layer, "a layer is not taken from its maker");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether what was read is a layer; what its tar has no form for it gets from its table.
fn is_layer(layers: &Layers, layer: LayerId, read: &mut ReadLayer) -> bool {
    read.layer == layer
        || layers.table(&layer).is_ok_and(|table| read.is_with_sockets(layer, &table))
}

/// Whether a peer that failed, and not what it sent, is at the bottom of it.
fn is_of_peer(error: &UnpackError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let held = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let held = held.and_then(|held| held.downcast_ref::<PeerError>());
        if cause.is::<PeerError>() || held.is_some() {
            return true;
        }
        next = cause.source();
    }
    false
}

fn unpack_if_stored(layers: &Arc<Layers>, layer: &LayerId) -> Result<Option<Snapshot>, Failed> {
    for stored in layers.handle.block_on(forms_of(layers.index.as_ref(), layer))? {
        let compression = stored.blob.compression;
        let blob = BlobDigest(stored.blob.digest.0);
        let Some(reader) = open_blob(layers, layer, blob)? else { continue };
        let form = LayerForm { compression: Some(compression), ratio: Ratio::Free };
        let LayerDigest(digest) = stored.blob.digest;
        let accept =
            |read: &mut ReadLayer| read.digest.0 == digest && is_layer(layers, *layer, read);
        let unpacked = layers.snapshots.unpack(reader, form, accept);
        match unpacked {
            Ok((snapshot, _)) => return Ok(Some(snapshot)),
            Err(error) if is_damage(&error) => {
                tracing::warn!(%layer, %error, "a layer's blob is damaged");
                layers.examine(&blob);
            }
            Err(error) => match Failed::from(error) {
                Failed::Lost { .. } => {}
                error => return Err(error),
            },
        }
    }
    Ok(None)
}

/// Whether it is the bytes that were wrong, and neither their store nor the disk.
fn is_damage(error: &UnpackError) -> bool {
    let wrong = matches!(error, UnpackError::Read(_) | UnpackError::Refused);
    let sink = matches!(error, UnpackError::Read(ReadLayerError::Sink { .. }));
    wrong && !sink && !is_of_store(error)
}

/// Opens a layer's blob; none if it is gone.
fn open_blob(
    layers: &Layers,
    layer: &LayerId,
    blob: BlobDigest,
) -> Result<Option<Box<dyn Read + Send>>, Failed> {
    let opened = match &layers.folder {
        Some(folder) => {
            let mut opened = folder.open_blob(&blob);
            // What the folder lacks may be lent, and comes to it when it is read.
            if opened.as_ref().is_err_and(StoreError::is_miss)
                && layers.handle.block_on(blobs::is_readable(layers.blobs.as_ref(), &blob))?
            {
                opened = folder.open_blob(&blob);
            }
            opened.map(|file| -> Box<dyn Read + Send> { Box::new(file) })
        }
        None => layers.handle.block_on(layers.blobs.get(&blob, ByteRange::ALL)).map(
            |stream| -> Box<dyn Read + Send> {
                Box::new(Blocking::new(layers.handle.clone(), blobs::of_layer(stream, *layer)))
            },
        ),
    };
    match opened {
        Ok(reader) => Ok(Some(reader)),
        Err(error) if error.is_miss() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

//! A small image to push and pull.

use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::Digest;
use dcbuild_oci::{Descriptor, ImageConfig, Manifest, media_type};
use dcbuild_registry::{BlobReader, BytesBlob};

/// An image of one layer.
pub(crate) struct Small {
    pub(crate) layer: Bytes,
    pub(crate) config: Bytes,
    pub(crate) manifest: Manifest,
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::of(bytes), u64::try_from(bytes.len()).unwrap())
}

impl Small {
    pub(crate) fn new(layer: impl Into<Bytes>) -> Small {
        let layer = layer.into();
        let mut config = ImageConfig::for_platform(&"linux/amd64".parse().unwrap());
        config.diff_ids.push(dcbuild_model::DiffId(Digest::of(&layer)));
        let config = Bytes::from(config.to_json());
        let manifest = Manifest::new(
            descriptor(media_type::CONFIG, &config),
            vec![descriptor(media_type::LAYER, &layer)],
        );
        Small { layer, config, manifest }
    }

    pub(crate) fn root(&self) -> Descriptor {
        descriptor(media_type::MANIFEST, &self.manifest.to_json())
    }

    pub(crate) fn blobs(&self) -> Vec<Arc<dyn BlobReader>> {
        let blob =
            |bytes: &Bytes| -> Arc<dyn BlobReader> { Arc::new(BytesBlob::new(bytes.clone())) };
        vec![blob(&self.layer), blob(&self.config)]
    }
}

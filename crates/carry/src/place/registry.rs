//! A cache in a registry, under a name of its own.

use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, Digest, ManifestDigest};
use dcbuild_oci::manifest::media_type;
use dcbuild_oci::{Descriptor, ImageRef};
use dcbuild_registry::{BlobReader, PullError, Pushed, RegistryClient};
use dcbuild_store::{BlobStream, StoreError};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{Place, PlaceError};

/// A name in a registry.
#[derive(Clone)]
pub struct RegistryPlace {
    client: RegistryClient,
    /// Asks what there is.
    asking: RegistryClient,
    image: ImageRef,
}

impl RegistryPlace {
    /// The cache of this name.
    pub fn new(client: RegistryClient, image: ImageRef) -> RegistryPlace {
        RegistryPlace { asking: client.clone(), client, image }
    }

    /// The same, where somebody waits to hear whether there is a cache, and can do without.
    #[must_use]
    pub fn in_a_hurry(self) -> RegistryPlace {
        RegistryPlace { asking: self.client.in_a_hurry(), ..self }
    }
}

/// A stream from outside as one for a store.
pub(super) fn for_store(stream: dcbuild_registry::BlobStream) -> BlobStream {
    stream.map_err(|source| StoreError::Content { source: Box::new(source) }).boxed()
}

#[async_trait::async_trait]
impl Place for RegistryPlace {
    fn name(&self) -> String {
        self.image.familiar()
    }

    async fn manifest(&self, digest: Option<ManifestDigest>) -> Result<Option<Bytes>, PlaceError> {
        let image = match digest {
            Some(digest) => self.image.with_digest(digest),
            None => self.image.clone(),
        };
        match self.asking.manifest(&image).await {
            Ok(fetched) => Ok(Some(fetched.bytes)),
            Err(PullError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn former(&self) -> Result<Option<Bytes>, PlaceError> {
        self.manifest(None).await
    }

    async fn get(&self, blob: &BlobDigest, size: u64) -> Result<BlobStream, PlaceError> {
        let descriptor = Descriptor::new("application/octet-stream", blob.0, size);
        Ok(for_store(self.client.blob(self.image.repository(), &descriptor).await?))
    }

    async fn put(&self, blob: Arc<dyn BlobReader>) -> Result<bool, PlaceError> {
        let pushed = self.client.push_blob(self.image.repository(), blob, &[]).await?;
        Ok(pushed == Pushed::Uploaded)
    }

    async fn put_manifest(&self, manifest: Bytes) -> Result<(), PlaceError> {
        // Not under the tag: that is the index's.
        let digest = ManifestDigest(Digest::of(&manifest));
        let image = ImageRef::of_digest(self.image.repository().clone(), digest);
        self.client.push_manifest(&image, media_type::MANIFEST, manifest).await?;
        Ok(())
    }

    async fn finish(&self, manifest: Bytes, media_type: &str) -> Result<(), PlaceError> {
        self.client.push_manifest(&self.image, media_type, manifest).await?;
        Ok(())
    }
}

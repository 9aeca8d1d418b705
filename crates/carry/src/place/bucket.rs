//! A cache in a bucket of S3, under a name of its own; caches beside each other share their blobs.

use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, ManifestDigest, limits};
use dcbuild_registry::BlobReader;
use dcbuild_s3::{AccessKey, S3Config, S3Store};
use dcbuild_store::{BlobStore as _, BlobStream, ByteRange, ObjectName, StoreError};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::OnceCell;

use super::{Place, PlaceError};

/// What stands behind the name of a manifest of ours: BuildKit may keep a cache of the same name.
const OURS: &str = ".dcbuild";

/// Where a cache lies in a bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketSettings {
    /// The bucket.
    pub bucket: S3Config,
    /// The key to it; else what the environment, a profile or the machine gives.
    pub key: Option<AccessKey>,
    /// What manifests' names begin with.
    pub manifests: String,
    /// The cache's name.
    pub name: String,
}

impl BucketSettings {
    /// The object of our manifest.
    pub fn ours(&self) -> Result<ObjectName, StoreError> {
        let name = format!("{}{}{OURS}", self.manifests, self.name).parse();
        name.map_err(|source| StoreError::Name { source })
    }
}

/// A name in a bucket.
#[derive(Debug)]
pub struct BucketPlace {
    settings: BucketSettings,
    store: OnceCell<Store>,
}

struct Store(S3Store);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("S3Store(..)")
    }
}

impl BucketPlace {
    /// The cache of this name; nothing is asked yet.
    pub fn new(settings: BucketSettings) -> BucketPlace {
        BucketPlace { settings, store: OnceCell::new() }
    }

    async fn store(&self) -> Result<&S3Store, StoreError> {
        // What finds credentials is large.
        let open = Box::pin(async {
            let BucketSettings { bucket, key, .. } = self.settings.clone();
            let store = match key {
                Some(key) => S3Store::connect_with_key(bucket, key).await?,
                None => S3Store::connect(bucket).await?,
            };
            Ok::<_, StoreError>(Store(store))
        });
        Ok(&self.store.get_or_try_init(|| open).await?.0)
    }

    async fn object(&self, name: &ObjectName) -> Result<Option<Bytes>, StoreError> {
        let max = u64::try_from(limits::MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        dcbuild_store::Objects::get(self.store().await?, name, max).await
    }
}

#[async_trait::async_trait]
impl Place for BucketPlace {
    fn name(&self) -> String {
        format!("{} of {}", self.settings.name, self.settings.bucket)
    }

    async fn manifest(&self, digest: Option<ManifestDigest>) -> Result<Option<Bytes>, PlaceError> {
        // A bucket has no indexes of ours.
        if digest.is_some() {
            return Ok(None);
        }
        if let Some(ours) = self.former().await? {
            return Ok(Some(ours));
        }
        let BucketSettings { manifests, name, .. } = &self.settings;
        let theirs = format!("{manifests}{name}").parse();
        let theirs = theirs.map_err(|source| StoreError::Name { source })?;
        Ok(self.object(&theirs).await?)
    }

    async fn former(&self) -> Result<Option<Bytes>, PlaceError> {
        Ok(self.object(&self.settings.ours()?).await?)
    }

    async fn get(&self, blob: &BlobDigest, _: u64) -> Result<BlobStream, PlaceError> {
        Ok(dcbuild_store::BlobStore::get(self.store().await?, blob, ByteRange::ALL).await?)
    }

    async fn put(&self, blob: Arc<dyn BlobReader>) -> Result<bool, PlaceError> {
        let (store, digest) = (self.store().await?, BlobDigest(blob.digest()));
        if store.find_missing(&[digest]).await?.is_empty() {
            return Ok(false);
        }
        let content = blob.open(0).await;
        let content = content.map_err(|source| StoreError::Content { source: Box::new(source) })?;
        let content = content.map_err(|source| StoreError::Content { source: Box::new(source) });
        dcbuild_store::BlobStore::put(store, &digest, content.boxed()).await?;
        Ok(true)
    }

    async fn finish(&self, manifest: Bytes) -> Result<(), PlaceError> {
        let name = self.settings.ours()?;
        Ok(dcbuild_store::Objects::put(self.store().await?, &name, manifest).await?)
    }
}

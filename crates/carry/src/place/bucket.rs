//! A cache in a bucket of S3, under a name of its own; caches beside each other share their blobs.

use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, ManifestDigest, limits};
use dcbuild_registry::{BlobReader, BytesBlob};
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
    /// What the blobs' names begin with: the sweeper of a store in the same bucket takes its own blobs that nothing needs,
    /// and knows nothing of a cache's.
    pub blobs: String,
    /// The cache's name.
    pub name: String,
}

impl BucketSettings {
    /// The object of our manifest.
    pub fn ours(&self) -> Result<ObjectName, StoreError> {
        let name = escaped(&format!("{}{}{OURS}", self.manifests, self.name)).parse();
        name.map_err(|source| StoreError::Name { source })
    }

    /// Below what the blobs are.
    fn blobs_prefix(&self) -> String {
        escaped(self.blobs.trim_matches('/'))
    }
}

/// A name with `:` and two hexadecimal digits for each byte that the name of an object does not take: branches have names
/// like `@types/node`, and tags like `v1.2.3+4`.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for part in name.split_inclusive('/') {
        let (part, slash) = part.strip_suffix('/').map_or((part, ""), |part| (part, "/"));
        let is_path = matches!(part, "." | "..");
        for byte in part.bytes() {
            let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            if is_plain || (byte == b'.' && !is_path) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!(":{byte:02X}"));
            }
        }
        // An empty part has no name either.
        text.push_str(if part.is_empty() && !slash.is_empty() { ":2F" } else { slash });
    }
    text
}

/// A name in a bucket.
#[derive(Debug)]
pub struct BucketPlace {
    settings: BucketSettings,
    stores: OnceCell<Stores>,
}

struct Stores {
    manifests: S3Store,
    blobs: S3Store,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stores(..)")
    }
}

impl BucketPlace {
    /// The cache of this name; nothing is asked yet.
    pub fn new(settings: BucketSettings) -> BucketPlace {
        BucketPlace { settings, stores: OnceCell::new() }
    }

    async fn stores(&self) -> Result<&Stores, StoreError> {
        // What finds credentials is large.
        let open = Box::pin(async {
            let BucketSettings { bucket, key, .. } = self.settings.clone();
            let manifests = match key {
                Some(key) => S3Store::connect_with_key(bucket, key).await?,
                None => S3Store::connect(bucket).await?,
            };
            let blobs = manifests.below(&self.settings.blobs_prefix());
            Ok::<_, StoreError>(Stores { manifests, blobs })
        });
        self.stores.get_or_try_init(|| open).await
    }

    async fn object(&self, name: &ObjectName) -> Result<Option<Bytes>, StoreError> {
        let max = u64::try_from(limits::MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        dcbuild_store::Objects::get(&self.stores().await?.manifests, name, max).await
    }
}

#[async_trait::async_trait]
impl Place for BucketPlace {
    fn name(&self) -> String {
        format!("{} of {}", self.settings.name, self.settings.bucket)
    }

    async fn manifest(&self, digest: Option<ManifestDigest>) -> Result<Option<Bytes>, PlaceError> {
        if let Some(digest) = digest {
            let max = u64::try_from(limits::MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
            let blobs = &self.stores().await?.blobs;
            return match dcbuild_store::read_bytes(blobs, &BlobDigest(digest.0), max).await {
                Ok(manifest) => Ok(Some(manifest)),
                Err(error) if error.is_miss() => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        if let Some(ours) = self.former().await? {
            return Ok(Some(ours));
        }
        let BucketSettings { manifests, name, .. } = &self.settings;
        // BuildKit gives its manifests other names as they are; those that none of ours can have are not looked for.
        let Ok(theirs) = format!("{manifests}{name}").parse() else { return Ok(None) };
        Ok(self.object(&theirs).await?)
    }

    async fn former(&self) -> Result<Option<Bytes>, PlaceError> {
        Ok(self.object(&self.settings.ours()?).await?)
    }

    async fn get(&self, blob: &BlobDigest, _: u64) -> Result<BlobStream, PlaceError> {
        Ok(dcbuild_store::BlobStore::get(&self.stores().await?.blobs, blob, ByteRange::ALL).await?)
    }

    async fn put(&self, blob: Arc<dyn BlobReader>) -> Result<bool, PlaceError> {
        let (store, digest) = (&self.stores().await?.blobs, BlobDigest(blob.digest()));
        if store.find_missing(&[digest]).await?.is_empty() {
            return Ok(false);
        }
        let content = blob.open(0).await;
        let content = content.map_err(|source| StoreError::Content { source: Box::new(source) })?;
        let content = content.map_err(|source| StoreError::Content { source: Box::new(source) });
        dcbuild_store::BlobStore::put(store, &digest, content.boxed()).await?;
        Ok(true)
    }

    async fn put_manifest(&self, manifest: Bytes) -> Result<(), PlaceError> {
        // It has no name of its own.
        self.put(Arc::new(BytesBlob::new(manifest))).await.map(drop)
    }

    async fn finish(&self, manifest: Bytes, _: &str) -> Result<(), PlaceError> {
        let name = self.settings.ours()?;
        Ok(dcbuild_store::Objects::put(&self.stores().await?.manifests, &name, manifest).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str, name: &str) -> BucketSettings {
        let bucket = S3Config::from_url(url).expect("a bucket");
        let (manifests, blobs) = ("manifests/".into(), "blobs/".into());
        BucketSettings { bucket, key: None, manifests, blobs, name: name.into() }
    }

    #[test]
    fn every_name_has_an_object_of_its_own() {
        let of = |name| settings("s3://cache", name).ours().expect("an object").as_str().to_owned();
        let names = [
            ("main", "main"),
            (
                "dependabot/npm_and_yarn/@types/node-20.1",
                "dependabot/npm_and_yarn/:40types/node-20.1",
            ),
            ("v1.2.3+4", "v1.2.3:2B4"),
            ("v1.2.3:2B4", "v1.2.3:3A2B4"),
            ("a=b #1", "a:3Db:20:231"),
            ("größe", "gr:C3:B6:C3:9Fe"),
            ("a//b", "a/:2Fb"),
            ("a/../b", "a/:2E:2E/b"),
        ];
        for (name, object) in names {
            assert_eq!(of(name), format!("manifests/{object}.dcbuild"));
        }
        let long = settings("s3://cache", &"x".repeat(900)).ours();
        assert!(matches!(long, Err(StoreError::Name { .. })), "S3 takes no longer ones");
    }

    #[test]
    fn blobs_lie_where_no_sweeper_of_a_store_looks() {
        let of = |url| {
            let settings = settings(url, "main");
            settings.bucket.below(&settings.blobs_prefix()).prefix
        };
        assert_eq!((of("s3://cache"), of("s3://cache/a/b")), ("blobs".into(), "a/b/blobs".into()));
    }
}

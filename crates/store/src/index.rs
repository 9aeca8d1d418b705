//! What is found by key or name: records of steps, forms of layers, images.

use dcbuild_model::{
    BlobDigest, ChangeDigest, Compression, DiffId, LayerBlob, LayerDigest, LayerId, ManifestDigest,
    Record, Scope, StepKey, UnixTime,
};

use crate::StoreError;

/// Keeps the records of steps by key; a record never changes.
#[async_trait::async_trait]
pub trait StepIndex: Send + Sync {
    /// Returns, for each key in the order asked, all its records, the one decided last at the end.
    async fn find(&self, scope: &Scope, keys: &[StepKey]) -> Result<Vec<Vec<Record>>, StoreError>;

    /// Stores a record under its recipe key and, where it has one, its outcome key; a second time changes nothing.
    async fn put(&self, scope: &Scope, record: &Record) -> Result<(), StoreError>;
}

/// A layer's blob, and where its bytes are found inside it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredBlob {
    /// The blob.
    pub blob: LayerBlob,
    /// The blob of its index.
    pub index: BlobDigest,
}

/// What is known of a base image's layer since its bytes were read and hashed here.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashedBase {
    /// The layer's table of contents.
    pub layer: LayerId,
    /// Its tar.
    pub diff_id: DiffId,
    /// What it changes, times normalised.
    pub change: ChangeDigest,
    /// How many entries it has.
    pub entries: u64,
    /// The bytes of all its files together.
    pub bytes: u64,
}

/// Knows which forms of a layer exist.
#[async_trait::async_trait]
pub trait LayerIndex: Send + Sync {
    /// The blob form of a layer in this compression; whether the blob itself is still there is the blob store's to say.
    async fn find_blob(
        &self,
        layer: &LayerId,
        compression: Compression,
    ) -> Result<Option<StoredBlob>, StoreError>;

    /// Notes a blob form of a layer; the newest of one compression counts.
    async fn put_blob(&self, layer: &LayerId, stored: &StoredBlob) -> Result<(), StoreError>;

    /// What is known of a base image's layer.
    async fn find_base(&self, digest: &LayerDigest) -> Result<Option<HashedBase>, StoreError>;

    /// Notes a base image's layer; only for bytes that the caller has hashed itself.
    async fn put_base(&self, digest: &LayerDigest, base: &HashedBase) -> Result<(), StoreError>;
}

/// An image that was given a name.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedImage {
    /// The full name, with host and tag.
    pub name: String,
    /// The manifest or index.
    pub manifest: ManifestDigest,
    /// When it got the name.
    pub tagged: UnixTime,
}

/// Keeps the names of images; a name has one image, an image any number of names.
#[async_trait::async_trait]
pub trait ImageNames: Send + Sync {
    /// The image of a name.
    async fn find(&self, scope: &Scope, name: &str) -> Result<Option<NamedImage>, StoreError>;

    /// All named images of a scope, by name.
    async fn list(&self, scope: &Scope) -> Result<Vec<NamedImage>, StoreError>;

    /// Gives an image a name; another image of that name loses it.
    async fn put(&self, scope: &Scope, image: &NamedImage) -> Result<(), StoreError>;

    /// Takes a name away and says whether there was one.
    async fn remove(&self, scope: &Scope, name: &str) -> Result<bool, StoreError>;
}

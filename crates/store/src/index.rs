//! What is found by key or name: records of steps, forms of layers, images.

use dcbuild_model::{
    BlobDigest, ChangeDigest, Compression, DiffId, LayerBlob, LayerDigest, LayerId, ManifestDigest,
    Record, Scope, StepKey, UnixTime,
};

use crate::StoreError;

/// Keeps the records of steps by key; a record never changes.
#[async_trait::async_trait]
pub trait StepIndex: Send + Sync {
    /// Returns, for each key in the order asked, all its records that a build of the scope may take: those of its parents,
    /// the farthest first, then its own, in each scope the one decided last at the end. One that was replaced by a newer of
    /// its key is among them only where something that was found was made from it.
    async fn find(&self, scope: &Scope, keys: &[StepKey]) -> Result<Vec<Vec<Record>>, StoreError>;

    /// Stores a record of this scope under its recipe key and, where it has one, its outcome key; a second time changes
    /// nothing.
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

/// Knows which forms of a layer exist; each question is about any number of layers, since it may have a long way.
#[async_trait::async_trait]
pub trait LayerIndex: Send + Sync {
    /// For each layer in the order asked, its blob forms, at most one for each compression, those that are quickest to read
    /// first; whether a blob itself is still there is the blob store's to say.
    async fn find_forms(&self, layers: &[LayerId]) -> Result<Vec<Vec<StoredBlob>>, StoreError>;

    /// Notes a blob form of a layer; the newest of one compression counts.
    async fn put_form(&self, layer: &LayerId, stored: &StoredBlob) -> Result<(), StoreError>;

    /// For each layer of a base image in the order asked, what is known of it.
    async fn find_bases(
        &self,
        digests: &[LayerDigest],
    ) -> Result<Vec<Option<HashedBase>>, StoreError>;

    /// Notes a base image's layer; only for bytes that the caller has hashed itself.
    async fn put_base(&self, digest: &LayerDigest, base: &HashedBase) -> Result<(), StoreError>;
}

/// The blob forms of one layer.
pub async fn forms_of(
    index: &dyn LayerIndex,
    layer: &LayerId,
) -> Result<Vec<StoredBlob>, StoreError> {
    Ok(index.find_forms(&[*layer]).await?.pop().unwrap_or_default())
}

/// The blob form of one layer in one compression.
pub async fn form_of(
    index: &dyn LayerIndex,
    layer: &LayerId,
    compression: Compression,
) -> Result<Option<StoredBlob>, StoreError> {
    let forms = forms_of(index, layer).await?;
    Ok(forms.into_iter().find(|stored| stored.blob.compression == compression))
}

/// What is known of one layer of a base image.
pub async fn base_of(
    index: &dyn LayerIndex,
    digest: &LayerDigest,
) -> Result<Option<HashedBase>, StoreError> {
    Ok(index.find_bases(&[*digest]).await?.pop().flatten())
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

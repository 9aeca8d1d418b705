//! Where images and blobs come from, whichever kind of place it is.

use std::path::PathBuf;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use dcbuild_model::limits::{CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX};
use dcbuild_model::{ConfigDigest, Digest, ManifestDigest, Platform};
use dcbuild_oci::{
    Descriptor, ImageConfig, Index, Manifest, ManifestOrIndex, NESTED_INDEXES_MAX, check_counts,
    media_type, select_platform,
};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncSeekExt as _;

use crate::client::FetchedManifest;
use crate::error::PullError;

/// The bytes of a blob from outside; its last item comes only after the digest was found right.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, PullError>> + Send>>;
/// The bytes of a blob of our own.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// A place that holds one image, perhaps for several platforms.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// What errors call the image.
    fn name(&self) -> String;

    /// Fetches the manifest or index that the reference itself means.
    async fn root(&self) -> Result<FetchedManifest, PullError>;

    /// Fetches a manifest or index that an index lists.
    async fn manifest(&self, digest: ManifestDigest) -> Result<FetchedManifest, PullError>;

    /// Streams a blob, verified; a foreign layer is looked for here and nowhere else.
    async fn blob(&self, descriptor: &Descriptor) -> Result<BlobStream, PullError>;

    /// Finds the image for a platform: its manifest and config, read and checked.
    async fn resolve(&self, platform: &Platform) -> Result<ResolvedImage, PullError> {
        let mut fetched = self.root().await?;
        let root = fetched.digest;
        for _ in 0..=NESTED_INDEXES_MAX {
            match parse(&self.name(), &fetched)? {
                ManifestOrIndex::Manifest(manifest) => {
                    // An image that is no index is taken whatever platform it is for: there is no other.
                    return self.with_config(root, fetched, manifest).await;
                }
                ManifestOrIndex::Index(index) => {
                    let entry = choose(self.name(), &index, platform)?;
                    fetched = self.manifest(ManifestDigest(entry.digest)).await?;
                }
            }
        }
        Err(PullError::Nested { image: self.name(), max: NESTED_INDEXES_MAX })
    }

    /// Reads the config of a manifest and checks one against the other.
    async fn with_config(
        &self,
        root: ManifestDigest,
        fetched: FetchedManifest,
        manifest: Manifest,
    ) -> Result<ResolvedImage, PullError> {
        let image = self.name();
        let kind = manifest.config.media_type.as_str();
        if !matches!(kind, media_type::CONFIG | media_type::DOCKER_CONFIG) {
            return Err(PullError::NotAnImage { image, media_type: kind.to_owned() });
        }
        let config_bytes = collect(self.blob(&manifest.config).await?, CONFIG_BYTES_MAX).await?;
        let config = ImageConfig::parse(&config_bytes)
            .map_err(|source| PullError::Config { image: image.clone(), source })?;
        check_counts(&manifest, &config)
            .map_err(|source| PullError::Counts { image: image.clone(), source })?;
        Ok(ResolvedImage {
            root,
            manifest_digest: fetched.digest,
            manifest_bytes: fetched.bytes,
            config_digest: ConfigDigest(manifest.config.digest),
            config_bytes,
            manifest,
            config,
        })
    }
}

/// An image for one platform, its layers still to be fetched.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// The digest that the reference means: of the index, where there is one.
    pub root: ManifestDigest,
    /// The digest of the platform's manifest.
    pub manifest_digest: ManifestDigest,
    /// The manifest, as it came.
    pub manifest_bytes: Bytes,
    /// The manifest, read.
    pub manifest: Manifest,
    /// The digest of the config.
    pub config_digest: ConfigDigest,
    /// The config, as it came.
    pub config_bytes: Bytes,
    /// The config, read.
    pub config: ImageConfig,
}

impl ResolvedImage {
    /// The layers, lowest first.
    pub fn layers(&self) -> &[Descriptor] {
        &self.manifest.layers
    }
}

fn parse(image: &str, fetched: &FetchedManifest) -> Result<ManifestOrIndex, PullError> {
    let bad = |source| PullError::Manifest { image: image.to_owned(), source };
    ManifestOrIndex::parse(&fetched.bytes, fetched.media_type.as_deref()).map_err(bad)
}

fn choose(image: String, index: &Index, platform: &Platform) -> Result<Descriptor, PullError> {
    if let Some(entry) = select_platform(index, platform) {
        return Ok(entry.clone());
    }
    let offered = index.manifests.iter().filter(|entry| !dcbuild_oci::is_attestation(entry));
    let offered: Vec<String> = offered
        .filter_map(|entry| entry.platform.as_ref()?.to_model())
        .map(|platform| platform.to_string())
        .take(20)
        .collect();
    let offered = if offered.is_empty() { "none".into() } else { offered.join(", ") };
    Err(PullError::NoPlatform { image, platform: platform.clone(), offered })
}

/// Collects a stream that is already limited by its descriptor's size.
async fn collect(mut stream: BlobStream, bytes_max: usize) -> Result<Bytes, PullError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.try_next().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > bytes_max {
            break;
        }
    }
    Ok(bytes.into())
}

const _: () = assert!(MANIFEST_BYTES_MAX <= CONFIG_BYTES_MAX, "both are collected in memory");

/// A blob of our own, of known digest and size, that can be read again from any place.
#[async_trait]
pub trait BlobReader: Send + Sync {
    /// The digest of its bytes.
    fn digest(&self) -> Digest;

    /// How many bytes it has.
    fn size(&self) -> u64;

    /// Streams its bytes from an offset to the end.
    async fn open(&self, offset: u64) -> std::io::Result<ByteStream>;
}

/// A blob in memory.
pub struct BytesBlob {
    digest: Digest,
    bytes: Bytes,
}

impl BytesBlob {
    /// Hashes the bytes and holds them.
    pub fn new(bytes: impl Into<Bytes>) -> BytesBlob {
        let bytes = bytes.into();
        BytesBlob { digest: Digest::of(&bytes), bytes }
    }
}

#[async_trait]
impl BlobReader for BytesBlob {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn size(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    async fn open(&self, offset: u64) -> std::io::Result<ByteStream> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let rest = self.bytes.slice(offset..);
        Ok(futures::stream::once(std::future::ready(Ok(rest))).boxed())
    }
}

/// A blob in a file.
pub struct FileBlob {
    /// The file.
    pub path: PathBuf,
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
}

#[async_trait]
impl BlobReader for FileBlob {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn open(&self, offset: u64) -> std::io::Result<ByteStream> {
        let mut file = tokio::fs::File::open(&self.path).await?;
        file.seek(std::io::SeekFrom::Start(offset)).await?;
        Ok(tokio_util::io::ReaderStream::with_capacity(file, 256 << 10).boxed())
    }
}

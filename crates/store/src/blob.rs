//! Blobs: bytes by their SHA-256.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use dcbuild_model::BlobDigest;
use futures::{Stream, StreamExt};

use crate::StoreError;

/// The bytes of a blob, piece by piece.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>>;

/// A part of a blob; what lies past its end is not an error, there is only less of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// How many bytes; up to the end if none.
    pub length: Option<u64>,
}

impl ByteRange {
    /// The whole blob.
    pub const ALL: ByteRange = ByteRange { start: 0, length: None };

    /// `length` bytes from `start` on.
    pub fn new(start: u64, length: u64) -> ByteRange {
        ByteRange { start, length: Some(length) }
    }
}

/// Keeps blobs; the same bytes are the same blob, whoever stores them.
#[async_trait::async_trait]
pub trait BlobStore: Send + Sync {
    /// Returns those of the blobs that the store lacks, in the order asked; the others count as used just now.
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError>;

    /// Opens a blob for reading; a whole read ends with [`StoreError::Corrupt`] if the bytes were not the blob's.
    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError>;

    /// Stores bytes after hashing them and returns how many they were; readers see all of them or none.
    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError>;
}

#[async_trait::async_trait]
impl<S: BlobStore + ?Sized> BlobStore for std::sync::Arc<S> {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        (**self).find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        (**self).get(blob, range).await
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        (**self).put(blob, content).await
    }
}

/// Turns bytes in memory into the content of a blob.
pub fn stream_of(bytes: impl Into<Bytes>) -> BlobStream {
    futures::stream::iter([Ok(bytes.into())]).boxed()
}

/// Reads a whole blob that is expected to be small; one larger than `max` is an error.
pub async fn read_bytes(
    store: &dyn BlobStore,
    blob: &BlobDigest,
    max: u64,
) -> Result<Bytes, StoreError> {
    let mut content = store.get(blob, ByteRange::ALL).await?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = content.next().await {
        bytes.extend_from_slice(&piece?);
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
            return Err(StoreError::TooLarge { blob: *blob, max });
        }
    }
    Ok(bytes.freeze())
}

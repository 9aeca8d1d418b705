//! A wrapper that believes no store.

use dcbuild_model::{BlobDigest, Digest};
use futures::StreamExt;
use sha2::Digest as _;

use crate::{BlobStore, BlobStream, ByteRange, StoreError};

/// Hashes every whole read of the store inside; the last piece is followed by an error if the bytes were wrong.
pub struct Verified<S>(pub S);

#[async_trait::async_trait]
impl<S: BlobStore> BlobStore for Verified<S> {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.0.find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let content = self.0.get(blob, range).await?;
        Ok(if range == ByteRange::ALL { verified(*blob, content) } else { content })
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        self.0.put(blob, verified_input(*blob, content)).await
    }
}

struct Reading {
    content: BlobStream,
    hash: Option<sha2::Sha256>,
}

fn hashed(
    content: BlobStream,
    wrong: impl Fn(Digest) -> Option<StoreError> + Send + 'static,
) -> BlobStream {
    let start = (Reading { content, hash: Some(sha2::Sha256::new()) }, wrong);
    futures::stream::unfold(start, |(mut reading, wrong)| async move {
        let mut hash = reading.hash.take()?;
        let item = match reading.content.next().await {
            Some(Ok(piece)) => {
                hash.update(&piece);
                reading.hash = Some(hash);
                Ok(piece)
            }
            Some(Err(error)) => Err(error),
            None => Err(wrong(Digest(hash.finalize().into()))?),
        };
        Some((item, (reading, wrong)))
    })
    .boxed()
}

fn verified(blob: BlobDigest, content: BlobStream) -> BlobStream {
    hashed(content, move |found| (found != blob.0).then_some(StoreError::Corrupt { blob }))
}

fn verified_input(blob: BlobDigest, content: BlobStream) -> BlobStream {
    hashed(content, move |found| {
        let found = BlobDigest(found);
        (found != blob).then_some(StoreError::DigestMismatch { expected: blob, found })
    })
}

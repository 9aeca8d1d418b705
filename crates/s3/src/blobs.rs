//! The bucket as a store of blobs.

use dcbuild_model::BlobDigest;
use dcbuild_store::{BlobStore, BlobStream, ByteRange, StoreError};
use futures::{StreamExt, TryStreamExt};

use crate::failure::FailureKind;
use crate::store::Inner;
use crate::{S3Store, download, upload};

#[async_trait::async_trait]
impl BlobStore for S3Store {
    /// Asks for each blob, several at once. That they count as used is for an index to note: nothing is written here.
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        let store = &*self.inner;
        futures::stream::iter(blobs.to_vec())
            .map(|blob| async move { is_there(store, &blob).await.map(|is| (!is).then_some(blob)) })
            .buffered(store.config.requests_max.max(1))
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        download::open(&self.inner, *blob, range).await
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        upload::store_blob(&self.inner, *blob, content).await
    }
}

async fn is_there(store: &Inner, blob: &BlobDigest) -> Result<bool, StoreError> {
    match store.wire.head(&store.keys.blob(blob)).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.kind == FailureKind::Absent => Ok(false),
        Err(failure) => Err(store.error(failure)),
    }
}

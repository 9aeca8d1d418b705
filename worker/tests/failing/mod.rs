//! An index of layers that is out of order for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dcbuild_model::{LayerDigest, LayerId};
use dcbuild_store::{FolderStore, HashedBase, LayerIndex, StoreError, StoredBlob};

/// An index that fails a few times to note a blob.
pub(crate) struct Failing {
    pub(crate) store: Arc<FolderStore>,
    pub(crate) left: AtomicU32,
}

#[tonic::async_trait]
impl LayerIndex for Failing {
    async fn find_forms(&self, layers: &[LayerId]) -> Result<Vec<Vec<StoredBlob>>, StoreError> {
        self.store.find_forms(layers).await
    }

    async fn put_form(&self, layer: &LayerId, stored: &StoredBlob) -> Result<(), StoreError> {
        let less = |left: u32| left.checked_sub(1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return Err(StoreError::Unavailable { store: "test".into(), source: "busy".into() });
        }
        self.store.put_form(layer, stored).await
    }

    async fn find_bases(
        &self,
        digests: &[LayerDigest],
    ) -> Result<Vec<Option<HashedBase>>, StoreError> {
        self.store.find_bases(digests).await
    }

    async fn put_base(&self, digest: &LayerDigest, base: &HashedBase) -> Result<(), StoreError> {
        self.store.put_base(digest, base).await
    }
}

//! Which blobs a store has, known from an index instead of by one question for each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use dcbuild_model::BlobDigest;
use futures::StreamExt as _;
use tokio_util::task::TaskTracker;

use crate::{
    BlobStore, BlobStream, ByteRange, Grant, Grants, IndexEntry, IndexKey, KeyIndex, Now,
    StoreError, WriteGrant, Written,
};

/// A blob store of which an index knows what it has.
///
/// What the index says is there may have gone: whoever reads it finds out, and then the index forgets it.
#[derive(Clone)]
pub struct Indexed {
    inner: Arc<Inner>,
}

struct Inner {
    blobs: Arc<dyn BlobStore>,
    grants: Option<Arc<dyn Grants>>,
    index: Arc<dyn KeyIndex>,
    now: Now,
    tasks: TaskTracker,
    owed: AtomicBool,
}

fn key_of(blob: &BlobDigest) -> IndexKey {
    IndexKey(format!("blob/sha256/{}", blob.0.hex()))
}

impl Indexed {
    /// Puts an index before a blob store; what is noted behind the back of a question runs on `tasks`.
    pub fn new(
        blobs: Arc<dyn BlobStore>,
        index: Arc<dyn KeyIndex>,
        now: Now,
        tasks: TaskTracker,
    ) -> Indexed {
        let owed = AtomicBool::new(false);
        Indexed { inner: Arc::new(Inner { blobs, grants: None, index, now, tasks, owed }) }
    }

    /// The same with the store's grants.
    #[must_use]
    pub fn with_grants(self, grants: Arc<dyn Grants>) -> Indexed {
        let Inner { blobs, index, now, tasks, .. } = &*self.inner;
        let (blobs, index, now, tasks) = (blobs.clone(), index.clone(), now.clone(), tasks.clone());
        let (grants, owed) = (Some(grants), AtomicBool::new(false));
        Indexed { inner: Arc::new(Inner { blobs, grants, index, now, tasks, owed }) }
    }

    fn grants(&self) -> Result<&Arc<dyn Grants>, StoreError> {
        self.inner.grants.as_ref().ok_or(StoreError::Stopped)
    }

    /// For each blob whether the index has it, and whether it would know.
    async fn known(&self, blobs: &[BlobDigest]) -> (bool, Vec<bool>) {
        self.pay().await;
        let keys: Vec<IndexKey> = blobs.iter().map(key_of).collect();
        match self.inner.index.find(&keys).await {
            Ok(looked) if looked.found.len() == keys.len() => {
                let complete = looked.complete && !self.inner.owed.load(Ordering::Relaxed);
                (complete, looked.found.iter().map(|fields| !fields.is_empty()).collect())
            }
            Ok(_) => (false, vec![false; blobs.len()]),
            Err(error) => {
                tracing::debug!(%error, "the index failed; the store is asked which blobs it has");
                (false, vec![false; blobs.len()])
            }
        }
    }

    async fn note(&self, blobs: &[(BlobDigest, Option<u64>)]) -> Result<(), StoreError> {
        let used = (self.inner.now)();
        let entry = |(blob, size): &(BlobDigest, Option<u64>)| {
            let value = Bytes::from(size.map(|size| size.to_string()).unwrap_or_default());
            IndexEntry { key: key_of(blob), field: String::new(), value, used }
        };
        self.inner.index.put(&blobs.iter().map(entry).collect::<Vec<_>>()).await
    }

    /// Notes a blob that was just written.
    async fn written(&self, blob: &BlobDigest, size: u64) {
        if let Err(error) = self.note(&[(*blob, Some(size))]).await {
            tracing::debug!(%error, %blob, "the index was not told of a blob");
            self.inner.owed.store(true, Ordering::Relaxed);
            self.pay().await;
        }
    }

    async fn pay(&self) {
        if self.inner.owed.load(Ordering::Relaxed)
            && self.inner.index.mark_incomplete().await.is_ok()
        {
            self.inner.owed.store(false, Ordering::Relaxed);
        }
    }

    /// Forgets a blob that was not to be had, for this reason.
    async fn forget(&self, blob: &BlobDigest, error: &StoreError) {
        let known = self.known(&[*blob]).await.1 != [false];
        if matches!(error, StoreError::Corrupt { .. }) {
            tracing::warn!(%blob, "a blob was damaged in the store, and was put in quarantine; who needs it makes it again");
        } else if known {
            tracing::warn!(%blob, "a blob that the index knew is missing in the store; who needs it makes it again");
        }
        // Who looks for what is on its way finds nothing, and that is no loss.
        if !known {
            return;
        }
        if let Err(error) = self.inner.index.remove(&[key_of(blob)]).await {
            tracing::debug!(%error, %blob, "the index could not be told that a blob is gone");
        }
    }

    fn touch(&self, blobs: &[BlobDigest]) {
        if blobs.is_empty() {
            return;
        }
        let (indexed, keys) = (self.clone(), blobs.iter().map(key_of).collect::<Vec<_>>());
        self.inner.tasks.spawn(async move {
            let now = (indexed.inner.now)();
            if let Err(error) = indexed.inner.index.touch(&keys, now).await {
                tracing::debug!(%error, "the use of blobs was not noted");
            }
        });
    }
}

fn is_gone(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. } | StoreError::Corrupt { .. })
}

#[async_trait::async_trait]
impl BlobStore for Indexed {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        if blobs.is_empty() {
            return Ok(Vec::new());
        }
        let (complete, known) = self.known(blobs).await;
        let of = |there: bool| {
            let of = blobs.iter().zip(&known).filter(move |(_, known)| **known == there);
            of.map(|(blob, _)| *blob).collect::<Vec<_>>()
        };
        let (there, unknown) = (of(true), of(false));
        self.touch(&there);
        if complete || unknown.is_empty() {
            return Ok(unknown);
        }
        let missing = self.inner.blobs.find_missing(&unknown).await?;
        let gone: BTreeSet<BlobDigest> = missing.iter().copied().collect();
        let found: Vec<_> =
            unknown.iter().filter(|blob| !gone.contains(blob)).map(|blob| (*blob, None)).collect();
        if let Err(error) = self.note(&found).await {
            tracing::debug!(%error, "the index was not told which blobs there are");
        }
        Ok(missing)
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let content = match self.inner.blobs.get(blob, range).await {
            Ok(content) => content,
            Err(error) => {
                if is_gone(&error) {
                    self.forget(blob, &error).await;
                }
                return Err(error);
            }
        };
        let (indexed, blob) = (self.clone(), *blob);
        let watched = content.then(move |piece| {
            let indexed = indexed.clone();
            async move {
                if let Err(error) = &piece
                    && is_gone(error)
                {
                    indexed.forget(&blob, error).await;
                }
                piece
            }
        });
        Ok(watched.boxed())
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        let size = self.inner.blobs.put(blob, content).await?;
        self.written(blob, size).await;
        Ok(size)
    }
}

#[async_trait::async_trait]
impl Grants for Indexed {
    async fn read(&self, blob: &BlobDigest) -> Result<Grant, StoreError> {
        self.touch(&[*blob]);
        self.grants()?.read(blob).await
    }

    async fn write(&self, blob: &BlobDigest, size: u64) -> Result<WriteGrant, StoreError> {
        self.grants()?.write(blob, size).await
    }

    async fn finish(&self, blob: &BlobDigest, written: &Written) -> Result<(), StoreError> {
        self.grants()?.finish(blob, written).await?;
        self.written(blob, written.size).await;
        Ok(())
    }
}

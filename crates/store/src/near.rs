//! Small blobs of a far store, kept in a folder of this machine once they were read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use dcbuild_model::BlobDigest;
use futures::StreamExt as _;

use crate::{BlobStore, BlobStream, ByteRange, FolderStore, PruneRequest, StoreError};

/// Larger blobs are not kept near: a worker has them as snapshots.
const NEAR_BYTES_MAX: usize = 16 << 20;

/// A blob store that is far, and before it a folder with what was read of tables of contents and the like.
///
/// What is there is the far store's to say: others lean on it.
#[derive(Clone)]
pub struct Near {
    inner: Arc<Inner>,
}

struct Inner {
    folder: Arc<FolderStore>,
    far: Arc<dyn BlobStore>,
    /// What the folder may hold, if nobody else sees to that.
    bytes_max: Option<u64>,
    /// What was kept since the folder was pruned last.
    kept_bytes: AtomicU64,
}

/// What has passed by so far; nothing once it was too much.
type Passed = Arc<Mutex<Option<BytesMut>>>;

impl Near {
    /// Keeps small blobs of a store in a folder, which somebody else prunes.
    pub fn new(folder: Arc<FolderStore>, far: Arc<dyn BlobStore>) -> Near {
        let kept_bytes = AtomicU64::new(0);
        Near { inner: Arc::new(Inner { folder, far, bytes_max: None, kept_bytes }) }
    }

    /// The same in a folder of its own, of which the longest unused goes once there is more than this.
    pub fn with_ceiling(folder: Arc<FolderStore>, far: Arc<dyn BlobStore>, bytes_max: u64) -> Near {
        let kept_bytes = AtomicU64::new(bytes_max);
        Near { inner: Arc::new(Inner { folder, far, bytes_max: Some(bytes_max), kept_bytes }) }
    }
}

impl Inner {
    /// Keeps what passed by, if it was not too much; a folder that fails costs another read.
    async fn keep(&self, blob: &BlobDigest, passed: &Passed) {
        let bytes = passed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(bytes) = bytes else { return };
        match self.folder.put(blob, crate::stream_of(bytes.freeze())).await {
            Ok(size) => self.hold_ceiling(size).await,
            Err(error) => tracing::debug!(%error, %blob, "a blob is not kept near"),
        }
    }

    async fn hold_ceiling(&self, size: u64) {
        let Some(bytes_max) = self.bytes_max else { return };
        // A look at all files is only worth it now and then.
        if self.kept_bytes.fetch_add(size, Ordering::Relaxed) < bytes_max / 4 {
            return;
        }
        self.kept_bytes.store(0, Ordering::Relaxed);
        let folder = self.folder.clone();
        let request = PruneRequest { keep_bytes: Some(bytes_max), ..PruneRequest::default() };
        let pruned = tokio::task::spawn_blocking(move || folder.prune(&request)).await;
        if let Ok(Err(error)) = pruned {
            tracing::warn!(%error, "what is kept near could not be pruned");
        }
    }
}

/// Notes what passes by.
fn noting(content: BlobStream) -> (BlobStream, Passed) {
    let passed: Passed = Arc::new(Mutex::new(Some(BytesMut::new())));
    let noted = passed.clone();
    let content = content.inspect(move |piece| {
        let mut passed = noted.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *passed, piece) {
            (Some(bytes), Ok(piece)) if bytes.len() + piece.len() <= NEAR_BYTES_MAX => {
                bytes.extend_from_slice(piece);
            }
            _ => *passed = None,
        }
    });
    (content.boxed(), passed)
}

#[async_trait::async_trait]
impl BlobStore for Near {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.inner.far.find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        match self.inner.folder.get(blob, range).await {
            Ok(content) => return Ok(content),
            Err(error) if error.is_miss() => {}
            Err(error) => tracing::debug!(%error, %blob, "the near folder could not be read"),
        }
        let content = self.inner.far.get(blob, range).await?;
        if range != ByteRange::ALL {
            return Ok(content);
        }
        let (content, passed) = noting(content);
        let (inner, blob) = (self.inner.clone(), *blob);
        let end = futures::stream::once(async move {
            inner.keep(&blob, &passed).await;
            None
        });
        Ok(content.map(Some).chain(end).filter_map(std::future::ready).boxed())
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        self.inner.far.put(blob, content).await
    }
}

//! Small blobs of a far store, kept in a folder of this machine once they were read or written.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use dcbuild_model::BlobDigest;
use futures::StreamExt as _;

use crate::{BlobStore, BlobStream, ByteRange, FolderStore, StoreError};

/// Larger blobs are not kept near: a worker has them as snapshots.
const NEAR_BYTES_MAX: usize = 16 << 20;

/// A blob store that is far, before it a folder with what it has of tables of contents and the like.
///
/// What is there is the far store's to say: others lean on it.
pub struct Near {
    folder: Arc<FolderStore>,
    far: Arc<dyn BlobStore>,
}

/// What has passed by so far; nothing once it was too much.
type Passed = Arc<Mutex<Option<BytesMut>>>;

impl Near {
    /// Keeps small blobs of a store in a folder.
    pub fn new(folder: Arc<FolderStore>, far: Arc<dyn BlobStore>) -> Near {
        Near { folder, far }
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

    /// Keeps what passed by, if it was not too much; a folder that fails costs another read.
    async fn keep(folder: &FolderStore, blob: &BlobDigest, passed: &Passed) {
        let bytes = passed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(bytes) = bytes else { return };
        if let Err(error) = folder.put(blob, crate::stream_of(bytes.freeze())).await {
            tracing::debug!(%error, %blob, "a blob is not kept near");
        }
    }
}

#[async_trait::async_trait]
impl BlobStore for Near {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.far.find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        match self.folder.get(blob, range).await {
            Ok(content) => return Ok(content),
            Err(StoreError::NotFound { .. } | StoreError::Corrupt { .. }) => {}
            Err(error) => tracing::debug!(%error, %blob, "the near folder could not be read"),
        }
        let content = self.far.get(blob, range).await?;
        if range != ByteRange::ALL {
            return Ok(content);
        }
        let (content, passed) = Near::noting(content);
        let (folder, blob) = (self.folder.clone(), *blob);
        let end = futures::stream::once(async move {
            Near::keep(&folder, &blob, &passed).await;
            None
        });
        Ok(content.map(Some).chain(end).filter_map(std::future::ready).boxed())
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        let (content, passed) = Near::noting(content);
        let size = self.far.put(blob, content).await?;
        Near::keep(&self.folder, blob, &passed).await;
        Ok(size)
    }
}

//! Stores blobs: small ones with one request, others in parts that are sent side by side.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dcbuild_model::{BlobDigest, Digest};
use dcbuild_store::{BlobStream, StoreError};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use sha2::Digest as _;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use crate::failure::{Failure, FailureKind};
use crate::store::{Inner, add};
use crate::wire::{Part, Upload};

/// S3 takes this many parts.
pub(crate) const PARTS_MAX: u64 = 10_000;

/// Stores a blob, once its bytes turned out to be its own.
pub(crate) async fn store_blob(
    store: &Arc<Inner>,
    blob: BlobDigest,
    content: BlobStream,
) -> Result<u64, StoreError> {
    let mut pieces = Pieces::new(content, store.config.part_bytes);
    let first = pieces.next().await?;
    if !pieces.is_at_end {
        return in_parts(store, blob, pieces, first).await;
    }
    let size = pieces.finish(blob)?;
    let put = store.wire.put(&store.keys.blob(&blob), &first, &blob.0).await;
    put.map_err(|failure| store.error(failure))?;
    add(&store.counters.bytes_up, first.len());
    Ok(size)
}

async fn in_parts(
    store: &Arc<Inner>,
    blob: BlobDigest,
    mut pieces: Pieces,
    first: Bytes,
) -> Result<u64, StoreError> {
    let key = store.keys.blob(&blob);
    let upload = store.wire.begin_upload(&key).await.map_err(|failure| store.error(failure))?;
    let mut sending = Sending::new(store.clone(), upload);
    let mut next = first;
    while !next.is_empty() {
        if sending.begun == PARTS_MAX {
            let max = store.config.part_bytes.saturating_mul(PARTS_MAX);
            return Err(StoreError::TooLarge { blob, max });
        }
        sending.send(next).await?;
        next = sending.while_sending(pieces.next()).await?;
    }
    let size = pieces.finish(blob)?;
    sending.complete().await?;
    // Not every server compares parts with their checksums; the size shows whether one was cut.
    let found = store.wire.head(&key).await.map_err(|failure| store.error(failure))?;
    if found == size {
        return Ok(size);
    }
    store.quarantine(&blob).await;
    let answer = format!("{found} bytes are there of {size} that were sent");
    Err(store.error(Failure::new(FailureKind::Damaged, "CompleteMultipartUpload", answer)))
}

/// Cuts content into parts and hashes it.
struct Pieces {
    content: BlobStream,
    part_bytes: usize,
    /// What came and is in no part yet.
    left: BytesMut,
    hash: sha2::Sha256,
    size: u64,
    is_at_end: bool,
}

impl Pieces {
    fn new(content: BlobStream, part_bytes: u64) -> Pieces {
        let part_bytes = usize::try_from(part_bytes).unwrap_or(usize::MAX);
        let (left, hash) = (BytesMut::new(), sha2::Sha256::new());
        Pieces { content, part_bytes, left, hash, size: 0, is_at_end: false }
    }

    /// The next part; one that is shorter is the last, an empty one stands behind it. Nothing is lost if it is not awaited
    /// to the end.
    async fn next(&mut self) -> Result<Bytes, StoreError> {
        // One byte more than a part shows that it is not the last.
        while !self.is_at_end && self.left.len() <= self.part_bytes {
            match self.content.next().await {
                Some(piece) => {
                    let piece = piece?;
                    self.hash.update(&piece);
                    self.size += u64::try_from(piece.len()).unwrap_or(u64::MAX);
                    self.left.extend_from_slice(&piece);
                }
                None => self.is_at_end = true,
            }
        }
        let length = self.left.len().min(self.part_bytes);
        Ok(self.left.split_to(length).freeze())
    }

    /// The size of all, if the bytes were the blob's.
    fn finish(self, blob: BlobDigest) -> Result<u64, StoreError> {
        let found = BlobDigest(Digest(self.hash.finalize().into()));
        if found == blob {
            return Ok(self.size);
        }
        Err(StoreError::DigestMismatch { expected: blob, found })
    }
}

/// An upload under way; dropped before it is complete, it is thrown away.
struct Sending {
    store: Arc<Inner>,
    upload: Upload,
    is_complete: bool,
    begun: u64,
    under_way: FuturesUnordered<BoxFuture<'static, Result<Part, Failure>>>,
    sent: Vec<Part>,
}

impl Sending {
    fn new(store: Arc<Inner>, upload: Upload) -> Sending {
        let under_way = FuturesUnordered::new();
        Sending { store, upload, is_complete: false, begun: 0, under_way, sent: Vec::new() }
    }

    /// Waits for something while parts are being sent; a part that fails ends both.
    async fn while_sending<T>(
        &mut self,
        wanted: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut wanted = std::pin::pin!(wanted);
        loop {
            let part = tokio::select! {
                wanted = &mut wanted => return wanted,
                Some(part) = self.under_way.next() => part,
            };
            self.sent.push(part.map_err(|failure| self.store.error(failure))?);
        }
    }

    /// Begins to send a part, when there is room for it among all that wait.
    async fn send(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let room = self.store.parts.clone().acquire_owned();
        let room = self.while_sending(room.map(|room| room.map_err(|_| StoreError::Stopped)));
        let room = room.await?;
        self.begun += 1;
        let number = i32::try_from(self.begun).unwrap_or(i32::MAX);
        let (store, upload) = (self.store.clone(), self.upload.clone());
        self.under_way.push(send_part(store, upload, number, bytes, room).boxed());
        Ok(())
    }

    /// Waits for the last parts and makes them one object.
    async fn complete(mut self) -> Result<(), StoreError> {
        while let Some(part) = self.under_way.next().await {
            self.sent.push(part.map_err(|failure| self.store.error(failure))?);
        }
        self.sent.sort_by_key(|part| part.number);
        match self.store.wire.complete(&self.upload, &self.sent).await {
            // An upload that is not there any more was completed by a try whose answer was lost.
            Err(failure) if failure.kind != FailureKind::Absent => Err(self.store.error(failure)),
            _ => {
                self.is_complete = true;
                Ok(())
            }
        }
    }
}

async fn send_part(
    store: Arc<Inner>,
    upload: Upload,
    number: i32,
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
) -> Result<Part, Failure> {
    let sent = store.wire.send_part(&upload, number, &bytes).await?;
    add(&store.counters.bytes_up, bytes.len());
    Ok(sent)
}

impl Drop for Sending {
    /// Whatever ended the upload early: its parts cost money until somebody throws them away. What this misses, a sweep
    /// finds.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_complete {
            return;
        }
        let (store, upload) = (self.store.clone(), self.upload.clone());
        let abort = async move {
            if let Err(failure) = store.wire.abort(&upload).await {
                warn!(key = upload.key, %failure, "an upload that was given up is left to the sweep");
            }
        };
        drop(self.store.tasks.spawn_on(abort, &runtime));
    }
}

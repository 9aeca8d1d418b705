//! Reads blobs in chunks: several at once, handed on in order.

use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, Digest};
use dcbuild_store::{BlobStream, ByteRange, StoreError};
use futures::StreamExt;
use sha2::Digest as _;

use crate::store::{Inner, add};

/// So many chunks of one read are on their way or wait to be taken.
const CHUNKS_AHEAD: usize = 4;

/// Opens a range of a blob.
pub(crate) async fn open(
    store: &Arc<Inner>,
    blob: BlobDigest,
    range: ByteRange,
) -> Result<BlobStream, StoreError> {
    if range.length == Some(0) {
        let found = store.wire.head(&store.keys.blob(&blob)).await;
        found.map_err(|failure| store.blob_error(&blob, failure))?;
        return Ok(futures::stream::empty().boxed());
    }
    // The first chunk says how long the whole is.
    let chunk = store.config.part_bytes;
    let length = range.length.unwrap_or(u64::MAX);
    let (first, size) = fetch(store, blob, range.start, length.min(chunk)).await?;
    let end = range.start.saturating_add(length).min(size);
    let content = if range.start.saturating_add(chunk) < end {
        let rest = the_rest(store.clone(), blob, range.start + chunk..end);
        futures::stream::iter([Ok(first)]).chain(rest).boxed()
    } else {
        futures::stream::iter([Ok(first)]).boxed()
    };
    Ok(if range == ByteRange::ALL { checked(store.clone(), blob, content) } else { content })
}

async fn fetch(
    store: &Inner,
    blob: BlobDigest,
    start: u64,
    length: u64,
) -> Result<(Bytes, u64), StoreError> {
    let fetched = store.wire.get(&store.keys.blob(&blob), start, length).await;
    let fetched = fetched.map_err(|failure| store.blob_error(&blob, failure))?;
    add(&store.counters.bytes_down, fetched.bytes.len());
    Ok((fetched.bytes, fetched.size))
}

fn the_rest(store: Arc<Inner>, blob: BlobDigest, rest: std::ops::Range<u64>) -> BlobStream {
    let chunk = store.config.part_bytes;
    let starts = std::iter::successors(Some(rest.start), move |start| start.checked_add(chunk));
    let starts = starts.take_while(move |start| *start < rest.end);
    futures::stream::iter(starts)
        .map(move |start| {
            let store = store.clone();
            let length = chunk.min(rest.end - start);
            async move { fetch(&store, blob, start, length).await.map(|(bytes, _)| bytes) }
        })
        .buffered(CHUNKS_AHEAD)
        .boxed()
}

struct Checking {
    store: Arc<Inner>,
    content: BlobStream,
    hash: sha2::Sha256,
}

/// Hashes what passes; bytes that are not the blob's end with an error, and the blob in quarantine, unless it is whole and
/// only came otherwise.
fn checked(store: Arc<Inner>, blob: BlobDigest, content: BlobStream) -> BlobStream {
    let start = Checking { store, content, hash: sha2::Sha256::new() };
    futures::stream::unfold(Some(start), move |checking| async move {
        let mut checking = checking?;
        match checking.content.next().await {
            Some(Ok(piece)) => {
                checking.hash.update(&piece);
                Some((Ok(piece), Some(checking)))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None if Digest(checking.hash.finalize().into()) == blob.0 => None,
            None => {
                if is_damaged(&checking.store, blob).await {
                    checking.store.quarantine(&blob).await;
                }
                Some((Err(StoreError::Corrupt { blob }), None))
            }
        }
    })
    .boxed()
}

/// Reads a blob that came with other bytes than it should have once more.
async fn is_damaged(store: &Arc<Inner>, blob: BlobDigest) -> bool {
    let again = async {
        let chunk = store.config.part_bytes;
        let (first, size) = fetch(store, blob, 0, chunk).await?;
        let mut rest = the_rest(store.clone(), blob, chunk..size.max(chunk));
        let mut hash = sha2::Sha256::new_with_prefix(&first);
        while let Some(piece) = rest.next().await {
            hash.update(&piece?);
        }
        Ok::<_, StoreError>(Digest(hash.finalize().into()) != blob.0)
    };
    again.await.unwrap_or(false)
}

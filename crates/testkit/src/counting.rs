//! A blob store that counts what it is asked and how many bytes pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dcbuild_model::BlobDigest;
use dcbuild_store::{BlobStore, BlobStream, ByteRange, StoreError};
use futures::StreamExt as _;

/// How often a store was called, and the bytes that passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Calls of `find_missing`.
    pub asked: u64,
    /// Calls of `get`.
    pub gets: u64,
    /// The bytes that they gave.
    pub got_bytes: u64,
    /// Calls of `put`.
    pub puts: u64,
    /// The bytes that they took.
    pub put_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    asked: AtomicU64,
    gets: AtomicU64,
    got_bytes: Arc<AtomicU64>,
    puts: AtomicU64,
    put_bytes: Arc<AtomicU64>,
}

/// Counts the calls of a store.
#[derive(Debug, Default)]
pub struct CountingBlobs<S> {
    store: S,
    counters: Counters,
}

impl<S> CountingBlobs<S> {
    /// Wraps a store.
    pub fn new(store: S) -> CountingBlobs<S> {
        CountingBlobs { store, counters: Counters::default() }
    }

    /// The store inside.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// What was counted since this was last asked.
    pub fn take(&self) -> Counted {
        let Counters { asked, gets, got_bytes, puts, put_bytes } = &self.counters;
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::SeqCst);
        Counted {
            asked: take(asked),
            gets: take(gets),
            got_bytes: take(got_bytes),
            puts: take(puts),
            put_bytes: take(put_bytes),
        }
    }
}

fn counted(stream: BlobStream, bytes: &Arc<AtomicU64>) -> BlobStream {
    let bytes = bytes.clone();
    let count = move |piece: &Result<bytes::Bytes, StoreError>| {
        if let Ok(piece) = piece {
            bytes.fetch_add(u64::try_from(piece.len()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    };
    stream.inspect(count).boxed()
}

#[async_trait::async_trait]
impl<S: BlobStore> BlobStore for CountingBlobs<S> {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.counters.asked.fetch_add(1, Ordering::SeqCst);
        self.store.find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        self.counters.gets.fetch_add(1, Ordering::SeqCst);
        Ok(counted(self.store.get(blob, range).await?, &self.counters.got_bytes))
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        self.counters.puts.fetch_add(1, Ordering::SeqCst);
        self.store.put(blob, counted(content, &self.counters.put_bytes)).await
    }
}

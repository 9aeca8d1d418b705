//! Blob stores in memory, one of which fails as told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use dcbuild_model::{BlobDigest, Digest};
use dcbuild_store::{BlobStore, BlobStream, ByteRange, StoreError, stream_of};
use futures::StreamExt;

/// Keeps blobs in memory.
#[derive(Debug, Default)]
pub struct MemoryBlobs(Mutex<BTreeMap<BlobDigest, Bytes>>);

impl MemoryBlobs {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<BlobDigest, Bytes>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stores bytes and says their name.
    pub fn insert(&self, bytes: impl Into<Bytes>) -> BlobDigest {
        let bytes = bytes.into();
        let blob = BlobDigest(Digest::of(&bytes));
        self.with(|blobs| blobs.insert(blob, bytes));
        blob
    }

    /// Forgets a blob and says whether it was there.
    pub fn remove(&self, blob: &BlobDigest) -> bool {
        self.with(|blobs| blobs.remove(blob)).is_some()
    }

    /// Puts other bytes under a blob's name.
    pub fn corrupt(&self, blob: &BlobDigest, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        self.with(|blobs| blobs.insert(*blob, bytes));
    }

    /// How many blobs there are.
    pub fn len(&self) -> usize {
        self.with(|blobs| blobs.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[async_trait::async_trait]
impl BlobStore for MemoryBlobs {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        Ok(self
            .with(|there| blobs.iter().filter(|blob| !there.contains_key(blob)).copied().collect()))
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let whole = self.with(|blobs| blobs.get(blob).cloned());
        let whole = whole.ok_or(StoreError::NotFound { blob: *blob })?;
        if range == ByteRange::ALL && Digest::of(&whole) != blob.0 {
            self.remove(blob);
            return Err(StoreError::Corrupt { blob: *blob });
        }
        let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(whole.len());
        let length = range.length.and_then(|length| usize::try_from(length).ok());
        let end = start.saturating_add(length.unwrap_or(usize::MAX)).min(whole.len());
        Ok(stream_of(whole.slice(start..end)))
    }

    async fn put(&self, blob: &BlobDigest, mut content: BlobStream) -> Result<u64, StoreError> {
        let mut bytes = BytesMut::new();
        while let Some(piece) = content.next().await {
            bytes.extend_from_slice(&piece?);
        }
        let found = BlobDigest(Digest::of(&bytes));
        if found != *blob {
            return Err(StoreError::DigestMismatch { expected: *blob, found });
        }
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.insert(bytes);
        Ok(size)
    }
}

/// The calls of a blob store, for a fault to choose from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobCall {
    /// `find_missing`
    FindMissing,
    /// `get`
    Get,
    /// `put`
    Put,
}

/// Fails the calls that it is told to fail, and counts how many it did.
pub struct FaultyBlobs<S> {
    store: S,
    fails: Box<dyn Fn(BlobCall, u64) -> bool + Send + Sync>,
    calls: AtomicU64,
    fired: AtomicU64,
}

impl<S> FaultyBlobs<S> {
    /// Wraps a store; `fails` is asked with each call and its number, from 0.
    pub fn new(
        store: S,
        fails: impl Fn(BlobCall, u64) -> bool + Send + Sync + 'static,
    ) -> FaultyBlobs<S> {
        let (calls, fired) = (AtomicU64::new(0), AtomicU64::new(0));
        FaultyBlobs { store, fails: Box::new(fails), calls, fired }
    }

    /// How many calls were failed so far; a test that expects faults asserts that there were some.
    pub fn fired(&self) -> u64 {
        self.fired.load(Ordering::SeqCst)
    }

    fn check(&self, call: BlobCall) -> Result<(), StoreError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        if !(self.fails)(call, number) {
            return Ok(());
        }
        self.fired.fetch_add(1, Ordering::SeqCst);
        let source = format!("call {number} was told to fail").into();
        Err(StoreError::Unavailable { store: "faulty".into(), source })
    }
}

#[async_trait::async_trait]
impl<S: BlobStore> BlobStore for FaultyBlobs<S> {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.check(BlobCall::FindMissing)?;
        self.store.find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        self.check(BlobCall::Get)?;
        self.store.get(blob, range).await
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        self.check(BlobCall::Put)?;
        self.store.put(blob, content).await
    }
}

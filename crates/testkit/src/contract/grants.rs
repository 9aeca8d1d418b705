//! The contract of stores that give out grants.

use bytes::Bytes;
use dcbuild_model::{BlobDigest, Digest};
use dcbuild_store::{
    BlobStore, ByteRange, Grant, GrantMethod, Grants, StoreError, WriteGrant, Written, read_bytes,
};
use futures::future::BoxFuture;

/// What was answered to the request of a grant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Whether it was done as asked.
    pub is_done: bool,
    /// The `ETag`, if one came.
    pub etag: String,
    /// The body.
    pub body: Bytes,
}

/// Holds a store to the contract of grants; `send` makes the request of a grant, with this body or in this range.
pub async fn grants<S: BlobStore + Grants>(
    store: &S,
    large: u32,
    send: impl Fn(Grant, Option<ByteRange>, Bytes) -> BoxFuture<'static, Sent>,
) {
    let bytes = Bytes::from_static(b"granted bytes");
    let blob = BlobDigest(Digest::of(&bytes));
    let size = u64::try_from(bytes.len()).expect("small");
    let WriteGrant::Whole(write) = store.write(&blob, size).await.expect("granted") else {
        panic!("a small blob is written with one request");
    };
    assert_eq!(write.method, GrantMethod::Put);
    let written = Written { size, upload: None, etags: Vec::new() };
    let absent = store.finish(&blob, &written).await;
    assert!(matches!(absent, Err(StoreError::NotFound { .. })), "{absent:?}");
    let wrong = send(write.clone(), None, Bytes::from_static(b"granted bytez")).await;
    assert!(!wrong.is_done, "other bytes are refused: {wrong:?}");
    assert_eq!(store.find_missing(&[blob]).await.expect("asked"), [blob], "nothing stays");
    assert!(send(write, None, bytes.clone()).await.is_done);
    store.finish(&blob, &written).await.expect("finished");
    assert_eq!(read_bytes(store, &blob, 100).await.expect("read"), bytes);

    let read = store.read(&blob).await.expect("granted");
    assert_eq!(read.method, GrantMethod::Get);
    assert_eq!(send(read.clone(), None, Bytes::new()).await.body, bytes);
    let part = send(read, Some(ByteRange::new(8, 5)), Bytes::new()).await;
    assert_eq!(part.body, bytes.slice(8..13));
    in_parts(store, large, send).await;
}

async fn in_parts<S: BlobStore + Grants>(
    store: &S,
    large: u32,
    send: impl Fn(Grant, Option<ByteRange>, Bytes) -> BoxFuture<'static, Sent>,
) {
    let bytes: Vec<u8> = (0..large / 4).flat_map(u32::to_le_bytes).collect();
    let bytes = Bytes::from(bytes);
    let blob = BlobDigest(Digest::of(&bytes));
    let size = u64::try_from(bytes.len()).expect("fits");
    let granted = store.write(&blob, size).await.expect("granted");
    let WriteGrant::Parts { upload, part_bytes, parts } = granted else {
        panic!("{size} bytes are written in parts");
    };
    let part_bytes = usize::try_from(part_bytes).expect("fits");
    assert_eq!(parts.len(), bytes.len().div_ceil(part_bytes));
    let mut etags = Vec::new();
    for (grant, start) in parts.into_iter().zip((0..).step_by(part_bytes)) {
        let piece = bytes.slice(start..bytes.len().min(start + part_bytes));
        let answer = send(grant, None, piece).await;
        assert!(answer.is_done, "{answer:?}");
        etags.push(answer.etag);
    }
    let missing = store.find_missing(&[blob]).await.expect("asked");
    assert_eq!(missing, [blob], "nothing is visible before the end");
    let written = Written { size, upload: Some(upload), etags };
    store.finish(&blob, &written).await.expect("finished");
    assert!(read_bytes(store, &blob, size).await.expect("read") == bytes);
}

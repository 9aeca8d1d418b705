//! The contract of blob stores.

use dcbuild_model::{BlobDigest, Digest};
use dcbuild_store::{BlobStore, ByteRange, StoreError, read_bytes, stream_of};
use futures::StreamExt;

fn blob(bytes: &[u8]) -> BlobDigest {
    BlobDigest(Digest::of(bytes))
}

async fn part(store: &dyn BlobStore, name: &BlobDigest, range: ByteRange) -> Vec<u8> {
    let mut content = store.get(name, range).await.expect("the blob is there");
    let mut bytes = Vec::new();
    while let Some(piece) = content.next().await {
        bytes.extend_from_slice(&piece.expect("the piece is read"));
    }
    bytes
}

/// Holds a blob store to its contract.
pub async fn blobs(store: &dyn BlobStore) {
    let (one, two) = (blob(b"hello world"), blob(b"other"));
    assert_eq!(store.find_missing(&[two, one]).await.expect("asked"), [two, one]);
    let absent = store.get(&one, ByteRange::ALL).await.err();
    assert!(matches!(absent, Some(StoreError::NotFound { .. })), "{absent:?}");

    for _ in 0..2 {
        let size = store.put(&one, stream_of(&b"hello world"[..])).await.expect("stored");
        assert_eq!(size, 11);
    }
    assert_eq!(store.find_missing(&[two, one]).await.expect("asked"), [two]);
    assert_eq!(part(store, &one, ByteRange::ALL).await, b"hello world");
    assert_eq!(part(store, &one, ByteRange::new(6, 3)).await, b"wor");
    assert_eq!(part(store, &one, ByteRange::new(6, 300)).await, b"world");
    assert_eq!(part(store, &one, ByteRange::new(600, 3)).await, b"");
    let rest = ByteRange { start: 6, length: None };
    assert_eq!(part(store, &one, rest).await, b"world");
    let large = read_bytes(store, &one, 10).await;
    assert!(matches!(large, Err(StoreError::TooLarge { .. })), "{large:?}");

    let wrong = store.put(&two, stream_of(&b"not other"[..])).await;
    assert!(matches!(wrong, Err(StoreError::DigestMismatch { .. })), "{wrong:?}");
    let pieces = [Ok(b"oth"[..].into()), Err(StoreError::Stopped)];
    let broken = store.put(&two, futures::stream::iter(pieces).boxed()).await;
    assert!(broken.is_err());
    assert_eq!(store.find_missing(&[two]).await.expect("asked"), [two], "nothing stays");

    let empty = blob(b"");
    store.put(&empty, stream_of(&b""[..])).await.expect("stored");
    assert_eq!(store.find_missing(&[empty]).await.expect("asked"), []);
    assert_eq!(part(store, &empty, ByteRange::ALL).await, b"");
}

/// Bytes of which no two stretches are alike, so that parts in the wrong order show.
fn noise(length: u32) -> Vec<u8> {
    (0..length.div_ceil(4)).flat_map(|at| (at.wrapping_mul(2_654_435_761)).to_le_bytes()).collect()
}

/// Holds a blob store to its contract with a blob of `length` bytes that comes in pieces of odd sizes.
pub async fn large_blobs(store: &dyn BlobStore, length: u32) {
    let bytes = noise(length);
    let name = blob(&bytes);
    let pieces: Vec<_> = bytes.chunks(777_777).map(|piece| Ok(piece.to_vec().into())).collect();
    let cut = pieces.len() / 2;
    let torn = futures::stream::iter(bytes.chunks(777_777).take(cut))
        .map(|piece| Ok(piece.to_vec().into()))
        .chain(futures::stream::iter([Err(StoreError::Stopped)]));
    let torn = torn.collect::<Vec<_>>().await;
    assert!(store.put(&name, futures::stream::iter(torn).boxed()).await.is_err());
    let mut wrong = bytes.clone();
    wrong.reverse();
    let refused = store.put(&name, stream_of(wrong)).await;
    assert!(matches!(refused, Err(StoreError::DigestMismatch { .. })), "{refused:?}");
    assert_eq!(store.find_missing(&[name]).await.expect("asked"), [name], "nothing stays");

    let size = store.put(&name, futures::stream::iter(pieces).boxed()).await.expect("stored");
    assert_eq!(usize::try_from(size), Ok(bytes.len()));
    assert_eq!(store.find_missing(&[name]).await.expect("asked"), []);
    assert!(part(store, &name, ByteRange::ALL).await == bytes, "all of it comes back");
    let middle = bytes.len() / 3;
    let range = ByteRange::new(u64::try_from(middle).expect("small"), u64::from(length / 2));
    let end = middle + usize::try_from(length / 2).expect("small");
    assert!(part(store, &name, range).await == bytes[middle..end], "a long range");
    let rest = ByteRange { start: range.start, length: None };
    assert!(part(store, &name, rest).await == bytes[middle..], "the rest");
}

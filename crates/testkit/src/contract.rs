//! What every backend of a store must do; each function panics where it does not.

use dcbuild_model::{
    AttemptId, BlobDigest, Digest, Lineage, ManifestDigest, Record, Scope, StepKey, StepResult,
    UnixTime, WorkerId,
};
use dcbuild_store::{
    BlobStore, ByteRange, ImageNames, NamedImage, StepIndex, StoreError, read_bytes, stream_of,
};
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

/// A record for tests; `number` tells attempts apart.
pub fn record(recipe: &str, outcome: Option<&str>, number: u32) -> Record {
    let key = |name: &str| StepKey(Digest::of(name.as_bytes()));
    Record {
        recipe: key(recipe),
        outcome: outcome.map(key),
        attempt: AttemptId::from_bits(number.into()),
        worker: WorkerId::from_bits(1),
        result: StepResult { layers: Vec::new(), created: UnixTime::default() },
        lineage: Lineage { parent: None, inputs: Vec::new(), selections: Vec::new() },
        components: Vec::new(),
        took_ms: 5,
    }
}

/// Holds a step index to its contract.
pub async fn steps(index: &dyn StepIndex) {
    let scope = Scope::local();
    let first = record("a", Some("b"), 7);
    let second = record("a", None, 3);
    let keys = [first.recipe, StepKey(Digest::of(b"b")), StepKey(Digest::of(b"c"))];
    let none = index.find(&scope, &keys).await.expect("found");
    assert_eq!(none, [vec![], vec![], vec![]]);
    index.put(&scope, &first).await.expect("stored");
    index.put(&scope, &second).await.expect("stored");
    let altered = Record { took_ms: 9, ..first.clone() };
    index.put(&scope, &altered).await.expect("stored");
    let found = index.find(&scope, &keys).await.expect("found");
    assert_eq!(found, [vec![first.clone(), second], vec![first], vec![]]);
    let other = "acme/shop".parse().expect("a scope");
    assert_eq!(index.find(&other, &keys).await.expect("found"), none, "scopes are apart");
}

/// Holds a store of image names to its contract.
pub async fn images(names: &dyn ImageNames) {
    let scope = Scope::local();
    let image = |name: &str, bytes: &[u8]| NamedImage {
        name: name.into(),
        manifest: ManifestDigest(Digest::of(bytes)),
        tagged: UnixTime { secs: 5, nanos: 0 },
    };
    let (old, new, other) = (image("b:1", b"1"), image("b:1", b"2"), image("a/../x:1", b"1"));
    for image in [&old, &new, &other] {
        names.put(&scope, image).await.expect("stored");
    }
    assert_eq!(names.find(&scope, "b:1").await.expect("found"), Some(new.clone()));
    assert_eq!(names.list(&scope).await.expect("listed"), [other.clone(), new]);
    assert!(names.remove(&scope, "b:1").await.expect("removed"));
    assert!(!names.remove(&scope, "b:1").await.expect("removed"));
    assert_eq!(names.list(&scope).await.expect("listed"), [other]);
}

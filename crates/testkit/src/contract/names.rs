//! The contracts of stores of image names and of cache mounts.

use dcbuild_model::{BlobDigest, BuildId, Digest, LayerId, ManifestDigest, Scope, UnixTime};
use dcbuild_store::{CacheVersion, CacheVersions, ImageNames, NamedImage, inherited};

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

/// Holds a store of cache mounts to its contract.
pub async fn caches(versions: &dyn CacheVersions) {
    let scope = |text: &str| text.parse::<Scope>().expect("a scope");
    let (main, pull) = (scope("acme/main"), scope("acme/main/pull-1"));
    let version = |id: &str, secs: i64| CacheVersion {
        id: id.into(),
        parcel: BlobDigest(Digest::of(&secs.to_be_bytes())),
        packs: vec![LayerId(Digest::of(b"a pack"))],
        pieces: vec![BlobDigest(Digest::of(b"a piece"))],
        entries: 3,
        bytes: 10,
        written: UnixTime { secs, nanos: 0 },
        emptied: (secs > 1).then(|| BuildId::from_bits(7)),
    };
    assert_eq!(inherited(versions, &pull, "/root/.cache").await.expect("looked"), None);
    let (old, new) = (version("/root/.cache", 1), version("/root/.cache", 2));
    let (other, own) = (version("apt/../x", 3), version("/root/.cache", 4));
    for version in [&old, &new, &other] {
        versions.put(&main, version).await.expect("stored");
    }
    assert_eq!(versions.find(&main, "apt/../x").await.expect("found"), Some(other));
    let from = async |scope| inherited(versions, scope, "/root/.cache").await.expect("found");
    assert_eq!(from(&pull).await, Some(new.clone()), "a pull request starts from its parent's");
    versions.put(&pull, &own).await.expect("stored");
    assert_eq!(from(&pull).await, Some(own), "and goes on with its own");
    assert_eq!(from(&main).await, Some(new), "which its parent does not see");
}

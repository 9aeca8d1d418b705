//! The contract of stores of image names.

use dcbuild_model::{Digest, ManifestDigest, Scope, UnixTime};
use dcbuild_store::{ImageNames, NamedImage};

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

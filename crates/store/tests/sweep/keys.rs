//! What a sweeper does about documents that its own key does not open.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dcbuild_model::{BlobDigest, ManifestDigest, Scope, UnixTime};
use dcbuild_store::{
    CacheVersion, CacheVersions, Catalog, CatalogParts, Ceilings, EmbeddedIndex, ImageNames,
    NamedImage, Now, Seal, StepIndex, SweepMode, Unseen, sweep,
};

use crate::{World, age};

/// A process on this store and index that has these keys.
fn keyed(world: &World, keys: &[&[u8]]) -> Catalog {
    let (objects, index) = (world.objects.clone(), world.index.clone());
    let seal = if keys.is_empty() { Ok(Seal::unkeyed()) } else { Seal::keyed(keys.to_vec()) };
    let clock = world.clock.clone();
    let now: Now = Arc::new(move || UnixTime { secs: clock.load(Ordering::SeqCst), nanos: 0 });
    let (tasks, unseen) = (world.tasks.clone(), Unseen::default());
    Catalog::new(CatalogParts { objects, index, seal: seal.unwrap(), now, tasks, unseen })
}

const ONE: &[u8] = &[1; 32];
const TWO: &[u8] = &[2; 32];

#[tokio::test]
async fn what_a_document_of_another_key_may_need_stays_as_long_as_it() {
    for keys in [&[ONE][..], &[]] {
        let world = World::new();
        let other = keyed(&world, keys);
        // A record, an image and a cache mount of others, and a record of ours that is older.
        let ours = keyed(&world, &[TWO]);
        let old = world.make_by(&ours, 1_500, "ours", None).await;
        let theirs = world.make_by(&other, 2_000, "theirs", None).await;
        let pack = world.blob("a pack of a mount").await;
        let version = CacheVersion {
            id: "/c".into(),
            parcel: BlobDigest(pack),
            packs: Vec::new(),
            pieces: Vec::new(),
            entries: 0,
            bytes: 0,
            written: UnixTime { secs: 2_000, nanos: 0 },
            emptied: None,
        };
        CacheVersions::put(&other, &Scope::local(), &version).await.unwrap();
        let named = format!(r#"{{"config":{{"digest":"{}"}}}}"#, world.blob("a config").await);
        let manifest = ManifestDigest(world.blob(&named).await);
        let tagged = UnixTime { secs: 2_000, nanos: 0 };
        let image = NamedImage { name: "app:1".into(), manifest, tagged };
        ImageNames::put(&other, &Scope::local(), &image).await.unwrap();
        world.settle().await;
        let now = world.at(3_000);
        let report = sweep(&ours, &age(1_200), SweepMode::Remove, now).await.unwrap();
        assert_eq!(report.put_off, None, "{report:?}");
        assert!(report.total().count > 0 && !world.has_blob("blob of ours"), "{report:?}");
        assert_eq!(StepIndex::find(&ours, &Scope::local(), &[old.recipe]).await.unwrap(), [[]]);
        for blob in ["table of theirs", "blob of theirs", "index of theirs", &named] {
            assert!(world.has_blob(blob), "{blob} with {keys:?}");
        }
        assert!(world.has_blob("a pack of a mount") && world.has_blob("a config"));
        let found = StepIndex::find(&other, &Scope::local(), &[theirs.recipe]).await.unwrap();
        assert_eq!(found.concat(), [theirs]);
        world.settle().await;
        // In the end it goes itself, and all that only it needed; a name stays.
        let now = world.at(9_000);
        world.make_by(&ours, 9_000, "new", None).await;
        sweep(&ours, &age(1_200), SweepMode::Remove, now).await.unwrap();
        assert!(!world.has_blob("blob of theirs") && !world.has_blob("a pack of a mount"));
        assert!(world.has_blob("a config") && world.has_blob("blob of new"));
    }
}

#[tokio::test]
async fn a_document_that_the_store_does_not_give_holds_the_sweep() {
    let world = World::new();
    let kept = world.make(9_000, "kept", None).await;
    world.sweep(&Ceilings::default()).await;
    // An index that has names alone, as after a fill.
    let index = Arc::new(EmbeddedIndex::new(1 << 20));
    let filled = world.catalog_on(index.clone());
    filled.fill().await.unwrap();
    world.objects.mute("/step/");
    let now = world.at(9_500);
    let swept = sweep(&world.catalog_on(index), &age(1), SweepMode::Remove, now).await;
    assert!(swept.is_err(), "{swept:?}");
    world.objects.mute("");
    world.check_whole(&[&kept]).await;
}

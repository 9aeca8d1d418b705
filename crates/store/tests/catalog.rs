//! The catalog keeps the contracts of its traits, and believes neither store nor index further than a seal.
#![expect(clippy::unwrap_used, reason = "test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use dcbuild_model::{
    BlobDigest, ChangeDigest, Compression, DiffId, Digest, LayerBlob, LayerDigest, LayerId,
    ManifestDigest, Record, Scope, StepKey, UnixTime,
};
use dcbuild_store::{
    CacheVersion, CacheVersions, Catalog, CatalogParts, EmbeddedIndex, FolderStore, HashedBase,
    ImageNames, IndexEntry, IndexKey, KeyIndex, LayerIndex, NamedImage, Now, Objects,
    RememberedNames, Seal, StepIndex, StoreError, StoredBlob, Unseen, UseMark, base_of, forms_of,
};
use dcbuild_testkit::{MemoryObjects, contract};
use tokio_util::task::TaskTracker;

const KEY: &[u8] = &[7; 32];

struct World {
    objects: Arc<MemoryObjects>,
    index: Arc<EmbeddedIndex>,
    tasks: TaskTracker,
}

impl World {
    fn new() -> World {
        let (objects, tasks) = (Arc::new(MemoryObjects::default()), TaskTracker::new());
        World { objects, index: Arc::new(EmbeddedIndex::new(1 << 20)), tasks }
    }

    /// Another process on the same store and index.
    fn catalog(&self) -> Catalog {
        self.sealed(Seal::keyed([KEY]).unwrap())
    }

    fn sealed(&self, seal: Seal) -> Catalog {
        let ticks = AtomicI64::new(1_000_000);
        let tick = move || UnixTime { secs: ticks.fetch_add(1, Ordering::Relaxed), nanos: 0 };
        let now: Now = Arc::new(tick);
        let (objects, index) = (self.objects.clone(), self.index.clone());
        let (tasks, unseen) = (self.tasks.clone(), Unseen::default());
        Catalog::new(CatalogParts { objects, index, seal, now, tasks, unseen })
    }

    /// The index after a flush.
    fn flushed(self) -> World {
        World { index: Arc::new(EmbeddedIndex::new(1 << 20)), ..self }
    }
}

fn record() -> Record {
    contract::record("a", Some("b"), 7)
}

async fn found(catalog: &Catalog, key: &StepKey) -> Vec<Record> {
    StepIndex::find(catalog, &Scope::local(), &[*key]).await.unwrap().remove(0)
}

fn index_key(key: &StepKey) -> IndexKey {
    IndexKey(format!("scope/local/step/{}", key.0.hex()))
}

#[tokio::test]
async fn it_keeps_the_contracts_of_steps_images_and_notes() {
    contract::steps(&World::new().catalog()).await;
    contract::images(&World::new().catalog()).await;
    contract::notes(&World::new().catalog()).await;
    contract::caches(&World::new().catalog()).await;
}

/// What is kept under a name is another image than a registry's: a name that cannot be read is not one that is absent.
#[tokio::test]
async fn names_that_cannot_be_read_are_told_from_absent_ones() {
    let world = World::new();
    let near = tempfile::tempdir().unwrap();
    let near = Arc::new(FolderStore::open(near.path()).unwrap());
    let names = RememberedNames::new(Arc::new(world.catalog()), near);
    contract::images(&names).await;
    let image = NamedImage {
        name: "app:1".into(),
        manifest: ManifestDigest(Digest::of(b"m")),
        tagged: UnixTime { secs: 1, nanos: 0 },
    };
    let scope = Scope::local();
    names.put(&scope, &image).await.unwrap();
    for object in world.objects.names() {
        world.objects.put(&object, Bytes::from_static(b"{damaged")).await.unwrap();
    }
    let damaged = names.find(&scope, "app:1").await;
    assert!(matches!(damaged, Err(StoreError::Damaged { .. })), "{damaged:?}");
    assert_eq!(names.find(&scope, "app:2").await.unwrap(), None);
    assert!(names.remove(&scope, "app:1").await.unwrap(), "rmi forgets it");
    assert_eq!(names.find(&scope, "app:1").await.unwrap(), None);
}

#[tokio::test]
async fn layers_and_bases_are_found_by_another_process() {
    let world = World::new();
    let digest = Digest::of(b"x");
    let (layer, base) = (LayerId(digest), LayerDigest(digest));
    assert_eq!(forms_of(&world.catalog(), &layer).await.unwrap(), []);
    let form = |compression| {
        let blob = LayerBlob { digest: base, diff_id: DiffId(digest), size: 7, compression };
        StoredBlob { blob, index: BlobDigest(digest) }
    };
    let (gzip, zstd) = (form(Compression::Gzip), form(Compression::Zstd));
    for stored in [&gzip, &zstd] {
        world.catalog().put_form(&layer, stored).await.unwrap();
    }
    assert_eq!(forms_of(&world.catalog(), &layer).await.unwrap(), [zstd, gzip]);
    let change = ChangeDigest(digest);
    let hashed = HashedBase { layer, diff_id: DiffId(digest), change, entries: 2, bytes: 3 };
    world.catalog().put_base(&base, &hashed).await.unwrap();
    assert_eq!(base_of(&world.catalog(), &base).await.unwrap(), Some(hashed));
}

#[tokio::test]
async fn what_was_brought_past_an_index_of_ones_own_is_found_by_the_next_build() {
    let (world, record) = (World::new(), record());
    let keys = [record.recipe, StepKey(Digest::of(b"absent"))];
    let catalog = world.catalog();
    let mark = catalog.mark(b"one").hearing();
    catalog.fill().await.unwrap();
    // Another process, with another index.
    let other = World { objects: world.objects.clone(), ..World::new() };
    StepIndex::put(&other.catalog(), &Scope::local(), &record).await.unwrap();
    mark.epoch().await;
    assert_eq!(found(&catalog, &keys[0]).await, [], "nobody has said it");
    other.catalog().tell_brought(b"two").await.unwrap();
    assert_eq!(found(&catalog, &keys[0]).await, [], "no build has begun since");
    mark.epoch().await;
    assert_eq!(found(&catalog, &keys[0]).await, [record]);
    world.tasks.close();
    world.tasks.wait().await;
    let before = (world.objects.reads(), catalog.counts().store_lists);
    mark.epoch().await;
    assert_eq!(found(&catalog, &keys[1]).await, []);
    let after = (world.objects.reads(), catalog.counts().store_lists);
    assert_eq!(after, (before.0 + 1, before.1), "without news, a build costs that one look");
}

#[tokio::test]
async fn a_flushed_index_costs_one_look_at_the_store() {
    let (world, record) = (World::new(), record());
    StepIndex::put(&world.catalog(), &Scope::local(), &record).await.unwrap();
    let world = world.flushed();
    let first = world.catalog();
    assert_eq!(found(&first, &record.recipe).await, std::slice::from_ref(&record));
    assert!(first.counts().store_reads > 0 && first.counts().store_lists > 0, "it was flushed");
    world.tasks.close();
    world.tasks.wait().await;
    let second = world.catalog();
    assert_eq!(found(&second, &record.recipe).await, [record]);
    let absent = StepKey(Digest::of(b"absent"));
    assert_eq!(found(&second, &absent).await, []);
    let counts = second.counts();
    assert_eq!((counts.store_reads, counts.store_lists), (0, 0), "the index is complete again");
}

/// As one that was away while a build made a step anew.
#[tokio::test]
async fn an_index_that_knows_an_older_record_alone_is_believed_no_further_than_it_is_complete() {
    let (world, older) = (World::new(), record());
    let newer = contract::with_layer(contract::record("a", Some("b"), 8), "newer");
    let catalog = world.catalog();
    catalog.fill().await.unwrap();
    StepIndex::put(&catalog, &Scope::local(), &older).await.unwrap();
    let other = World { objects: world.objects.clone(), ..World::new() };
    let later = other.catalog();
    // Its clock goes with what it writes.
    for number in 0..9 {
        let unrelated = contract::record("z", None, number);
        StepIndex::put(&later, &Scope::local(), &unrelated).await.unwrap();
    }
    StepIndex::put(&later, &Scope::local(), &newer).await.unwrap();
    assert_eq!(found(&catalog, &older.recipe).await, std::slice::from_ref(&older), "complete");
    world.index.mark_incomplete().await.unwrap();
    let reads = catalog.counts().store_reads;
    for key in [older.recipe, older.outcome.unwrap()] {
        assert_eq!(found(&catalog, &key).await, [older.clone(), newer.clone()]);
    }
    assert_eq!(catalog.counts().store_reads, reads + 2, "what is known is not read again");
}

#[tokio::test]
async fn what_does_not_carry_our_seal_is_no_record() {
    let (world, record) = (World::new(), record());
    for seal in [Seal::unkeyed(), Seal::keyed([&[8; 32][..]]).unwrap()] {
        StepIndex::put(&world.sealed(seal), &Scope::local(), &record).await.unwrap();
        let catalog = world.catalog();
        assert_eq!(found(&catalog, &record.recipe).await, []);
        assert!(catalog.counts().refused > 0, "it was met");
    }
}

#[tokio::test]
async fn a_record_copied_to_another_key_or_damaged_is_no_record() {
    let (world, record) = (World::new(), record());
    StepIndex::put(&world.catalog(), &Scope::local(), &record).await.unwrap();
    let names = world.objects.names();
    let of = |key: &StepKey| names.iter().find(|it| it.as_str().contains(&key.0.hex())).unwrap();
    let name = of(&record.recipe);
    let sealed = world.objects.get(name, u64::MAX).await.unwrap().unwrap();
    let victim = StepKey(Digest::of(b"victim"));
    let copy = name.as_str().replace(&record.recipe.0.hex(), &victim.0.hex()).parse().unwrap();
    world.objects.put(&copy, sealed.clone()).await.unwrap();
    let mut damaged = sealed.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    world.objects.put(name, damaged.into()).await.unwrap();
    let world = world.flushed();
    let catalog = world.catalog();
    assert_eq!(found(&catalog, &victim).await, []);
    assert_eq!(found(&catalog, &record.recipe).await, []);
    assert_eq!(catalog.counts().refused, 2);
    let outcome = record.outcome.unwrap();
    assert_eq!(found(&catalog, &outcome).await, [record], "its other name is whole");
}

#[tokio::test]
async fn lies_of_the_index_are_looked_up_in_the_store() {
    let (world, record) = (World::new(), record());
    StepIndex::put(&world.catalog(), &Scope::local(), &record).await.unwrap();
    for lie in [&b"garbage"[..], b""] {
        let entry = IndexEntry {
            key: index_key(&record.recipe),
            field: record.attempt.to_string(),
            value: Bytes::from_static(lie),
            used: UnixTime::default(),
        };
        world.index.remove(std::slice::from_ref(&entry.key)).await.unwrap();
        world.index.put(&[entry]).await.unwrap();
        let catalog = world.catalog();
        assert_eq!(found(&catalog, &record.recipe).await, std::slice::from_ref(&record));
        let counts = catalog.counts();
        assert_eq!((counts.store_reads, counts.refused), (1, u64::from(!lie.is_empty())));
    }
}

fn form(text: &[u8]) -> StoredBlob {
    let digest = Digest::of(text);
    let (diff_id, compression) = (DiffId(digest), Compression::Zstd);
    let blob = LayerBlob { digest: LayerDigest(digest), diff_id, size: 7, compression };
    StoredBlob { blob, index: BlobDigest(digest) }
}

fn image(name: &str, text: &[u8], secs: i64) -> NamedImage {
    let manifest = ManifestDigest(Digest::of(text));
    NamedImage { name: name.into(), manifest, tagged: UnixTime { secs, nanos: 0 } }
}

fn version(secs: i64) -> CacheVersion {
    CacheVersion {
        id: "/c".into(),
        parcel: BlobDigest(Digest::of(&secs.to_be_bytes())),
        packs: Vec::new(),
        pieces: Vec::new(),
        entries: 0,
        bytes: 0,
        written: UnixTime { secs, nanos: 0 },
        emptied: None,
    }
}

#[tokio::test]
async fn nobody_overwrites_what_another_key_sealed() {
    let (world, scope) = (World::new(), Scope::local());
    let digest = Digest::of(b"x");
    let (layer, base) = (LayerId(digest), LayerDigest(digest));
    let hashed = |entries| {
        let (diff_id, change) = (DiffId(digest), ChangeDigest(digest));
        HashedBase { layer, diff_id, change, entries, bytes: 3 }
    };
    let two = Seal::keyed([&[8; 32][..]]).unwrap();
    let catalogs = [world.catalog(), world.sealed(two), world.sealed(Seal::unkeyed())];
    for (catalog, at) in catalogs.iter().zip(1_u8..) {
        let secs = i64::from(at);
        catalog.put_form(&layer, &form(&[at])).await.unwrap();
        catalog.put_base(&base, &hashed(at.into())).await.unwrap();
        ImageNames::put(catalog, &scope, &image("app:1", &[at], secs)).await.unwrap();
        CacheVersions::put(catalog, &scope, &version(secs)).await.unwrap();
    }
    // With the index as it is, and after it has lost all.
    let flushed = World {
        objects: world.objects.clone(),
        index: Arc::new(EmbeddedIndex::new(1 << 20)),
        tasks: world.tasks.clone(),
    };
    for world in [&world, &flushed] {
        for (seal, at) in [
            (Seal::keyed([KEY]).unwrap(), 1_u8),
            (Seal::keyed([&[8; 32][..]]).unwrap(), 2),
            (Seal::unkeyed(), 3),
        ] {
            let (catalog, secs) = (world.sealed(seal), i64::from(at));
            assert_eq!(forms_of(&catalog, &layer).await.unwrap(), [form(&[at])]);
            assert_eq!(base_of(&catalog, &base).await.unwrap(), Some(hashed(at.into())));
            let named = image("app:1", &[at], secs);
            let found = ImageNames::find(&catalog, &scope, "app:1").await.unwrap();
            assert_eq!(found.as_ref(), Some(&named));
            assert_eq!(ImageNames::list(&catalog, &scope).await.unwrap(), [named]);
            let found = CacheVersions::find(&catalog, &scope, "/c").await.unwrap();
            assert_eq!(found, Some(version(secs)));
        }
    }
    let mine = world.catalog();
    assert!(ImageNames::remove(&mine, &scope, "app:1").await.unwrap());
    assert!(!ImageNames::remove(&mine, &scope, "app:1").await.unwrap());
    let others = world.sealed(Seal::unkeyed());
    assert!(ImageNames::find(&others, &scope, "app:1").await.unwrap().is_some());
}

#[tokio::test]
async fn who_holds_a_key_that_was_rotated_takes_the_newest_and_replaces_it() {
    let (world, scope) = (World::new(), Scope::local());
    let old = || world.catalog();
    let new: &[u8] = &[9; 32];
    let both = || world.sealed(Seal::keyed([new, KEY]).unwrap());
    let find = async |catalog: Catalog| {
        ImageNames::find(&catalog, &scope, "app:1").await.unwrap().map(|it| it.tagged.secs)
    };
    ImageNames::put(&old(), &scope, &image("app:1", b"1", 1)).await.unwrap();
    assert_eq!(find(both()).await, Some(1), "by the former key");
    ImageNames::put(&both(), &scope, &image("app:1", b"2", 2)).await.unwrap();
    assert_eq!((find(both()).await, find(old()).await), (Some(2), None));
    // One that was not given the new key yet goes on with the old one.
    ImageNames::put(&old(), &scope, &image("app:1", b"3", 3)).await.unwrap();
    assert_eq!(find(both()).await, Some(3));
    assert_eq!(ImageNames::list(&both(), &scope).await.unwrap(), [image("app:1", b"3", 3)]);
    assert!(ImageNames::remove(&both(), &scope, "app:1").await.unwrap());
    assert_eq!((find(both()).await, find(old()).await), (None, None));
}

#[tokio::test]
async fn what_was_sealed_before_names_of_keys_is_found_and_replaced() {
    let (world, scope) = (World::new(), Scope::local());
    CacheVersions::put(&world.catalog(), &scope, &version(1)).await.unwrap();
    let named =
        world.objects.names().into_iter().find(|it| it.as_str().contains("/latest.")).unwrap();
    // As an earlier version of dcbuild named it.
    let former: dcbuild_store::ObjectName =
        named.as_str().rsplit_once('.').unwrap().0.parse().unwrap();
    let document = serde_json::to_vec(&version(1)).unwrap();
    let sealed = Seal::keyed([KEY]).unwrap().close(&former, &document);
    world.objects.put(&former, sealed).await.unwrap();
    world.objects.delete(std::slice::from_ref(&named)).await.unwrap();
    let find = async || CacheVersions::find(&world.catalog(), &scope, "/c").await.unwrap();
    assert_eq!(find().await, Some(version(1)));
    CacheVersions::put(&world.catalog(), &scope, &version(2)).await.unwrap();
    assert_eq!(find().await, Some(version(2)));
    assert!(!world.objects.names().contains(&former), "two would be one too many");
}

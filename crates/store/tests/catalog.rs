//! The catalog keeps the contracts of its traits, and believes neither store nor index further than a seal.
#![expect(clippy::unwrap_used, reason = "test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use dcbuild_model::{
    BlobDigest, ChangeDigest, Compression, DiffId, Digest, LayerBlob, LayerDigest, LayerId, Record,
    Scope, StepKey, UnixTime,
};
use dcbuild_store::{
    Catalog, CatalogParts, EmbeddedIndex, HashedBase, IndexEntry, IndexKey, KeyIndex, LayerIndex,
    Now, Objects, Seal, StepIndex, StoredBlob, Unseen, UseMark, base_of, forms_of,
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

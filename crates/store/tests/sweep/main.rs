//! The sweeper on both backends: what stays, what goes, what is noted; killed in the middle, twice at once, while builds
//! go on, and after the index was flushed.
#![expect(clippy::unwrap_used, reason = "test")]

mod keys;
mod replaced;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dcbuild_model::{
    BlobDigest, BuildId, ChangeDigest, Compression, DiffId, Digest, EvictionRule, LayerBlob,
    LayerDigest, LayerId, LayerRef, NoteId, Record, Scope, UnixTime,
};
use dcbuild_store::sweep::{Inventory, PutOff, Removal, Thing};
use dcbuild_store::{
    BlobStore, CacheVersion, CacheVersions, Catalog, CatalogParts, Ceilings, EmbeddedIndex,
    FolderMark, FolderStore, IndexKey, KeyIndex as _, LayerIndex, NoteKind, Notes, Now, ObjectName,
    ObjectPage, Objects, Seal, StepIndex, StoreError, StoredBlob, SweepMode, SweepReport, Swept,
    Unseen, Using, evictions, forms_of, stream_of, sweep,
};
use dcbuild_testkit::{MemoryObjects, contract};
use tokio_util::task::TaskTracker;

const ALL: Ceilings = Ceilings { keep_bytes: None, max_age: None, all: true, within: None };

fn age(secs: u64) -> Ceilings {
    Ceilings { max_age: Some(Duration::from_secs(secs)), ..Ceilings::default() }
}

/// Objects whose removal fails from some request on, as a process that is killed then leaves them.
#[derive(Default)]
struct Dying {
    objects: MemoryObjects,
    deletes: AtomicU64,
    /// None are served from this one on; 0 serves all.
    dies_at: AtomicU64,
    fired: AtomicU64,
    /// Objects with this in their name are not given.
    mute: std::sync::Mutex<String>,
}

impl Dying {
    fn mute(&self, within: &str) {
        within.clone_into(&mut self.mute.lock().unwrap());
    }
}

#[async_trait::async_trait]
impl Objects for Dying {
    async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        self.objects.put(name, bytes).await
    }

    async fn get(&self, name: &ObjectName, max: u64) -> Result<Option<Bytes>, StoreError> {
        let mute = self.mute.lock().unwrap().clone();
        if !mute.is_empty() && name.as_str().contains(&mute) {
            return Err(StoreError::Stopped);
        }
        self.objects.get(name, max).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
    ) -> Result<ObjectPage, StoreError> {
        self.objects.list(prefix, after).await
    }

    async fn delete(&self, names: &[ObjectName]) -> Result<(), StoreError> {
        let number = self.deletes.fetch_add(1, Ordering::SeqCst) + 1;
        let dies_at = self.dies_at.load(Ordering::SeqCst);
        if dies_at > 0 && number >= dies_at {
            self.fired.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Stopped);
        }
        self.objects.delete(names).await
    }
}

/// A bucket, an index over it, and a clock; objects are written a second apart.
struct World {
    objects: Arc<Dying>,
    index: Arc<EmbeddedIndex>,
    clock: Arc<AtomicI64>,
    tasks: TaskTracker,
    unseen: Unseen,
}

impl World {
    fn new() -> World {
        World {
            objects: Arc::default(),
            index: Arc::new(EmbeddedIndex::new(1 << 20)),
            clock: Arc::new(AtomicI64::new(1_000)),
            tasks: TaskTracker::new(),
            unseen: Unseen::default(),
        }
    }

    /// A process on this store, with this index.
    fn catalog_on(&self, index: Arc<EmbeddedIndex>) -> Catalog {
        let clock = self.clock.clone();
        let tick = move || UnixTime { secs: clock.load(Ordering::SeqCst), nanos: 0 };
        let now: Now = Arc::new(tick);
        let (objects, tasks) = (self.objects.clone(), self.tasks.clone());
        let (seal, unseen) = (Seal::unkeyed(), self.unseen);
        Catalog::new(CatalogParts { objects, index, seal, now, tasks, unseen })
    }

    fn catalog(&self) -> Catalog {
        self.catalog_on(self.index.clone())
    }

    fn at(&self, secs: i64) -> UnixTime {
        self.clock.store(secs, Ordering::SeqCst);
        self.objects.objects.wind(secs);
        UnixTime { secs, nanos: 0 }
    }

    async fn settle(&self) {
        // Touches are told behind the back of whoever asked.
        while !self.tasks.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Stores a step's result at this time: a table, a blob, its index, a form and a record.
    async fn make(&self, secs: i64, name: &str, shared: Option<&str>) -> Record {
        self.make_by(&self.catalog(), secs, name, shared).await
    }

    async fn make_by(
        &self,
        catalog: &Catalog,
        secs: i64,
        name: &str,
        shared: Option<&str>,
    ) -> Record {
        self.at(secs);
        let layer = LayerId(self.blob(&format!("table of {}", shared.unwrap_or(name))).await);
        let blob = LayerDigest(self.blob(&format!("blob of {}", shared.unwrap_or(name))).await);
        let index = BlobDigest(self.blob(&format!("index of {}", shared.unwrap_or(name))).await);
        let (diff_id, compression) = (DiffId(layer.0), Compression::Zstd);
        let blob = LayerBlob { digest: blob, diff_id, size: 7, compression };
        catalog.put_form(&layer, &StoredBlob { blob, index }).await.unwrap();
        let change = ChangeDigest(layer.0);
        let layer = LayerRef { layer, change, entries: 1, bytes: 7, base: None };
        let mut record = contract::record(name, None, 1);
        record.result.layers.push(layer);
        self.put(catalog, &record).await;
        record
    }

    async fn put(&self, catalog: &Catalog, record: &Record) {
        StepIndex::put(catalog, &Scope::local(), record).await.unwrap();
        self.settle().await;
    }

    async fn blob(&self, text: &str) -> Digest {
        let digest = Digest::of(text.as_bytes());
        let name = blob_name(&digest);
        self.objects.put(&name, Bytes::from(text.to_owned())).await.unwrap();
        let key = IndexKey(name.to_string());
        let now = UnixTime { secs: self.clock.load(Ordering::SeqCst), nanos: 0 };
        let entry = dcbuild_store::IndexEntry {
            key,
            field: String::new(),
            value: Bytes::from_static(b"7"),
            used: now,
        };
        self.index.put(&[entry]).await.unwrap();
        digest
    }

    fn has_blob(&self, text: &str) -> bool {
        let name = blob_name(&Digest::of(text.as_bytes()));
        self.objects.objects.names().contains(&name)
    }

    async fn sweep(&self, ceilings: &Ceilings) -> SweepReport {
        let now = UnixTime { secs: self.clock.load(Ordering::SeqCst), nanos: 0 };
        sweep(&self.catalog(), ceilings, SweepMode::Remove, now).await.unwrap()
    }

    async fn find(&self, record: &Record) -> Vec<Record> {
        let catalog = self.catalog();
        let found = StepIndex::find(&catalog, &Scope::local(), &[record.recipe]).await;
        self.settle().await;
        found.unwrap().remove(0)
    }

    /// Whether each record that can be found has all that it speaks of.
    async fn check_whole(&self, records: &[&Record]) {
        for record in records {
            for found in self.find(record).await {
                for layer in found.result.layers {
                    let forms = forms_of(&self.catalog(), &layer.layer).await.unwrap();
                    let names = self.objects.objects.names();
                    assert!(names.contains(&blob_name(&layer.layer.0)), "the table is there");
                    for form in forms {
                        assert!(names.contains(&blob_name(&form.blob.digest.0)));
                        assert!(names.contains(&blob_name(&form.index.0)));
                    }
                }
            }
        }
    }
}

fn blob_name(digest: &Digest) -> ObjectName {
    format!("blob/sha256/{}", digest.hex()).parse().unwrap()
}

#[tokio::test]
async fn what_is_old_goes_with_its_blobs_and_is_noted() {
    let world = World::new();
    let old = world.make(2_000, "old", None).await;
    let new = world.make(3_000, "new", None).await;
    world.at(3_500);
    let report = world.sweep(&age(1_000)).await;
    assert_eq!(report.total().count, 5, "{report:?}");
    assert_eq!(world.find(&old).await, []);
    assert_eq!(world.find(&new).await, std::slice::from_ref(&new));
    assert!(!world.has_blob("blob of old") && world.has_blob("blob of new"));
    world.check_whole(&[&old, &new]).await;
    let noted = evictions(&world.catalog(), &Scope::local()).await.unwrap();
    assert_eq!(noted.len(), 1);
    assert_eq!(noted[0].rule, EvictionRule::Age { max_secs: 1_000 });
    assert_eq!((noted[0].at.secs, &noted[0].records[..]), (3_500, &[old.recipe][..]));
    assert_eq!(noted[0].layers, [old.result.layers[0].layer]);
}

#[tokio::test]
async fn a_use_is_told_to_the_index_alone_and_keeps_a_record() {
    let world = World::new();
    let (one, other) =
        (world.make(2_000, "one", None).await, world.make(2_001, "other", None).await);
    world.at(9_000);
    let before = world.objects.objects.names();
    assert_eq!(world.find(&one).await.len(), 1);
    assert_eq!(world.objects.objects.names(), before, "no object is written for a use");
    world.at(9_500);
    world.sweep(&age(1_000)).await;
    assert_eq!((world.find(&one).await.len(), world.find(&other).await.len()), (1, 0));
    // Its layer was not asked for, and stays all the same.
    assert!(world.has_blob("blob of one") && !world.has_blob("blob of other"));
    world.check_whole(&[&one]).await;
}

#[tokio::test]
async fn a_blob_that_two_records_need_stays_with_the_second() {
    let world = World::new();
    let old = world.make(2_000, "old", Some("both")).await;
    let new = world.make(3_000, "new", Some("both")).await;
    world.at(3_500);
    world.sweep(&age(1_000)).await;
    assert_eq!((world.find(&old).await.len(), world.find(&new).await.len()), (0, 1));
    assert!(world.has_blob("blob of both"));
    world.check_whole(&[&new]).await;
}

#[tokio::test]
async fn a_ceiling_of_bytes_is_kept_and_a_dry_run_removes_nothing() {
    let world = World::new();
    for number in 0..10 {
        world.make(2_000 + number, &format!("step {number}"), None).await;
    }
    let inventory = world.catalog().inventory().await.unwrap();
    let total: u64 = inventory.things.iter().map(|thing| thing.size).sum();
    let half = Ceilings { keep_bytes: Some(total / 2), ..Ceilings::default() };
    let now = world.at(5_000);
    let dry = sweep(&world.catalog(), &half, SweepMode::DryRun, now).await.unwrap();
    let names = world.objects.objects.names();
    let real = world.sweep(&half).await;
    assert_eq!((dry.total(), dry.kept_bytes), (real.total(), real.kept_bytes));
    assert!(real.kept_bytes <= total / 2 && real.kept_bytes > total / 3, "{real:?} of {total}");
    assert!(names.len() > world.objects.objects.names().len());
    assert!(!world.has_blob("blob of step 0") && world.has_blob("blob of step 9"));
}

#[tokio::test]
async fn a_sweeper_killed_at_any_request_leaves_no_record_without_its_blobs() {
    for dies_at in 1..4 {
        let world = World::new();
        let (old, new) =
            (world.make(2_000, "old", None).await, world.make(3_000, "new", None).await);
        world.at(3_500);
        world.objects.dies_at.store(dies_at, Ordering::SeqCst);
        let now = UnixTime { secs: 3_500, nanos: 0 };
        let died = sweep(&world.catalog(), &age(1_000), SweepMode::Remove, now).await;
        assert!(matches!(died, Err(StoreError::Stopped)), "{died:?}");
        assert_eq!(world.objects.fired.load(Ordering::SeqCst), 1, "it was killed at {dies_at}");
        world.check_whole(&[&old, &new]).await;
        // Whoever comes next, with an index that knows nothing of it, finds the same, and ends the work.
        world.objects.dies_at.store(0, Ordering::SeqCst);
        let next = World { index: Arc::new(EmbeddedIndex::new(1 << 20)), ..world };
        next.check_whole(&[&old, &new]).await;
        next.settle().await;
        next.sweep(&ALL).await;
        assert!(!next.has_blob("blob of old") && !next.has_blob("table of old"));
    }
}

#[tokio::test]
async fn what_goes_by_one_rule_goes_behind_what_needs_it_and_goes_by_another() {
    for dies_at in 1..6 {
        let world = World::new();
        // One is old, the other goes for the sake of bytes, and so does what both need.
        let old = world.make(2_000, "old", Some("both")).await;
        let late = world.make(3_400, "late", Some("both")).await;
        world.at(3_500);
        world.objects.dies_at.store(dies_at, Ordering::SeqCst);
        let both = Ceilings { keep_bytes: Some(0), ..age(1_000) };
        let now = UnixTime { secs: 3_500, nanos: 0 };
        let swept = sweep(&world.catalog(), &both, SweepMode::Remove, now).await;
        if let Ok(report) = &swept {
            let rules: Vec<EvictionRule> = report.removed.keys().copied().collect();
            let want = [EvictionRule::Bytes { keep: 0 }, EvictionRule::Age { max_secs: 1_000 }];
            assert_eq!((rules, report.total().count, report.noted), (want.into(), 6, 3));
        }
        assert_eq!(swept.is_ok(), dies_at > 4, "{swept:?}");
        world.check_whole(&[&old, &late]).await;
    }
}

#[tokio::test]
async fn two_sweepers_at_once_do_the_work_of_one() {
    let world = World::new();
    for number in 0..20 {
        world.make(2_000 + 10 * number, &format!("step {number}"), None).await;
    }
    let now = world.at(2_648);
    let (one, other) = (world.catalog(), world.catalog());
    let rule = age(500);
    let (one, other) = tokio::join!(
        sweep(&one, &rule, SweepMode::Remove, now),
        sweep(&other, &rule, SweepMode::Remove, now),
    );
    assert!(one.unwrap().total().count + other.unwrap().total().count >= 15 * 5);
    assert!(!world.has_blob("blob of step 14") && world.has_blob("blob of step 15"));
    let left = world.catalog().inventory().await.unwrap().things.len();
    assert_eq!(left, 5 * 5);
}

#[tokio::test]
async fn what_a_running_build_found_or_made_stays_even_if_all_is_to_go() {
    let world = World::new();
    let (old, found) =
        (world.make(2_000, "old", None).await, world.make(2_001, "found", None).await);
    world.sweep(&Ceilings::default()).await;
    world.settle().await;
    let now = world.at(9_000);
    let using = Using::new(Box::new(world.catalog().mark(b"one")));
    let build = BuildId::from_bits(1);
    using.begin(build, now).await.unwrap();
    assert_eq!(world.find(&found).await.len(), 1);
    let made = world.make(9_100, "made", None).await;
    world.at(9_200);
    let report = world.sweep(&ALL).await;
    assert!(report.put_off.is_none() && report.total().count > 0, "{report:?}");
    assert_eq!(world.find(&old).await.len(), 0);
    assert_eq!((world.find(&found).await.len(), world.find(&made).await.len()), (1, 1));
    world.check_whole(&[&found, &made]).await;
    using.keep(using.begun(), &BTreeMap::new(), world.at(9_300)).await.unwrap();
    world.sweep(&ALL).await;
    assert_eq!((world.find(&found).await.len(), world.find(&made).await.len()), (0, 0));
}

#[tokio::test]
async fn while_nobody_knows_what_builds_use_nothing_goes() {
    let world = World::new();
    let old = world.make(2_000, "old", None).await;
    world.sweep(&Ceilings::default()).await;
    let now = world.at(9_000);
    // A process with an index of its own builds on the same bucket.
    let own = Arc::new(EmbeddedIndex::new(1 << 20));
    let using = Using::new(Box::new(world.catalog_on(own).mark(b"other")));
    using.begin(BuildId::from_bits(2), now).await.unwrap();
    let report = world.sweep(&ALL).await;
    assert_eq!(report.put_off, Some(PutOff::Elsewhere), "{report:?}");
    assert_eq!(world.find(&old).await.len(), 1);
    // Its process dies, and its mark grows old.
    world.at(10_700);
    let report = world.sweep(&ALL).await;
    assert_eq!(report.put_off, None, "{report:?}");
    assert_eq!(world.find(&old).await.len(), 0);
}

#[tokio::test]
async fn nothing_goes_by_the_word_of_whoever_cannot_read_what_needs_it() {
    let world = World::new();
    let kept = world.make(9_000, "kept", None).await;
    world.sweep(&Ceilings::default()).await;
    let seal = Seal::keyed([&[7; 32][..]]).unwrap();
    let (objects, index) = (world.objects.clone(), world.index.clone());
    let now: Now = Arc::new(|| UnixTime { secs: 9_500, nanos: 0 });
    let (tasks, unseen) = (world.tasks.clone(), Unseen::default());
    let stranger = Catalog::new(CatalogParts { objects, index, seal, now, tasks, unseen });
    let now = world.at(9_500);
    for ceilings in [ALL, age(1)] {
        let report = sweep(&stranger, &ceilings, SweepMode::Remove, now).await.unwrap();
        assert_eq!(report.put_off, Some(PutOff::Foreign), "{report:?}");
    }
    world.check_whole(&[&kept]).await;
}

#[tokio::test]
async fn a_process_says_that_its_own_builds_began_before_a_flush() {
    let world = World::new();
    world.make(2_000, "step", None).await;
    world.sweep(&Ceilings::default()).await;
    let now = world.at(9_000);
    let catalog = world.catalog();
    let using = Using::new(Box::new(catalog.mark(b"one")));
    using.begin(BuildId::from_bits(1), now).await.unwrap();
    // The index loses what it was told, and begins another epoch.
    world.index.mark_incomplete().await.unwrap();
    let report = sweep(&catalog, &ALL, SweepMode::Remove, now).await.unwrap();
    assert_eq!(report.put_off, Some(PutOff::BegunBefore), "{report:?}");
    using.keep(using.begun(), &BTreeMap::new(), world.at(9_010)).await.unwrap();
    let report = sweep(&catalog, &ALL, SweepMode::Remove, now).await.unwrap();
    assert_eq!(report.put_off, None, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fill_that_another_does_is_waited_for() {
    let world = World::new();
    world.make(2_000, "step", None).await;
    let (now, until) = (world.at(9_000), UnixTime { secs: 9_060, nanos: 0 });
    let catalog = world.catalog();
    world.settle().await;
    world.index.mark_incomplete().await.unwrap();
    let fill = world.index.begin_fill(now, until).await.unwrap().unwrap();
    // One that has died leaves it undone.
    let report = sweep(&catalog, &ALL, SweepMode::Remove, now).await.unwrap();
    assert_eq!(report.put_off, Some(PutOff::Filling), "{report:?}");
    let ends = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(world.index.end_fill(&fill).await.unwrap());
    };
    let (report, ()) = tokio::join!(sweep(&catalog, &ALL, SweepMode::Remove, now), ends);
    let report = report.unwrap();
    assert!(report.put_off.is_none() && report.total().count > 0, "{report:?}");
}

#[tokio::test]
async fn after_a_flush_ages_begin_anew_and_no_build_loses_anything() {
    let world = World::new();
    let record = world.make(2_000, "step", None).await;
    world.sweep(&Ceilings::default()).await;
    let now = world.at(9_000);
    let using = Using::new(Box::new(world.catalog().mark(b"one")));
    using.begin(BuildId::from_bits(1), now).await.unwrap();
    assert_eq!(world.find(&record).await.len(), 1);
    // The index loses that the build has found the record.
    let flushed = World { index: Arc::new(EmbeddedIndex::new(1 << 20)), ..world };
    let report = flushed.sweep(&ALL).await;
    assert_eq!(report.put_off, Some(PutOff::Elsewhere), "the mark is another process's");
    assert_eq!(flushed.find(&record).await.len(), 1);
    using.keep(using.begun(), &BTreeMap::new(), flushed.at(9_010)).await.unwrap();
    let index = Arc::new(EmbeddedIndex::new(1 << 20));
    let flushed = World { index, ..flushed };
    // It was written long ago, and who knows when it was used last.
    flushed.sweep(&age(1_000)).await;
    assert_eq!(flushed.find(&record).await.len(), 1);
    flushed.at(9_900);
    let other = flushed.make(9_900, "other", None).await;
    assert_eq!(flushed.find(&record).await.len(), 1);
    flushed.at(10_500);
    flushed.sweep(&age(1_000)).await;
    assert_eq!(flushed.find(&record).await.len(), 1, "it was found since");
    flushed.at(11_450);
    assert_eq!(flushed.find(&other).await.len(), 1);
    // That it was looked for in mid-test was a use.
    flushed.at(11_600);
    flushed.sweep(&age(1_000)).await;
    assert_eq!((flushed.find(&record).await.len(), flushed.find(&other).await.len()), (0, 1));
    flushed.check_whole(&[&other]).await;
}

#[tokio::test]
async fn a_command_that_sees_no_uses_counts_from_the_time_of_writing() {
    let world = World { unseen: Unseen::UsedWhenWritten, ..World::new() };
    let (old, new) = (world.make(2_000, "old", None).await, world.make(8_500, "new", None).await);
    world.at(9_000);
    let world = World { index: Arc::new(EmbeddedIndex::new(1 << 20)), ..world };
    world.sweep(&age(1_000)).await;
    assert_eq!((world.find(&old).await.len(), world.find(&new).await.len()), (0, 1));
}

#[tokio::test]
async fn a_record_that_a_command_stores_again_counts_as_used_by_age_and_by_bytes() {
    for by_age in [true, false] {
        let mut world = World::new();
        let again = world.make(2_000, "again", None).await;
        let other = world.make(2_500, "other", None).await;
        world.sweep(&Ceilings::default()).await;
        let stored = world.catalog().inventory().await.unwrap();
        let total: u64 = stored.things.iter().map(|thing| thing.size).sum();
        world.at(9_000);
        // Its index ends with it, and told nobody of a use.
        world.unseen = Unseen::UsedWhenWritten;
        let command = world.catalog_on(Arc::new(EmbeddedIndex::new(1 << 20)));
        StepIndex::put(&command, &Scope::local(), &again).await.unwrap();
        world.settle().await;
        world.unseen = Unseen::default();
        world.at(9_500);
        let bytes = Ceilings { keep_bytes: Some(total - 1), ..Ceilings::default() };
        world.sweep(&if by_age { age(1_000) } else { bytes }).await;
        assert_eq!(world.find(&other).await, [], "by age: {by_age}");
        assert_eq!(world.find(&again).await, std::slice::from_ref(&again));
        assert!(world.has_blob("blob of again") && !world.has_blob("blob of other"));
        world.check_whole(&[&again]).await;
    }
}

/// A version of a cache mount with one pack and one piece, all of whose parts are stored at this time.
async fn write_back(world: &World, secs: i64, name: &str) -> CacheVersion {
    let record = world.make(secs, &format!("pack of {name}"), None).await;
    let pack = record.result.layers[0].layer;
    // What is made above is a record as well, with a table; a pack has neither.
    let step = format!("scope/local/step/{}", record.recipe.0.hex());
    let attempt = format!("{step}/{}", record.attempt).parse().unwrap();
    let table = blob_name(&pack.0);
    world.index.remove(&[IndexKey(step), IndexKey(table.to_string())]).await.unwrap();
    world.objects.objects.delete(&[attempt, table]).await.unwrap();
    let piece = BlobDigest(world.blob(&format!("piece of {name}")).await);
    let parcel = BlobDigest(world.blob(&format!("parcel of {name}")).await);
    let (packs, pieces) = (vec![pack], vec![piece]);
    let (id, written) = (name.to_owned(), UnixTime { secs, nanos: 0 });
    let version =
        CacheVersion { id, parcel, packs, pieces, entries: 1, bytes: 7, written, emptied: None };
    CacheVersions::put(&world.catalog(), &Scope::local(), &version).await.unwrap();
    version
}

async fn version_of(world: &World, name: &str) -> Option<CacheVersion> {
    let found = CacheVersions::find(&world.catalog(), &Scope::local(), name).await.unwrap();
    world.settle().await;
    found
}

/// Which parts of a version there are.
fn parts_of(world: &World, name: &str) -> Vec<String> {
    let parts = ["parcel of", "piece of", "blob of pack of", "index of pack of"];
    let parts = parts.iter().map(|part| format!("{part} {name}"));
    parts.filter(|part| world.has_blob(part)).collect()
}

#[tokio::test]
async fn what_a_version_of_a_mount_needs_stays_as_long_as_it_is_used_and_then_goes_with_it() {
    let world = World::new();
    let lived = write_back(&world, 2_000, "lived").await;
    write_back(&world, 2_100, "left").await;
    world.at(9_000);
    // To find it is its only use: a worker that has this version reads none of its bytes.
    assert_eq!(version_of(&world, "lived").await.as_ref(), Some(&lived));
    world.at(9_500);
    let report = world.sweep(&age(1_000)).await;
    assert_eq!(parts_of(&world, "lived").len(), 4, "{report:?}");
    assert_eq!(parts_of(&world, "left"), Vec::<String>::new());
    assert_eq!(version_of(&world, "left").await, None);
    assert_eq!(version_of(&world, "lived").await, Some(lived.clone()));
    assert_eq!(forms_of(&world.catalog(), &lived.packs[0]).await.unwrap().len(), 1);

    // What was found counts from then on.
    world.at(10_400);
    assert_eq!(world.sweep(&age(1_000)).await.total().count, 0);
    world.at(10_600);
    world.sweep(&age(1_000)).await;
    let left = world.catalog().inventory().await.unwrap().things;
    assert_eq!(left, [], "it went with all that it needed");
}

#[tokio::test]
async fn a_ceiling_of_bytes_takes_a_version_whole() {
    let world = World::new();
    for (secs, name) in [(2_000, "old"), (3_000, "mid"), (4_000, "new")] {
        write_back(&world, secs, name).await;
    }
    let inventory = world.catalog().inventory().await.unwrap();
    let total: u64 = inventory.things.iter().map(|thing| thing.size).sum();
    world.at(5_000);
    world.sweep(&Ceilings { keep_bytes: Some(total - 1), ..Ceilings::default() }).await;
    assert_eq!(version_of(&world, "old").await, None);
    assert_eq!(parts_of(&world, "old"), Vec::<String>::new());
    assert_eq!((parts_of(&world, "mid").len(), parts_of(&world, "new").len()), (4, 4));
}

#[tokio::test]
async fn what_is_used_between_the_listing_and_the_removal_keeps_all_that_it_needs() {
    let world = World::new();
    write_back(&world, 2_000, "found").await;
    write_back(&world, 2_100, "left").await;
    let now = world.at(9_000);
    let late = Late { catalog: world.catalog(), objects: world.objects.clone() };
    sweep(&late, &ALL, SweepMode::Remove, now).await.unwrap();
    world.settle().await;
    assert_eq!(parts_of(&world, "found").len(), 4);
    assert_eq!(parts_of(&world, "left"), Vec::<String>::new());
    assert!(version_of(&world, "found").await.is_some());
}

/// A store in which a worker finds a mount just as the first of the removals begins.
struct Late {
    catalog: Catalog,
    objects: Arc<Dying>,
}

#[async_trait::async_trait]
impl Notes for Late {
    async fn put(
        &self,
        scope: &Scope,
        kind: NoteKind,
        id: NoteId,
        text: Bytes,
    ) -> Result<(), StoreError> {
        Notes::put(&self.catalog, scope, kind, id, text).await
    }

    async fn list(
        &self,
        scope: &Scope,
        kind: NoteKind,
        before: Option<NoteId>,
        limit: usize,
    ) -> Result<Vec<NoteId>, StoreError> {
        Notes::list(&self.catalog, scope, kind, before, limit).await
    }

    async fn get(
        &self,
        scope: &Scope,
        kind: NoteKind,
        id: NoteId,
    ) -> Result<Option<Bytes>, StoreError> {
        Notes::get(&self.catalog, scope, kind, id).await
    }

    async fn trim(&self, scope: &Scope, kind: NoteKind, keep: usize) -> Result<u64, StoreError> {
        self.catalog.trim(scope, kind, keep).await
    }
}

#[async_trait::async_trait]
impl Swept for Late {
    async fn inventory(&self) -> Result<Inventory, StoreError> {
        let inventory = self.catalog.inventory().await?;
        let found = CacheVersions::find(&self.catalog, &Scope::local(), "found").await?;
        assert!(found.is_some());
        // Its use is told behind the back of whoever found it.
        let name = format!("scope/local/cache/{}", Digest::of(b"found").hex());
        let told = async || {
            let known = self.catalog.inventory().await.unwrap().things;
            known.into_iter().any(|thing| thing.name == name && thing.used.secs == 9_000)
        };
        while !told().await {
            tokio::task::yield_now().await;
        }
        assert!(self.objects.objects.names().iter().any(|object| object.as_str().contains(&name)));
        Ok(inventory)
    }

    async fn records(&self, inventory: &Inventory) -> Result<Vec<(usize, Record)>, StoreError> {
        self.catalog.records(inventory).await
    }

    async fn take_turn(&self, holder: &str) -> Result<bool, StoreError> {
        self.catalog.take_turn(holder).await
    }

    async fn remove(&self, things: &[&Thing]) -> Result<Removal, StoreError> {
        Swept::remove(&self.catalog, things).await
    }

    async fn put_aside(&self, blobs: &[BlobDigest]) -> Result<Vec<Option<UnixTime>>, StoreError> {
        self.catalog.put_aside(blobs).await
    }
}

#[tokio::test]
async fn the_folder_store_is_swept_by_the_same_rules() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let scope = Scope::local();
    let make = async |name: &str| {
        let put = async |text: String| {
            let digest = BlobDigest(Digest::of(text.as_bytes()));
            BlobStore::put(&store, &digest, stream_of(text)).await.unwrap();
            digest
        };
        let layer = LayerId(put(format!("table of {name}")).await.0);
        let blob = put(format!("blob of {name}")).await;
        let index = put(format!("index of {name}")).await;
        let digest = LayerDigest(blob.0);
        let form =
            LayerBlob { digest, diff_id: DiffId(layer.0), size: 7, compression: Compression::Gzip };
        store.put_form(&layer, &StoredBlob { blob: form, index }).await.unwrap();
        let change = ChangeDigest(layer.0);
        let mut record = contract::record(name, None, 1);
        record.result.layers.push(LayerRef { layer, change, entries: 1, bytes: 7, base: None });
        StepIndex::put(&store, &scope, &record).await.unwrap();
        (record, blob)
    };
    let (one, blob) = make("one").await;
    let using = Using::new(Box::new(FolderMark::new(store.clone())));
    let now = store.time();
    using.begin(BuildId::from_bits(1), now).await.unwrap();
    // Another process sweeps, while a build has found one and made the other.
    assert_eq!(StepIndex::find(&store, &scope, &[one.recipe]).await.unwrap()[0].len(), 1);
    assert_eq!(store.find_missing(&[blob]).await.unwrap(), []);
    let (other, _) = make("other").await;
    let sweeper = FolderStore::open(folder.path()).unwrap();
    let report = sweep(&sweeper, &ALL, SweepMode::Remove, now).await.unwrap();
    assert!(report.in_use_bytes > 0);
    let keys = [one.recipe, other.recipe];
    let found = StepIndex::find(&store, &scope, &keys).await.unwrap();
    assert_eq!((found[0].len(), found[1].len()), (1, 1));
    assert_eq!(store.find_missing(&[blob]).await.unwrap(), []);

    using.keep(using.begun(), &BTreeMap::new(), now).await.unwrap();
    // A version of a mount that was used just now holds its pack and its parcel, old as they are.
    let (packed, pack) = make("pack").await;
    let put = stream_of("a parcel");
    let parcel = BlobDigest(Digest::of(b"a parcel"));
    BlobStore::put(&store, &parcel, put).await.unwrap();
    let packs = vec![packed.result.layers[0].layer];
    let (id, pieces, written, emptied) = ("/c".to_owned(), Vec::new(), now, None);
    let version =
        CacheVersion { id, parcel, packs, pieces, entries: 1, bytes: 7, written, emptied };
    CacheVersions::put(&store, &scope, &version).await.unwrap();
    for path in files_below(folder.path()) {
        let is_version = path.to_string_lossy().contains("cache-mount");
        let file = std::fs::File::options().append(true).open(&path).unwrap();
        let ago = Duration::from_hours(if is_version { 3 } else { 9 });
        let now = Duration::from_secs(u64::try_from(store.time().secs).unwrap());
        file.set_modified(std::time::UNIX_EPOCH + now - ago).unwrap();
    }
    let report = sweep(&sweeper, &age(5 * 3_600), SweepMode::Remove, store.time()).await.unwrap();
    assert_eq!(report.total().count, 12, "all but the version and what it needs: {report:?}");
    assert_eq!(store.find_missing(&[pack, parcel]).await.unwrap(), []);
    assert_eq!(CacheVersions::find(&store, &scope, "/c").await.unwrap(), Some(version));

    let report = sweep(&sweeper, &ALL, SweepMode::Remove, store.time()).await.unwrap();
    assert_eq!((report.kept_bytes, report.total().count), (0, 5), "{report:?}");
    assert_eq!(CacheVersions::find(&store, &scope, "/c").await.unwrap(), None);
    assert_eq!(store.find_missing(&[blob]).await.unwrap(), [blob]);
    let noted = evictions(&store, &scope).await.unwrap();
    let rule = EvictionRule::Age { max_secs: 5 * 3_600 };
    assert_eq!((noted.len(), noted[0].rule, noted[0].records.len()), (1, rule, 3));
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files
}

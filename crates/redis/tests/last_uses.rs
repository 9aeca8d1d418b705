//! A sweep after Redis was flushed, or evicted the uses alone: what was in use until just then is not taken for unused.
#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use common::{at, index, is_complete};
use dcbuild_model::{Record, Scope};
use dcbuild_redis::RedisIndex;
use dcbuild_store::{
    Catalog, CatalogParts, Ceilings, Now, Seal, StepIndex, SweepMode, SweepReport, Unseen, sweep,
};
use dcbuild_testkit::redis::RedisServer;
use dcbuild_testkit::{MemoryObjects, contract};
use tokio_util::task::TaskTracker;

/// What stays unused for longer goes.
const MAX_SECS: u64 = 3_000;

struct Bucket {
    catalog: Catalog,
    index: Arc<RedisIndex>,
    objects: Arc<MemoryObjects>,
    clock: Arc<AtomicI64>,
    tasks: TaskTracker,
}

impl Bucket {
    fn new(server: &RedisServer) -> Bucket {
        let (objects, clock, tasks) =
            (Arc::<MemoryObjects>::default(), Arc::new(AtomicI64::new(0)), TaskTracker::new());
        let index = Arc::new(index(&server.url()));
        let time = clock.clone();
        let now: Now = Arc::new(move || at(time.load(Ordering::SeqCst)));
        let catalog = Catalog::new(CatalogParts {
            objects: objects.clone(),
            index: index.clone(),
            seal: Seal::unkeyed(),
            now,
            tasks: tasks.clone(),
            unseen: Unseen::default(),
        });
        Bucket { catalog, index, objects, clock, tasks }
    }

    fn at(&self, secs: i64) {
        self.clock.store(secs, Ordering::SeqCst);
        self.objects.wind(secs);
    }

    async fn make(&self, name: &str) -> Record {
        let record = contract::record(name, None, 1);
        self.catalog.put(&Scope::local(), &record).await.unwrap();
        record
    }

    /// A build looks for a record.
    async fn finds(&self, record: &Record) -> bool {
        let found = StepIndex::find(&self.catalog, &Scope::local(), &[record.recipe]).await;
        self.settle().await;
        !found.unwrap()[0].is_empty()
    }

    async fn settle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    async fn sweep(&self) -> SweepReport {
        let max_age = Some(Duration::from_secs(MAX_SECS));
        let ceilings = Ceilings { max_age, ..Ceilings::default() };
        let now = at(self.clock.load(Ordering::SeqCst));
        sweep(&self.catalog, &ceilings, SweepMode::Remove, now).await.unwrap()
    }

    fn has(&self, record: &Record) -> bool {
        let hex = record.recipe.0.hex();
        self.objects.names().iter().any(|name| name.as_str().contains(&hex))
    }
}

async fn check(loss: &[&str]) {
    let server = RedisServer::start(&[]);
    let bucket = Bucket::new(&server);
    common::answers(&bucket.index).await;
    bucket.at(1_000);
    let (used, left, dead) =
        (bucket.make("used").await, bucket.make("left").await, bucket.make("dead").await);
    for hour in 1..6 {
        bucket.at(1_000 + hour * 1_500);
        assert!(bucket.finds(&used).await && bucket.finds(&left).await);
        bucket.sweep().await;
    }
    assert!(bucket.has(&used) && bucket.has(&left));
    assert!(!bucket.has(&dead), "the sweeper does its work as long as it knows the uses");

    bucket.at(9_000);
    let answer = server.ask(loss);
    assert!(answer == "OK" || answer == "1", "{answer}");
    let report = bucket.sweep().await;
    assert_eq!(report.total().count, 0, "both were used until just now: {report:?}");
    assert!(is_complete(&bucket.index).await, "and the index is whole again");
    bucket.at(11_000);
    assert!(bucket.finds(&used).await);
    bucket.at(11_900);
    assert_eq!(bucket.sweep().await.total().count, 0);
    bucket.at(12_100);
    bucket.sweep().await;
    assert!(!bucket.has(&left), "nobody has used it since");
    assert!(bucket.has(&used), "uses are known again");
}

#[tokio::test]
async fn after_a_flush_what_was_used_until_then_stays_as_if_used_then() {
    check(&["FLUSHALL"]).await;
}

#[tokio::test]
async fn uses_that_are_evicted_alone_are_taken_for_uses_of_just_then_and_noted_again() {
    check(&["DEL", "dcbuild:used"]).await;
}

#[tokio::test]
async fn an_index_without_room_is_not_filled_by_each_who_looks() {
    let server = RedisServer::start(&["maxmemory-policy noeviction"]);
    let bucket = Bucket::new(&server);
    common::answers(&bucket.index).await;
    bucket.at(1_000);
    let record = bucket.make("one").await;
    bucket.settle().await;
    assert_eq!(server.ask(&["FLUSHALL"]), "OK");
    assert_eq!(server.ask(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    let lists = async |secs| {
        bucket.at(secs);
        let before = bucket.objects.lists();
        assert!(bucket.finds(&record).await, "the store has it");
        bucket.objects.lists() - before
    };
    let tried = lists(1_001).await;
    assert!(tried > 1, "a fill was tried: {tried}");
    assert_eq!((lists(1_002).await, lists(1_030).await), (1, 1), "its key alone");
    assert_eq!(lists(1_100).await, tried, "and now and then it is tried again");
    assert_eq!(server.ask(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    lists(1_200).await;
    assert!(is_complete(&bucket.index).await);
}

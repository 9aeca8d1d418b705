//! Results that newer ones of their keys have replaced.

use dcbuild_model::{AttemptId, Lineage, StateDigest};

use super::*;

/// A result of a step: its key, and what its layer is made of.
struct Made<'a> {
    key: &'a str,
    layer: &'a str,
    upon: StateDigest,
}

fn record_of(number: u32, made: &Made<'_>) -> Record {
    let table = format!("table of {}", made.layer);
    let mut record = contract::with_layer(contract::record(made.key, None, number), &table);
    let parent = Some(made.upon);
    record.lineage = Lineage { parent, inputs: Vec::new(), selections: Vec::new() };
    record
}

fn state_after(record: &Record) -> StateDigest {
    record.result.state_after(record.lineage.parent.unwrap())
}

impl World {
    async fn make_again(&self, secs: i64, number: u32, made: &Made<'_>) -> Record {
        self.at(secs);
        self.blob(&format!("table of {}", made.layer)).await;
        let record = record_of(number, made);
        self.put(&self.catalog(), &record).await;
        record
    }

    fn has_layer(&self, record: &Record) -> bool {
        let table = blob_name(&record.result.layers[0].layer.0);
        self.objects.objects.names().contains(&table)
    }

    async fn find_all(&self, secs: i64, keys: &[&Record]) -> Vec<Vec<AttemptId>> {
        self.at(secs);
        let keys: Vec<_> = keys.iter().map(|it| it.recipe).collect();
        let found = StepIndex::find(&self.catalog(), &Scope::local(), &keys).await.unwrap();
        self.settle().await;
        found.iter().map(|list| list.iter().map(|it| it.attempt).collect()).collect()
    }
}

fn a(layer: &str) -> Made<'_> {
    Made { key: "a", layer, upon: StateDigest::empty() }
}

#[tokio::test]
async fn what_a_newer_one_has_replaced_ages_though_its_key_is_hit() {
    let world = World::new();
    let mut made = Vec::new();
    for (number, layer) in (1..).zip(["one", "two", "three"]) {
        made.push(world.make_again(1_000 * i64::from(number), number, &a(layer)).await);
    }
    let [one, two, three] = &made[..] else { unreachable!() };
    assert_eq!(world.find_all(9_000, &[one]).await, [[three.attempt]]);
    // The first was replaced at 2,000, the second at 3,000.
    world.at(9_001);
    let report = world.sweep(&age(6_500)).await;
    assert_eq!((world.has_layer(one), world.has_layer(two)), (false, true), "{report:?}");
    world.sweep(&age(5_000)).await;
    assert!(!world.has_layer(two) && world.has_layer(three));
    assert_eq!(world.find_all(9_002, &[one]).await, [[three.attempt]]);
    assert_eq!(evictions(&world.catalog(), &Scope::local()).await.unwrap(), [], "the key is there");
    // Nothing is left of them in the index either.
    let key = IndexKey(format!("scope/local/step/{}", one.recipe.0.hex()));
    let known = world.index.find(&[key]).await.unwrap();
    assert_eq!(known.found[0].len(), 1, "{:?}", known.found);
}

#[tokio::test]
async fn a_ceiling_of_bytes_takes_what_was_replaced_and_not_what_replaced_it() {
    let world = World::new();
    for number in 1..=6 {
        let layer = format!("{number}{}", "x".repeat(1_000));
        world.make_again(1_000 * i64::from(number), number, &a(&layer)).await;
    }
    let newest = record_of(6, &a(&format!("6{}", "x".repeat(1_000))));
    world.find_all(9_000, &[&newest]).await;
    // Less than all attempts take, more than the newest does.
    let keep = Ceilings { keep_bytes: Some(2_500), ..Ceilings::default() };
    let report = world.sweep(&keep).await;
    assert!(report.total().count >= 5, "{report:?}");
    assert_eq!(world.find_all(9_001, &[&newest]).await, [[newest.attempt]]);
    assert!(world.has_layer(&newest));
}

#[tokio::test]
async fn what_something_was_made_from_stays_as_long_as_that_is_hit() {
    let world = World::new();
    let old = world.make_again(1_000, 1, &a("old")).await;
    // One build goes on from it; later ones of another Dockerfile make the step anew each night.
    let upon = Made { key: "b", layer: "upon it", upon: state_after(&old) };
    let upon = world.make_again(1_001, 2, &upon).await;
    let new = world.make_again(2_000, 3, &a("new")).await;
    let both = [&old, &upon];
    let chain = vec![vec![old.attempt, new.attempt], vec![upon.attempt]];
    assert_eq!(world.find_all(9_000, &both).await, chain);
    world.at(9_001);
    world.sweep(&age(1_000)).await;
    assert_eq!(world.find_all(9_002, &both).await, chain, "the chain can be taken");
    assert!(world.has_layer(&old));
    // Only the other Dockerfile is built any more.
    world.find_all(20_000, &[&old]).await;
    world.sweep(&age(1_000)).await;
    assert_eq!(world.find_all(20_001, &both).await, [vec![new.attempt], vec![]]);
    assert!(!world.has_layer(&old) && !world.has_layer(&upon));
}

#[tokio::test]
async fn the_newest_of_a_key_can_go_and_an_older_one_be_found_still() {
    let world = World::new();
    let old = world.make_again(1_000, 1, &a("old")).await;
    let upon = Made { key: "b", layer: "upon it", upon: state_after(&old) };
    let upon = world.make_again(1_001, 2, &upon).await;
    let new = world.make_again(2_000, 3, &a(&"x".repeat(10_000))).await;
    let both = [&old, &upon];
    // Used at once, so that what was written last goes first.
    world.find_all(9_000, &both).await;
    let keep = Ceilings { keep_bytes: Some(9_000), ..Ceilings::default() };
    let report = world.sweep(&keep).await;
    assert_eq!((world.has_layer(&old), world.has_layer(&new)), (true, false), "{report:?}");
    assert_eq!(world.find_all(9_001, &both).await, [[old.attempt], [upon.attempt]]);
}

#[tokio::test]
async fn a_running_build_keeps_what_was_replaced_while_it_goes_on() {
    let world = World::new();
    let old = world.make_again(1_000, 1, &a("old")).await;
    world.make_again(2_000, 2, &a("new")).await;
    let began = world.at(1_500);
    let using = Using::new(Box::new(world.catalog().mark(b"one")));
    using.begin(BuildId::from_bits(1), began).await.unwrap();
    world.at(2_010);
    world.sweep(&ALL).await;
    assert!(world.has_layer(&old), "it may have been found before it was replaced");
}

fn all_was_used_nine_hours_ago(store: &FolderStore, folder: &Path) {
    let now = Duration::from_secs(u64::try_from(store.time().secs).unwrap());
    for path in files_below(folder) {
        let file = std::fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + now - Duration::from_hours(9)).unwrap();
    }
}

#[tokio::test]
async fn a_folder_store_lets_age_what_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let scope = Scope::local();
    let mut made = Vec::new();
    for (number, layer) in (1..).zip(["old", "new"]) {
        let table = format!("table of {layer}");
        let digest = BlobDigest(Digest::of(table.as_bytes()));
        BlobStore::put(&store, &digest, stream_of(table)).await.unwrap();
        let record = record_of(number, &a(layer));
        StepIndex::put(&store, &scope, &record).await.unwrap();
        made.push((record, digest));
    }
    let upon = record_of(3, &Made { key: "b", layer: "new", upon: state_after(&made[0].0) });
    StepIndex::put(&store, &scope, &upon).await.unwrap();
    all_was_used_nine_hours_ago(&store, folder.path());
    let (old, new) = (&made[0].0, &made[1].0);
    let keys = [old.recipe, upon.recipe];
    let found = StepIndex::find(&store, &scope, &keys).await.unwrap();
    assert_eq!(found, [vec![old.clone(), new.clone()], vec![upon.clone()]], "a chain");
    let hours = age(5 * 3_600);
    sweep(&store, &hours, SweepMode::Remove, store.time()).await.unwrap();
    assert_eq!(StepIndex::find(&store, &scope, &keys).await.unwrap(), found, "all was used");

    all_was_used_nine_hours_ago(&store, folder.path());
    let found = StepIndex::find(&store, &scope, &keys[..1]).await.unwrap();
    assert_eq!(found, [[new.clone()]]);
    sweep(&store, &hours, SweepMode::Remove, store.time()).await.unwrap();
    let found = StepIndex::find(&store, &scope, &keys).await.unwrap();
    assert_eq!(found, [vec![new.clone()], vec![]]);
    assert_eq!(store.find_missing(&[made[0].1]).await.unwrap(), [made[0].1]);
}

//! Pruning beside those who use the store: each handle here stands for a process, since locks are a handle's own.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dcbuild_model::{BlobDigest, Digest, Record, Scope, UnixTime};
use dcbuild_store::{FolderStore, PruneRequest};
use dcbuild_testkit::contract::record;

const ROUNDS: usize = 200;
const BLOBS: u32 = 50;

/// Makes all blobs look as if nobody had used them for long.
fn age(store: &FolderStore, blobs: &[(BlobDigest, [u8; 4])]) {
    for (blob, _) in blobs {
        // It may have been removed.
        if let Ok(file) = std::fs::File::options().write(true).open(store.path_of(blob)) {
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
        }
    }
}

/// Finds or stores all blobs in one time of use, then reads them.
fn use_all(store: &FolderStore, blobs: &[(BlobDigest, [u8; 4])]) {
    let _in_use = store.begin_use().unwrap();
    for (blob, bytes) in blobs {
        if !store.has(blob).unwrap() {
            store.put_bytes(bytes).unwrap();
        }
    }
    for (blob, bytes) in blobs {
        assert_eq!(store.get_bytes(blob, 4).unwrap(), bytes.as_slice());
    }
}

fn prune_on(dir: &Path, done: &AtomicBool, removed: &AtomicUsize) {
    let store = FolderStore::open(dir).unwrap();
    let all = PruneRequest { all: true, ..PruneRequest::default() };
    while !done.load(Ordering::Relaxed) {
        removed.fetch_add(store.prune(&all).unwrap().removed.len(), Ordering::Relaxed);
    }
}

#[test]
fn what_is_found_in_a_time_of_use_stays_until_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (done, removed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let all = (0..BLOBS).map(u32::to_be_bytes);
    let blobs: Vec<_> = all.map(|bytes| (BlobDigest(Digest::of(&bytes)), bytes)).collect();
    std::thread::scope(|scope| {
        let pruner = scope.spawn(|| prune_on(folder.path(), &done, &removed));
        let user = scope.spawn(|| {
            let store = FolderStore::open(folder.path()).unwrap();
            for _ in 0..ROUNDS {
                use_all(&store, &blobs);
                age(&store, &blobs);
            }
        });
        let ended = user.join();
        done.store(true, Ordering::Relaxed);
        pruner.join().unwrap();
        ended.unwrap();
    });
    let removed = removed.into_inner();
    assert!(
        removed >= ROUNDS,
        "little was pruned meanwhile ({removed}): the test has shown nothing"
    );
}

#[test]
fn what_was_used_in_the_tick_of_its_listing_stays_for_a_user_who_came_since() {
    let folder = tempfile::tempdir().unwrap();
    let (user, pruner) =
        (FolderStore::open(folder.path()).unwrap(), FolderStore::open(folder.path()).unwrap());
    let blob = user.put_bytes(b"blob").unwrap();
    let entry = pruner.entries().unwrap().remove(0);
    assert!(!entry.needed);
    // As if the clock of files had stood still since the listing.
    let in_use = user.begin_use_since(entry.last_used).unwrap();
    assert!(pruner.is_in_use(entry.last_used).unwrap());
    assert!(!pruner.remove_entry(&entry).unwrap());
    let earlier = UnixTime { secs: entry.last_used.secs - 1, ..entry.last_used };
    assert!(!pruner.is_in_use(earlier).unwrap());
    drop(in_use);
    assert!(pruner.remove_entry(&entry).unwrap());
    assert!(!user.has(&blob).unwrap());
}

#[test]
fn a_record_that_is_removed_while_it_is_made_to_last_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let open = || FolderStore::open(folder.path()).unwrap();
    let (one, other) = (open(), open());
    let scope = Scope::local();
    for round in 0..20 {
        let records = (0..50).map(|number| record(&format!("{round} {number}"), None, 1));
        let records: Vec<Record> = records.collect();
        for record in &records {
            one.put_record(&scope, record).unwrap();
        }
        let removed = std::thread::scope(|threads| {
            let lasts = threads.spawn(|| one.confirm_synced().unwrap());
            let mut removed = BTreeSet::new();
            while !lasts.is_finished() {
                for entry in other.entries().unwrap() {
                    if other.remove_entry(&entry).unwrap() {
                        removed.insert(entry.id);
                    }
                }
            }
            removed
        });
        for record in &records {
            let was_removed = removed.iter().any(|id| id.contains(&record.recipe.0.hex()));
            let found = one.find_records(&scope, &record.recipe).unwrap();
            assert!(!was_removed || found.is_empty(), "a record came back in round {round}");
        }
    }
}

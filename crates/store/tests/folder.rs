//! The folder store: the contract, several handles, crashes, pruning, locks.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use dcbuild_model::{BlobDigest, ChangeDigest, Digest, LayerId, LayerRef, ManifestDigest, Scope};
use dcbuild_store::{
    BlobStore as _, Confirmed, FolderStore, ImageNames, KeyLocks, LockError, LockMode, NamedImage,
    PruneRequest, StoreError, Swept as _, read_bytes,
};
use dcbuild_testkit::contract::{self, record};
use dcbuild_testkit::{BlobCall, FaultyBlobs, MemoryBlobs};
use tokio_util::sync::CancellationToken;

fn store() -> (tempfile::TempDir, FolderStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    (folder, store)
}

#[tokio::test]
async fn the_folder_keeps_the_contracts() {
    let (_folder, store) = store();
    contract::blobs(&store).await;
    contract::large_blobs(&store, 3 << 20).await;
    contract::steps(&store).await;
    contract::images(&store).await;
    contract::notes(&store).await;
    contract::caches(&store).await;
}

#[tokio::test]
async fn the_fakes_keep_the_contract() {
    contract::blobs(&MemoryBlobs::default()).await;
    contract::large_blobs(&MemoryBlobs::default(), 3 << 20).await;
    contract::blobs(&dcbuild_store::Verified(MemoryBlobs::default())).await;
    let faulty = FaultyBlobs::new(MemoryBlobs::default(), |call, _| call == BlobCall::Put);
    let blob = BlobDigest(Digest::of(b""));
    assert!(faulty.put(&blob, dcbuild_store::stream_of(&b""[..])).await.is_err());
    assert_eq!(faulty.fired(), 1);
}

#[tokio::test]
async fn a_corrupt_blob_is_put_aside_and_missing_then() {
    let (_folder, store) = store();
    let blob = store.put_bytes(b"good").unwrap();
    std::fs::write(store.path_of(&blob), "evil").unwrap();
    let read = read_bytes(&store, &blob, 100).await;
    assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
    assert_eq!(store.find_missing(&[blob]).await.unwrap(), [blob]);
    assert_eq!(store.counts().quarantined, 1);
    let other = store.put_bytes(b"other").unwrap();
    let aside = store.put_aside(&[other, blob]).await.unwrap();
    let [None, Some(when)] = aside[..] else { panic!("{aside:?}") };
    assert!((0..60).contains(&(store.time().secs - when.secs)), "{when:?}");
    store.put_bytes(b"good").unwrap();
    assert_eq!(&store.get_bytes(&blob, 100).unwrap()[..], b"good");
}

#[test]
fn many_handles_write_the_same_things_at_once() {
    let (folder, store) = store();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let dir = folder.path();
            scope.spawn(move || {
                let store = FolderStore::open(dir).unwrap();
                for round in 0..50_u32 {
                    store.put_bytes(&round.to_le_bytes()).unwrap();
                    let record = record("k", None, number * 100 + round);
                    store.put_record(&Scope::local(), &record).unwrap();
                    let all = PruneRequest { keep_bytes: Some(50), ..PruneRequest::default() };
                    store.prune(&all).unwrap();
                }
            });
        }
    });
    let left = std::fs::read_dir(folder.path().join("tmp")).unwrap().count();
    assert_eq!(left, 2, "only the lock and the folder of the handle that is still open");
    drop(store);
}

#[test]
fn what_a_dead_process_left_is_swept() {
    let (folder, _store) = store();
    let dead = folder.path().join("tmp/1-0.d");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("half"), "x").unwrap();
    FolderStore::open(folder.path()).unwrap();
    assert!(!dead.exists());
}

#[test]
fn a_record_of_another_boot_counts_only_if_confirmed() {
    let (folder, store) = store();
    let (scope, mut kept, lost) =
        (Scope::local(), record("kept", None, 1), record("lost", None, 1));
    let layer = LayerId(Digest::of(b"layer"));
    let change = ChangeDigest(Digest::of(b"change"));
    kept.result.layers.push(LayerRef { layer, change, entries: 1, bytes: 0, base: None });
    store.put_record(&scope, &kept).unwrap();
    let confirmed = store.confirm_synced().unwrap();
    assert_eq!(confirmed.files, 1);
    assert_eq!(confirmed.layers, BTreeSet::from([layer]));
    assert_eq!(store.confirm_synced().unwrap(), Confirmed::default());
    store.put_record(&scope, &lost).unwrap();
    for record in [&kept, &lost] {
        let path = format!("step/local/{}/{}.json", record.recipe.0.hex(), record.attempt);
        let path = folder.path().join(path);
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let text = std::fs::read_to_string(&path).unwrap().replace(boot.trim(), "another");
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(store.find_records(&scope, &kept.recipe).unwrap(), [kept]);
    assert_eq!(store.find_records(&scope, &lost.recipe).unwrap(), []);
}

#[test]
fn an_unreadable_record_is_a_counted_miss() {
    let (folder, store) = store();
    let record = record("k", None, 1);
    store.put_record(&Scope::local(), &record).unwrap();
    let path = format!("step/local/{}/{}.json", record.recipe.0.hex(), record.attempt);
    std::fs::write(folder.path().join(path), "{").unwrap();
    assert_eq!(store.find_records(&Scope::local(), &record.recipe).unwrap(), []);
    assert_eq!(store.counts().unreadable, 1);
}

#[tokio::test]
async fn pruning_spares_what_is_named_or_in_use() {
    let (_folder, store) = store();
    let layer = store.put_bytes(b"layer").unwrap();
    let manifest = format!(r#"{{"layers": [{{"digest": "{layer}"}}]}}"#);
    let manifest = store.put_bytes(manifest.as_bytes()).unwrap();
    let loose = store.put_bytes(b"loose").unwrap();
    let image = NamedImage {
        name: "a:1".into(),
        manifest: ManifestDigest(manifest.0),
        tagged: store.time(),
    };
    ImageNames::put(&store, &Scope::local(), &image).await.unwrap();
    let all = PruneRequest { all: true, ..PruneRequest::default() };

    let in_use = store.begin_use().unwrap();
    assert!(store.has(&loose).unwrap());
    assert_eq!(store.prune(&all).unwrap().removed, []);
    drop(in_use);

    let report = store.prune(&all).unwrap();
    assert_eq!((report.removed.len(), report.removed_bytes), (1, 5));
    assert_eq!(store.find_missing(&[layer, manifest, loose]).await.unwrap(), [loose]);
}

#[tokio::test]
async fn a_lock_dies_with_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let locks = KeyLocks::open(folder.path()).unwrap();
    let script = format!("exec 9>{}/n-key; flock 9; echo ok; read x", folder.path().display());
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(locks.is_held("key").unwrap());
    assert!(locks.try_lock("key", LockMode::Shared).unwrap().is_none());
    let stop = CancellationToken::new();
    let wait = locks.lock("key", LockMode::Exclusive, &stop);
    assert!(tokio::time::timeout(Duration::from_millis(20), wait).await.is_err());
    child.kill().unwrap();
    child.wait().unwrap();
    let lock = locks.lock("key", LockMode::Exclusive, &stop).await.unwrap();
    stop.cancel();
    let refused = locks.lock("key", LockMode::Exclusive, &stop).await;
    assert!(matches!(refused, Err(LockError::Cancelled { .. })));
    drop(lock);
    let one = locks.try_lock("key", LockMode::Shared).unwrap().unwrap();
    let two = locks.try_lock("key", LockMode::Shared).unwrap().unwrap();
    drop((one, two));
    assert!(!locks.is_held("key").unwrap());
}

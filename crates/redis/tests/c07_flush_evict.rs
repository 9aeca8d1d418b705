//! C07: what is flushed, evicted, expired or refused is a miss at worst, and is noticed.
#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use common::{at, entry, fill, index, is_complete, key};
use dcbuild_redis::RedisIndex;
use dcbuild_store::{KeyIndex as _, StoreError};
use dcbuild_testkit::redis::{RedisServer, wait_for};

/// Looks keys up one by one; what is called complete must be there. Returns how often it was not.
async fn incomplete(index: &RedisIndex, keys: usize) -> usize {
    let mut count = 0;
    for number in 0..keys {
        let looked = index.find(&[key(number)]).await.unwrap();
        assert!(!looked.complete || !looked.found[0].is_empty(), "{number} was told and is absent");
        count += usize::from(!looked.complete);
    }
    count
}

#[tokio::test]
async fn c07_flushall_in_mid_load() {
    let server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 300, 50).await);
    assert_eq!(incomplete(&index, 300).await, 0);
    let load = async {
        let mut count = 0;
        for _ in 0..5 {
            count += incomplete(&index, 300).await;
        }
        count
    };
    let flush = tokio::task::spawn_blocking(move || {
        server.ask(&["FLUSHALL"]);
        server
    });
    let (count, server) = tokio::join!(load, flush);
    let server = server.unwrap();
    assert!(count > 0, "the flush came too late");
    index.put(&[entry(1, 5)]).await.unwrap();
    assert!(!is_complete(&index).await);

    let began = index.begin_fill(at(1), at(2)).await.unwrap().unwrap();
    index.put(&[entry(1, 5)]).await.unwrap();
    assert_eq!(server.ask(&["FLUSHALL"]), "OK");
    index.put(&[entry(2, 5)]).await.unwrap();
    assert!(!index.end_fill(&began).await.unwrap(), "what was told before is gone");
    assert!(!is_complete(&index).await);
    assert!(fill(&index, 300, 50).await);
    assert_eq!(incomplete(&index, 300).await, 0, "as before");
}

#[tokio::test]
async fn c07_eviction() {
    for memory in ["maxmemory 1mb", "maxmemory 3mb"] {
        let server = RedisServer::start(&[memory, "maxmemory-policy allkeys-lru"]);
        let index = index(&server.url());
        if memory != "maxmemory 1mb" {
            assert!(fill(&index, 1, 1).await);
        }
        let mut refused = 0;
        for number in 0..1_000 {
            match index.put(&[entry(number, 4_000)]).await {
                Ok(()) => {}
                // Where hardly anything fits there is not always something to evict.
                Err(StoreError::Full { .. }) => refused += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        let count = incomplete(&index, 1_000).await;
        let evicted: u64 = server.info("evicted_keys").parse().unwrap();
        assert!(evicted + refused > 100, "{evicted} keys were evicted, {refused} refused");
        assert!(evicted > 100 || memory == "maxmemory 1mb", "{evicted} keys were evicted");
        assert!(count > 100, "{count} look-ups noticed");
        server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
        assert!(fill(&index, 1_000, 4_000).await, "with enough memory it is complete again");
        assert_eq!(incomplete(&index, 1_000).await, 0);
    }
}

#[tokio::test]
async fn c07_full_without_eviction() {
    let server = RedisServer::start(&["maxmemory 3mb", "maxmemory-policy noeviction"]);
    let index = index(&server.url());
    assert!(fill(&index, 100, 100).await);
    let began = index.begin_fill(at(1), at(9)).await.unwrap().unwrap();
    // Values give way first, those that were not used for longest: names stay, and with them completeness.
    index.touch(&[key(7)], at(1_000)).await.unwrap();
    for number in 100..1_000 {
        index.put(&[entry(number, 10_000)]).await.unwrap();
    }
    assert!(index.end_fill(&began).await.unwrap());
    let values = async |number: usize| {
        let looked = index.find(&[key(number)]).await.unwrap();
        assert!(looked.complete, "{number}");
        looked.found[0].iter().map(|(_, value)| value.len()).collect::<Vec<_>>()
    };
    assert_eq!(
        (values(0).await, values(7).await, values(999).await),
        (vec![0], vec![100], vec![10_000])
    );

    let began = index.begin_fill(at(1), at(9)).await.unwrap().unwrap();
    let mut refused = None;
    for thousand in 1..100 {
        let names: Vec<_> = (0..1_000).map(|number| entry(1_000 * thousand + number, 0)).collect();
        if let Err(error) = index.put(&names).await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("it became full of names");
    assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
    let looked = index.find(&[key(1)]).await.unwrap();
    assert!(!looked.complete && !looked.found[0].is_empty(), "it reads, and is not complete");
    assert!(!index.end_fill(&began).await.unwrap(), "the fill lacks something");
    // What a build uses is noted all the same: else a sweep took it.
    index.touch(&[key(1)], at(77)).await.unwrap();
    assert_eq!(index.last_used(&[key(1)]).await.unwrap(), [Some(at(77))]);
    // What makes it smaller can begin.
    assert!(index.hold("sweeper", "one", at(10), at(20)).await.unwrap());
    index.remove(&[key(2)]).await.unwrap();
    index.begin_fill(at(10), at(11)).await.unwrap().expect("nobody else fills");
    index.mark_incomplete().await.unwrap();

    let policy = server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(policy, "OK");
    assert!(fill(&index, 100, 100).await);
    assert!(is_complete(&index).await);
}

#[tokio::test]
async fn c07_expiry_between_two_reads() {
    let server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 3, 5).await);
    assert_eq!(incomplete(&index, 3).await, 0);
    assert_eq!(server.ask(&["PEXPIRE", "dcbuild:k:step/local/00001", "1"]), "1");
    let gone =
        async || (server.ask(&["EXISTS", "dcbuild:k:step/local/00001"]) == "0").then_some(());
    wait_for("the key expires", gone).await;
    assert!(index.find(&[key(0), key(2)]).await.unwrap().complete, "these were not asked about");
    assert!(!index.find(&[key(1)]).await.unwrap().complete);
    assert!(fill(&index, 3, 5).await);
    assert_eq!(incomplete(&index, 3).await, 0);

    // A key that lost its fields and is told of a new one does not pass for whole.
    assert_eq!(server.ask(&["DEL", "dcbuild:k:step/local/00001"]), "1");
    let mut second = entry(1, 5);
    second.field = "attempt 2".into();
    index.put(&[second]).await.unwrap();
    assert!(!index.find(&[key(1)]).await.unwrap().complete);
}

//! C09: whatever somebody plants in Redis, little of it is loaded, and none of it passes for completeness.

mod common;

use common::{at, entry, fill, index, is_complete, key};
use dcbuild_store::{ENTRY_BYTES_MAX, KeyIndex as _};
use dcbuild_testkit::redis::RedisServer;

const ONE: &str = "dcbuild:k:step/local/00001";

#[tokio::test]
async fn c09_a_huge_value_is_not_loaded() {
    let server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 3, 5).await);
    let plant = |bytes: usize| {
        let script =
            format!("return redis.call('HSET', KEYS[1], 'attempt', string.rep('x', {bytes}))");
        server.ask(&["EVAL", &script, "1", ONE]);
        assert_eq!(server.ask(&["HSTRLEN", ONE, "attempt"]), bytes.to_string());
    };
    plant(ENTRY_BYTES_MAX + 1);
    let looked = index.find(&[key(1)]).await.unwrap();
    assert_eq!(
        looked.found[0][0].1.len(),
        0,
        "the field is there, and its value is the store's to say"
    );
    plant(200 << 20);
    let before: u64 = server.info("total_net_output_bytes").parse().unwrap();
    let looked = index.find(&[key(0), key(1), key(2)]).await.unwrap();
    assert!(!looked.complete);
    assert_eq!(looked.found.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 1]);
    let after: u64 = server.info("total_net_output_bytes").parse().unwrap();
    assert!(after - before < 100_000, "{} bytes were sent", after - before);
    assert!(is_complete(&index).await, "other keys are as they were");
}

#[tokio::test]
async fn c09_too_many_fields_are_not_loaded() {
    let server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 3, 5).await);
    let script = "for i = 1, 100000 do redis.call('HSET', KEYS[1], i, i) end return 1";
    assert_eq!(server.ask(&["EVAL", script, "1", ONE]), "1");
    let looked = index.find(&[key(1), key(2)]).await.unwrap();
    assert!(!looked.complete && looked.found[0].is_empty() && looked.found[1].len() == 1);
}

#[tokio::test]
async fn c09_a_field_that_is_not_text() {
    let server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 3, 5).await);
    let script = "return redis.call('HSET', KEYS[1], '\\255\\254', 'x')";
    assert_eq!(server.ask(&["EVAL", script, "1", ONE]), "1");
    let looked = index.find(&[key(1)]).await.unwrap();
    assert!(!looked.complete && looked.found[0].len() == 1, "{looked:?}");
}

#[tokio::test]
async fn c09_keys_of_another_type() {
    let server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 3, 5).await);
    assert_eq!(server.ask(&["SET", ONE, "garbage"]), "OK");
    let looked = index.find(&[key(0), key(1)]).await.unwrap();
    assert!(!looked.complete && looked.found[0].len() == 1 && looked.found[1].is_empty());
    assert!(fill(&index, 3, 5).await, "it is thrown out");
    assert_eq!(server.ask(&["TYPE", ONE]), "hash");

    assert_eq!(server.ask(&["SET", "dcbuild:used", "garbage"]), "OK");
    let looked = index.find(&[key(1)]).await.unwrap();
    assert!(!looked.complete && looked.found[0].len() == 1);
    assert_eq!(index.last_used(&[key(1)]).await.unwrap(), [None]);
    assert_eq!(index.unused("", None, 5).await.unwrap(), []);
    index.touch(&[key(1)], at(9)).await.unwrap();
    index.put(&[entry(2, 5)]).await.unwrap();
    assert!(!is_complete(&index).await);
    assert!(fill(&index, 3, 5).await, "it is thrown out");
    assert!(is_complete(&index).await);

    server.ask(&["DEL", "dcbuild:leases"]);
    assert_eq!(server.ask(&["LPUSH", "dcbuild:leases", "garbage"]), "1");
    assert!(index.hold("sweep", "one", at(1), at(2)).await.unwrap());
    assert_eq!(server.ask(&["HSET", "dcbuild:leases", "sweep", "garbage"]), "0");
    assert!(
        index.hold("sweep", "two", at(1), at(2)).await.unwrap(),
        "what is no lease holds nothing"
    );
}

#[tokio::test]
async fn c09_times_that_are_none() {
    let server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 3, 5).await);
    for time in ["inf", "-inf", "1.5", "1e300"] {
        server.ask(&["ZADD", "dcbuild:used", time, "kstep/local/00001"]);
        assert!(!server.ask(&["ZSCORE", "dcbuild:used", "kstep/local/00001"]).is_empty());
        assert_eq!(index.last_used(&[key(1)]).await.unwrap(), [None], "{time}");
        let unused = index.unused("", None, 5).await.unwrap();
        assert_eq!(
            unused.iter().map(|it| &it.key).collect::<Vec<_>>(),
            [&key(0), &key(2)],
            "{time}"
        );
    }
}

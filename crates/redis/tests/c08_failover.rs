//! C08: a server that dies, hangs, moves or only reads costs a deadline, and what it lost is not taken for absent.
#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use common::{answers, at, entry, fill, index, is_complete, key};
use dcbuild_redis::{RedisFault, RedisIndex};
use dcbuild_store::{KeyIndex as _, StoreError};
use dcbuild_testkit::redis::{RedisServer, wait_for};
use tokio::time::Instant;

/// What one operation may take, with what a busy machine adds.
const ONE_DEADLINE: Duration = Duration::from_millis(1_500);

fn fault(error: &StoreError) -> &RedisFault {
    let StoreError::Unavailable { source, .. } = error else { panic!("{error:?}") };
    source.downcast_ref().unwrap()
}

/// What the index says, within one deadline.
async fn refusal(index: &RedisIndex) -> StoreError {
    let begun = Instant::now();
    let refused = index.put(&[entry(1, 5)]).await.unwrap_err();
    assert!(begun.elapsed() < ONE_DEADLINE, "{:?}", begun.elapsed());
    refused
}

#[tokio::test]
async fn c08_failover_by_sentinels() {
    let mut primary = RedisServer::start(&[]);
    let replica = RedisServer::start(&[&format!("replicaof 127.0.0.1 {}", primary.port)]);
    let sentinels: Vec<_> = (0..3).map(|_| RedisServer::start_sentinel(primary.port)).collect();
    let known = async || {
        let ready = sentinels.iter().all(|sentinel| {
            let others = sentinel.ask(&["SENTINEL", "SENTINELS", "main"]);
            let replicas = sentinel.ask(&["SENTINEL", "REPLICAS", "main"]);
            others.matches("runid").count() == 2
                && replicas.contains(&replica.port.to_string())
                && replicas.contains("master-link-status\nok")
        });
        ready.then_some(())
    };
    wait_for("the sentinels know each other and the replica", known).await;
    let hosts: Vec<_> = sentinels.iter().map(|it| format!("127.0.0.1:{}", it.port)).collect();
    let index = index(&format!("redis+sentinel://{}/main", hosts.join(",")));
    answers(&index).await;
    assert!(fill(&index, 100, 5).await);
    let last = ["EXISTS", "dcbuild:k:step/local/00099"];
    let copied = async || (replica.ask(&last) == "1").then_some(());
    wait_for("the replica has all", copied).await;
    assert!(is_complete(&index).await);

    primary.kill();
    let begun = Instant::now();
    for _ in 0..20 {
        refusal(&index).await;
    }
    assert!(begun.elapsed() < 3 * ONE_DEADLINE, "twenty took {:?}", begun.elapsed());
    let looked =
        wait_for("the replica takes over", async || index.find(&[key(7)]).await.ok()).await;
    assert_eq!(replica.info("role"), "master");
    assert_eq!(looked.found[0].len(), 1, "it knows what it was told before");
    assert!(!looked.complete, "but may lack the last of it");
    assert!(fill(&index, 100, 5).await);
    assert!(is_complete(&index).await);
}

#[tokio::test]
async fn c08_a_restart_from_an_older_dump() {
    let mut server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 10, 5).await);
    assert_eq!(server.ask(&["SAVE"]), "OK");
    index.put(&[entry(10, 5)]).await.unwrap();
    assert!(is_complete(&index).await);
    server.kill();
    refusal(&index).await;
    server.start_again();
    answers(&index).await;
    let looked = index.find(&[key(9), key(10)]).await.unwrap();
    assert_eq!([looked.found[0].len(), looked.found[1].len()], [1, 0], "the last write is lost");
    assert!(!looked.complete);
    assert!(fill(&index, 11, 5).await);
}

#[tokio::test]
async fn c08_a_hanging_server_costs_one_deadline() {
    let server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 10, 5).await);
    server.pause();
    let begun = Instant::now();
    let first = refusal(&index).await;
    assert!(matches!(fault(&first), RedisFault::Silent { .. }), "{first:?}");
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    for _ in 0..100 {
        refusal(&index).await;
    }
    assert!(begun.elapsed() < 3 * ONE_DEADLINE, "a hundred took {:?}", begun.elapsed());
    server.resume();
    answers(&index).await;
    assert!(!is_complete(&index).await, "what could not be told is owed");
    assert!(fill(&index, 10, 5).await);

    server.pause();
    assert!(index.find(&[]).await.is_err());
    server.resume();
    answers(&index).await;
    assert!(is_complete(&index).await, "nothing was to be told");
}

#[tokio::test]
async fn c08_a_closed_connection_is_made_again_unseen() {
    let server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 10, 5).await);
    for _ in 0..3 {
        assert_eq!(server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]), "1");
        assert!(is_complete(&index).await);
    }
}

#[tokio::test]
async fn c08_servers_that_do_not_serve_are_told_apart() {
    let primary = RedisServer::start(&[]);
    let replica = RedisServer::start(&[&format!("replicaof 127.0.0.1 {}", primary.port)]);
    let index_of_replica = index(&replica.url());
    let refused = refusal(&index_of_replica).await;
    assert!(matches!(fault(&refused), RedisFault::ReadOnly { .. }), "{refused:?}");

    let node = RedisServer::start(&["cluster-enabled yes"]);
    let refused = refusal(&index(&node.url())).await;
    assert!(matches!(fault(&refused), RedisFault::Cluster { .. }), "{refused:?}");

    for (reply, wanted) in
        [("-LOADING Redis is loading\r\n", "Loading"), ("-MOVED 1 b:1\r\n", "Cluster")]
    {
        let refused = refusal(&index(&always(reply))).await;
        assert!(format!("{:?}", fault(&refused)).starts_with(wanted), "{refused:?}");
    }

    let nobody = index(&format!("redis://127.0.0.1:{}", dcbuild_testkit::redis::free_port()));
    let refused = refusal(&nobody).await;
    assert!(matches!(fault(&refused), RedisFault::Connection { .. }), "{refused:?}");
    assert!(matches!(
        nobody.hold("a", "b", at(1), at(2)).await,
        Err(StoreError::Unavailable { .. })
    ));
}

/// The URL of a server that knows one answer; it lives as long as the test.
fn always(reply: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
                    if stream.write_all(reply.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("redis://127.0.0.1:{port}")
}

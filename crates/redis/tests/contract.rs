//! The index in a real Redis keeps the contract of every index, and agrees with the model whatever is done to the server.

mod common;

use common::{at, entry, fill, index, index_of, is_complete, key};
use dcbuild_redis::RedisConfig;
use dcbuild_store::KeyIndex as _;
use dcbuild_testkit::keys::{self, Agreement};
use dcbuild_testkit::redis::RedisServer;

#[tokio::test]
async fn it_keeps_the_contract() {
    let server = RedisServer::start(&[]);
    keys::keys(&index(&server.url())).await;
}

#[tokio::test]
async fn it_agrees_with_the_model_whatever_happens_to_the_server() {
    let server = RedisServer::start(&[]);
    let mut sum = Agreement::default();
    for seed in 0..25 {
        server.ask(&["FLUSHALL"]);
        let index = index(&server.url());
        let harm = |number: u64| {
            let name = format!(
                "dcbuild:k:{}/{}",
                ["a", "b"][usize::from(number.is_multiple_of(2))],
                number % 6
            );
            match number % 10 {
                0 => server.ask(&["FLUSHALL"]),
                1 => server.ask(&["DEL", "dcbuild:used"]),
                2 => server.ask(&["SET", "dcbuild:used", "garbage"]),
                3..=5 => server.ask(&["DEL", &name]),
                6 | 7 => server.ask(&["SET", &name, "garbage"]),
                8 => server.ask(&["PEXPIRE", &name, "1"]),
                _ => server.ask(&["SCRIPT", "FLUSH"]),
            };
        };
        let harm = Box::new(move |number| -> futures::future::BoxFuture<'_, ()> {
            harm(number);
            Box::pin(async {})
        });
        let said = keys::agrees(&index, seed, 200, harm).await;
        sum.complete += said.complete;
        sum.incomplete += said.incomplete;
        sum.harmed += said.harmed;
    }
    assert!(sum.harmed > 100 && sum.complete > 200 && sum.incomplete > 200, "{sum:?}");
}

#[tokio::test]
async fn prefixes_and_databases_are_apart() {
    let server = RedisServer::start(&[]);
    let url = server.url();
    let mut config = RedisConfig::from_url(&url).unwrap();
    let one = index_of(config.clone());
    config.prefix = "other:".into();
    let (other, second) = (index_of(config), index(&format!("{url}/1")));
    assert!(fill(&one, 10, 5).await);
    for index in [&other, &second] {
        let looked = index.find(&[key(1)]).await.unwrap();
        assert!(!looked.complete && looked.found == [vec![]], "{looked:?}");
        assert_eq!(index.last_used(&[key(1)]).await.unwrap(), [None]);
    }
    assert!(is_complete(&one).await);
}

#[tokio::test]
async fn many_keys_are_told_and_asked_in_pieces() {
    let server = RedisServer::start(&[]);
    let index = index(&server.url());
    assert!(fill(&index, 12_000, 10).await);
    let keys: Vec<_> = (0..12_100).map(key).collect();
    let looked = index.find(&keys).await.unwrap();
    assert!(looked.complete);
    assert_eq!(looked.found.iter().filter(|fields| fields.len() == 1).count(), 12_000);
    assert!(looked.found[12_000..].iter().all(Vec::is_empty));
    let (mut after, mut seen) = (None, 0);
    loop {
        let page = index.unused("step/local/0", after.as_ref(), 5_000).await.unwrap();
        seen += page.len();
        if page.len() < 5_000 {
            break;
        }
        after = page.last().cloned();
    }
    assert_eq!(seen, 10_000, "all have the same time");

    let calls = || {
        let all = server.ask(&["INFO", "commandstats"]);
        let line =
            all.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap();
        line.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let before = calls();
    index.find(&keys[..2_000]).await.unwrap();
    index.touch(&keys[..2_000], at(9)).await.unwrap();
    index.put(&(0..2_000).map(|number| entry(number, 1)).collect::<Vec<_>>()).await.unwrap();
    // The first `touch` is told that Redis does not know the script yet.
    assert_eq!(calls() - before, 4, "one round trip each");
}

//! The index in memory: the contract, the model, its bound.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_model::UnixTime;
use dcbuild_store::{EmbeddedIndex, IndexEntry, IndexKey, KeyIndex as _};
use dcbuild_testkit::keys::{self, Agreement};

const ROOMY: usize = 1 << 30;

fn entry(number: usize, value_bytes: usize) -> IndexEntry {
    let key = IndexKey(format!("step/local/{number:03}"));
    let value = vec![b'v'; value_bytes].into();
    IndexEntry { key, field: "attempt".into(), value, used: UnixTime { secs: 1, nanos: 0 } }
}

async fn filled(bytes_max: usize) -> EmbeddedIndex {
    let index = EmbeddedIndex::new(bytes_max);
    let time = UnixTime::default();
    let fill = index.begin_fill(time, time).await.unwrap().unwrap();
    assert!(index.end_fill(&fill).await.unwrap());
    index
}

#[tokio::test]
async fn it_keeps_the_contract() {
    keys::keys(&EmbeddedIndex::new(ROOMY)).await;
}

#[tokio::test]
async fn it_agrees_with_the_model_however_small_it_is() {
    let mut sum = Agreement::default();
    for seed in 0..300 {
        let bytes_max = [ROOMY, 12_000, 5_000][usize::try_from(seed % 3).unwrap()];
        let index = EmbeddedIndex::new(bytes_max);
        let said = keys::agrees(&index, seed, 200, Box::new(|_| Box::pin(async {}))).await;
        sum.complete += said.complete;
        sum.incomplete += said.incomplete;
    }
    assert!(sum.complete > 1_000 && sum.incomplete > 1_000, "{sum:?}");
}

#[tokio::test]
async fn values_go_before_names_and_those_not_asked_for_before_others() {
    let index = filled(100_000).await;
    for number in 0..100 {
        index.put(&[entry(number, 2_000)]).await.unwrap();
        index.find(&[entry(0, 0).key]).await.unwrap();
    }
    assert!(index.bytes() <= 100_000, "{}", index.bytes());
    let keys: Vec<IndexKey> = (0..100).map(|number| entry(number, 0).key).collect();
    let looked = index.find(&keys).await.unwrap();
    assert!(looked.complete, "no name went");
    let lengths: Vec<usize> = looked.found.iter().map(|fields| fields[0].1.len()).collect();
    assert_eq!([lengths[0], lengths[1], lengths[50], lengths[99]], [2_000, 0, 0, 2_000]);
}

#[tokio::test]
async fn when_names_go_completeness_goes() {
    let index = filled(10_000).await;
    let time = UnixTime::default();
    let fill = index.begin_fill(time, time).await.unwrap().unwrap();
    let mut put = 0;
    while index.find(&[]).await.unwrap().complete {
        index.put(&[entry(put, 10)]).await.unwrap();
        put += 1;
        assert!(put < 100, "{} bytes", index.bytes());
    }
    assert!(put > 10, "{put}");
    assert!(index.bytes() <= 10_000, "{}", index.bytes());
    assert!(!index.end_fill(&fill).await.unwrap(), "the fill lost something");
    assert_eq!(index.find(&[entry(0, 0).key]).await.unwrap().found, [vec![]], "the oldest went");
}

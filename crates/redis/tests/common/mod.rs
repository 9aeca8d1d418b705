//! What all tests against a real Redis need.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses a part of it")]

use dcbuild_model::UnixTime;
use dcbuild_redis::{RedisConfig, RedisIndex};
use dcbuild_store::{IndexEntry, IndexKey, KeyIndex as _};
use dcbuild_testkit::redis::wait_for;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An index, and what its connection lives by.
pub(crate) fn index_of(config: RedisConfig) -> RedisIndex {
    RedisIndex::start(config, &TaskTracker::new(), &CancellationToken::new())
}

pub(crate) fn index(url: &str) -> RedisIndex {
    index_of(RedisConfig::from_url(url).expect("a URL"))
}

pub(crate) fn at(secs: i64) -> UnixTime {
    UnixTime { secs, nanos: 0 }
}

pub(crate) fn key(number: usize) -> IndexKey {
    IndexKey(format!("step/local/{number:05}"))
}

pub(crate) fn entry(number: usize, bytes: usize) -> IndexEntry {
    let value = vec![b'v'; bytes].into();
    IndexEntry { key: key(number), field: "attempt".into(), value, used: at(5) }
}

/// Fills the index with that many keys, and says whether it is complete then.
pub(crate) async fn fill(index: &RedisIndex, keys: usize, bytes: usize) -> bool {
    let fill = index.begin_fill(at(1), at(2)).await.expect("asked").expect("nobody else fills");
    let entries: Vec<IndexEntry> = (0..keys).map(|number| entry(number, bytes)).collect();
    index.put(&entries).await.expect("put");
    index.end_fill(&fill).await.expect("ended")
}

pub(crate) async fn is_complete(index: &RedisIndex) -> bool {
    index.find(&[]).await.expect("looked up").complete
}

/// Waits until the index answers again.
pub(crate) async fn answers(index: &RedisIndex) {
    wait_for("the index answers", async || index.find(&[]).await.ok()).await;
}

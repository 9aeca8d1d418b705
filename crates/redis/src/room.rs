//! Room in a Redis that is full: the values of keys that were not used for longest go, as they do in an index in memory.
//! Their fields stay, and with them completeness; who asks for such a value reads it from the store.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::fault::RedisFault;
use crate::index::RedisIndex;

/// What is made at a time, so that the next ones who write find some.
const MADE_BYTES: u64 = 1 << 20;
/// How long nothing is looked for after all was looked at, and there was nothing: others may have filled that Redis.
const PAUSE: Duration = Duration::from_mins(1);

/// Makes room, one caller at a time.
#[derive(Debug, Default)]
pub(crate) struct Room(Mutex<Emptied>);

#[derive(Debug, Default)]
struct Emptied {
    /// Up to which rank, about: keys move on when they are used.
    rank: i64,
    /// When there was nothing left.
    all: Option<Instant>,
}

impl Room {
    /// Empties values until there is some room; false if there is nothing to empty.
    pub(crate) async fn make(&self, index: &RedisIndex) -> Result<bool, RedisFault> {
        let mut emptied = self.0.lock().await;
        if emptied.all.is_some_and(|since| since.elapsed() < PAUSE) {
            return Ok(false);
        }
        let (mut made, mut turns) = (0, 0);
        // The whole way round, if need be.
        while made < MADE_BYTES && turns < 2 {
            let (freed, next) = index.shed(emptied.rank, MADE_BYTES - made).await?;
            made += freed;
            turns += u32::from(next.is_none());
            emptied.rank = next.unwrap_or_default();
        }
        emptied.all = (made == 0).then(Instant::now);
        tracing::debug!(
            made,
            "the index is full: values that were not used for longest are left to the store"
        );
        Ok(made > 0)
    }
}

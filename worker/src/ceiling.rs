//! The ceiling of a cluster worker's data folder: what lies above it goes, the longest unused first, if no job needs it.
//!
//! A job needs what was used since it began. A snapshot goes only if it can be had again.

use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::{LayerId, UnixTime};
use dcbuild_snapshot::Removal;
use tokio::time::Instant;

use crate::error::{Failed, blocking};
use crate::room;
use crate::shared::Shared;

/// The least time between two looks; a look that takes long is followed by a longer pause.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Looking takes at most about this part of the time.
const PAUSE_FACTOR: u32 = 20;

/// Something that can go.
struct Kept {
    what: What,
    bytes: u64,
    last_used: UnixTime,
}

enum What {
    Snapshot(LayerId),
    /// A cache mount, by the name of its folder.
    Cache(String),
}

/// Holds the ceiling behind the back of all else: at the start, and when a job has ended.
pub(crate) fn watch(shared: &Arc<Shared>) {
    let Some(keep_bytes) = shared.config.keep_bytes else { return };
    let watched = shared.clone();
    shared.tasks.spawn(async move {
        loop {
            let began = Instant::now();
            if let Err(error) = hold(&watched, keep_bytes).await {
                tracing::warn!(%error, "the data folder was not pruned");
            }
            let pause = (began.elapsed() * PAUSE_FACTOR).max(PAUSE_MIN);
            tokio::select! {
                () = watched.ending.cancelled() => return,
                () = async {
                    tokio::time::sleep(pause).await;
                    watched.attempts.ended().await;
                } => {}
            }
        }
    });
}

async fn hold(shared: &Arc<Shared>, keep_bytes: u64) -> Result<(), Failed> {
    let listing = shared.clone();
    let all = blocking(move || list(&listing)).await?;
    let mut total: u64 = all.iter().map(|kept| kept.bytes).sum();
    let mut removed = 0;
    for kept in all {
        if total <= keep_bytes {
            break;
        }
        let bytes = kept.bytes;
        if bytes > 0 && can_go(shared, &kept).await && remove(shared, kept).await? {
            total -= bytes;
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(removed, bytes = total, "the data folder was over its ceiling");
    }
    if total > keep_bytes {
        tracing::debug!(bytes = total, "what is over the ceiling is needed, or is nowhere else");
    }
    Ok(())
}

/// All that can go, the longest unused first; blocks.
fn list(shared: &Shared) -> Result<Vec<Kept>, Failed> {
    let snapshots = shared.layers.snapshots.usage()?.into_iter().map(|usage| Kept {
        what: What::Snapshot(usage.layer),
        bytes: usage.bytes,
        last_used: usage.last_used,
    });
    let caches = shared.caches.list().map_err(|error| Failed::sandbox(&error))?;
    let caches = caches.into_iter().filter(|cache| !cache.in_use).map(|cache| Kept {
        what: What::Cache(cache.name),
        bytes: cache.bytes,
        last_used: cache.last_used,
    });
    let mut all: Vec<Kept> = snapshots.chain(caches).collect();
    all.sort_by_key(|kept| kept.last_used);
    Ok(all)
}

async fn can_go(shared: &Shared, kept: &Kept) -> bool {
    match &kept.what {
        What::Snapshot(layer) => {
            !shared.attempts.need(kept.last_used)
                && room::can_be_had_again(shared, *layer, kept.last_used).await
        }
        What::Cache(_) => true,
    }
}

async fn remove(shared: &Arc<Shared>, kept: Kept) -> Result<bool, Failed> {
    let shared = shared.clone();
    blocking(move || match kept.what {
        What::Snapshot(layer) => {
            // A job may have begun since, and have found it.
            let is_needed = |used| used != kept.last_used || shared.attempts.need(kept.last_used);
            let removal = shared.layers.snapshots.remove_unless(&layer, is_needed)?;
            Ok(removal == Removal::Removed)
        }
        What::Cache(name) => {
            let removed = shared.caches.remove(&name, kept.last_used);
            removed.map_err(|error| Failed::sandbox(&error))
        }
    })
    .await
}

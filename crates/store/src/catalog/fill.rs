//! Filling the index from the store's listing, behind the back of whoever met it incomplete.
//!
//! What the index does not know the last use of counts as used now, lest a sweeper take what was in use until an index was
//! flushed for long unused.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use dcbuild_model::UnixTime;

use super::{Catalog, Unseen};
use crate::{Fill, IndexEntry, IndexKey, ListedObject, StoreError};

/// How long one process may take before another may begin as well.
const FILL_SECONDS: i64 = 60;
/// How long an index that had no room for a fill is left as it is: each try lists some of the store.
const FULL_SECONDS: i64 = 60;
/// What is indexed: records, cache mounts, forms of layers and the blobs.
const PREFIXES: [&str; 4] = ["base/", "blob/", "layer/", "scope/"];

/// What a fill came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Filled {
    /// The index knows all now.
    Complete,
    /// It lost something meanwhile.
    Disturbed,
    /// Somebody else fills it just now.
    ByOthers,
}

impl Catalog {
    /// Fills the index unless somebody does so already; who asked does not wait.
    pub(super) fn fill_behind(&self) {
        if self.now().secs < self.inner.no_fill_until.load(Ordering::Relaxed) {
            return;
        }
        let catalog = self.clone();
        self.inner.parts.tasks.spawn(async move {
            if let Err(error) = catalog.fill().await {
                if matches!(error, StoreError::Full { .. }) {
                    let until = catalog.now().secs.saturating_add(FULL_SECONDS);
                    catalog.inner.no_fill_until.store(until, Ordering::Relaxed);
                }
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::debug!(%error, cause, "the index could not be filled");
            }
        });
    }

    /// Fills the index from the store's listing and says whether it is complete now.
    pub async fn fill(&self) -> Result<bool, StoreError> {
        Ok(self.try_fill().await? == Filled::Complete)
    }

    /// The same, where it is told what came in between.
    pub(super) async fn try_fill(&self) -> Result<Filled, StoreError> {
        let now = self.now();
        let until = UnixTime { secs: now.secs + FILL_SECONDS, ..now };
        let Some(fill) = self.index().begin_fill(now, until).await? else {
            return Ok(Filled::ByOthers);
        };
        for prefix in PREFIXES {
            self.fill_below(prefix, now).await?;
        }
        // Whatever was lost, uses may have been.
        self.new_epoch().await?;
        let complete = self.end(&fill).await?;
        Ok(if complete { Filled::Complete } else { Filled::Disturbed })
    }

    async fn end(&self, fill: &Fill) -> Result<bool, StoreError> {
        let complete = self.index().end_fill(fill).await?;
        tracing::debug!(complete, "the index was filled from the store");
        Ok(complete)
    }

    async fn fill_below(&self, prefix: &str, now: UnixTime) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.objects().list(prefix, after.as_ref()).await?;
            after = page.objects.last().map(|object| object.name.clone());
            self.note(&page.objects, now).await?;
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Notes names without values, unless the index has them with their last use.
    async fn note(&self, objects: &[ListedObject], now: UnixTime) -> Result<(), StoreError> {
        let seen = match self.inner.parts.unseen {
            Unseen::UsedWhenSeen => now,
            Unseen::UsedWhenWritten => UnixTime::default(),
        };
        let entries: Vec<IndexEntry> = objects.iter().filter_map(entry_of).collect();
        let keys: Vec<IndexKey> = entries.iter().map(|entry| entry.key.clone()).collect();
        let known = self.index().find(&keys).await?.found;
        let last = self.index().last_used(&keys).await?;
        let mut new = Vec::new();
        for ((entry, fields), last_used) in entries.into_iter().zip(known).zip(last) {
            let value = fields.into_iter().find(|(field, _)| *field == entry.field);
            let used = if last_used.is_none() { entry.used.max(seen) } else { entry.used };
            match value {
                // Uses can be lost alone: an index may evict what it keeps them in.
                Some((_, value)) if last_used.is_none() => {
                    new.push(IndexEntry { value, used, ..entry });
                }
                Some(_) => {}
                None => new.push(IndexEntry { used, ..entry }),
            }
        }
        self.index().put(&new).await
    }
}

/// The name of an object as a key and a field of the index.
fn entry_of(object: &ListedObject) -> Option<IndexEntry> {
    let name = object.name.as_str();
    if name.starts_with("blob/") {
        let key = IndexKey(name.to_owned());
        let value = Bytes::from(object.size.to_string());
        return Some(IndexEntry { key, field: String::new(), value, used: object.modified });
    }
    let (key, field) = name.rsplit_once('/')?;
    if name.starts_with("scope/") && !matches!(key.rsplit('/').nth(1), Some("step" | "cache")) {
        return None;
    }
    let (key, field) = (IndexKey(key.to_owned()), field.to_owned());
    Some(IndexEntry { key, field, value: Bytes::new(), used: object.modified })
}

//! Filling the index from the store's listing, behind the back of whoever met it incomplete.

use bytes::Bytes;
use dcbuild_model::UnixTime;

use super::Catalog;
use crate::{Fill, IndexEntry, IndexKey, ListedObject, StoreError};

/// How long one process may take before another may begin as well.
const FILL_SECONDS: i64 = 60;
/// What is indexed: records, cache mounts, forms of layers and the blobs.
const PREFIXES: [&str; 4] = ["base/", "blob/", "layer/", "scope/"];

impl Catalog {
    /// Fills the index unless somebody does so already; who asked does not wait.
    pub(super) fn fill_behind(&self) {
        let catalog = self.clone();
        self.inner.parts.tasks.spawn(async move {
            if let Err(error) = catalog.fill().await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::debug!(%error, cause, "the index could not be filled");
            }
        });
    }

    /// Fills the index from the store's listing and says whether it is complete now.
    pub async fn fill(&self) -> Result<bool, StoreError> {
        let now = self.now();
        let until = UnixTime { secs: now.secs + FILL_SECONDS, ..now };
        let Some(fill) = self.index().begin_fill(now, until).await? else { return Ok(false) };
        for prefix in PREFIXES {
            self.fill_below(prefix).await?;
        }
        // Whatever was lost, uses may have been.
        self.new_epoch().await?;
        self.end(&fill).await
    }

    async fn end(&self, fill: &Fill) -> Result<bool, StoreError> {
        let complete = self.index().end_fill(fill).await?;
        tracing::debug!(complete, "the index was filled from the store");
        Ok(complete)
    }

    async fn fill_below(&self, prefix: &str) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.objects().list(prefix, after.as_ref()).await?;
            after = page.objects.last().map(|object| object.name.clone());
            self.note(&page.objects).await?;
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Notes names without values, unless the index has them.
    async fn note(&self, objects: &[ListedObject]) -> Result<(), StoreError> {
        let entries: Vec<IndexEntry> = objects.iter().filter_map(entry_of).collect();
        let keys: Vec<IndexKey> = entries.iter().map(|entry| entry.key.clone()).collect();
        let known = self.index().find(&keys).await?.found;
        let has = |fields: &Vec<(String, Bytes)>, name: &str| {
            fields.iter().any(|(field, _)| field == name)
        };
        let new = entries.into_iter().zip(known).filter(|(entry, known)| !has(known, &entry.field));
        let new: Vec<IndexEntry> = new.map(|(entry, _)| entry).collect();
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

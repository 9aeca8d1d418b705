//! Marks of processes whose builds use the store: `use/ID`, and the epoch of the index that they tell their uses to.
//!
//! The index knows who used what, unless it has lost that: it is another epoch then. What processes of another epoch use
//! cannot be known, nor what processes with an index of their own do.

use std::collections::BTreeSet;

use bytes::Bytes;
use dcbuild_model::{NoteId, UnixTime};
use serde::{Deserialize, Serialize};

use super::{Catalog, DOCUMENT_BYTES_MAX, encode};
use crate::notes::note_id;
use crate::uses::{USE_LIFETIME, UseMark};
use crate::{IndexEntry, IndexKey, ObjectName, StoreError};

const PREFIX: &str = "use/";
const EPOCH: &str = "epoch";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    since: UnixTime,
    /// The epochs in which builds that go on have begun.
    epochs: BTreeSet<String>,
}

/// What the marks of all processes come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Marks {
    /// When the oldest use began that still lasts.
    pub(super) oldest: Option<UnixTime>,
    /// Whether there are uses of which this index does not know.
    pub(super) unknown: bool,
}

/// The mark of one process.
pub struct CatalogMark {
    catalog: Catalog,
    id: NoteId,
}

impl Catalog {
    /// A mark for a process; `salt` tells it from others.
    pub fn mark(&self, salt: &[u8]) -> CatalogMark {
        CatalogMark { catalog: self.clone(), id: note_id(self.now(), salt) }
    }

    /// The epoch of the index; a new one, if it has none.
    pub(super) async fn epoch(&self) -> Result<String, StoreError> {
        let key = IndexKey(EPOCH.into());
        let looked = self.index().find(std::slice::from_ref(&key)).await?;
        let known: BTreeSet<String> =
            looked.found.into_iter().flatten().map(|(field, _)| field).collect();
        match known.into_iter().next_back() {
            Some(epoch) => Ok(epoch),
            None => self.new_epoch().await,
        }
    }

    /// Begins a new epoch: uses that were told before may be lost.
    pub(super) async fn new_epoch(&self) -> Result<String, StoreError> {
        let now = self.now();
        let salt = format!("{:p} {} {}", self.inner, std::process::id(), now.nanos);
        let epoch = note_id(now, salt.as_bytes()).to_string();
        let key = IndexKey(EPOCH.into());
        let entry =
            IndexEntry { key, field: epoch.clone(), value: Bytes::from_static(b"-"), used: now };
        self.index().put(&[entry]).await?;
        Ok(epoch)
    }

    /// Reads the marks of all processes; those that were not renewed are no marks, and go.
    pub(super) async fn marks(&self) -> Result<Marks, StoreError> {
        let epoch = self.epoch().await?;
        let page = self.objects().list(PREFIX, None).await?;
        let lifetime = i64::try_from(USE_LIFETIME.as_secs()).unwrap_or(i64::MAX);
        let (mut marks, mut dead) = (Marks::default(), Vec::new());
        for object in page.objects {
            if self.now().secs.saturating_sub(object.modified.secs) > lifetime {
                dead.push(object.name);
                continue;
            }
            match self.read_mark(&object.name).await? {
                Some(mark) => {
                    let oldest = marks.oldest.map_or(mark.since, |it| it.min(mark.since));
                    marks.oldest = Some(oldest);
                    marks.unknown |= mark.epochs.iter().any(|it| *it != epoch);
                }
                None => marks.unknown = true,
            }
        }
        marks.unknown |= page.more;
        if !dead.is_empty() {
            self.objects().delete(&dead).await?;
        }
        Ok(marks)
    }

    async fn read_mark(&self, name: &ObjectName) -> Result<Option<Mark>, StoreError> {
        let Some(sealed) = self.objects().get(name, DOCUMENT_BYTES_MAX).await? else {
            return Ok(None);
        };
        let opened = self.open(name, &sealed);
        Ok(opened.and_then(|document| serde_json::from_slice(&document).ok()))
    }
}

impl CatalogMark {
    fn name(&self) -> Result<ObjectName, StoreError> {
        let name = format!("{PREFIX}{}", self.id).parse();
        name.map_err(|source| StoreError::Name { source })
    }
}

#[async_trait::async_trait]
impl UseMark for CatalogMark {
    async fn epoch(&self) -> String {
        // Without an index nobody knows what is used, and no epoch says so.
        self.catalog.epoch().await.unwrap_or_default()
    }

    async fn set(&self, since: UnixTime, epochs: BTreeSet<String>) -> Result<(), StoreError> {
        let name = self.name()?;
        let document = encode("a mark of use", &Mark { since, epochs })?;
        let sealed = self.catalog.inner.parts.seal.close(&name, &document);
        self.catalog.objects().put(&name, sealed).await
    }

    async fn clear(&self) -> Result<(), StoreError> {
        self.catalog.objects().delete(&[self.name()?]).await
    }
}

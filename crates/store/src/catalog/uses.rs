//! Marks of processes whose builds use the store: `use/ID`, and the epoch of the index that they tell their uses to.
//!
//! The index knows who used what, unless it has lost that: it is another epoch then. What processes of another epoch use
//! cannot be known, nor what processes with an index of their own do.
//!
//! An import leaves word in `news/brought`, which processes with an index of their own read as a build begins: one object,
//! and only when it has changed are keys looked up in the store that the index does not know.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use bytes::Bytes;
use dcbuild_model::{NoteId, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Catalog, DOCUMENT_BYTES_MAX, encode};
use crate::notes::note_id;
use crate::sweep::PutOff;
use crate::uses::{USE_LIFETIME, UseMark};
use crate::{IndexEntry, IndexKey, ObjectName, StoreError};

const PREFIX: &str = "use/";
/// Says that a process whose index is its own has brought records into the store.
const BROUGHT: &str = "news/brought";
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
    /// Whose uses this index does not know, if there are any.
    pub(super) unknown: Option<PutOff>,
}

impl Marks {
    /// A process's own builds are named first: it knows when they end.
    fn note_unknown(&mut self, whose: PutOff) {
        if self.unknown != Some(PutOff::BegunBefore) {
            self.unknown = Some(whose);
        }
    }
}

/// The mark of one process.
pub struct CatalogMark {
    catalog: Catalog,
    id: NoteId,
    /// What was said last of records that were brought, where nobody tells the index of them.
    heard: Option<Mutex<Option<Bytes>>>,
}

impl Catalog {
    /// A mark for a process; `salt` tells it from others.
    pub fn mark(&self, salt: &[u8]) -> CatalogMark {
        self.mark_of(note_id(self.now(), salt))
    }

    /// The mark of a process that goes by this id, which no other may have: of one that was killed it is this one's to take
    /// away.
    pub fn mark_of(&self, id: NoteId) -> CatalogMark {
        self.inner.own_marks.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        CatalogMark { catalog: self.clone(), id, heard: None }
    }

    fn is_own_mark(&self, name: &ObjectName) -> bool {
        let id = name.as_str().strip_prefix(PREFIX).and_then(|id| id.parse().ok());
        let own = self.inner.own_marks.lock().unwrap_or_else(PoisonError::into_inner);
        id.is_some_and(|id| own.contains(&id))
    }

    /// Says that this process has brought records into the store, to processes whose indexes are their own.
    pub async fn tell_brought(&self, salt: &[u8]) -> Result<(), StoreError> {
        let name = brought()?;
        let news = note_id(self.now(), salt).to_string();
        let sealed = self.inner.parts.seal.close(&name, news.as_bytes());
        self.objects().put(&name, sealed).await
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
                    if mark.epochs.iter().any(|it| *it != epoch) {
                        let own = self.is_own_mark(&object.name);
                        marks.note_unknown(if own {
                            PutOff::BegunBefore
                        } else {
                            PutOff::Elsewhere
                        });
                    }
                }
                None => marks.note_unknown(PutOff::Elsewhere),
            }
        }
        if page.more {
            marks.note_unknown(PutOff::Elsewhere);
        }
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

fn brought() -> Result<ObjectName, StoreError> {
    BROUGHT.parse().map_err(|source| StoreError::Name { source })
}

impl CatalogMark {
    /// Has each build first look whether others have brought records that the index of this process was not told of.
    #[must_use]
    pub fn hearing(self) -> CatalogMark {
        CatalogMark { heard: Some(Mutex::default()), ..self }
    }

    /// Has the index ask the store for what it does not know, once there are news.
    async fn hear(&self) -> Result<(), StoreError> {
        let Some(heard) = &self.heard else { return Ok(()) };
        let name = brought()?;
        let sealed = self.catalog.objects().get(&name, DOCUMENT_BYTES_MAX).await?;
        // A seal that is not ours may be of somebody with whom this store is shared; news are news.
        let mut heard = heard.lock().await;
        if *heard != sealed {
            self.catalog.index().mark_incomplete().await?;
            *heard = sealed;
        }
        Ok(())
    }

    fn name(&self) -> Result<ObjectName, StoreError> {
        let name = format!("{PREFIX}{}", self.id).parse();
        name.map_err(|source| StoreError::Name { source })
    }
}

#[async_trait::async_trait]
impl UseMark for CatalogMark {
    async fn epoch(&self) -> String {
        if let Err(error) = self.hear().await {
            // What was brought is found by a later build.
            self.catalog.store_failed(&error);
        }
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

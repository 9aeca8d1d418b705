//! Records, layer forms, image names and cache mounts as sealed documents in a store of objects, with an index over them.
//!
//! The store is the truth, and each document in it an object of its own: two writers never overwrite each other's, and
//! nothing lists a build. The index answers in one round trip; what it does not know it only denies while it is complete,
//! else the store is asked, and the index filled behind the back of whoever asked. A document that does not carry our seal
//! for its very name is counted and passed over, whoever gave it.

mod caches;
mod fill;
mod images;
mod latest;
mod layers;
mod needs;
mod notes;
mod replaced;
mod seal;
mod steps;
mod sweep;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dcbuild_model::{NoteId, UnixTime};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio_util::task::TaskTracker;

pub use seal::{InvalidSealKey, Seal};
pub use uses::CatalogMark;

use crate::{IndexEntry, IndexKey, KeyIndex, ObjectName, Objects, StoreError};

/// Objects read or listed at a time for one question.
const AT_ONCE: usize = 32;
/// How often it is said that the store fails.
const SAID_EVERY_SECS: i64 = 60;
/// How often it is said that documents do not carry our seal.
const UNSEALED_SAID_EVERY_SECS: i64 = 3_600;
/// A larger document is none of ours.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// What tells the time.
pub type Now = Arc<dyn Fn() -> UnixTime + Send + Sync>;

/// What a catalog leans on.
#[derive(Clone)]
pub struct CatalogParts {
    /// Where the documents are.
    pub objects: Arc<dyn Objects>,
    /// The index over them.
    pub index: Arc<dyn KeyIndex>,
    /// What documents are sealed with.
    pub seal: Seal,
    /// The time.
    pub now: Now,
    /// Where the filling of the index runs; closed before the process ends.
    pub tasks: TaskTracker,
    /// What is held of things whose last use the index has lost.
    pub unseen: Unseen,
}

/// When a thing counts as used last that the index does not know: it was flushed, evicted it, or was never told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unseen {
    /// When it was first seen again, unless it was written later: it may have been in use until just then.
    #[default]
    UsedWhenSeen,
    /// When it was written: for a process that begins with an index of its own, and so never saw a use.
    UsedWhenWritten,
}

/// What a catalog has met so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CatalogCounts {
    /// Documents that were asked of the store because the index did not have them.
    pub store_reads: u64,
    /// Questions that the store failed.
    pub store_faults: u64,
    /// Listings of the store for keys that the index did not know while it was incomplete.
    pub store_lists: u64,
    /// Documents, of the store or of the index, whose seal was wrong, or that could not be understood.
    pub refused: u64,
    /// Questions and notes that the index failed.
    pub index_faults: u64,
}

#[derive(Default)]
struct Tallies {
    store_reads: AtomicU64,
    store_lists: AtomicU64,
    store_faults: AtomicU64,
    refused: AtomicU64,
    index_faults: AtomicU64,
}

struct Inner {
    parts: CatalogParts,
    tallies: Tallies,
    /// The index was not told of something, and could not be told that either.
    owed: AtomicBool,
    /// Until when the index is not filled behind anybody's back: there was no room in it.
    no_fill_until: AtomicI64,
    /// When it was last said that the store fails.
    said: AtomicI64,
    /// When it was last said that documents do not carry our seal.
    unsealed_said: AtomicI64,
    /// The marks of use that are this process's.
    own_marks: Mutex<BTreeSet<NoteId>>,
}

/// Knows what a store of objects has of records, layer forms, image names and cache mounts; clones share it.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

/// A document as it was found: its field, and its bytes under the seal.
type Found = (String, Bytes);

impl Catalog {
    /// A catalog of these documents.
    pub fn new(parts: CatalogParts) -> Catalog {
        let (owed, said) = (AtomicBool::new(false), AtomicI64::new(i64::MIN));
        let inner = Inner {
            parts,
            tallies: Tallies::default(),
            owed,
            no_fill_until: AtomicI64::new(i64::MIN),
            said,
            unsealed_said: AtomicI64::new(i64::MIN),
            own_marks: Mutex::default(),
        };
        Catalog { inner: Arc::new(inner) }
    }

    /// What was met so far.
    pub fn counts(&self) -> CatalogCounts {
        let of = |tally: &AtomicU64| tally.load(Ordering::Relaxed);
        let tallies = &self.inner.tallies;
        CatalogCounts {
            store_reads: of(&tallies.store_reads),
            store_lists: of(&tallies.store_lists),
            store_faults: of(&tallies.store_faults),
            refused: of(&tallies.refused),
            index_faults: of(&tallies.index_faults),
        }
    }

    fn objects(&self) -> &dyn Objects {
        self.inner.parts.objects.as_ref()
    }

    fn index(&self) -> &dyn KeyIndex {
        self.inner.parts.index.as_ref()
    }

    fn now(&self) -> UnixTime {
        (self.inner.parts.now)()
    }

    fn count(&self, tally: impl Fn(&Tallies) -> &AtomicU64) {
        tally(&self.inner.tallies).fetch_add(1, Ordering::Relaxed);
    }

    /// All documents under each key, in the order asked; they count as used. One that the store does not give is not found,
    /// which costs time.
    async fn find(&self, keys: &[IndexKey]) -> Result<Vec<Vec<Found>>, StoreError> {
        let found = self.look(keys).await?;
        let there = keys.iter().zip(&found).filter(|(_, documents)| !documents.is_empty());
        self.touch(there.map(|(key, _)| key.clone()).collect());
        Ok(found)
    }

    /// The same, which is no use of them.
    async fn look(&self, keys: &[IndexKey]) -> Result<Vec<Vec<Found>>, StoreError> {
        let (complete, known) = self.ask_index(keys).await;
        let mut found: Vec<Vec<Found>> = Vec::with_capacity(keys.len());
        let mut missing: Vec<(usize, ObjectName, String)> = Vec::new();
        let mut absent: Vec<usize> = Vec::new();
        for (at, (key, fields)) in keys.iter().zip(known).enumerate() {
            // What another key sealed is nothing to us, and no word on what else there is.
            let seal = &self.inner.parts.seal;
            let fields: Vec<Found> =
                fields.into_iter().filter(|(field, _)| !seal.is_foreign(field)).collect();
            // Of a step it may know an older record and lack the one that a later build made anew.
            if !complete && (fields.is_empty() || steps::is_key(key)) {
                absent.push(at);
            }
            let mut documents = Vec::new();
            for (field, value) in fields {
                // A field that nothing can be called is nonsense of the index.
                let Ok(name) = name_of(key, &field) else {
                    self.count(|tallies| &tallies.refused);
                    if absent.last() != Some(&at) {
                        absent.push(at);
                    }
                    continue;
                };
                if let Some(document) = self.open(&name, &value) {
                    documents.push((field, document));
                    continue;
                }
                if !value.is_empty() {
                    self.count(|tallies| &tallies.refused);
                }
                // Dropped by the index, or nonsense: the store has the last word.
                missing.push((at, name, field));
            }
            found.push(documents);
        }
        let listed = self.list_absent((keys, &found), &absent, &mut missing).await;
        let read = self.read_missing(keys, missing, &mut found).await;
        for error in [&listed, &read].into_iter().filter_map(|done| done.as_ref().err()) {
            self.store_failed(error);
        }
        if listed.is_err() || read.is_err() {
            self.take_waiting(keys, &mut found);
        }
        if !complete {
            self.fill_behind();
        }
        Ok(found)
    }

    /// What the index knows; one that fails knows nothing.
    async fn ask_index(&self, keys: &[IndexKey]) -> (bool, Vec<Vec<Found>>) {
        self.pay().await;
        match self.index().find(keys).await {
            Ok(looked) if looked.found.len() == keys.len() => {
                let complete = looked.complete && !self.inner.owed.load(Ordering::Relaxed);
                (complete, looked.found)
            }
            Ok(_) => (false, vec![Vec::new(); keys.len()]),
            Err(error) => {
                self.index_failed(&error);
                (false, vec![Vec::new(); keys.len()])
            }
        }
    }

    /// Asks the store for the names under keys that the index does not know.
    async fn list_absent(
        &self,
        (keys, found): (&[IndexKey], &[Vec<Found>]),
        absent: &[usize],
        missing: &mut Vec<(usize, ObjectName, String)>,
    ) -> Result<(), StoreError> {
        let lists = absent.iter().filter_map(|at| keys.get(*at).map(|key| (*at, key))).map(
            |(at, key)| async move {
                self.count(|tallies| &tallies.store_lists);
                let page = self.objects().list(&format!("{}/", key.0), None).await?;
                Ok::<_, StoreError>((at, page.objects))
            },
        );
        let lists: Vec<_> = lists.collect();
        let mut lists = futures::stream::iter(lists).buffer_unordered(AT_ONCE);
        let mut listed = Vec::new();
        while let Some((at, objects)) = lists.try_next().await? {
            for object in objects {
                let field = field_of(&object.name).to_owned();
                let is_read = found[at].iter().any(|(known, _)| *known == field);
                let is_asked =
                    missing.iter().any(|(of, name, _)| (*of, name) == (at, &object.name));
                if !is_read && !is_asked && !self.inner.parts.seal.is_foreign(&field) {
                    listed.push((at, object.name, field));
                }
            }
        }
        missing.extend(listed);
        Ok(())
    }

    /// Reads documents from the store, and tells the index of them.
    async fn read_missing(
        &self,
        keys: &[IndexKey],
        missing: Vec<(usize, ObjectName, String)>,
        found: &mut [Vec<Found>],
    ) -> Result<(), StoreError> {
        if missing.is_empty() {
            return Ok(());
        }
        let reads = missing.into_iter().map(|(at, name, field)| async move {
            self.count(|tallies| &tallies.store_reads);
            let value = self.objects().get(&name, DOCUMENT_BYTES_MAX).await?;
            Ok::<_, StoreError>((at, name, field, value))
        });
        let mut reads = futures::stream::iter(reads.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        let mut entries = Vec::new();
        while let Some((at, name, field, value)) = reads.try_next().await? {
            let (Some(value), Some(key), Some(documents)) =
                (value, keys.get(at), found.get_mut(at))
            else {
                continue;
            };
            let Some(document) = self.open(&name, &value) else {
                self.unsealed(&name);
                continue;
            };
            documents.push((field.clone(), document));
            documents.sort_by(|(one, _), (other, _)| one.cmp(other));
            // To look is no use; whoever uses what was found says so.
            let used = UnixTime::default();
            entries.push(IndexEntry { key: key.clone(), field, value, used });
        }
        if let Err(error) = self.index().put(&entries).await {
            // Nothing is owed: the index knew less before, and did not claim otherwise.
            self.index_failed(&error);
        }
        Ok(())
    }

    /// Adds what was not sent yet to a store that fails: a build that goes on without it finds what it made itself.
    fn take_waiting(&self, keys: &[IndexKey], found: &mut [Vec<Found>]) {
        for (key, documents) in keys.iter().zip(found) {
            for (name, value) in self.objects().on_their_way(&format!("{}/", key.0)) {
                let field = name.as_str().rsplit('/').next().unwrap_or_default();
                let is_new = documents.iter().all(|(known, _)| known != field);
                if let (true, Some(document)) = (is_new, self.open(&name, &value)) {
                    documents.push((field.to_owned(), document));
                }
            }
            documents.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
    }

    /// Writes a document to the store, then tells the index.
    async fn put(&self, key: &IndexKey, field: &str, document: &[u8]) -> Result<(), StoreError> {
        let name = name_of(key, field)?;
        let value = self.inner.parts.seal.close(&name, document);
        self.objects().put(&name, value.clone()).await?;
        let entry = IndexEntry { key: key.clone(), field: field.into(), value, used: self.now() };
        if let Err(error) = self.index().put(&[entry]).await {
            self.index_failed(&error);
            self.inner.owed.store(true, Ordering::Relaxed);
            self.pay().await;
        }
        Ok(())
    }

    /// The document under a seal; none if the seal is not ours or the name another's.
    fn open(&self, name: &ObjectName, value: &Bytes) -> Option<Bytes> {
        self.inner.parts.seal.open(name, value)
    }

    /// Counts a document of the store that does not carry our seal. Under a wrong key there are as many as documents, so it is
    /// said once, and each is named to whoever looks closer.
    fn unsealed(&self, name: &ObjectName) {
        self.count(|tallies| &tallies.refused);
        tracing::debug!(%name, "a document of the store does not carry our seal");
        let (now, said) = (self.now().secs, self.inner.unsealed_said.load(Ordering::Relaxed));
        if (said..said.saturating_add(UNSEALED_SAID_EVERY_SECS)).contains(&now) {
            return;
        }
        self.inner.unsealed_said.store(now, Ordering::Relaxed);
        if self.inner.parts.seal.is_keyed() {
            tracing::warn!(
                "documents of the store do not carry our seal, or are damaged, and count as absent: is DCBUILD_SIGNING_KEY, or \
                 the key in signing_key_files, the one of this store?"
            );
        } else {
            tracing::warn!(
                "documents of the store are damaged, or sealed with a key, and count as absent: no key is given here; is \
                 DCBUILD_SIGNING_KEY to be set?"
            );
        }
    }

    fn refuse(&self, what: &str, error: &serde_json::Error) {
        self.count(|tallies| &tallies.refused);
        tracing::warn!(what, %error, "a sealed document could not be understood");
    }

    /// Tells an index that was not told of something that it does not know all; until that comes through, it is not
    /// believed here.
    async fn pay(&self) {
        if self.inner.owed.load(Ordering::Relaxed) && self.index().mark_incomplete().await.is_ok() {
            self.inner.owed.store(false, Ordering::Relaxed);
        }
    }

    fn touch(&self, keys: Vec<IndexKey>) {
        if keys.is_empty() {
            return;
        }
        let catalog = self.clone();
        self.inner.parts.tasks.spawn(async move {
            if let Err(error) = catalog.index().touch(&keys, catalog.now()).await {
                catalog.index_failed(&error);
            }
        });
    }

    fn store_failed(&self, error: &StoreError) {
        self.count(|tallies| &tallies.store_faults);
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let (now, said) = (self.now().secs, self.inner.said.load(Ordering::Relaxed));
        // All that is asked of a store that fails meets the same.
        if (said..said.saturating_add(SAID_EVERY_SECS)).contains(&now) {
            tracing::debug!(%error, cause, "the store was not asked to the end");
            return;
        }
        self.inner.said.store(now, Ordering::Relaxed);
        tracing::warn!(%error, cause, "the store was not asked to the end; what it has may be made again");
    }

    fn index_failed(&self, error: &StoreError) {
        self.count(|tallies| &tallies.index_faults);
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::debug!(%error, cause, "the index failed; the store is asked instead");
    }
}

/// The object of a document.
fn name_of(key: &IndexKey, field: &str) -> Result<ObjectName, StoreError> {
    let name = format!("{}/{field}", key.0).parse::<ObjectName>();
    name.map_err(|error| StoreError::Name { source: error })
}

/// The last part of an object's name.
fn field_of(name: &ObjectName) -> &str {
    name.as_str().rsplit('/').next().unwrap_or_default()
}

/// One document of each kind, newest last, from documents that were found.
fn decode<T: serde::de::DeserializeOwned>(
    catalog: &Catalog,
    what: &str,
    documents: Vec<Found>,
) -> BTreeMap<String, T> {
    let mut decoded = BTreeMap::new();
    for (field, bytes) in documents {
        match serde_json::from_slice(&bytes) {
            Ok(value) => drop(decoded.insert(field, value)),
            Err(error) => catalog.refuse(what, &error),
        }
    }
    decoded
}

fn encode<T: serde::Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|source| StoreError::Encode { what, source })
}

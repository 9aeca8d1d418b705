//! The notes of a folder store: `account/SCOPE/ID.json`, `eviction/SCOPE/ID.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use dcbuild_model::{Digest, Eviction, EvictionRule, LayerId, NoteId, Scope, StepKey, UnixTime};

use super::prune::{EntryKind, PruneRequest, StoreEntry};
use super::{FolderStore, children, scope_name};
use crate::notes::{NOTE_BYTES_MAX, NOTES_MAX, note_id};
use crate::{NoteKind, Notes, StoreError};

impl FolderStore {
    fn note_folder(&self, scope: &Scope, kind: NoteKind) -> PathBuf {
        self.inner.dir.join(kind.word()).join(scope_name(scope))
    }

    fn note_path(&self, scope: &Scope, kind: NoteKind, id: NoteId) -> PathBuf {
        self.note_folder(scope, kind).join(format!("{id}.json"))
    }

    /// All ids of a kind, the oldest first.
    fn note_ids(&self, scope: &Scope, kind: NoteKind) -> Result<Vec<NoteId>, StoreError> {
        let paths = children(&self.note_folder(scope, kind))?;
        let id = |path: &PathBuf| path.file_stem()?.to_str()?.parse().ok();
        let mut ids: Vec<NoteId> = paths.iter().filter_map(id).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    fn trim_notes(&self, scope: &Scope, kind: NoteKind, keep: usize) -> Result<u64, StoreError> {
        let ids = self.note_ids(scope, kind)?;
        let mut gone = 0;
        for id in ids.iter().take(ids.len().saturating_sub(keep)) {
            let path = self.note_path(scope, kind, *id);
            match std::fs::remove_file(&path) {
                Ok(()) => gone += 1,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io(path)(error)),
            }
        }
        Ok(gone)
    }
}

/// The key of a record's entry, with its scope.
pub(super) fn record_of(id: &str) -> Option<(Scope, StepKey)> {
    let mut words = id.split('/');
    let scope = words.next()?.replace('+', "/").parse().ok()?;
    Some((scope, StepKey(Digest::from_hex(words.next()?).ok()?)))
}

/// The layer that an entry is of, or may be of: a table of contents is a blob of the layer's name.
fn layer_of(entry: &StoreEntry) -> Option<LayerId> {
    let hex = match entry.kind {
        EntryKind::Blob | EntryKind::Snapshot => entry.id.as_str(),
        EntryKind::Layer => entry.id.strip_prefix("layer/")?.split('.').next()?,
        EntryKind::Record
        | EntryKind::MountVersion
        | EntryKind::Quarantined
        | EntryKind::CacheMount => return None,
    };
    Digest::from_hex(hex).ok().map(LayerId)
}

impl FolderStore {
    /// Notes down what is about to be pruned, for whoever will ask why it is not there.
    pub fn note_victims(
        &self,
        victims: &[StoreEntry],
        request: &PruneRequest,
    ) -> Result<(), StoreError> {
        let at = self.now();
        let mut notes: BTreeMap<(Scope, EvictionRule), Eviction> = BTreeMap::new();
        let emptied = self.emptied(victims)?;
        for entry in victims {
            let rule = rule_of(entry, request, at);
            let key = entry.id.rsplit_once('/').map_or("", |(key, _)| key);
            let is_gone = entry.kind == EntryKind::Record && emptied.contains(key);
            let record = if is_gone { record_of(&entry.id) } else { None };
            let scope = record.as_ref().map_or_else(Scope::local, |(scope, _)| scope.clone());
            let new = || Eviction { at, rule, records: Vec::new(), layers: Vec::new() };
            let note = notes.entry((scope, rule)).or_insert_with(new);
            note.records.extend(record.map(|(_, key)| key));
            note.layers.extend(layer_of(entry));
        }
        for ((scope, _), note) in notes {
            let encoded = serde_json::to_vec(&note);
            let text = encoded
                .map_err(|source| StoreError::Encode { what: "a note of an eviction", source })?;
            let path = self.note_path(&scope, NoteKind::Eviction, note_id(at, &text));
            self.write_whole(&path, &text)?;
            self.trim_notes(&scope, NoteKind::Eviction, NOTES_MAX)?;
        }
        Ok(())
    }
}

impl FolderStore {
    /// The keys, each with its scope, that have no record any more without these entries.
    fn emptied<'a>(&self, victims: &'a [StoreEntry]) -> Result<BTreeSet<&'a str>, StoreError> {
        let records = victims.iter().filter(|entry| entry.kind == EntryKind::Record);
        let mut going: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, _) in records.filter_map(|entry| entry.id.rsplit_once('/')) {
            *going.entry(key).or_default() += 1;
        }
        let mut emptied = BTreeSet::new();
        for (key, going) in going {
            if children(&self.inner.dir.join("step").join(key))?.len() <= going {
                emptied.insert(key);
            }
        }
        Ok(emptied)
    }
}

/// The rule by which an entry goes.
fn rule_of(entry: &StoreEntry, request: &PruneRequest, now: UnixTime) -> EvictionRule {
    let age = now.secs.saturating_sub(entry.last_used.secs).max(0).unsigned_abs();
    match (request.max_age, request.keep_bytes) {
        (Some(max), _) if age > max.as_secs() => EvictionRule::Age { max_secs: max.as_secs() },
        (_, Some(keep)) => EvictionRule::Bytes { keep },
        (_, None) => EvictionRule::All {},
    }
}

#[async_trait::async_trait]
impl Notes for FolderStore {
    async fn put(
        &self,
        scope: &Scope,
        kind: NoteKind,
        id: NoteId,
        text: Bytes,
    ) -> Result<(), StoreError> {
        let scope = scope.clone();
        self.blocking(move |store| {
            let path = store.note_path(&scope, kind, id);
            store.write_whole(&path, &text)?;
            store.trim_notes(&scope, kind, NOTES_MAX).map(drop)
        })
        .await
    }

    async fn list(
        &self,
        scope: &Scope,
        kind: NoteKind,
        before: Option<NoteId>,
        limit: usize,
    ) -> Result<Vec<NoteId>, StoreError> {
        let scope = scope.clone();
        self.blocking(move |store| {
            let ids = store.note_ids(&scope, kind)?.into_iter().rev();
            let older = ids.filter(|id| before.is_none_or(|before| *id < before));
            Ok(older.take(limit).collect())
        })
        .await
    }

    async fn get(
        &self,
        scope: &Scope,
        kind: NoteKind,
        id: NoteId,
    ) -> Result<Option<Bytes>, StoreError> {
        let path = self.note_path(scope, kind, id);
        self.blocking(move |_| match std::fs::read(&path) {
            Ok(text) if u64::try_from(text.len()).is_ok_and(|size| size <= NOTE_BYTES_MAX) => {
                Ok(Some(text.into()))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io(path)(error)),
        })
        .await
    }

    async fn trim(&self, scope: &Scope, kind: NoteKind, keep: usize) -> Result<u64, StoreError> {
        let scope = scope.clone();
        self.blocking(move |store| store.trim_notes(&scope, kind, keep)).await
    }
}

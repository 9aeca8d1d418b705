//! The step records of a folder store: `step/SCOPE/KEY/ATTEMPT.json`.
//!
//! A record that was written before its blobs and snapshots were synced carries the boot that it was written in and
//! counts in that boot only. `unsynced/BOOT/` lists such records, so that any process can confirm them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use dcbuild_model::{LayerId, Record, Scope, StepKey, UnixTime};
use serde::{Deserialize, Serialize};

use super::{FolderStore, children, scope_name};
use crate::attempts::retain_takeable;
use crate::{StepIndex, StoreError};

/// The only form of a stored record that is understood; any other is a miss.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredRecord {
    version: u32,
    /// The boot that it counts in; all, if none.
    boot: Option<String>,
    pub(super) decided: UnixTime,
    pub(super) record: Record,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unsynced {
    /// Below the store's folder.
    paths: Vec<PathBuf>,
}

/// What a sync has made last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Confirmed {
    /// How many files of records.
    pub files: u64,
    /// The layers that they speak of: each that lay on this file system before is on its disk now.
    pub layers: BTreeSet<LayerId>,
}

/// A record and the file that it was read from.
struct FoundRecord {
    path: PathBuf,
    used: UnixTime,
    stored: StoredRecord,
}

impl FolderStore {
    /// Stores a record that counts in this boot of the machine; [`FolderStore::confirm_synced`] makes it last.
    pub fn put_record(&self, scope: &Scope, record: &Record) -> Result<(), StoreError> {
        let stored = StoredRecord {
            version: VERSION,
            boot: Some(self.inner.boot.clone()),
            decided: self.now(),
            record: record.clone(),
        };
        let paths: Vec<PathBuf> = std::iter::once(record.recipe)
            .chain(record.outcome)
            .map(|key| relative(scope, &key).join(format!("{}.json", record.attempt)))
            .collect();
        // The list is written first: a record that is on no list could never be confirmed.
        self.list_unsynced(&paths)?;
        for path in &paths {
            self.put_stored(path, &stored)?;
        }
        Ok(())
    }

    fn put_stored(&self, relative: &PathBuf, stored: &StoredRecord) -> Result<(), StoreError> {
        let path = self.inner.dir.join(relative);
        let gate = self.gate()?;
        if let Some((old, used)) = self.read_document::<StoredRecord>(&path)?
            && self.counts_now(&old)
        {
            self.touch(&path, used);
            return Ok(());
        }
        drop(gate);
        self.write_whole(&path, &encode(stored)?)
    }

    fn list_unsynced(&self, paths: &[PathBuf]) -> Result<(), StoreError> {
        let number = self.inner.names.fetch_add(1, Ordering::Relaxed);
        // The temporary folder's name is this handle's alone.
        let handle = self.inner.tmp.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let path = self.unsynced_folder().join(format!("{handle}-{number}.json"));
        let list = Unsynced { paths: paths.to_vec() };
        self.write_whole(&path, &encode(&list)?)
    }

    fn unsynced_folder(&self) -> PathBuf {
        self.inner.dir.join("unsynced").join(&self.inner.boot)
    }

    /// Syncs, then makes every record that any process wrote in this boot before the sync count for good, and says which
    /// those were. Records that another boot left unconfirmed are removed.
    pub fn confirm_synced(&self) -> Result<Confirmed, StoreError> {
        let mut lists = Vec::new();
        for path in children(&self.unsynced_folder())? {
            if let Some((list, _)) = self.read_document::<Unsynced>(&path)? {
                lists.push((path, list));
            }
        }
        if !lists.is_empty() {
            self.sync()?;
        }
        let mut confirmed = Confirmed::default();
        for (path, list) in lists {
            for relative in &list.paths {
                if let Some(record) = self.confirm(relative)? {
                    confirmed.files += 1;
                    confirmed.layers.extend(record.result.layers.iter().map(|layer| layer.layer));
                }
            }
            remove_quietly(&path);
        }
        self.drop_other_boots()?;
        Ok(confirmed)
    }

    fn confirm(&self, relative: &PathBuf) -> Result<Option<Record>, StoreError> {
        let path = self.inner.dir.join(relative);
        // One that is removed meanwhile must not come back without its blobs.
        let _gate = self.gate()?;
        match self.read_document::<StoredRecord>(&path)? {
            Some((stored, _)) if stored.boot.as_ref() == Some(&self.inner.boot) => {
                let stored = StoredRecord { boot: None, ..stored };
                self.write_whole(&path, &encode(&stored)?)?;
                Ok(Some(stored.record))
            }
            _ => Ok(None),
        }
    }

    fn drop_other_boots(&self) -> Result<(), StoreError> {
        for boot in children(&self.inner.dir.join("unsynced"))? {
            if boot == self.unsynced_folder() {
                continue;
            }
            for path in children(&boot)? {
                let list = self.read_document::<Unsynced>(&path)?;
                for relative in list.map_or(Vec::new(), |(list, _)| list.paths) {
                    let record = self.inner.dir.join(relative);
                    let stale = self
                        .read_document::<StoredRecord>(&record)?
                        .is_some_and(|(stored, _)| !self.counts_now(&stored));
                    if stale {
                        remove_quietly(&record);
                    }
                }
                remove_quietly(&path);
            }
            if let Err(error) = std::fs::remove_dir(&boot) {
                tracing::debug!(path = %boot.display(), %error, "a list of another boot stays");
            }
        }
        Ok(())
    }

    pub(super) fn counts_now(&self, stored: &StoredRecord) -> bool {
        stored.version == VERSION
            && stored.boot.as_ref().is_none_or(|boot| *boot == self.inner.boot)
    }

    /// All records of one scope under one key, the one decided last at the end; that one counts as used.
    pub fn find_records(&self, scope: &Scope, key: &StepKey) -> Result<Vec<Record>, StoreError> {
        let found = self.read_records(scope, key)?;
        Ok(found.into_iter().map(|found| found.stored.record).collect())
    }

    fn read_records(&self, scope: &Scope, key: &StepKey) -> Result<Vec<FoundRecord>, StoreError> {
        let mut found = Vec::new();
        let _gate = self.gate()?;
        for path in children(&self.inner.dir.join(relative(scope, key)))? {
            let Some((stored, used)) = self.read_document::<StoredRecord>(&path)? else {
                continue;
            };
            let named = stored.record.recipe == *key || stored.record.outcome == Some(*key);
            if named && self.counts_now(&stored) {
                found.push(FoundRecord { path, used, stored });
            }
        }
        found.sort_by_key(|found| (found.stored.decided, found.stored.record.attempt));
        if let Some(newest) = found.last() {
            self.touch(&newest.path, newest.used);
        }
        Ok(found)
    }

    /// The records of one key that can be taken, which count as used, of several scopes.
    fn use_records(&self, lists: Vec<Vec<FoundRecord>>) -> Result<Vec<Record>, StoreError> {
        let _gate = self.gate()?;
        for list in &lists {
            for older in list.iter().rev().skip(1) {
                self.touch(&older.path, older.used);
            }
        }
        Ok(lists.into_iter().flatten().map(|found| found.stored.record).collect())
    }
}

fn relative(scope: &Scope, key: &StepKey) -> PathBuf {
    let hex = key.0.hex();
    PathBuf::from("step").join(scope_name(scope)).join(hex)
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|source| StoreError::Encode { what: "a step record", source })
}

fn remove_quietly(path: &std::path::Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "could not remove a file of the store");
        }
        _ => {}
    }
}

#[async_trait::async_trait]
impl StepIndex for FolderStore {
    async fn find(&self, scope: &Scope, keys: &[StepKey]) -> Result<Vec<Vec<Record>>, StoreError> {
        let keys = keys.to_vec();
        let mut scopes: Vec<Scope> = scope.readable().collect();
        scopes.reverse();
        self.blocking(move |store| {
            let of_key = |key| scopes.iter().map(move |scope| (scope, key));
            let all = keys.iter().flat_map(of_key);
            let lists: Result<Vec<_>, StoreError> =
                all.map(|(scope, key)| store.read_records(scope, key)).collect();
            let mut lists = lists?;
            retain_takeable(&mut lists, |found| &found.stored.record);
            let mut lists = lists.into_iter();
            keys.iter()
                .map(|_| store.use_records(lists.by_ref().take(scopes.len()).collect()))
                .collect()
        })
        .await
    }

    async fn put(&self, scope: &Scope, record: &Record) -> Result<(), StoreError> {
        let (scope, record) = (scope.clone(), record.clone());
        self.blocking(move |store| store.put_record(&scope, &record)).await
    }
}

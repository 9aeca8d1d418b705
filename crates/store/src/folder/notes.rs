//! The notes of a folder store: `account/SCOPE/ID.json`, `eviction/SCOPE/ID.json`.

use std::path::PathBuf;

use bytes::Bytes;
use dcbuild_model::{NoteId, Scope};

use super::{FolderStore, children, scope_name};
use crate::notes::{NOTE_BYTES_MAX, NOTES_MAX};
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

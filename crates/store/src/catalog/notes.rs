//! Notes: `scope/SCOPE/account/BACKWARDS` and the like. An object's name counts backwards, so that a listing, which
//! goes by name, begins with the newest.

use bytes::Bytes;
use dcbuild_model::{NoteId, Scope};

use super::Catalog;
use crate::notes::NOTE_BYTES_MAX;
use crate::{NoteKind, Notes, ObjectName, StoreError};

/// What the characters of an id stand for each other in: the first for the last, and so on.
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Names removed by one request.
const REMOVED_AT_ONCE: usize = 1_000;

fn prefix_of(scope: &Scope, kind: NoteKind) -> String {
    format!("scope/{scope}/{}/", kind.word())
}

/// An id backwards; twice is the id again.
fn backwards(id: &str) -> String {
    let turned = |byte: u8| match DIGITS.iter().position(|digit| *digit == byte) {
        Some(at) => char::from(DIGITS[DIGITS.len() - 1 - at]),
        None => char::from(byte),
    };
    id.bytes().map(turned).collect()
}

fn name_of(scope: &Scope, kind: NoteKind, id: NoteId) -> Result<ObjectName, StoreError> {
    let name = format!("{}{}", prefix_of(scope, kind), backwards(&id.to_string()));
    name.parse().map_err(|source| StoreError::Name { source })
}

impl Catalog {
    /// The names of notes, the newest first, behind one of them.
    async fn note_names(
        &self,
        prefix: &str,
        after: Option<ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectName>, StoreError> {
        let (mut names, mut after) = (Vec::new(), after);
        while names.len() < limit {
            let page = self.objects().list(prefix, after.as_ref()).await?;
            names.extend(page.objects.into_iter().map(|object| object.name));
            after = names.last().cloned();
            if !page.more || after.is_none() {
                break;
            }
        }
        names.truncate(limit);
        Ok(names)
    }
}

#[async_trait::async_trait]
impl Notes for Catalog {
    async fn put(
        &self,
        scope: &Scope,
        kind: NoteKind,
        id: NoteId,
        text: Bytes,
    ) -> Result<(), StoreError> {
        let name = name_of(scope, kind, id)?;
        let sealed = self.inner.parts.seal.close(&name, &text);
        self.objects().put(&name, sealed).await
    }

    async fn list(
        &self,
        scope: &Scope,
        kind: NoteKind,
        before: Option<NoteId>,
        limit: usize,
    ) -> Result<Vec<NoteId>, StoreError> {
        let after = before.map(|id| name_of(scope, kind, id)).transpose()?;
        let names = self.note_names(&prefix_of(scope, kind), after, limit).await?;
        let id = |name: &ObjectName| backwards(name.as_str().rsplit('/').next()?).parse().ok();
        Ok(names.iter().filter_map(id).collect())
    }

    async fn get(
        &self,
        scope: &Scope,
        kind: NoteKind,
        id: NoteId,
    ) -> Result<Option<Bytes>, StoreError> {
        let name = name_of(scope, kind, id)?;
        let Some(sealed) = self.objects().get(&name, NOTE_BYTES_MAX).await? else {
            return Ok(None);
        };
        let opened = self.open(&name, &sealed);
        if opened.is_none() {
            self.unsealed(&name);
        }
        Ok(opened)
    }

    async fn trim(&self, scope: &Scope, kind: NoteKind, keep: usize) -> Result<u64, StoreError> {
        let names = self.note_names(&prefix_of(scope, kind), None, usize::MAX).await?;
        let old = names.get(keep..).unwrap_or_default();
        for some in old.chunks(REMOVED_AT_ONCE) {
            self.objects().delete(some).await?;
        }
        Ok(u64::try_from(old.len()).unwrap_or(u64::MAX))
    }
}

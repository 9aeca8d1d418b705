//! Notes beside the records of a scope: accounts of builds, and what was evicted. They explain; nothing rests on them.

use bytes::Bytes;
use dcbuild_model::{Digest, Eviction, NoteId, Scope, UnixTime};

use crate::StoreError;

/// A larger note is none of ours.
pub const NOTE_BYTES_MAX: u64 = 16 << 20;
/// Notes of one kind that a scope keeps; older ones go.
pub const NOTES_MAX: usize = 500;
/// How many notes of what was removed are read to explain a miss.
const EVICTIONS_READ_MAX: usize = 200;

/// What a note is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NoteKind {
    /// The account of a build.
    Account,
    /// What was removed from the store.
    Eviction,
}

impl NoteKind {
    /// All of them.
    pub const ALL: [NoteKind; 2] = [NoteKind::Account, NoteKind::Eviction];

    /// The word for it in a path.
    pub(crate) fn word(self) -> &'static str {
        match self {
            NoteKind::Account => "account",
            NoteKind::Eviction => "eviction",
        }
    }
}

/// Keeps notes by id; ids grow with time.
#[async_trait::async_trait]
pub trait Notes: Send + Sync {
    /// Keeps a note; the same id again is the same note.
    async fn put(
        &self,
        scope: &Scope,
        kind: NoteKind,
        id: NoteId,
        text: Bytes,
    ) -> Result<(), StoreError>;

    /// The ids of at most `limit` notes, the newest first; those that are older than `before` only.
    async fn list(
        &self,
        scope: &Scope,
        kind: NoteKind,
        before: Option<NoteId>,
        limit: usize,
    ) -> Result<Vec<NoteId>, StoreError>;

    /// Reads a note; nothing if there is none.
    async fn get(
        &self,
        scope: &Scope,
        kind: NoteKind,
        id: NoteId,
    ) -> Result<Option<Bytes>, StoreError>;

    /// Removes the oldest notes of a kind, so that `keep` stay; says how many went.
    async fn trim(&self, scope: &Scope, kind: NoteKind, keep: usize) -> Result<u64, StoreError>;
}

/// The id of a note that is written now; what it says tells it from others of the same millisecond.
pub fn note_id(now: UnixTime, text: &[u8]) -> NoteId {
    let millis = u128::try_from(now.secs).unwrap_or(0) * 1_000 + u128::from(now.nanos / 1_000_000);
    let digest = Digest::of(text);
    let low = digest.0.iter().take(10).fold(0_u128, |low, byte| (low << 8) | u128::from(*byte));
    NoteId::from_bits((millis << 80) | low)
}

/// Notes down what is about to be removed.
pub async fn put_eviction(
    notes: &dyn Notes,
    scope: &Scope,
    eviction: &Eviction,
) -> Result<(), StoreError> {
    let encoded = serde_json::to_vec(eviction);
    let text =
        encoded.map_err(|source| StoreError::Encode { what: "a note of an eviction", source })?;
    let id = note_id(eviction.at, &text);
    notes.put(scope, NoteKind::Eviction, id, text.into()).await
}

/// The newest notes of what was removed; one that cannot be understood is passed over.
pub async fn evictions(notes: &dyn Notes, scope: &Scope) -> Result<Vec<Eviction>, StoreError> {
    let ids = notes.list(scope, NoteKind::Eviction, None, EVICTIONS_READ_MAX).await?;
    let mut found = Vec::new();
    for id in ids {
        let Some(text) = notes.get(scope, NoteKind::Eviction, id).await? else { continue };
        match serde_json::from_slice(&text) {
            Ok(eviction) => found.push(eviction),
            Err(error) => tracing::warn!(%id, %error, "a note of an eviction is passed over"),
        }
    }
    Ok(found)
}

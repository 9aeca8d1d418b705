//! A fast index over a slow store: it may forget anything at any time, and says so.

use bytes::Bytes;
use dcbuild_model::UnixTime;

use crate::StoreError;

/// What an index is asked by, such as `step/local/SHA256`; one key has any number of fields.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IndexKey(pub String);

/// One field of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexEntry {
    /// The key.
    pub key: IndexKey,
    /// Which of its fields.
    pub field: String,
    /// The value, at most [`ENTRY_BYTES_MAX`]; of a larger one only the field is kept.
    pub value: Bytes,
    /// When the key was used, as far as this entry knows; an earlier time than is known changes nothing.
    pub used: UnixTime,
}

/// Larger values stay in the store, and the index holds a field without a value for them.
pub const ENTRY_BYTES_MAX: usize = 256 << 10;

/// What an index knows of the keys that it was asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Looked {
    /// Whether the index is sure to know all that the store has of these keys: only then is an absent one absent.
    pub complete: bool,
    /// For each key in the order asked, its fields by name. Values are hints, to be checked by whoever uses them; one
    /// that is empty may have been dropped, and the store has it.
    pub found: Vec<Vec<(String, Bytes)>>,
}

/// A fill under way: what is marked complete at its end must not have been disturbed since it began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fill(pub String);

/// A key, and when it was used last, to the millisecond.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KeyUse {
    /// When.
    pub used: UnixTime,
    /// The key.
    pub key: IndexKey,
}

/// Remembers what a store has, faster than the store says it.
///
/// Who writes to the store writes to the index after it. When the second fails, `mark_incomplete` is owed; if nobody can
/// pay that either, a reader takes what is there for absent, and no worse.
#[async_trait::async_trait]
pub trait KeyIndex: Send + Sync {
    /// Looks all keys up in one round trip.
    async fn find(&self, keys: &[IndexKey]) -> Result<Looked, StoreError>;

    /// Remembers fields; those of a key that are not named stay, and so does the value of one that is put without any.
    async fn put(&self, entries: &[IndexEntry]) -> Result<(), StoreError>;

    /// Forgets whole keys: the store does not have them any more.
    async fn remove(&self, keys: &[IndexKey]) -> Result<(), StoreError>;

    /// Forgets fields of keys, and the keys that then have none.
    async fn remove_fields(&self, fields: &[(IndexKey, String)]) -> Result<(), StoreError>;

    /// Notes that keys were used just now; those that the index does not know are passed over.
    async fn touch(&self, keys: &[IndexKey], now: UnixTime) -> Result<(), StoreError>;

    /// When keys were used last, in the order asked, to the millisecond; none for what is not known.
    async fn last_used(&self, keys: &[IndexKey]) -> Result<Vec<Option<UnixTime>>, StoreError>;

    /// The keys below a prefix that were not used for longest, and behind `after`; fewer than `limit` are the last.
    async fn unused(
        &self,
        prefix: &str,
        after: Option<&KeyUse>,
        limit: usize,
    ) -> Result<Vec<KeyUse>, StoreError>;

    /// Begins to fill the index from the store; none if somebody else does so now and has until later for it.
    async fn begin_fill(&self, now: UnixTime, until: UnixTime) -> Result<Option<Fill>, StoreError>;

    /// Marks the index complete, unless it lost something since the fill began; says whether it did.
    async fn end_fill(&self, fill: &Fill) -> Result<bool, StoreError>;

    /// Takes the mark away, also from fills under way: something is in the store of which the index was not told.
    async fn mark_incomplete(&self) -> Result<(), StoreError>;

    /// Takes or renews a lease on a name until `until`; false if another holder has it. The index may forget a lease
    /// like anything else: what two holders do at once must be waste at worst.
    async fn hold(
        &self,
        name: &str,
        holder: &str,
        now: UnixTime,
        until: UnixTime,
    ) -> Result<bool, StoreError>;

    /// Lets go of a lease, if this holder has it.
    async fn release(&self, name: &str, holder: &str) -> Result<(), StoreError>;
}

//! What is asked of a cache as a whole, and what it tells: documents, as they travel.

use dcbuild_model::{EvictionRule, Scope, StepKey, UnixTime};
use serde::{Deserialize, Serialize};

/// Rows of one list; the longest unused beyond them are only counted.
pub const LISTED_MAX: usize = 10_000;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "ask")]
pub enum CacheAsk {
    /// Which records are there?
    List {},
    /// What takes how much, and of what use was it?
    Stats {},
    /// Remove what is beyond these ceilings.
    Sweep {
        /// The bytes that may stay.
        keep_bytes: Option<u64>,
        /// How long something may stay unused, in seconds.
        max_age_secs: Option<u64>,
        /// Whether all goes that nothing holds.
        all: bool,
        /// Whether it is only to be said what would go.
        dry_run: bool,
    },
}

/// What is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "told")]
pub enum CacheTold {
    /// The records, those that were used last first.
    List {
        /// At most [`LISTED_MAX`] of them.
        records: Vec<ListedRecord>,
        /// How many more there are.
        more: u64,
    },
    /// What takes how much.
    Stats(CacheStats),
    /// What went.
    Swept(SweptStore),
}

/// A record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedRecord {
    /// Its key.
    pub key: StepKey,
    /// The step, for people.
    pub name: String,
    /// Whose it is.
    pub scope: Scope,
    /// The bytes of all that is kept for it; some of them may be kept for others too.
    pub bytes: u64,
    /// When it was written.
    pub written: UnixTime,
    /// When it was last used, as far as anybody knows.
    pub used: UnixTime,
}

/// One kind of things in the store.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindStats {
    /// Records, layers, bases, images, mounts (versions of cache mounts), blobs or quarantined.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a cache holds, and of what use it was.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheStats {
    /// By kind.
    pub kinds: Vec<KindStats>,
    /// All bytes.
    pub bytes: u64,
    /// Those that running builds may use.
    pub in_use_bytes: u64,
    /// The builds whose accounts were counted.
    pub builds: u64,
    /// Steps of theirs that were found by what was known before anything ran.
    pub hits: u64,
    /// Steps that were found by what the steps before had made.
    pub hits_by_result: u64,
    /// Steps that ran, or failed.
    pub ran: u64,
    /// Steps that another build ran at the same time.
    pub shared: u64,
}

/// What a sweep came to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweptStore {
    /// What went, by rule.
    pub removed: Vec<SweptBy>,
    /// The bytes that stay.
    pub kept_bytes: u64,
    /// The bytes that running builds may use.
    pub in_use_bytes: u64,
    /// Whether nothing went, since it is not known what builds use.
    pub put_off: bool,
    /// Why that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<PutOff>,
}

/// Why it is not known what builds use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PutOff {
    /// The index is being filled from the store again.
    Filling,
    /// Builds of the coordinator that was asked began before its index was flushed, or lost something.
    BegunBefore,
    /// Builds or imports go on in other processes.
    Elsewhere,
    /// Not one document of the store carries the seal of whoever was asked.
    Foreign,
}

/// What went by one rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweptBy {
    /// The rule.
    pub rule: EvictionRule,
    /// How many things.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

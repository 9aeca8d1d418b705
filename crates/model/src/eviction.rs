//! Notes of what was removed from a cache: when, and by what rule.

use crate::{LayerId, StepKey, UnixTime};

/// Why something was removed.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case", tag = "rule")]
pub enum EvictionRule {
    /// The store was to hold no more than so many bytes.
    Bytes {
        /// The ceiling.
        keep: u64,
    },
    /// It was not used for so long.
    Age {
        /// In seconds.
        max_secs: u64,
    },
    /// Everything that nobody used was to go.
    All {},
}

/// A note of things that were removed together.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eviction {
    /// When.
    pub at: UnixTime,
    /// Why.
    pub rule: EvictionRule,
    /// Records, by their keys.
    pub records: Vec<StepKey>,
    /// Layers.
    pub layers: Vec<LayerId>,
}

//! The sweeper: one for each store, whatever that is kept in.
//!
//! It lists what there is, chooses what is to go, notes down which records and layers that are, then removes records
//! before what describes their layers, and that before blobs. Just before it removes a part it looks again whether
//! somebody has used it since. So a sweeper that is killed, or a second one at the same time, leaves nothing that a record
//! speaks of and the store lacks: only more for the next sweep.

pub mod victims;

use std::collections::BTreeMap;
use std::time::Duration;

use dcbuild_model::{Eviction, EvictionRule, LayerId, Record, Scope, StepKey, UnixTime};

pub use victims::{Hold, Thing, ThingKind, Victim};

use crate::notes::{NOTES_MAX, put_eviction};
use crate::{NoteKind, Notes, StoreError};

/// Things that are removed by one request.
const REMOVED_AT_ONCE: usize = 500;
/// Keys in one note of a removal.
const NOTED_AT_ONCE: usize = 5_000;

/// How much may stay in a store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ceilings {
    /// The bytes of all that stays.
    pub keep_bytes: Option<u64>,
    /// How long something may stay unused.
    pub max_age: Option<Duration>,
    /// Whether all goes that nothing holds.
    pub all: bool,
}

/// What a store holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory {
    /// All of it.
    pub things: Vec<Thing>,
    /// Whether builds go on of whose uses this store's index may not know: then nothing may be removed.
    pub unknown_uses: bool,
}

/// A store that can be swept.
#[async_trait::async_trait]
pub trait Swept: Notes {
    /// Lists all that there is, with its last use, and what holds it.
    async fn inventory(&self) -> Result<Inventory, StoreError>;

    /// The records among these things, by their places; of several attempts under one key the one decided last. To read
    /// them is no use.
    async fn records(&self, inventory: &Inventory) -> Result<Vec<(usize, Record)>, StoreError>;

    /// Takes the turn to sweep, for some minutes; false if another sweeper has it. Two at once are waste, and no worse.
    async fn take_turn(&self, holder: &str) -> Result<bool, StoreError>;

    /// Removes things unless they were used or written since they were listed; says how many bytes went.
    async fn remove(&self, things: &[&Thing]) -> Result<Removed, StoreError>;
}

/// Throws away uploads that were begun and never ended.
#[async_trait::async_trait]
pub trait Leftovers: Send + Sync {
    /// Those begun longer ago than this; says how many.
    async fn sweep_uploads(&self, older_than: Duration) -> Result<u64, StoreError>;
}

/// What went by one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// How many things.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Whether a sweep is for real.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SweepMode {
    /// It is.
    Remove,
    /// It only says what it would remove.
    DryRun,
}

/// What a sweep came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SweepReport {
    /// What went, by rule; of a dry run, what would go.
    pub removed: BTreeMap<EvictionRule, Removed>,
    /// The bytes that stay.
    pub kept_bytes: u64,
    /// The bytes of those that a running build may use.
    pub in_use_bytes: u64,
    /// Whether it was put off, since builds go on of whose uses nothing is known here.
    pub put_off: bool,
}

impl SweepReport {
    /// All that went.
    pub fn total(&self) -> Removed {
        self.removed.values().fold(Removed::default(), |total, removed| Removed {
            count: total.count + removed.count,
            bytes: total.bytes + removed.bytes,
        })
    }
}

/// Sweeps a store, so that what stays keeps the ceilings.
pub async fn sweep(
    store: &dyn Swept,
    ceilings: &Ceilings,
    mode: SweepMode,
    now: UnixTime,
) -> Result<SweepReport, StoreError> {
    let inventory = store.inventory().await?;
    let things = &inventory.things;
    let bytes = |things: &mut dyn Iterator<Item = &Thing>| things.map(|it| it.size).sum::<u64>();
    let mut report = SweepReport {
        kept_bytes: bytes(&mut things.iter()),
        in_use_bytes: bytes(&mut things.iter().filter(|it| it.hold == Hold::InUse)),
        put_off: inventory.unknown_uses && mode == SweepMode::Remove,
        ..SweepReport::default()
    };
    if report.put_off {
        return Ok(report);
    }
    let mut chosen: BTreeMap<EvictionRule, Vec<&Thing>> = BTreeMap::new();
    for victim in victims::victims(things, ceilings, now) {
        chosen.entry(victim.rule).or_default().extend(things.get(victim.place));
    }
    for (rule, mut going) in chosen {
        let removed = match mode {
            SweepMode::DryRun => Removed {
                count: u64::try_from(going.len()).unwrap_or(u64::MAX),
                bytes: bytes(&mut going.iter().copied()),
            },
            SweepMode::Remove => {
                note(store, &going, rule, now).await?;
                going.sort_by_key(|thing| order(&thing.kind));
                remove(store, &going).await?
            }
        };
        report.kept_bytes = report.kept_bytes.saturating_sub(removed.bytes);
        report.removed.insert(rule, removed);
    }
    Ok(report)
}

/// Removes the oldest notes of scopes.
pub async fn trim_notes(store: &dyn Notes, scopes: &[Scope]) -> Result<u64, StoreError> {
    let mut trimmed = 0;
    for scope in scopes {
        for kind in NoteKind::ALL {
            trimmed += store.trim(scope, kind, NOTES_MAX).await?;
        }
    }
    Ok(trimmed)
}

/// What names others goes before these.
fn order(kind: &ThingKind) -> u8 {
    match kind {
        ThingKind::Record { .. } => 0,
        ThingKind::Form { .. } | ThingKind::Base | ThingKind::Image => 1,
        ThingKind::Blob | ThingKind::Quarantined => 2,
    }
}

async fn remove(store: &dyn Swept, things: &[&Thing]) -> Result<Removed, StoreError> {
    let mut total = Removed::default();
    for same in things.chunk_by(|one, other| order(&one.kind) == order(&other.kind)) {
        for some in same.chunks(REMOVED_AT_ONCE) {
            let removed = store.remove(some).await?;
            total.count += removed.count;
            total.bytes += removed.bytes;
        }
    }
    Ok(total)
}

/// Notes down records and layers before they go, for whoever will ask why they are not there.
async fn note(
    store: &dyn Swept,
    things: &[&Thing],
    rule: EvictionRule,
    at: UnixTime,
) -> Result<(), StoreError> {
    let mut records: BTreeMap<&Scope, Vec<StepKey>> = BTreeMap::new();
    let mut layers: Vec<LayerId> = Vec::new();
    for thing in things {
        match &thing.kind {
            ThingKind::Record { scope, key } => records.entry(scope).or_default().push(*key),
            ThingKind::Form { layer } => layers.push(*layer),
            ThingKind::Base | ThingKind::Image | ThingKind::Blob | ThingKind::Quarantined => {}
        }
    }
    for (scope, keys) in records {
        for some in keys.chunks(NOTED_AT_ONCE) {
            // Layers belong to all scopes: each that lost records is told of them.
            let layers = layers.iter().take(NOTED_AT_ONCE).copied().collect();
            let eviction = Eviction { at, rule, records: some.to_vec(), layers };
            put_eviction(store, scope, &eviction).await?;
        }
    }
    Ok(())
}

//! The sweeper: one for each store, whatever that is kept in.
//!
//! It lists what there is, chooses what is to go, notes down which records and layers that are, then removes records
//! before what describes their layers, and that before blobs. Just before it removes a part it looks again whether
//! somebody has used it since. So a sweeper that is killed, or a second one at the same time, leaves nothing that a record
//! speaks of and the store lacks: only more for the next sweep.

pub mod victims;

use std::collections::{BTreeMap, BTreeSet};
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

    /// Removes things unless they were used or written since they were listed.
    async fn remove(&self, things: &[&Thing]) -> Result<Removal, StoreError>;
}

/// Throws away uploads that were begun and never ended.
#[async_trait::async_trait]
pub trait Leftovers: Send + Sync {
    /// Those begun longer ago than this; says how many.
    async fn sweep_uploads(&self, older_than: Duration) -> Result<u64, StoreError>;
}

/// What became of things that were to go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Removal {
    /// What went.
    pub removed: Removed,
    /// Which of the things stayed, by their places among them: somebody has used them since.
    pub stayed: Vec<usize>,
}

impl Removal {
    /// None of these went.
    pub(crate) fn nothing_of(things: &[&Thing]) -> Removal {
        Removal { stayed: (0..things.len()).collect(), ..Removal::default() }
    }
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
    let mut chosen: BTreeMap<EvictionRule, Vec<usize>> = BTreeMap::new();
    for victim in victims::victims(things, ceilings, now) {
        chosen.entry(victim.rule).or_default().push(victim.place);
    }
    let mut sparing = Sparing { store, things, spared: BTreeSet::new() };
    for (rule, mut going) in chosen {
        going.sort_by_key(|place| things.get(*place).map(|thing| order(&thing.kind)));
        let removed = match mode {
            SweepMode::DryRun => Removed {
                count: u64::try_from(going.len()).unwrap_or(u64::MAX),
                bytes: bytes(&mut going.iter().filter_map(|place| things.get(*place))),
            },
            SweepMode::Remove => {
                let named: Vec<&Thing> =
                    going.iter().filter_map(|place| things.get(*place)).collect();
                note(store, &named, rule, now).await?;
                sparing.remove(&going).await?
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
        ThingKind::Record { .. } | ThingKind::CacheMount => 0,
        ThingKind::Form { .. } | ThingKind::Base | ThingKind::Image => 1,
        ThingKind::Blob | ThingKind::Quarantined => 2,
    }
}

/// Removes what was chosen, but for what somebody has used meanwhile, with all that it needs.
struct Sparing<'a> {
    store: &'a dyn Swept,
    things: &'a [Thing],
    spared: BTreeSet<usize>,
}

impl Sparing<'_> {
    /// Removes things by their places, those that name others first.
    async fn remove(&mut self, going: &[usize]) -> Result<Removed, StoreError> {
        let mut total = Removed::default();
        let order_of = |place: &usize| self.things.get(*place).map(|thing| order(&thing.kind));
        let parts: Vec<&[usize]> = going
            .chunk_by(|one, other| order_of(one) == order_of(other))
            .flat_map(|same| same.chunks(REMOVED_AT_ONCE))
            .collect();
        for some in parts {
            let some = some.iter().filter(|place| !self.spared.contains(place));
            let some: Vec<(usize, &Thing)> =
                some.filter_map(|place| Some((*place, self.things.get(*place)?))).collect();
            let things: Vec<&Thing> = some.iter().map(|(_, thing)| *thing).collect();
            let Removal { removed, stayed } = self.store.remove(&things).await?;
            total.count += removed.count;
            total.bytes += removed.bytes;
            for (place, _) in stayed.into_iter().filter_map(|at| some.get(at)) {
                self.spare(*place);
            }
        }
        Ok(total)
    }

    fn spare(&mut self, place: usize) {
        let mut open = vec![place];
        while let Some(place) = open.pop() {
            if self.spared.insert(place)
                && let Some(thing) = self.things.get(place)
            {
                open.extend(&thing.needs);
            }
        }
    }
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
            ThingKind::CacheMount
            | ThingKind::Base
            | ThingKind::Image
            | ThingKind::Blob
            | ThingKind::Quarantined => {}
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

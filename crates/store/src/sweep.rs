//! The sweeper: one for each store, whatever that is kept in.
//!
//! It lists what there is, chooses what is to go, notes down which records and layers that are, then removes records
//! before what describes their layers, and that before blobs. Just before it removes a part it looks again whether
//! somebody has used it since. So a sweeper that is killed, or a second one at the same time, leaves nothing that a record
//! speaks of and the store lacks: only more for the next sweep.

pub mod victims;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dcbuild_model::{
    BlobDigest, Eviction, EvictionRule, LayerId, Record, Scope, StepKey, UnixTime,
};

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
    /// The scope that is meant, with those below it; the whole store, if none.
    pub within: Option<Scope>,
}

/// What a store holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory {
    /// All of it.
    pub things: Vec<Thing>,
    /// Why this store's index may not know of all uses, if it may not: then nothing may be removed.
    pub unknown_uses: Option<PutOff>,
}

/// Why nothing is removed for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutOff {
    /// The index is not filled from the store again yet since it was flushed, or lost something.
    Filling,
    /// Builds of this process go on that began before the index was flushed, or lost something.
    BegunBefore,
    /// Builds or imports go on in other processes, of whose uses this index does not know.
    Elsewhere,
    /// Not one document carries our seal, so that nobody knows what needs the blobs.
    Foreign,
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

    /// When each of these blobs was put aside as corrupt, in the order asked; none for one that was not, or that was removed
    /// since.
    async fn put_aside(&self, blobs: &[BlobDigest]) -> Result<Vec<Option<UnixTime>>, StoreError>;
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
    /// Records and layers that were noted as removed.
    pub noted: u64,
    /// Why it was put off, if it was.
    pub put_off: Option<PutOff>,
}

impl SweepReport {
    fn count(&mut self, rule: EvictionRule, removed: Removed) {
        let sum = self.removed.entry(rule).or_default();
        sum.count += removed.count;
        sum.bytes += removed.bytes;
        self.kept_bytes = self.kept_bytes.saturating_sub(removed.bytes);
    }

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
        put_off: inventory.unknown_uses.filter(|_| mode == SweepMode::Remove),
        ..SweepReport::default()
    };
    if report.put_off.is_some() {
        return Ok(report);
    }
    let chosen = victims::victims(things, ceilings, now);
    match mode {
        SweepMode::DryRun => {
            for Victim { place, rule } in chosen {
                let bytes = things.get(place).map_or(0, |thing| thing.size);
                report.count(rule, Removed { count: 1, bytes });
            }
        }
        SweepMode::Remove => {
            report.noted = match note_all(store, things, &chosen, now).await {
                // Who makes space is not kept from it for want of space.
                Err(error)
                    if matches!(error, StoreError::Full { .. }) || error.is_for_want_of_space() =>
                {
                    tracing::warn!(
                        error = %std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
                        "the store has no space for notes of what is removed: `dcbuild explain` will not know of it"
                    );
                    0
                }
                noted => noted?,
            };
            let mut sparing = Sparing { store, things, spared: BTreeSet::new() };
            sparing.remove(chosen, &mut report).await?;
        }
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
        // What was made from it is a record.
        ThingKind::Replaced => 1,
        ThingKind::Form { .. } | ThingKind::Base | ThingKind::Image => 2,
        ThingKind::Blob | ThingKind::Quarantined => 3,
    }
}

/// Removes what was chosen, but for what somebody has used meanwhile, with all that it needs.
struct Sparing<'a> {
    store: &'a dyn Swept,
    things: &'a [Thing],
    spared: BTreeSet<usize>,
}

impl Sparing<'_> {
    /// Removes things, those that name others first, whatever rule they go by.
    async fn remove(
        &mut self,
        mut chosen: Vec<Victim>,
        report: &mut SweepReport,
    ) -> Result<(), StoreError> {
        let things = self.things;
        let part = |victim: &Victim| {
            (things.get(victim.place).map(|thing| order(&thing.kind)), victim.rule)
        };
        chosen.sort_by_key(part);
        let alike = chosen.chunk_by(|one, other| part(one) == part(other));
        for some in alike.flat_map(|alike| alike.chunks(REMOVED_AT_ONCE)) {
            let going = some.iter().filter(|victim| !self.spared.contains(&victim.place));
            let going: Vec<(usize, &Thing)> = going
                .filter_map(|victim| Some((victim.place, things.get(victim.place)?)))
                .collect();
            let named: Vec<&Thing> = going.iter().map(|(_, thing)| *thing).collect();
            let Removal { removed, stayed } = self.store.remove(&named).await?;
            if let Some(victim) = some.first() {
                report.count(victim.rule, removed);
            }
            for (place, _) in stayed.into_iter().filter_map(|at| going.get(at)) {
                self.spare(*place);
            }
        }
        Ok(())
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

/// Notes down what goes by each rule; says how many records and layers were noted.
async fn note_all(
    store: &dyn Swept,
    things: &[Thing],
    chosen: &[Victim],
    at: UnixTime,
) -> Result<u64, StoreError> {
    let mut by_rule: BTreeMap<EvictionRule, Vec<&Thing>> = BTreeMap::new();
    for victim in chosen {
        by_rule.entry(victim.rule).or_default().extend(things.get(victim.place));
    }
    let mut noted = 0;
    for (rule, going) in by_rule {
        noted += note(store, &going, rule, at).await?;
    }
    Ok(noted)
}

/// Notes down records and layers before they go, for whoever will ask why they are not there.
async fn note(
    store: &dyn Swept,
    things: &[&Thing],
    rule: EvictionRule,
    at: UnixTime,
) -> Result<u64, StoreError> {
    let mut noted = 0;
    let mut records: BTreeMap<&Scope, Vec<StepKey>> = BTreeMap::new();
    let mut layers: Vec<LayerId> = Vec::new();
    for thing in things {
        match &thing.kind {
            ThingKind::Record { scope, key } => records.entry(scope).or_default().push(*key),
            ThingKind::Form { layer } => layers.push(*layer),
            // Its key has a newer one.
            ThingKind::Replaced
            | ThingKind::CacheMount
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
            noted += eviction.records.len() + eviction.layers.len();
        }
    }
    Ok(u64::try_from(noted).unwrap_or(u64::MAX))
}

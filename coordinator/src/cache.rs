//! The cache as a whole: listed, counted, swept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dcbuild_explain::{Account, StepEnd};
use dcbuild_model::{Record, Scope, StepKey, UnixTime};
use dcbuild_proto::cache::{
    self, CacheAsk, CacheStats, CacheTold, KindStats, LISTED_MAX, ListedRecord, SweptBy, SweptStore,
};
use dcbuild_store::sweep::{Hold, Inventory, Thing, ThingKind};
use dcbuild_store::{Ceilings, NoteKind, PutOff, StoreError, SweepMode, SweepReport, sweep};

use crate::config::Stores;
use crate::sweeps::Sweeps;

/// Accounts that are read for names and counts.
const ACCOUNTS_MAX: usize = 50;
/// Scopes whose accounts are looked for.
const SCOPES_MAX: usize = 100;
const KINDS: [&str; 7] = ["records", "layers", "bases", "images", "mounts", "blobs", "quarantined"];

/// How much of a cache is seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum View {
    /// All of it; the scope is the one that builds have who name none.
    Whole(Scope),
    /// What is of this scope, of those below it and, to be read, of its parents.
    Within(Scope),
}

impl View {
    fn scope(&self) -> &Scope {
        let (View::Whole(scope) | View::Within(scope)) = self;
        scope
    }

    fn sees(&self, of: &Scope) -> bool {
        match self {
            View::Whole(_) => true,
            View::Within(scope) => of.is_within(scope) || scope.is_within(of),
        }
    }

    /// Why something is not to be asked of a part of a cache.
    pub fn refuses(&self, ask: &CacheAsk) -> Option<String> {
        match (self, ask) {
            (View::Within(scope), CacheAsk::Sweep { keep_bytes: Some(_), .. }) => Some(format!(
                "how much may stay is said of a whole store, not of the scope {scope} in it: prune a scope by --older-than or \
                 --all, or the store without --scope"
            )),
            _ => None,
        }
    }
}

/// Answers what is asked of a cache as a whole, or of a part of it.
pub async fn cache(
    stores: &Stores,
    view: &View,
    ask: &CacheAsk,
    now: UnixTime,
) -> Result<CacheTold, StoreError> {
    counted(stores, view, ask, now, &Sweeps::default()).await
}

/// The same, where it is counted what sweeps come to.
pub(crate) async fn counted(
    stores: &Stores,
    view: &View,
    ask: &CacheAsk,
    now: UnixTime,
    sweeps: &Sweeps,
) -> Result<CacheTold, StoreError> {
    match ask {
        CacheAsk::List {} => list(stores, view).await,
        CacheAsk::Stats {} => stats(stores, view).await.map(CacheTold::Stats),
        CacheAsk::Sweep { keep_bytes, max_age_secs, all, dry_run } => {
            let ceilings = Ceilings {
                keep_bytes: *keep_bytes,
                max_age: max_age_secs.map(Duration::from_secs),
                all: *all,
                within: match view {
                    View::Whole(_) => None,
                    View::Within(scope) => Some(scope.clone()),
                },
            };
            let report = if *dry_run {
                sweep(&*stores.swept, &ceilings, SweepMode::DryRun, now).await?
            } else {
                sweeps.sweep(stores, view.scope(), &ceilings, now).await?
            };
            Ok(CacheTold::Swept(told(&report)))
        }
    }
}

fn told(report: &SweepReport) -> SweptStore {
    let by = report.removed.iter().map(|(rule, removed)| SweptBy {
        rule: *rule,
        count: removed.count,
        bytes: removed.bytes,
    });
    SweptStore {
        removed: by.collect(),
        kept_bytes: report.kept_bytes,
        in_use_bytes: report.in_use_bytes,
        put_off: report.put_off.is_some(),
        why: report.put_off.map(|why| match why {
            PutOff::Filling => cache::PutOff::Filling,
            PutOff::BegunBefore => cache::PutOff::BegunBefore,
            PutOff::Elsewhere => cache::PutOff::Elsewhere,
            PutOff::Foreign => cache::PutOff::Foreign,
        }),
    }
}

/// The newest accounts of builds of the scopes that are seen.
async fn accounts(
    stores: &Stores,
    view: &View,
    inventory: &Inventory,
) -> Result<Vec<Account>, StoreError> {
    let scopes = inventory.things.iter().filter_map(|thing| thing.scope.as_ref());
    let mut scopes: BTreeSet<&Scope> = scopes.filter(|scope| view.sees(scope)).collect();
    scopes.insert(view.scope());
    let mut notes = Vec::new();
    for scope in scopes.into_iter().take(SCOPES_MAX) {
        let ids = stores.notes.list(scope, NoteKind::Account, None, ACCOUNTS_MAX).await?;
        notes.extend(ids.into_iter().map(|id| (id, scope)));
    }
    notes.sort_unstable_by(|one, other| other.cmp(one));
    let mut accounts = Vec::new();
    for (id, scope) in notes.into_iter().take(ACCOUNTS_MAX) {
        let text = stores.notes.get(scope, NoteKind::Account, id).await?;
        accounts.extend(text.and_then(|text| Account::from_bytes(&text).ok()));
    }
    Ok(accounts)
}

async fn list(stores: &Stores, view: &View) -> Result<CacheTold, StoreError> {
    let inventory = stores.swept.inventory().await?;
    let found = stores.swept.records(&inventory).await?;
    let mut names: BTreeMap<StepKey, String> = BTreeMap::new();
    for step in
        accounts(stores, view, &inventory).await?.into_iter().flat_map(|account| account.steps)
    {
        names.entry(step.recipe).or_insert(step.name);
    }
    let rows = found.iter().filter_map(|(place, record)| {
        let thing = inventory.things.get(*place)?;
        let ThingKind::Record { scope, key } = &thing.kind else { return None };
        // Under its other key it is the same record.
        (record.recipe == *key && view.sees(scope)).then(|| ListedRecord {
            key: *key,
            name: names.get(key).cloned().unwrap_or_else(|| described(record)),
            scope: scope.clone(),
            bytes: bytes_of(&inventory, *place),
            written: thing.written,
            used: thing.used,
        })
    });
    let mut records: Vec<ListedRecord> = rows.collect();
    records.sort_by_key(|row| (std::cmp::Reverse(row.used), row.key));
    let more = records.len().saturating_sub(LISTED_MAX);
    records.truncate(LISTED_MAX);
    Ok(CacheTold::List { records, more: u64::try_from(more).unwrap_or(u64::MAX) })
}

/// The bytes of a thing and of all that it needs.
fn bytes_of(inventory: &Inventory, place: usize) -> u64 {
    let (mut open, mut seen, mut bytes) = (vec![place], BTreeSet::new(), 0);
    while let Some(place) = open.pop() {
        if let Some(thing) = inventory.things.get(place)
            && seen.insert(place)
        {
            bytes += thing.size;
            open.extend(&thing.needs);
        }
    }
    bytes
}

/// A record of no build that is known, by what its key was made of.
fn described(record: &Record) -> String {
    let part = |name: &str| record.components.iter().find(|it| it.name == name);
    let value = |name: &str| part(name).map(|it| it.value.clone()).unwrap_or_default();
    match value("operation").as_str() {
        "run" => format!("RUN {}", value("command")),
        "copy" => format!("COPY .. {}", value("destination")),
        "workdir" => format!("WORKDIR {}", value("path")),
        "image" => format!("FROM an image, {}", value("layers")),
        _ => "a step".to_owned(),
    }
}

/// Which of the things are seen: those of the scopes that are seen, and what these need.
fn seen(inventory: &Inventory, view: &View) -> Vec<bool> {
    if matches!(view, View::Whole(_)) {
        return vec![true; inventory.things.len()];
    }
    let of_seen = |thing: &Thing| thing.scope.as_ref().is_some_and(|scope| view.sees(scope));
    let mut open: Vec<usize> =
        (0..inventory.things.len()).filter(|at| of_seen(&inventory.things[*at])).collect();
    let mut seen = vec![false; inventory.things.len()];
    while let Some(at) = open.pop() {
        if !std::mem::replace(&mut seen[at], true) {
            open.extend(&inventory.things[at].needs);
        }
    }
    seen
}

async fn stats(stores: &Stores, view: &View) -> Result<CacheStats, StoreError> {
    let inventory = stores.swept.inventory().await?;
    let mut kinds = KINDS.map(|kind| KindStats { kind: kind.into(), ..KindStats::default() });
    let mut stats = CacheStats::default();
    let seen = seen(&inventory, view);
    for (thing, _) in inventory.things.iter().zip(seen).filter(|(_, seen)| *seen) {
        let kind = &mut kinds[place_of(thing)];
        kind.count += 1;
        kind.bytes += thing.size;
        stats.bytes += thing.size;
        if thing.hold == Hold::InUse {
            stats.in_use_bytes += thing.size;
        }
    }
    stats.kinds = kinds.into();
    for account in accounts(stores, view, &inventory).await? {
        stats.builds += 1;
        for step in &account.steps {
            match step.end {
                StepEnd::Hit {} => stats.hits += 1,
                StepEnd::HitByResult {} => stats.hits_by_result += 1,
                StepEnd::Ran { .. } | StepEnd::Failed {} => stats.ran += 1,
                StepEnd::Shared {} => stats.shared += 1,
                StepEnd::Unneeded {} | StepEnd::Open {} => {}
            }
        }
    }
    Ok(stats)
}

fn place_of(thing: &Thing) -> usize {
    match thing.kind {
        ThingKind::Record { .. } | ThingKind::Replaced => 0,
        ThingKind::Form { .. } => 1,
        ThingKind::Base => 2,
        ThingKind::Image => 3,
        ThingKind::CacheMount => 4,
        ThingKind::Blob => 5,
        ThingKind::Quarantined => 6,
    }
}

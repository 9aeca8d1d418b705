//! What sweeps came to, for the page of metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcbuild_model::{EvictionRule, Scope, UnixTime};
use dcbuild_store::notes::NOTES_MAX;
use dcbuild_store::sweep::Removed;
use dcbuild_store::{Ceilings, NoteKind, StoreError, SweepMode, SweepReport, sweep};
use tokio::time::Instant;

use crate::config::Stores;

/// How sweeps end, as the page names it.
const DONE: &str = "done";
const PUT_OFF: &str = "put_off";
const FAILED: &str = "failed";
const OUTCOMES: [&str; 3] = [DONE, PUT_OFF, FAILED];
const RULES: [&str; 3] = ["age", "bytes", "all"];

/// Sums over all sweeps of this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    removed: BTreeMap<&'static str, Removed>,
    outcomes: BTreeMap<&'static str, u64>,
    took: Duration,
    last_took: Duration,
    noted: u64,
    /// Notes of removals that there are, as far as somebody has looked.
    notes: u64,
    kept_bytes: u64,
    in_use_bytes: u64,
}

/// Sweeps, and counts; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweeps(Arc<Mutex<Totals>>);

fn word(rule: EvictionRule) -> &'static str {
    match rule {
        EvictionRule::Age { .. } => "age",
        EvictionRule::Bytes { .. } => "bytes",
        EvictionRule::All {} => "all",
    }
}

impl Sweeps {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sweeps a store for real.
    pub(crate) async fn sweep(
        &self,
        stores: &Stores,
        scope: &Scope,
        ceilings: &Ceilings,
        now: UnixTime,
    ) -> Result<SweepReport, StoreError> {
        let began = Instant::now();
        let swept = sweep(&*stores.swept, ceilings, SweepMode::Remove, now).await;
        let took = began.elapsed();
        let notes = stores.notes.list(scope, NoteKind::Eviction, None, NOTES_MAX).await;
        let notes = notes.ok().map(|notes| u64::try_from(notes.len()).unwrap_or(u64::MAX));
        self.ended(swept.as_ref().ok(), notes, took);
        swept
    }

    fn ended(&self, swept: Option<&SweepReport>, notes: Option<u64>, took: Duration) {
        let mut totals = self.totals();
        let outcome = match swept {
            None => FAILED,
            Some(report) if report.put_off.is_some() => PUT_OFF,
            Some(_) => DONE,
        };
        *totals.outcomes.entry(outcome).or_default() += 1;
        totals.took += took;
        totals.last_took = took;
        totals.notes = notes.unwrap_or(totals.notes);
        let Some(report) = swept else { return };
        totals.noted += report.noted;
        totals.kept_bytes = report.kept_bytes;
        totals.in_use_bytes = report.in_use_bytes;
        for (rule, removed) in &report.removed {
            let sum = totals.removed.entry(word(*rule)).or_default();
            sum.count += removed.count;
            sum.bytes += removed.bytes;
        }
    }

    /// The families of the page, each with its kind, what it says, and its rows.
    pub(crate) fn families(&self) -> Vec<Family> {
        let totals = self.totals().clone();
        let by_rule = |number: fn(&Removed) -> u64| {
            let removed = |rule: &str| totals.removed.get(rule).map_or(0, number);
            RULES.map(|rule| (format!("{{rule=\"{rule}\"}}"), removed(rule).to_string())).into()
        };
        let outcomes = OUTCOMES.map(|outcome| {
            let number = totals.outcomes.get(outcome).copied().unwrap_or(0);
            (format!("{{outcome=\"{outcome}\"}}"), number.to_string())
        });
        let sweeps: u64 = totals.outcomes.values().sum();
        let seconds = |took: Duration| took.as_secs_f64().to_string();
        let took =
            vec![("_sum".into(), seconds(totals.took)), ("_count".into(), sweeps.to_string())];
        let one = |value: u64| vec![(String::new(), value.to_string())];
        vec![
            (
                "dcbuild_sweeps_total",
                "counter",
                "Sweeps of the store, by how they ended.",
                outcomes.into(),
            ),
            ("dcbuild_sweep_seconds", "summary", "How long sweeps took.", took),
            (
                "dcbuild_sweep_last_seconds",
                "gauge",
                "How long the last sweep took.",
                vec![(String::new(), seconds(totals.last_took))],
            ),
            (
                "dcbuild_swept_objects_total",
                "counter",
                "Records, forms, blobs and other things that were swept, by the rule that they went by.",
                by_rule(|removed| removed.count),
            ),
            (
                "dcbuild_swept_bytes_total",
                "counter",
                "The bytes of what was swept, by the rule that it went by.",
                by_rule(|removed| removed.bytes),
            ),
            (
                "dcbuild_swept_tombstones_total",
                "counter",
                "Records and layers that were noted as removed, for who asks why they are missed.",
                one(totals.noted),
            ),
            (
                "dcbuild_tombstone_notes",
                "gauge",
                "Notes of removals that are kept.",
                one(totals.notes),
            ),
            (
                "dcbuild_store_bytes",
                "gauge",
                "The bytes that the last sweep left in the store.",
                one(totals.kept_bytes),
            ),
            (
                "dcbuild_store_in_use_bytes",
                "gauge",
                "Those of them that running builds may use.",
                one(totals.in_use_bytes),
            ),
        ]
    }
}

/// A family of the page: its name, its kind, what it says, and its rows: what follows the name, and the value.
pub(crate) type Family = (&'static str, &'static str, &'static str, Vec<(String, String)>);

#[cfg(test)]
mod tests {
    use dcbuild_store::PutOff;
    use expect_test::expect;

    use super::*;

    fn page(sweeps: &Sweeps) -> String {
        let rows = sweeps.families().into_iter().flat_map(|(name, _, _, rows)| {
            rows.into_iter().map(move |(labels, value)| format!("{name}{labels} {value}\n"))
        });
        rows.collect()
    }

    #[test]
    fn sweeps_are_summed_by_rule_and_by_how_they_end() {
        let sweeps = Sweeps::default();
        let removed = |count, bytes| Removed { count, bytes };
        let report = SweepReport {
            removed: [
                (EvictionRule::Age { max_secs: 7 }, removed(3, 300)),
                (EvictionRule::Bytes { keep: 1 }, removed(1, 50)),
            ]
            .into(),
            kept_bytes: 900,
            in_use_bytes: 100,
            noted: 2,
            ..SweepReport::default()
        };
        sweeps.ended(Some(&report), Some(1), Duration::from_millis(1_500));
        let other = SweepReport {
            removed: [(EvictionRule::Age { max_secs: 8 }, removed(1, 7))].into(),
            kept_bytes: 893,
            ..SweepReport::default()
        };
        sweeps.ended(Some(&other), Some(2), Duration::from_millis(250));
        let put_off = Some(PutOff::Elsewhere);
        let put_off = SweepReport { put_off, kept_bytes: 893, ..SweepReport::default() };
        sweeps.ended(Some(&put_off), None, Duration::ZERO);
        sweeps.ended(None, None, Duration::from_secs(1));
        expect![[r#"
            dcbuild_sweeps_total{outcome="done"} 2
            dcbuild_sweeps_total{outcome="put_off"} 1
            dcbuild_sweeps_total{outcome="failed"} 1
            dcbuild_sweep_seconds_sum 2.75
            dcbuild_sweep_seconds_count 4
            dcbuild_sweep_last_seconds 1
            dcbuild_swept_objects_total{rule="age"} 4
            dcbuild_swept_objects_total{rule="bytes"} 1
            dcbuild_swept_objects_total{rule="all"} 0
            dcbuild_swept_bytes_total{rule="age"} 307
            dcbuild_swept_bytes_total{rule="bytes"} 50
            dcbuild_swept_bytes_total{rule="all"} 0
            dcbuild_swept_tombstones_total 2
            dcbuild_tombstone_notes 2
            dcbuild_store_bytes 893
            dcbuild_store_in_use_bytes 0
        "#]]
        .assert_eq(&page(&sweeps));
    }
}

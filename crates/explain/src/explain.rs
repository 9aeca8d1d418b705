//! The verdict on each step, and the first cause of each miss.

use dcbuild_model::{BuildId, Eviction, EvictionRule, LayerId, StepIndex, StepKey, UnixTime};
use serde::{Deserialize, Serialize};

use crate::change::{changes, changes_across_platforms};
use crate::nearest::{Platforms, nearest};
use crate::{Account, AccountStep, Asked, Change, FileChange, Passed, StepEnd};

/// What can be said of a build.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// The build.
    pub build: BuildId,
    /// Its name, for people.
    pub title: String,
    /// When it was submitted.
    pub submitted: UnixTime,
    /// How many earlier builds it was compared with.
    pub compared: u64,
    /// The steps that were asked for.
    pub steps: Vec<StepExplanation>,
}

/// Whether the cache had a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It had it.
    Hit,
    /// It had it, by what the steps before had made.
    HitByResult,
    /// It had it not: the step ran.
    Miss,
    /// It had it not: another build ran it at the same time.
    Shared,
    /// It had it not: the step ran and failed.
    Failed,
    /// Nothing that was needed reads the step.
    Unneeded,
    /// It had it not, and the step did not run, or not yet.
    NotRun,
}

/// What can be said of a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepExplanation {
    /// Its number, from 1.
    pub number: u32,
    /// What people read.
    pub name: String,
    /// The lines of the Dockerfile, first and last, from 1.
    pub lines: (u32, u32),
    /// Its key.
    pub key: StepKey,
    /// Whether the cache had it.
    pub verdict: Verdict,
    /// How long it ran, in milliseconds, where it ran.
    pub took_ms: Option<u64>,
    /// Why the cache had it not.
    pub reason: Option<Reason>,
}

/// Why the cache had a step not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "why")]
pub enum Reason {
    /// `--no-cache` was given.
    NoCache {},
    /// `--no-cache-filter` named its stage.
    NoCacheFilter {
        /// The stage.
        stage: String,
    },
    /// There was a record, and it was removed.
    Evicted {
        /// When.
        at: UnixTime,
        /// By what rule.
        rule: EvictionRule,
    },
    /// There is a record, and one of its layers is gone.
    LayerGone {
        /// The layer.
        layer: LayerId,
        /// When and by what rule it was removed; none if nobody noted it.
        evicted: Option<(UnixTime, EvictionRule)>,
    },
    /// There was a record, and one of its layers was damaged in the store.
    LayerDamaged {
        /// The layer.
        layer: LayerId,
        /// When it was put aside.
        at: UnixTime,
    },
    /// There is a record, and it was made from other results than those of this build.
    OtherResults {},
    /// An earlier build had a result under this very key, and the store could not be asked for it.
    Unreachable {
        /// The build.
        since: BuildId,
        /// When that was submitted.
        at: UnixTime,
    },
    /// Parts of its key are not what they were.
    Changed {
        /// The build that it is compared with.
        since: BuildId,
        /// When that was submitted.
        at: UnixTime,
        /// What differs.
        changes: Vec<Change>,
    },
    /// An earlier build had a result under this very key; it is not there any more, and nobody noted why.
    Lost {
        /// The build.
        since: BuildId,
        /// When that was submitted.
        at: UnixTime,
    },
    /// An earlier build had a result under this very key, and was told to keep none.
    Held {
        /// The build.
        since: BuildId,
        /// When that was submitted.
        at: UnixTime,
    },
    /// No earlier build that is known has made a step like it.
    Never {},
}

/// What is known beside the account itself.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Accounts of earlier builds, the newest first.
    pub earlier: &'a [Account],
    /// Notes of what was removed.
    pub evictions: &'a [Eviction],
}

/// Two layers whose difference says which files of an input changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileQuestion {
    /// The layer that was made before.
    pub before: LayerId,
    /// The one that was made now.
    pub after: LayerId,
}

/// Explains steps of a build; `files` answers for each [`FileQuestion`] which files differ, and how many more.
pub fn explain(
    account: &Account,
    steps: &[StepIndex],
    evidence: Evidence<'_>,
    files: &dyn Fn(&FileQuestion) -> (Vec<FileChange>, u64),
) -> Explanation {
    let explained = steps.iter().filter_map(|at| {
        let step = account.steps.get(at.index())?;
        let (verdict, took_ms) = verdict(step.end);
        let reason = match verdict {
            Verdict::Hit | Verdict::HitByResult | Verdict::Unneeded => None,
            Verdict::Miss | Verdict::Shared | Verdict::Failed | Verdict::NotRun => {
                Some(reason(account, step, evidence, files))
            }
        };
        Some(StepExplanation {
            number: at.0.saturating_add(1),
            name: step.name.clone(),
            lines: step.lines,
            key: step.recipe,
            verdict,
            took_ms,
            reason,
        })
    });
    Explanation {
        build: account.build,
        title: account.title.clone(),
        submitted: account.submitted,
        compared: u64::try_from(evidence.earlier.len()).unwrap_or(u64::MAX),
        steps: explained.collect(),
    }
}

/// The layers that must be compared before these steps can be explained.
pub fn file_questions(
    account: &Account,
    steps: &[StepIndex],
    evidence: Evidence<'_>,
) -> Vec<FileQuestion> {
    let asked = std::cell::RefCell::new(Vec::new());
    explain(account, steps, evidence, &|question| {
        asked.borrow_mut().push(question.clone());
        (Vec::new(), 0)
    });
    asked.into_inner()
}

fn verdict(end: StepEnd) -> (Verdict, Option<u64>) {
    match end {
        StepEnd::Hit {} => (Verdict::Hit, None),
        StepEnd::HitByResult {} => (Verdict::HitByResult, None),
        StepEnd::Ran { took_ms } => (Verdict::Miss, Some(took_ms)),
        StepEnd::Shared {} => (Verdict::Shared, None),
        StepEnd::Failed {} => (Verdict::Failed, None),
        StepEnd::Unneeded {} => (Verdict::Unneeded, None),
        StepEnd::Open {} => (Verdict::NotRun, None),
    }
}

fn reason(
    account: &Account,
    step: &AccountStep,
    evidence: Evidence<'_>,
    files: &dyn Fn(&FileQuestion) -> (Vec<FileChange>, u64),
) -> Reason {
    match step.asked {
        Asked::NoCache => return Reason::NoCache {},
        Asked::NoCacheFilter => return Reason::NoCacheFilter { stage: step.stage.clone() },
        Asked::Usual => {}
    }
    // What was removed later is no reason for what this build did not find.
    let notes = || evidence.evictions.iter().filter(|note| note.at <= account.submitted);
    match step.passed {
        Some(Passed::LayerGone { layer }) => {
            let evicted = newest(notes().filter(|note| note.layers.contains(&layer)))
                .filter(|(at, _)| !layer_was_made_since(layer, evidence.earlier, *at));
            return Reason::LayerGone { layer, evicted };
        }
        Some(Passed::LayerDamaged { layer, at }) => return Reason::LayerDamaged { layer, at },
        Some(Passed::OtherResults {}) => return Reason::OtherResults {},
        // Nobody made some of the steps that were asked for.
        Some(Passed::Unreachable {}) | None => {}
    }
    if let Some((at, rule)) = newest(notes().filter(|it| it.records.contains(&step.recipe)))
        && !was_made_since(step, evidence.earlier, at)
    {
        return Reason::Evicted { at, rule };
    }
    let found = |platforms| nearest(account, step, evidence.earlier, platforms);
    let Some((since, before)) = found(Platforms::Same) else {
        let Some((since, before)) = found(Platforms::Others) else { return Reason::Never {} };
        let changes = changes_across_platforms(account, step, before);
        return Reason::Changed { since: since.build, at: since.submitted, changes };
    };
    let (build, at) = (since.build, since.submitted);
    if before.recipe == step.recipe && step.passed == Some(Passed::Unreachable {}) {
        return Reason::Unreachable { since: build, at };
    }
    if before.recipe == step.recipe && before.held {
        return Reason::Held { since: build, at };
    }
    if before.recipe == step.recipe {
        return Reason::Lost { since: build, at };
    }
    let mut changes = changes(account, step, before);
    // What a RUN made of its inputs says nothing of them; what a COPY made is what it read.
    let copies = step.component("operation") == Some("copy");
    if let (true, Some(before), Some(after)) = (copies, before.layer, step.layer) {
        let question = FileQuestion { before, after };
        for change in &mut changes {
            if let Change::Files { files: known, more, .. } = change {
                (*known, *more) = files(&question);
            }
        }
    }
    Reason::Changed { since: build, at, changes }
}

fn newest<'a>(notes: impl Iterator<Item = &'a Eviction>) -> Option<(UnixTime, EvictionRule)> {
    notes.max_by_key(|note| note.at).map(|note| (note.at, note.rule))
}

/// Whether a build that began after a removal made a layer again.
fn layer_was_made_since(layer: LayerId, earlier: &[Account], removed: UnixTime) -> bool {
    let since = earlier.iter().filter(|account| account.submitted > removed);
    let mut steps = since.flat_map(|account| &account.steps);
    steps.any(|it| it.layer == Some(layer) && it.end.has_result())
}

/// Whether a build that began after a removal had a result under the very key of a step.
fn was_made_since(step: &AccountStep, earlier: &[Account], removed: UnixTime) -> bool {
    let later = earlier.iter().filter(|account| account.submitted > removed);
    let mut steps = later.flat_map(|account| &account.steps);
    steps.any(|it| it.recipe == step.recipe && it.end.has_result())
}

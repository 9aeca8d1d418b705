//! The account of a build: what became of each step, with the components of its key.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_explain::{Account, AccountImage, AccountInput, AccountStep, Asked, Passed, StepEnd};
use dcbuild_model::{LayerId, Record, StepIndex};
use dcbuild_plan::{InputSource, NoCache, Op, Step};

use crate::build::Build;
use crate::planned::{PlannedBuild, keeps};
use crate::records::Probed;

/// Writes the account of a build; `found` says of which records it found while it went on that they are of no use, and `end`
/// how each step ended, and the layer that the build has of it.
pub(crate) fn account(
    build: &Build,
    planned: &PlannedBuild,
    found: &BTreeMap<StepIndex, Passed>,
    end: impl Fn(StepIndex) -> (StepEnd, Option<LayerId>),
) -> Account {
    let submission = &build.submission;
    let mut account = Account::new(build.id, submission.title.clone(), build.submitted);
    account.arguments = submission.request.build_args.keys().cloned().collect();
    let fresh = match submission.request.no_cache {
        NoCache::All => Asked::NoCache,
        NoCache::Nothing | NoCache::Stages { .. } => Asked::NoCacheFilter,
    };
    let found = found.iter().map(|(step, why)| (*step, *why));
    let passed: BTreeMap<StepIndex, Passed> = planned.passed.iter().copied().chain(found).collect();
    for (at, step) in (0..).map(StepIndex).zip(&planned.plan.steps) {
        let (end, layer) = end(at);
        let ran = matches!(end, StepEnd::Ran { .. });
        let held = ran && !keeps(submission.upload, &planned.plan, at);
        account.steps.push(AccountStep {
            name: step.name.clone(),
            stage: stage_of(planned, step),
            lines: step.lines,
            recipe: step.recipe,
            components: step.components.clone(),
            parent: step.parent,
            inputs: step.inputs.iter().map(|input| whence(&input.source)).collect(),
            image: image_of(&step.op),
            asked: if step.fresh { fresh } else { Asked::Usual },
            passed: passed.get(&at).copied(),
            end,
            layer,
            held,
        });
    }
    account
}

/// The account of a build that had nothing to do.
pub(crate) fn of_hits(build: &Build, planned: &PlannedBuild) -> Account {
    let taken: BTreeMap<StepIndex, &Record> =
        planned.taken.iter().map(|(step, record)| (*step, record)).collect();
    account(build, planned, &BTreeMap::new(), |step| match taken.get(&step) {
        Some(record) => (StepEnd::Hit {}, layer_of(planned.plan.step(step), record)),
        None => (StepEnd::Unneeded {}, None),
    })
}

/// The layer that a step made, if it made one and is no image.
pub(crate) fn layer_of(step: &Step, record: &Record) -> Option<LayerId> {
    let own = !matches!(step.op, Op::Image(_));
    record.result.layers.last().filter(|_| own).map(|layer| layer.layer)
}

/// Why records that were found for steps that run were not taken.
pub(crate) fn passed(
    probed: &Probed,
    taken: &BTreeMap<StepIndex, Record>,
    run: &BTreeSet<StepIndex>,
) -> Vec<(StepIndex, Passed)> {
    let why = |step: &StepIndex| {
        if taken.contains_key(step) {
            return None;
        }
        if probed.unreachable {
            return Some((*step, Passed::Unreachable {}));
        }
        if probed.found.get(step).is_some_and(|records| !records.is_empty()) {
            return Some((*step, Passed::OtherResults {}));
        }
        let layer = probed.gone.get(step)?;
        Some((*step, Passed::LayerGone { layer: *layer }))
    };
    run.iter().filter_map(why).collect()
}

fn stage_of(planned: &PlannedBuild, step: &Step) -> String {
    let stage = planned.plan.stages.iter().find(|stage| stage.index == step.stage);
    stage.map(|stage| stage.name.clone()).unwrap_or_default()
}

fn whence(source: &InputSource) -> AccountInput {
    match source {
        InputSource::Step { step } => AccountInput::Step { step: *step },
        InputSource::Scratch {} => AccountInput::Scratch {},
        InputSource::Context { name, digest: _ } => AccountInput::Context { name: name.clone() },
    }
}

fn image_of(op: &Op) -> Option<AccountImage> {
    match op {
        Op::Image(image) => {
            Some(AccountImage { name: image.name.clone(), manifest: image.manifest })
        }
        Op::Run(_) | Op::Copy(_) | Op::Workdir(_) => None,
    }
}

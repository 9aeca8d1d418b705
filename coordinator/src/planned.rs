//! A build that is planned: all that must be known to go on with it after a restart.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_attest::Material;
use dcbuild_explain::Passed;
use dcbuild_model::{BlobDigest, Digest, Platform, Record, Selection, StateDigest, StepIndex};
use dcbuild_plan::{Input, InputSource, MountKind, Op, Plan, Step};
use dcbuild_proto::document::{self, Upload};
use dcbuild_scheduler::Made;
use serde::{Deserialize, Serialize};

/// A plan with what was decided and packed for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedBuild {
    /// The plan.
    pub plan: Plan,
    /// The records that were taken.
    pub taken: Vec<(StepIndex, Record)>,
    /// The parcels of selections of contexts.
    pub packs: Vec<(String, Selection, BlobDigest)>,
    /// Secrets that the client gave, by id.
    pub secrets: BTreeSet<String>,
    /// Registries that the client gave credentials for.
    pub hosts: BTreeSet<String>,
    /// Registries that are asked in the place of others, by those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mirrors: BTreeMap<String, BTreeSet<String>>,
    /// Why records that were found were not taken.
    #[serde(default)]
    pub passed: Vec<(StepIndex, Passed)>,
    /// What was fetched for ADDs, by the names of their contexts.
    #[serde(default)]
    pub fetched: BTreeMap<String, Material>,
    /// The platform that builds, where it is not the one that the client named.
    #[serde(default)]
    pub builds_on: Option<Platform>,
}

/// The digest that the scheduler knows a record by.
pub(crate) fn record_digest(record: &Record) -> BlobDigest {
    BlobDigest(Digest::of(&document::to_bytes(record)))
}

/// Whether a build that keeps this keeps the result of a step for later builds.
pub(crate) fn keeps(upload: Upload, plan: &Plan, step: StepIndex) -> bool {
    let in_output = || plan.states().into_iter().any(|it| plan.chain(Some(it)).contains(&step));
    match upload {
        Upload::All => true,
        Upload::Outputs => in_output(),
        Upload::None => false,
    }
}

/// What a record made upon a state.
pub(crate) fn made(record: &Record, parent: StateDigest) -> Made {
    Made { state: record.result.state_after(parent), record: record_digest(record) }
}

/// The ids of the secrets that a step names, and whether each is required.
pub(crate) fn secrets_of(step: &Step) -> Vec<(&str, bool)> {
    let Op::Run(run) = &step.op else { return Vec::new() };
    run.mounts
        .iter()
        .filter_map(|mount| match mount {
            MountKind::Secret(secret) => Some((secret.id.as_str(), secret.required)),
            _ => None,
        })
        .collect()
}

/// The ids of the ssh agents that a step names.
pub(crate) fn agents_of(step: &Step) -> impl Iterator<Item = &str> {
    let mounts = match &step.op {
        Op::Run(run) => run.mounts.as_slice(),
        Op::Image(_) | Op::Copy(_) | Op::Workdir(_) => &[],
    };
    mounts.iter().filter_map(|mount| match mount {
        MountKind::Ssh { id, .. } => Some(id.as_str()),
        _ => None,
    })
}

/// The contexts that a step reads.
pub(crate) fn contexts_of(step: &Step) -> impl Iterator<Item = (&String, &Selection)> {
    step.inputs.iter().filter_map(|input| match &input.source {
        InputSource::Context { name, .. } => Some((name, &input.selection)),
        InputSource::Step { .. } | InputSource::Scratch {} => None,
    })
}

/// The steps that a step reads, in the order of its lineage.
pub(crate) fn inputs_of(step: &Step) -> impl Iterator<Item = StepIndex> {
    step.inputs.iter().filter_map(Input::step)
}

/// The states that taken records make.
pub(crate) fn states(
    plan: &Plan,
    taken: &BTreeMap<StepIndex, Record>,
) -> BTreeMap<StepIndex, StateDigest> {
    let mut states = BTreeMap::new();
    for (step, record) in taken {
        let below = match plan.step(*step).parent {
            None => Some(StateDigest::empty()),
            Some(parent) => states.get(&parent).copied(),
        };
        if let Some(below) = below {
            states.insert(*step, record.result.state_after(below));
        }
    }
    states
}

/// The steps that will run or be asked for, unless others make them: what is wanted, less what is taken.
pub(crate) fn to_run(
    plan: &Plan,
    taken: &BTreeMap<StepIndex, Record>,
    wanted: &[StepIndex],
) -> BTreeSet<StepIndex> {
    let mut open: BTreeSet<StepIndex> = wanted.iter().copied().collect();
    let mut run = BTreeSet::new();
    while let Some(step) = open.pop_last() {
        if taken.contains_key(&step) || !run.insert(step) {
            continue;
        }
        let planned = plan.step(step);
        open.extend(planned.parent);
        open.extend(inputs_of(planned));
    }
    run
}

//! The compact graph of a planned build: what the scheduler may know of it.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{Digest, Encoder, Record, Scope, StepIndex};
use dcbuild_plan::{CacheSharing, Input, MountKind, Op, Plan, RunNetwork, Step};
use dcbuild_scheduler::{
    CacheMount, Freshness, Graph, Made, OutputNode, Requests, Sees, Share, StepKind, StepNode,
};

use crate::planned::{inputs_of, record_digest, secrets_of, states};

/// What graphs of this coordinator have in common.
pub(crate) struct GraphKind<'a> {
    /// The scope; caches of different scopes are different.
    pub(crate) scope: &'a Scope,
    /// Drawn by this process: values of secrets are compared under it, and it is never stored.
    pub(crate) mac_key: Digest,
}

/// Builds the graph of a plan with `outputs` outputs; `secret` gives the values that the client confided.
pub(crate) fn graph(
    kind: &GraphKind<'_>,
    plan: &Plan,
    taken: &BTreeMap<StepIndex, Record>,
    outputs: usize,
    secret: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Graph {
    let states = states(plan, taken);
    let made = |step: StepIndex| {
        let (state, record) = (states.get(&step)?, taken.get(&step)?);
        Some(Made { state: *state, record: record_digest(record) })
    };
    let numbered = (0..).map(StepIndex).zip(&plan.steps);
    let steps = numbered.map(|(at, step)| node(kind, step, made(at), secret)).collect();
    let needs = plan.wanted();
    let output =
        || OutputNode { needs: needs.clone(), platform: None, requests: Requests::default() };
    let wanted = if outputs == 0 { needs.clone() } else { Vec::new() };
    Graph { steps, wanted, outputs: (0..outputs).map(|_| output()).collect() }
}

fn node(
    kind: &GraphKind<'_>,
    step: &Step,
    taken: Option<Made>,
    secret: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> StepNode {
    StepNode {
        stage: step.stage,
        key: step.recipe,
        parent: step.parent,
        inputs: inputs_of(step).collect(),
        parts: parts_of(step),
        platform: step.platform.clone(),
        kind: if matches!(step.op, Op::Run(_)) { StepKind::Run } else { StepKind::Files },
        share: share(kind, step, secret),
        sees: sees(step),
        freshness: if step.fresh { Freshness::Fresh } else { Freshness::Any },
        caches: caches(kind, step, |_| true),
        locked: locked(kind, step),
        requests: Requests::default(),
        taken,
    }
}

/// The steps of whose trees a step reads less than all.
fn parts_of(step: &Step) -> Vec<StepIndex> {
    let is_all = |source: &String| matches!(source.trim_matches('/'), "" | "." | "*");
    let whole = |input: &&Input| input.selection.sources.iter().any(is_all);
    let whole: BTreeSet<StepIndex> =
        step.inputs.iter().filter(whole).filter_map(Input::step).collect();
    inputs_of(step).filter(|input| !whole.contains(input)).collect()
}

fn mounts(step: &Step) -> &[MountKind] {
    match &step.op {
        Op::Run(run) => &run.mounts,
        Op::Image(_) | Op::Copy(_) | Op::Workdir(_) => &[],
    }
}

fn share(kind: &GraphKind<'_>, step: &Step, secret: &dyn Fn(&str) -> Option<Vec<u8>>) -> Share {
    if mounts(step).iter().any(|mount| matches!(mount, MountKind::Ssh { .. })) {
        return Share::Nobody;
    }
    let ids = secrets_of(step);
    if ids.is_empty() {
        return Share::Anyone;
    }
    let mut encoder = Encoder::new("secrets/1");
    encoder.digest(&kind.mac_key);
    encoder.list(ids.iter(), |encoder, (id, _)| {
        encoder.text(id);
        encoder.option(secret(id), |encoder, value| encoder.bytes(&value));
    });
    Share::SameValues(encoder.finish())
}

fn sees(step: &Step) -> Sees {
    match &step.op {
        Op::Run(run) => {
            let beyond = |mount: &MountKind| {
                matches!(
                    mount,
                    MountKind::Secret(_) | MountKind::Ssh { .. } | MountKind::Cache { .. }
                )
            };
            let alone = run.network == RunNetwork::None && !run.mounts.iter().any(beyond);
            if alone { Sees::KeyOnly } else { Sees::More }
        }
        // Pulls see a network; files of a context may have changed for one client only.
        Op::Image(_) => Sees::More,
        Op::Copy(_) | Op::Workdir(_) => Sees::KeyOnly,
    }
}

/// The cache mounts that a step has for itself; one that begins with an empty folder has that alone in any case.
fn locked(kind: &GraphKind<'_>, step: &Step) -> Vec<CacheMount> {
    match &step.op {
        Op::Run(run) if run.empty_caches => Vec::new(),
        _ => caches(kind, step, |sharing| sharing == CacheSharing::Locked),
    }
}

/// The cache mounts of a step that are shared in such a way.
fn caches(
    kind: &GraphKind<'_>,
    step: &Step,
    is_meant: impl Fn(CacheSharing) -> bool,
) -> Vec<CacheMount> {
    let cache = |mount: &MountKind| match mount {
        MountKind::Cache { id, sharing, .. } if is_meant(*sharing) => {
            let mut encoder = Encoder::new("cache-mount/1");
            encoder.text(kind.scope.as_str());
            encoder.text(id);
            Some(CacheMount(encoder.finish()))
        }
        _ => None,
    };
    mounts(step).iter().filter_map(cache).collect()
}

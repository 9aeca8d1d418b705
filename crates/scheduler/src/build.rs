//! A build's own state, and what of it is needed and complete.

use std::collections::BTreeSet;

use dcbuild_model::{BlobDigest, Digest, JobId, LogTime, Scope, StateDigest, StepIndex, WorkerId};

use crate::action::{Failure, Outcome};
use crate::event::{Presence, Work};
use crate::graph::{Graph, Made, Requests, StepNode};
use crate::result::ResultId;
use crate::state::At;

/// A build, running or ended.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) body: Digest,
    pub(crate) scope: Scope,
    pub(crate) priority: i32,
    pub(crate) presence: Presence,
    /// The entry of the log that submitted it.
    pub(crate) submitted: u64,
    pub(crate) graph: Graph,
    pub(crate) steps: Vec<Step>,
    pub(crate) outputs: Vec<Output>,
    /// Queued and leased jobs made of its steps; an ended build may still have some that others wait for.
    pub(crate) jobs: BTreeSet<JobId>,
    pub(crate) life: Life,
}

/// Whether a build runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// It runs; a client that went away is back by then, or it ends.
    Running { until: Option<LogTime> },
    /// It has ended.
    Ended(Outcome),
    /// It has ended, and nobody asks for it; it goes when its last job does.
    Forgotten(Outcome),
}

/// What a job asks of a worker.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Shape {
    pub(crate) platform: Option<dcbuild_model::Platform>,
    pub(crate) requests: Requests,
}

/// Tries at a step or an output.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tries {
    /// Attempts that were lost to faults of machines.
    pub(crate) lost: u32,
    /// The workers of lost attempts.
    pub(crate) workers: BTreeSet<WorkerId>,
    /// Leases so far.
    pub(crate) epoch: u64,
    /// Whether it was under way before and goes ahead of the queue.
    pub(crate) ahead: bool,
}

/// A step's state in one build.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub(crate) state: StepState,
    /// The state of a result that was withdrawn; what was made of it holds only if the next is the same.
    pub(crate) former: Option<StateDigest>,
    pub(crate) tries: Tries,
    /// How often its result was not to be had.
    pub(crate) losses: u32,
    /// The entry with which its last result was withdrawn.
    pub(crate) withdrawn: Option<u64>,
    /// Steps that share the attempt, in the order in which they came.
    pub(crate) subscribers: Vec<At>,
}

/// How far a step is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum StepState {
    /// Waits for others, or is not needed.
    #[default]
    Idle,
    /// Is part of a queued or leased job.
    InJob(JobId),
    /// Shares the attempt of this step.
    Subscribed(At),
    /// Has a result.
    Done(Source),
}

/// Where a done step's result is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// In a record; all that it lies on is durable.
    Record(Made),
    /// Among the results that running builds made.
    Pool(ResultId, Made),
}

impl Source {
    pub(crate) fn made(self) -> Made {
        match self {
            Source::Record(made) | Source::Pool(_, made) => made,
        }
    }
}

/// An output's state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    pub(crate) state: OutputState,
    pub(crate) tries: Tries,
}

/// How far an output is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum OutputState {
    /// Waits for steps.
    #[default]
    Idle,
    /// Is queued or leased.
    InJob(JobId),
    /// Is made.
    Done(BlobDigest),
    /// Cannot be made; the others go on, and the build fails behind them.
    Failed(Failure),
}

impl OutputState {
    /// Whether nothing more is done for it.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, OutputState::Done(_) | OutputState::Failed(_))
    }
}

impl Build {
    pub(crate) fn runs(&self) -> bool {
        matches!(self.life, Life::Running { .. })
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.life {
            Life::Running { .. } => None,
            Life::Ended(outcome) | Life::Forgotten(outcome) => Some(outcome),
        }
    }

    /// The first part of the scope.
    pub(crate) fn tenant(&self) -> String {
        self.scope.as_str().split('/').next().unwrap_or_default().to_owned()
    }

    pub(crate) fn done(&self, step: StepIndex) -> Option<Source> {
        match self.steps.get(step.index())?.state {
            StepState::Done(source) => Some(source),
            StepState::Idle | StepState::InJob(_) | StepState::Subscribed(_) => None,
        }
    }

    /// Says for each step whether something that is wanted and not there yet reads it.
    pub(crate) fn needed(&self) -> Vec<bool> {
        let mut needed = vec![false; self.steps.len()];
        let want = |needed: &mut Vec<bool>, step: StepIndex| {
            if let Some(flag) = needed.get_mut(step.index()) {
                *flag = true;
            }
        };
        for step in &self.graph.wanted {
            want(&mut needed, *step);
        }
        for (node, output) in self.graph.outputs.iter().zip(&self.outputs) {
            if !output.state.is_over() {
                node.needs.iter().for_each(|step| want(&mut needed, *step));
            }
        }
        for at in (0..self.steps.len()).rev() {
            let (Some(node), Some(step)) = (self.graph.steps.get(at), self.steps.get(at)) else {
                continue;
            };
            if !needed.get(at).copied().unwrap_or(false) {
                continue;
            }
            match step.state {
                StepState::Idle => node.needs().for_each(|on| want(&mut needed, on)),
                // Who runs it has read its inputs or will say so; but its layers lie on its parent's.
                StepState::InJob(_)
                | StepState::Subscribed(_)
                | StepState::Done(Source::Pool(..)) => {
                    node.parent.iter().for_each(|on| want(&mut needed, *on));
                }
                StepState::Done(Source::Record(_)) => {
                    if self.lies_on_withdrawn(StepIndex(u32::try_from(at).unwrap_or(u32::MAX))) {
                        node.parent.iter().for_each(|on| want(&mut needed, *on));
                    }
                }
            }
        }
        needed
    }

    /// The steps through which a job reads another step's files, where it does not stand on that itself: what was copied
    /// may lie nowhere but where it was copied from.
    pub(crate) fn copied_from(&self, work: &Work, input: StepIndex) -> Vec<StepIndex> {
        let node = |step: StepIndex| self.graph.steps.get(step.index());
        let mut seen = BTreeSet::new();
        let mut open: Vec<StepIndex> = match work {
            Work::Output(output) => self
                .graph
                .outputs
                .get(output.index())
                .map(|it| it.needs.clone())
                .unwrap_or_default(),
            Work::Steps(steps) => {
                steps.iter().filter_map(|it| node(*it)).flat_map(StepNode::needs).collect()
            }
        };
        let jobs_own =
            |step: &StepIndex| matches!(work, Work::Steps(steps) if steps.contains(step));
        open.retain(|step| !jobs_own(step));
        while let Some(step) = open.pop() {
            if step == input {
                return Vec::new();
            }
            if seen.insert(step) {
                open.extend(node(step).and_then(|it| it.parent));
            }
        }
        // Steps stand behind those that they need.
        let mut reads = BTreeSet::from([input]);
        let mut through = Vec::new();
        for (step, node) in self.graph.numbered() {
            let copies = node.inputs.iter().any(|on| reads.contains(on));
            if copies {
                through.push(step);
            }
            if copies || node.parent.is_some_and(|on| reads.contains(&on)) {
                reads.insert(step);
            }
        }
        through
    }

    /// Says whether a step's result was taken away and is not there again.
    fn is_withdrawn(&self, step: StepIndex) -> bool {
        let former = self.steps.get(step.index()).is_some_and(|it| it.former.is_some());
        former && self.done(step).is_none()
    }

    /// Says whether a record lies on a result that was taken away: all below it was durable once, and is not any more. What
    /// is below may have been made again since, upon what was lost only then.
    pub(crate) fn lies_on_withdrawn(&self, step: StepIndex) -> bool {
        if self.steps.iter().all(|it| it.former.is_none()) {
            return false;
        }
        let parent = |step: StepIndex| self.graph.steps.get(step.index())?.parent;
        let mut below = parent(step);
        while let Some(on) = below {
            if self.is_withdrawn(on) {
                return true;
            }
            below = self.done(on).and_then(|_| parent(on));
        }
        false
    }

    /// Says whether a step is done and so is all that its layers lie on, given the answers for the steps before it.
    pub(crate) fn is_solid(&self, step: StepIndex, before: &[bool]) -> bool {
        let parent = self.graph.steps.get(step.index()).and_then(|node| node.parent);
        match self.done(step) {
            Some(Source::Record(_)) => !self.lies_on_withdrawn(step),
            Some(Source::Pool(..)) => {
                parent.is_none_or(|on| before.get(on.index()).copied().unwrap_or(false))
            }
            None => false,
        }
    }

    /// The states of the parent and of each input, if all are done.
    pub(crate) fn lineage(&self, step: StepIndex) -> Option<Vec<StateDigest>> {
        let node = self.graph.steps.get(step.index())?;
        node.needs().map(|on| self.done(on).map(|source| source.made().state)).collect()
    }
}

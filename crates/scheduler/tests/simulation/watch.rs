//! Watches the actions and keeps its own books: what they say must never contradict itself.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{
    AttemptId, BuildId, Platform, Scope, StateDigest, StepIndex, StepKey, WorkerId,
};
use dcbuild_scheduler::*;

type Place = (Scope, StepKey, Vec<Option<StateDigest>>);

struct Held {
    worker: WorkerId,
    /// The steps without a result.
    open: BTreeSet<StepIndex>,
    first: Option<Place>,
}

pub(crate) struct Watch {
    seed: u64,
    slots: BTreeMap<WorkerId, usize>,
    platforms: BTreeMap<WorkerId, BTreeSet<Platform>>,
    used: BTreeMap<WorkerId, usize>,
    scopes: BTreeMap<BuildId, Scope>,
    ended: BTreeMap<BuildId, Outcome>,
    settled: BTreeMap<(BuildId, StepIndex), StateDigest>,
    held: BTreeMap<AttemptId, Held>,
    /// What runs first in an attempt, by key and lineage.
    running: BTreeSet<Place>,
    builds: BTreeMap<AttemptId, BuildId>,
    /// Outputs that cannot be made.
    failed: BTreeSet<(BuildId, OutputIndex)>,
}

impl Watch {
    pub(crate) fn new(seed: u64) -> Watch {
        Watch {
            seed,
            slots: BTreeMap::new(),
            platforms: BTreeMap::new(),
            used: BTreeMap::new(),
            scopes: BTreeMap::new(),
            ended: BTreeMap::new(),
            settled: BTreeMap::new(),
            held: BTreeMap::new(),
            running: BTreeSet::new(),
            builds: BTreeMap::new(),
            failed: BTreeSet::new(),
        }
    }

    pub(crate) fn see(
        &mut self,
        event: &Event,
        actions: &[Action],
        graphs: &BTreeMap<BuildId, Graph>,
    ) {
        self.before(event, actions);
        for action in actions {
            self.see_action(
                action,
                matches!(event, Event::Recovered | Event::WorkerBack { .. }),
                graphs,
            );
        }
    }

    fn before(&mut self, event: &Event, actions: &[Action]) {
        match event {
            Event::Submit(submission) => {
                self.scopes.insert(submission.build, submission.scope.clone());
            }
            Event::WorkerJoined(facts) => {
                self.slots.insert(facts.worker, usize::try_from(facts.slots).unwrap());
                self.platforms.insert(facts.worker, facts.platforms.clone());
            }
            Event::WorkerLost { worker } => {
                let lost: Vec<AttemptId> = self
                    .held
                    .iter()
                    .filter(|(_, held)| held.worker == *worker)
                    .map(|(attempt, _)| *attempt)
                    .collect();
                for attempt in lost {
                    self.release(attempt);
                }
            }
            Event::StepDone { fence, step, .. } | Event::StepHit { fence, step, .. } => {
                self.fence(*fence, actions);
                let all = self.held.get_mut(&fence.attempt).is_some_and(|held| {
                    held.open.remove(step);
                    held.open.is_empty()
                });
                if let Some(place) =
                    self.held.get_mut(&fence.attempt).and_then(|held| held.first.take())
                {
                    self.running.remove(&place);
                }
                if all {
                    self.release(fence.attempt);
                }
            }
            Event::StepFailed { fence, .. }
            | Event::OutputDone { fence, .. }
            | Event::OutputFailed { fence, .. }
            | Event::JobReturned { fence, .. } => {
                self.fence(*fence, actions);
                self.release(fence.attempt);
            }
            _ => {}
        }
    }

    /// A report without a lease in force changes nothing.
    fn fence(&self, fence: Fence, actions: &[Action]) {
        if !self.held.contains_key(&fence.attempt) {
            let refused = Action::Refused(Refusal::UnknownAttempt(fence.attempt));
            assert!(actions.contains(&refused), "seed {}: {actions:?}", self.seed);
            let settles = |action: &Action| matches!(action, Action::StepSettled { .. });
            assert!(!actions.iter().any(settles), "seed {}: {actions:?}", self.seed);
        }
    }

    fn release(&mut self, attempt: AttemptId) {
        if let Some(held) = self.held.remove(&attempt) {
            *self.used.get_mut(&held.worker).unwrap() -= 1;
            if let Some(place) = held.first {
                self.running.remove(&place);
            }
        }
    }

    fn see_action(&mut self, action: &Action, again: bool, graphs: &BTreeMap<BuildId, Graph>) {
        let seed = self.seed;
        match action {
            Action::Lease(lease) => self.see_lease(lease, again, graphs),
            // A worker that came back runs what was given up meanwhile.
            Action::StopAttempt { why: Stop::Stale, .. } => {}
            Action::StopAttempt { attempt, .. } => {
                assert!(self.held.contains_key(attempt), "seed {seed}: {attempt} is not leased");
                self.release(*attempt);
            }
            Action::CutAttempt { attempt, last, .. } => {
                let held = self.held.get_mut(attempt).unwrap();
                held.open.retain(|step| step <= last);
                assert!(!held.open.is_empty(), "seed {seed}: {attempt} was cut to nothing");
            }
            Action::StepSettled { build, step, made, .. } => {
                assert!(!self.ended.contains_key(build), "seed {seed}: {build} had ended");
                let before = self.settled.insert((*build, *step), made.state);
                assert_eq!(before, None, "seed {seed}: {build} {step:?} settled twice");
            }
            Action::Note { build, note: Note::Withdrawn { step } } => {
                let before = self.settled.remove(&(*build, *step));
                assert!(before.is_some(), "seed {seed}: {build} {step:?} had no result");
            }
            Action::OutputFailed { build, output, .. } => {
                let first = self.failed.insert((*build, *output));
                assert!(first, "seed {seed}: {build} {output:?} failed twice");
            }
            Action::BuildEnded { build, outcome } => {
                let failed = self.failed.iter().any(|(of, _)| of == build);
                assert!(!(failed && *outcome == Outcome::Done), "seed {seed}: {build} is not done");
                let before = self.ended.insert(*build, *outcome);
                let want = again.then_some(*outcome);
                assert_eq!(before, want, "seed {seed}: {build} ended twice");
            }
            _ => {}
        }
    }

    fn see_lease(&mut self, lease: &Lease, again: bool, graphs: &BTreeMap<BuildId, Graph>) {
        let seed = self.seed;
        // Who comes back is told what it has, and may be given more.
        if again && self.held.contains_key(&lease.attempt) {
            return;
        }
        assert!(!self.ended.contains_key(&lease.build), "seed {seed}: {lease:?} of an ended build");
        let known = self.builds.insert(lease.attempt, lease.build);
        assert_eq!(known, None, "seed {seed}: two attempts {}", lease.attempt);
        let used = self.used.entry(lease.worker).or_default();
        *used += 1;
        assert!(*used <= self.slots[&lease.worker], "seed {seed}: too many on {}", lease.worker);
        let graph = &graphs[&lease.build];
        let mut open = BTreeSet::new();
        let mut first = None;
        if let Work::Steps(steps) = &lease.work {
            open.extend(steps.iter().copied());
            self.check_platforms(lease.worker, steps, graph);
            let node = &graph.steps[steps[0].index()];
            let state = |on: StepIndex| self.settled.get(&(lease.build, on)).copied();
            let lineage: Vec<_> = node.needs().map(state).collect();
            assert!(!lineage.contains(&None), "seed {seed}: {lease:?} lacks an input");
            if node.share == Share::Anyone && node.freshness == Freshness::Any {
                let place = (self.scopes[&lease.build].clone(), node.key, lineage);
                assert!(self.running.insert(place.clone()), "seed {seed}: {place:?} runs twice");
                first = Some(place);
            }
        } else {
            if let Work::Output(output) = lease.work {
                let failed = self.failed.contains(&(lease.build, output));
                assert!(!failed, "seed {seed}: {lease:?} of an output that failed");
            }
            for step in graph.outputs.iter().flat_map(|output| &output.needs) {
                let there = self.settled.contains_key(&(lease.build, *step));
                assert!(there, "seed {seed}: {lease:?} lacks {step:?}");
            }
        }
        self.check_locks(&open, lease, graphs);
        self.held.insert(lease.attempt, Held { worker: lease.worker, open, first });
    }

    /// No two attempts have a cache mount that each wants for itself.
    fn check_locks(
        &self,
        open: &BTreeSet<StepIndex>,
        lease: &Lease,
        graphs: &BTreeMap<BuildId, Graph>,
    ) {
        let locks = |build: &BuildId, open: &BTreeSet<StepIndex>| {
            let graph = &graphs[build];
            open.iter().flat_map(|step| graph.steps[step.index()].locked.clone()).collect()
        };
        let own: BTreeSet<_> = locks(&lease.build, open);
        if own.is_empty() {
            return;
        }
        for (attempt, held) in &self.held {
            let others: BTreeSet<_> = locks(&self.builds[attempt], &held.open);
            assert!(own.is_disjoint(&others), "seed {}: {lease:?} beside {attempt}", self.seed);
        }
    }

    /// A program goes only to a worker that runs its platform; what works on trees goes anywhere.
    fn check_platforms(&self, worker: WorkerId, steps: &[StepIndex], graph: &Graph) {
        let (seed, own) = (self.seed, &self.platforms[&worker]);
        for node in steps.iter().map(|step| &graph.steps[step.index()]) {
            let runs = node.kind == StepKind::Files || own.contains(&node.platform);
            assert!(runs, "seed {seed}: {worker} of {own:?} is given {node:?}");
        }
    }

    /// In the end every build has ended, and nothing runs.
    pub(crate) fn check_end(&self, builds: u64) {
        let seed = self.seed;
        assert_eq!(u64::try_from(self.ended.len()).unwrap(), builds, "seed {seed}: builds ended");
        assert!(self.held.is_empty(), "seed {seed}: attempts are left");
        // The faults fired, and most builds got through them.
        let done = self.ended.values().filter(|outcome| **outcome == Outcome::Done).count();
        let ended = self.ended.len();
        assert!(done * 2 > ended && done < ended, "seed {seed}: {done} of {ended} were done");
    }
}

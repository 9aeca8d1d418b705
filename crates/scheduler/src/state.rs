//! What the scheduler remembers, and the one door through which it changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dcbuild_model::{AttemptId, BuildId, JobId, LogTime, StepIndex, StepKey, WorkerId};

use crate::action::{Action, Refusal};
use crate::build::{Build, Step};
use crate::event::Event;
use crate::graph::CacheMount;
use crate::job::Job;
use crate::queue::Tenant;
use crate::result::{Pooled, ResultId};
use crate::worker::Worker;

/// A step of a build.
pub(crate) type At = (BuildId, StepIndex);

/// How much there is of what the scheduler remembers; for gauges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Builds that have not ended.
    pub running_builds: usize,
    /// Jobs that wait for a worker.
    pub queued_jobs: usize,
    /// Jobs that a worker has.
    pub leased_jobs: usize,
    /// Workers that are there.
    pub workers: usize,
    /// Workers with a free slot.
    pub free_workers: usize,
    /// Step keys that are queued or run.
    pub shared_steps: usize,
    /// Results that running builds made and use.
    pub results: usize,
}

/// The scheduler of a cluster: a value that each entry of the log changes.
#[derive(Clone, Debug)]
pub struct Scheduler {
    /// Makes the ids of this cluster differ from those of others.
    pub(crate) seed: u128,
    pub(crate) now: LogTime,
    /// Counts entries of the log.
    pub(crate) entry: u64,
    /// Counts ids that were made.
    pub(crate) made_ids: u128,
    pub(crate) builds: BTreeMap<BuildId, Build>,
    /// Ended builds, the oldest first.
    pub(crate) ended: BTreeSet<(u64, BuildId)>,
    /// When builds without a client end.
    pub(crate) absent: BTreeSet<(LogTime, BuildId)>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    /// Workers that take a job now.
    pub(crate) free: BTreeSet<WorkerId>,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    pub(crate) attempts: BTreeMap<AttemptId, JobId>,
    pub(crate) tenants: BTreeMap<String, Tenant>,
    /// Steps that are queued or leased, by key.
    /// The job that has a cache mount for itself.
    pub(crate) locks: BTreeMap<CacheMount, JobId>,
    pub(crate) in_flight: BTreeMap<StepKey, BTreeSet<At>>,
    pub(crate) results: BTreeMap<ResultId, Pooled>,
    pub(crate) results_by_key: BTreeMap<StepKey, BTreeSet<ResultId>>,
    /// Builds to look at before this entry is done, in the order in which they came up.
    pub(crate) dirty: VecDeque<BuildId>,
    pub(crate) actions: Vec<Action>,
}

impl Scheduler {
    /// An empty cluster; `seed` is drawn once when the cluster is founded and stored with its log.
    pub fn new(seed: u128) -> Scheduler {
        Scheduler {
            seed,
            now: LogTime(0),
            entry: 0,
            made_ids: 0,
            builds: BTreeMap::new(),
            ended: BTreeSet::new(),
            absent: BTreeSet::new(),
            workers: BTreeMap::new(),
            free: BTreeSet::new(),
            jobs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            tenants: BTreeMap::new(),
            locks: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            results: BTreeMap::new(),
            results_by_key: BTreeMap::new(),
            dirty: VecDeque::new(),
            actions: Vec::new(),
        }
    }

    /// Applies one entry of the log and returns what is to be done, in order.
    pub fn apply(&mut self, now: LogTime, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        self.entry += 1;
        self.end_absent();
        self.meet(event);
        while let Some(build) = self.dirty.pop_front() {
            self.advance(build);
        }
        self.lease_queued();
        self.forget_oldest();
        std::mem::take(&mut self.actions)
    }

    fn meet(&mut self, event: Event) {
        match event {
            Event::Submit(submission) => self.submit(submission),
            Event::Cancel { build } => self.cancel(build),
            Event::ClientGone { build, grace } => self.client_gone(build, grace),
            Event::ClientBack { build } => self.client_back(build),
            Event::Forget { build } => self.forget(build),
            Event::WorkerJoined(facts) => self.worker_joined(facts),
            Event::WorkerAway { worker } => self.worker_away(worker),
            Event::WorkerBack { worker, running } => self.worker_back(worker, &running),
            Event::WorkerDraining { worker } => self.worker_draining(worker),
            Event::WorkerHasRoom { worker } => self.worker_has_room(worker),
            Event::WorkerLost { worker } => self.worker_lost(worker),
            Event::StepDone { fence, step, made, lasts } => {
                self.step_done(fence, step, (made, lasts));
            }
            Event::StepHit { fence, step, made } => self.step_hit(fence, step, made),
            Event::StepDurable { attempt, step } => self.result_durable((attempt, step)),
            Event::StepKeptBack { attempt, step } => self.result_kept_back((attempt, step)),
            Event::StepCopied { attempt, step, worker } => {
                self.result_copied((attempt, step), worker);
            }
            Event::StepFailed { fence, step, fault } => self.step_failed(fence, step, fault),
            Event::OutputDone { fence, result } => self.output_done(fence, result),
            Event::OutputFailed { fence, fault } => self.output_failed(fence, fault),
            Event::JobReturned { fence, why } => self.job_returned(fence, why),
            Event::Tick => {}
            Event::Recovered => self.recovered(),
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.act(Action::Refused(refusal));
    }

    pub(crate) fn touch(&mut self, build: BuildId) {
        if !self.dirty.contains(&build) {
            self.dirty.push_back(build);
        }
    }

    /// Says whether a build is known and has not ended.
    pub(crate) fn runs(&self, build: BuildId) -> bool {
        self.builds.get(&build).is_some_and(Build::runs)
    }

    /// Whether it was handed this build, and has not been told to forget it.
    pub fn has(&self, build: BuildId) -> bool {
        self.builds.contains_key(&build)
    }

    /// Counts what is there.
    pub fn counts(&self) -> Counts {
        let leased = self.attempts.len();
        Counts {
            running_builds: self.builds.values().filter(|build| build.runs()).count(),
            queued_jobs: self.jobs.len().saturating_sub(leased),
            leased_jobs: leased,
            workers: self.workers.len(),
            free_workers: self.free.len(),
            shared_steps: self.in_flight.len(),
            results: self.results.len(),
        }
    }

    pub(crate) fn step(&self, (build, step): At) -> Option<&Step> {
        self.builds.get(&build)?.steps.get(step.index())
    }

    pub(crate) fn step_mut(&mut self, (build, step): At) -> Option<&mut Step> {
        self.builds.get_mut(&build)?.steps.get_mut(step.index())
    }

    /// Draws the bits of an id: the time in front, then a count that no two ids of this cluster share.
    pub(crate) fn id_bits(&mut self) -> u128 {
        self.made_ids += 1;
        let low = (self.seed ^ self.made_ids) & ((1 << 80) - 1);
        ((u128::from(self.now.0) & ((1 << 48) - 1)) << 80) | low
    }
}

//! Workers: what each has and does.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{AttemptId, JobId, StateDigest, WorkerId};

use crate::action::{Action, Refusal, Stop};
use crate::build::Shape;
use crate::event::{InfraFault, WorkerFacts};
use crate::graph::{CacheMount, Requests};
use crate::result::ResultId;
use crate::state::Scheduler;

/// How many states and cache mounts are remembered of a worker's disk, the latest used.
const REMEMBERED_MAX: usize = 1_024;

/// A worker that is there.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) facts: WorkerFacts,
    pub(crate) duty: Duty,
    pub(crate) jobs: BTreeSet<JobId>,
    pub(crate) used: Requests,
    /// Results that it holds and that are not durable.
    pub(crate) results: BTreeSet<ResultId>,
    /// States that are likely on its disk.
    pub(crate) states: Recent<StateDigest>,
    /// Cache mounts that are likely on its disk.
    pub(crate) caches: Recent<CacheMount>,
}

/// Whether a worker takes jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// It does.
    Works,
    /// It is out of reach: it takes none until it is back, or is lost.
    IsAway,
    /// Its disk is full: it takes none until it has room again.
    IsFull,
    /// It is about to leave.
    Drains,
}

/// The latest used of many things.
#[derive(Clone, Debug)]
pub(crate) struct Recent<K> {
    ages: BTreeMap<K, (u64, u64)>,
    oldest: BTreeMap<(u64, u64), K>,
    uses: u64,
}

impl<K: Ord + Copy> Recent<K> {
    fn new() -> Recent<K> {
        Recent { ages: BTreeMap::new(), oldest: BTreeMap::new(), uses: 0 }
    }

    pub(crate) fn add(&mut self, key: K, entry: u64) {
        self.uses += 1;
        let age = (entry, self.uses);
        if let Some(before) = self.ages.insert(key, age) {
            self.oldest.remove(&before);
        }
        self.oldest.insert(age, key);
        if self.ages.len() > REMEMBERED_MAX
            && let Some((_, key)) = self.oldest.pop_first()
        {
            self.ages.remove(&key);
        }
    }

    pub(crate) fn has(&self, key: &K) -> bool {
        self.ages.contains_key(key)
    }
}

impl Worker {
    /// Whether it could ever run such a job.
    pub(crate) fn suits(&self, shape: &Shape) -> bool {
        let platforms = &self.facts.platforms;
        let platform = shape.platform.as_ref().is_none_or(|platform| platforms.contains(platform));
        let has = |capacity: u64, asked: u64| capacity == 0 || asked <= capacity;
        matches!(self.duty, Duty::Works | Duty::IsAway)
            && self.facts.slots > 0
            && platform
            && has(self.facts.capacity.memory_bytes, shape.requests.memory_bytes)
            && has(self.facts.capacity.cpu_millis, shape.requests.cpu_millis)
    }

    /// Whether an interpreter would run the programs of such a job.
    pub(crate) fn emulates(&self, shape: &Shape) -> bool {
        shape.platform.as_ref().is_some_and(|platform| self.facts.emulated.contains(platform))
    }

    /// Whether such a job fits beside what it runs.
    pub(crate) fn fits(&self, requests: Requests) -> bool {
        let has = |capacity: u64, used: u64, asked: u64| {
            capacity == 0 || used.saturating_add(asked) <= capacity
        };
        self.has_slot()
            && has(self.facts.capacity.memory_bytes, self.used.memory_bytes, requests.memory_bytes)
            && has(self.facts.capacity.cpu_millis, self.used.cpu_millis, requests.cpu_millis)
    }

    fn be_back(&mut self) {
        if self.duty == Duty::IsAway {
            self.duty = Duty::Works;
        }
    }

    pub(crate) fn has_slot(&self) -> bool {
        let slots = usize::try_from(self.facts.slots).unwrap_or(usize::MAX);
        self.duty == Duty::Works && self.jobs.len() < slots
    }

    /// Jobs per thousand slots.
    pub(crate) fn load(&self) -> u64 {
        let jobs = u64::try_from(self.jobs.len()).unwrap_or(u64::MAX);
        jobs.saturating_mul(1_000) / u64::from(self.facts.slots.max(1))
    }
}

impl Scheduler {
    pub(crate) fn worker_joined(&mut self, facts: WorkerFacts) {
        let id = facts.worker;
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.facts = facts;
            worker.be_back();
        } else {
            let worker = Worker {
                facts,
                duty: Duty::Works,
                jobs: BTreeSet::new(),
                used: Requests::default(),
                results: BTreeSet::new(),
                states: Recent::new(),
                caches: Recent::new(),
            };
            self.workers.insert(id, worker);
        }
        self.count_free(id);
        self.cut_anew();
    }

    /// Keeps the set of free workers true after a worker changed.
    pub(crate) fn count_free(&mut self, id: WorkerId) {
        if self.workers.get(&id).is_some_and(Worker::has_slot) {
            self.free.insert(id);
        } else {
            self.free.remove(&id);
        }
    }

    pub(crate) fn worker_back(&mut self, id: WorkerId, running: &[AttemptId]) {
        let worker = self.workers.get_mut(&id);
        let jobs = worker.map(|worker| {
            worker.be_back();
            worker.jobs.clone()
        });
        self.count_free(id);
        if jobs.is_none() {
            self.refuse(Refusal::UnknownWorker(id));
        }
        let jobs = jobs.unwrap_or_default();
        for attempt in running {
            if self.attempts.get(attempt).is_none_or(|job| !jobs.contains(job)) {
                let (worker, attempt) = (id, *attempt);
                self.act(Action::StopAttempt { worker, attempt, why: Stop::Stale });
            }
        }
        // What it was told before may have been lost on the way.
        for job in jobs {
            self.say_lease(job);
        }
    }

    /// A worker is out of reach: what it runs may come to its end, and nothing more is given to it.
    pub(crate) fn worker_away(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.duty == Duty::Works
        {
            worker.duty = Duty::IsAway;
            self.count_free(id);
        }
    }

    /// A worker's disk is full.
    pub(crate) fn worker_is_full(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.duty == Duty::Works
        {
            worker.duty = Duty::IsFull;
            self.count_free(id);
            self.cut_anew();
        }
    }

    pub(crate) fn worker_has_room(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return self.refuse(Refusal::UnknownWorker(id));
        };
        if worker.duty == Duty::IsFull {
            worker.duty = Duty::Works;
            self.count_free(id);
            self.cut_anew();
        }
    }

    pub(crate) fn worker_draining(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return self.refuse(Refusal::UnknownWorker(id));
        };
        worker.duty = Duty::Drains;
        self.count_free(id);
        self.cut_anew();
    }

    pub(crate) fn worker_lost(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else {
            return self.refuse(Refusal::UnknownWorker(id));
        };
        self.free.remove(&id);
        for job in &worker.jobs {
            self.attempt_lost(*job, InfraFault::WorkerLost);
        }
        self.lose_held(id, worker.results);
        self.cut_anew();
    }
}

//! Queues: one per tenant, served by turns, and the choice of a worker for what stands in front.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{BuildId, JobId, Platform, StateDigest, StepIndex, WorkerId};

use crate::build::{Shape, Tries};
use crate::event::Work;
use crate::job::JobState;
use crate::state::Scheduler;
use crate::worker::{Duty, Worker};

/// How many jobs of one shape are tried when the first finds no worker that it has not been lost on.
const LOOK_AHEAD: usize = 8;

/// What a tenant has waiting and running.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tenant {
    pub(crate) running: u32,
    /// The entry of the log that last gave it a worker.
    pub(crate) served: u64,
    pub(crate) queued: BTreeMap<Shape, BTreeMap<Place, JobId>>,
}

/// The states that a job reads, and those of which it reads a part.
#[derive(Default)]
struct Inputs {
    whole: Vec<StateDigest>,
    parts: Vec<StateDigest>,
}

/// A place in a queue, the foremost least.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    turn: Turn,
    priority: Reverse<i32>,
    entry: u64,
    job: JobId,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Turn {
    Ahead,
    InOrder,
}

impl Place {
    pub(crate) fn new(ahead: bool, priority: i32, entry: u64, job: JobId) -> Place {
        let turn = if ahead { Turn::Ahead } else { Turn::InOrder };
        Place { turn, priority: Reverse(priority), entry, job }
    }
}

impl Tenant {
    pub(crate) fn leave(&mut self, shape: &Shape, place: Place) {
        if let Some(places) = self.queued.get_mut(shape) {
            places.remove(&place);
            if places.is_empty() {
                self.queued.remove(shape);
            }
        }
    }
}

impl Scheduler {
    pub(crate) fn enqueue(&mut self, tenant: &str, shape: &Shape, place: Place) {
        let tenant = self.tenants.entry(tenant.to_owned()).or_default();
        tenant.queued.entry(shape.clone()).or_default().insert(place, place.job);
    }

    pub(crate) fn unqueue(&mut self, name: &str, shape: &Shape, place: Place) {
        if let Some(tenant) = self.tenants.get_mut(name) {
            tenant.leave(shape, place);
        }
        self.forget_idle_tenant(name);
    }

    pub(crate) fn forget_idle_tenant(&mut self, name: &str) {
        if self.tenants.get(name).is_some_and(|it| it.running == 0 && it.queued.is_empty()) {
            self.tenants.remove(name);
        }
    }

    /// Gives a queued job the priority of a more urgent build that waits for it too.
    pub(crate) fn hasten(&mut self, id: JobId, priority: i32) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let JobState::Queued(place) = job.state else { return };
        if priority <= place.priority.0 {
            return;
        }
        let sooner = Place { priority: Reverse(priority), ..place };
        job.state = JobState::Queued(sooner);
        let (name, shape) = (job.tenant.clone(), job.shape.clone());
        if let Some(tenant) = self.tenants.get_mut(&name) {
            tenant.leave(&shape, place);
        }
        self.enqueue(&name, &shape, sooner);
    }

    /// Leases what can be leased: the tenant with the fewest running jobs first.
    pub(crate) fn lease_queued(&mut self) {
        while !self.free.is_empty() {
            let Some((job, worker)) = self.next_lease() else { return };
            self.lease(job, worker);
        }
    }

    fn next_lease(&self) -> Option<(JobId, WorkerId)> {
        let mut tenants: Vec<&Tenant> =
            self.tenants.values().filter(|tenant| !tenant.queued.is_empty()).collect();
        tenants.sort_by_key(|tenant| (tenant.running, tenant.served));
        tenants.into_iter().find_map(|tenant| self.next_of(tenant))
    }

    fn next_of(&self, tenant: &Tenant) -> Option<(JobId, WorkerId)> {
        let mut best: Option<(Place, WorkerId)> = None;
        for (shape, places) in &tenant.queued {
            if !self.free.iter().any(|id| self.could_run(*id, shape)) {
                continue;
            }
            let may_run = places.iter().filter(|(_, job)| !self.is_locked_out(**job));
            for (place, job) in may_run.take(LOOK_AHEAD) {
                if best.is_some_and(|(found, _)| found < *place) {
                    break;
                }
                if let Some(worker) = self.best_worker(*job) {
                    best = Some((*place, worker));
                    break;
                }
            }
        }
        best.map(|(place, worker)| (place.job, worker))
    }

    fn could_run(&self, id: WorkerId, shape: &Shape) -> bool {
        let worker = self.workers.get(&id);
        worker.is_some_and(|worker| worker.suits(shape) && worker.fits(shape.requests))
    }

    /// Chooses among the free workers: who needs no interpreter, what lies there already, cache mounts, what is read in
    /// part, then load.
    fn best_worker(&self, id: JobId) -> Option<WorkerId> {
        let job = self.jobs.get(&id)?;
        let (states, caches) = self.appetite(id);
        let Inputs { whole, parts } = self.inputs(id);
        let tried = self.tries(id).map(|tries| &tries.workers).filter(|tried| !tried.is_empty());
        // A worker on which an attempt was lost is taken again only where there is no other.
        let avoid = tried.filter(|tried| {
            self.workers.iter().any(|(id, it)| !tried.contains(id) && it.suits(&job.shape))
        });
        let fit = |id: &&WorkerId| {
            avoid.is_none_or(|tried| !tried.contains(id)) && self.could_run(**id, &job.shape)
        };
        let score = |worker: &Worker| {
            let parents = states.iter().filter(|state| worker.states.has(state)).count();
            let here = |states: &[StateDigest]| {
                Reverse(states.iter().filter(|state| worker.states.has(state)).count())
            };
            let caches = caches.iter().filter(|cache| worker.caches.has(cache)).count();
            let slow = worker.emulates(&job.shape);
            (slow, Reverse(parents), here(&whole), Reverse(caches), here(&parts), worker.load())
        };
        self.free.iter().filter(fit).min_by_key(|id| self.workers.get(id).map(score)).copied()
    }

    /// The tries of the step that would run first, or of the output.
    fn tries(&self, id: JobId) -> Option<&Tries> {
        let job = self.jobs.get(&id)?;
        match &job.work {
            Work::Steps(_) => self.step((job.build, *job.open().first()?)).map(|step| &step.tries),
            Work::Output(output) => {
                self.builds.get(&job.build)?.outputs.get(output.index()).map(|output| &output.tries)
            }
        }
    }

    /// The states that a job reads besides the one that it builds upon.
    fn inputs(&self, id: JobId) -> Inputs {
        let mut inputs = Inputs::default();
        let Some(job) = self.jobs.get(&id) else { return inputs };
        let Some(build) = self.builds.get(&job.build) else { return inputs };
        let state = |on: &StepIndex| build.done(*on).map(|it| it.made().state);
        match &job.work {
            Work::Output(output) => {
                let node = build.graph.outputs.get(output.index());
                inputs
                    .whole
                    .extend(node.into_iter().flat_map(|node| &node.needs).filter_map(state));
            }
            Work::Steps(steps) => {
                let nodes = steps.iter().filter_map(|step| build.graph.steps.get(step.index()));
                for node in nodes {
                    let (parts, whole): (Vec<StepIndex>, _) =
                        node.inputs.iter().partition(|on| node.parts.contains(on));
                    inputs.parts.extend(parts.iter().filter_map(state));
                    inputs.whole.extend(whole.iter().filter_map(state));
                }
            }
        }
        inputs
    }

    /// The builds that wait for a worker of a kind that is not there, each with the platforms that it lacks; none among
    /// them means a worker of any.
    pub fn unmet(&self) -> BTreeMap<BuildId, BTreeSet<Option<Platform>>> {
        let mut unmet: BTreeMap<BuildId, BTreeSet<Option<Platform>>> = BTreeMap::new();
        for (shape, places) in self.tenants.values().flat_map(|tenant| &tenant.queued) {
            if self.workers.values().any(|worker| worker.suits(shape)) {
                continue;
            }
            for job in places.values().filter_map(|job| self.jobs.get(job)) {
                let open = job.open().iter().filter_map(|step| self.step((job.build, *step)));
                let sharers = open.flat_map(|step| &step.subscribers).map(|(build, _)| *build);
                for build in sharers.chain([job.build]).filter(|build| self.runs(*build)) {
                    unmet.entry(build).or_default().insert(shape.platform.clone());
                }
            }
        }
        unmet
    }

    /// Each worker with the number of jobs that it runs, and whether it takes more.
    pub fn workers(&self) -> impl Iterator<Item = (&crate::WorkerFacts, usize, Duty)> {
        self.workers.values().map(|worker| (&worker.facts, worker.jobs.len(), worker.duty))
    }

    /// How many workers take no jobs because their disk is full.
    pub fn full(&self) -> usize {
        self.workers.values().filter(|worker| worker.duty == Duty::IsFull).count()
    }

    /// How many workers take jobs, by the platforms that they run.
    pub fn kinds(&self) -> BTreeMap<BTreeSet<Platform>, usize> {
        let mut kinds = BTreeMap::new();
        for worker in self.workers.values().filter(|worker| worker.duty == Duty::Works) {
            *kinds.entry(worker.facts.platforms.clone()).or_default() += 1;
        }
        kinds
    }
}

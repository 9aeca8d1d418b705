//! Jobs: segments and outputs that are queued or leased.

use dcbuild_model::{AttemptId, BuildId, Epoch, JobId, StepIndex, WorkerId};

use crate::action::{Action, Lease, Stop};
use crate::build::{OutputState, Shape, StepState, Tries};
use crate::event::Work;
use crate::graph::{CacheMount, Requests, StepKind};
use crate::queue::Place;
use crate::state::{At, Scheduler};

/// Work that one worker does in one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) build: BuildId,
    pub(crate) tenant: String,
    pub(crate) work: Work,
    /// How many of its steps are settled, from the first.
    pub(crate) settled: usize,
    pub(crate) cut: Cut,
    pub(crate) shape: Shape,
    pub(crate) state: JobState,
}

/// Whether a job lost its last steps after it was leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// It has all that it was leased with.
    Whole,
    /// It lost some.
    Shortened,
}

/// Where a job is.
#[derive(Clone, Debug)]
pub(crate) enum JobState {
    /// In its tenant's queue.
    Queued(Place),
    /// With a worker.
    Leased(Tenure),
}

/// A lease in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tenure {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: AttemptId,
    pub(crate) epoch: Epoch,
    /// The entry of the log that began it.
    pub(crate) begun: u64,
}

impl Job {
    /// Its steps that have no result yet, the running one first.
    pub(crate) fn open(&self) -> &[StepIndex] {
        match &self.work {
            Work::Steps(steps) => steps.get(self.settled..).unwrap_or_default(),
            Work::Output(_) => &[],
        }
    }

    pub(crate) fn tenure(&self) -> Option<Tenure> {
        match self.state {
            JobState::Leased(tenure) => Some(tenure),
            JobState::Queued(_) => None,
        }
    }
}

impl Scheduler {
    /// Queues work of a build.
    pub(crate) fn add_job(&mut self, id: BuildId, work: Work) {
        let job_id = JobId::from_bits(self.id_bits());
        let Some(build) = self.builds.get_mut(&id) else { return };
        let priority = build.priority;
        let mut shape = Shape { platform: None, requests: Requests::default() };
        let mut ahead = false;
        match &work {
            Work::Steps(steps) => {
                shape = Shape::of(build, steps);
                for step in steps {
                    if let Some(node) = build.graph.steps.get(step.index()) {
                        self.in_flight.entry(node.key).or_default().insert((id, *step));
                    }
                    if let Some(step) = build.steps.get_mut(step.index()) {
                        step.state = StepState::InJob(job_id);
                        ahead |= step.tries.ahead;
                    }
                }
            }
            Work::Output(output) => {
                if let Some(node) = build.graph.outputs.get(output.index()) {
                    shape.platform.clone_from(&node.platform);
                    shape.requests = node.requests;
                }
                if let Some(output) = build.outputs.get_mut(output.index()) {
                    output.state = OutputState::InJob(job_id);
                    ahead = output.tries.ahead;
                }
            }
        }
        build.jobs.insert(job_id);
        let tenant = build.tenant();
        let place = Place::new(ahead, priority, self.entry, job_id);
        self.enqueue(&tenant, &shape, place);
        let state = JobState::Queued(place);
        let job = Job { build: id, tenant, work, settled: 0, cut: Cut::Whole, shape, state };
        self.jobs.insert(job_id, job);
    }

    /// Leases a queued job to a worker.
    pub(crate) fn lease(&mut self, id: JobId, worker_id: WorkerId) {
        let attempt = AttemptId::from_bits(self.id_bits());
        let epoch = self.next_epoch(id);
        let (states, caches) = self.appetite(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let JobState::Queued(place) = job.state
            && let Some(tenant) = self.tenants.get_mut(&job.tenant)
        {
            tenant.leave(&job.shape, place);
            tenant.running += 1;
            tenant.served = self.entry;
        }
        let tenure = Tenure { worker: worker_id, attempt, epoch, begun: self.entry };
        job.state = JobState::Leased(tenure);
        self.attempts.insert(attempt, id);
        if let Some(worker) = self.workers.get_mut(&worker_id) {
            worker.jobs.insert(id);
            worker.used.memory_bytes += job.shape.requests.memory_bytes;
            worker.used.cpu_millis += job.shape.requests.cpu_millis;
            for state in states {
                worker.states.add(state, self.entry);
            }
            for cache in caches {
                worker.caches.add(cache, self.entry);
            }
        }
        self.count_free(worker_id);
        self.locks.extend(self.locked_of(id).map(|mount| (mount, id)).collect::<Vec<_>>());
        self.say_lease(id);
    }

    /// The cache mounts that a job's open steps want for themselves.
    fn locked_of(&self, id: JobId) -> impl Iterator<Item = CacheMount> {
        let job = self.jobs.get(&id);
        let build = job.and_then(|job| self.builds.get(&job.build));
        let steps = job.into_iter().flat_map(Job::open);
        let node = move |step: &StepIndex| build?.graph.steps.get(step.index());
        steps.filter_map(node).flat_map(|node| &node.locked).copied()
    }

    /// Whether another job has a cache mount that this one wants for itself.
    pub(crate) fn is_locked_out(&self, id: JobId) -> bool {
        !self.locks.is_empty() && self.locked_of(id).any(|mount| self.locks.contains_key(&mount))
    }

    /// Lets go of the cache mounts that no open step of a job wants any more.
    pub(crate) fn unlock(&mut self, id: JobId) {
        if self.locks.is_empty() {
            return;
        }
        let wanted: Vec<CacheMount> = self.locked_of(id).collect();
        self.locks.retain(|mount, holder| *holder != id || wanted.contains(mount));
    }

    /// What a job will fetch: its parent's state if it mounts it, and its cache mounts.
    pub(crate) fn appetite(&self, id: JobId) -> (Vec<dcbuild_model::StateDigest>, Vec<CacheMount>) {
        let mut states = Vec::new();
        let mut caches = Vec::new();
        let Some(job) = self.jobs.get(&id) else { return (states, caches) };
        let Some(build) = self.builds.get(&job.build) else { return (states, caches) };
        let nodes = job.open().iter().filter_map(|step| build.graph.steps.get(step.index()));
        let runs = nodes.clone().any(|node| node.kind == StepKind::Run);
        if runs && let Some(parent) = nodes.clone().next().and_then(|node| node.parent) {
            states.extend(build.done(parent).map(|source| source.made().state));
        }
        for node in nodes {
            caches.extend(&node.caches);
        }
        (states, caches)
    }

    fn next_epoch(&mut self, id: JobId) -> Epoch {
        let mut epoch = 0;
        self.each_tries(id, |tries| epoch = epoch.max(tries.epoch));
        epoch += 1;
        self.each_tries(id, |tries| tries.epoch = epoch);
        Epoch(epoch)
    }

    /// Visits the tries of a job's open steps, or of its output.
    pub(crate) fn each_tries(&mut self, id: JobId, mut visit: impl FnMut(&mut Tries)) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(build) = self.builds.get_mut(&job.build) else { return };
        for step in job.open() {
            if let Some(step) = build.steps.get_mut(step.index()) {
                visit(&mut step.tries);
            }
        }
        if let Work::Output(output) = &job.work
            && let Some(output) = build.outputs.get_mut(output.index())
        {
            visit(&mut output.tries);
        }
    }

    /// Says a lease, once more if need be.
    pub(crate) fn say_lease(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(Tenure { worker, attempt, epoch, .. }) = job.tenure() else { return };
        let work = job.work.clone();
        let last = match (&work, job.cut) {
            (Work::Steps(steps), Cut::Shortened) => steps.last().copied(),
            (Work::Steps(_) | Work::Output(_), _) => None,
        };
        let lease = Lease { worker, job: id, attempt, epoch, build: job.build, work };
        self.act(Action::Lease(lease));
        if let Some(last) = last {
            self.act(Action::CutAttempt { worker, attempt, last });
        }
    }

    /// Marks what a job still has to do as going ahead of the queue.
    pub(crate) fn put_ahead(&mut self, id: JobId) {
        self.each_tries(id, |tries| tries.ahead = true);
        let Some(job) = self.jobs.get(&id) else { return };
        let open: Vec<At> = job.open().iter().map(|step| (job.build, *step)).collect();
        for at in open {
            for subscriber in self.step(at).map(|step| step.subscribers.clone()).unwrap_or_default()
            {
                if let Some(step) = self.step_mut(subscriber) {
                    step.tries.ahead = true;
                }
            }
        }
    }

    /// Ends an attempt, or takes the job out of the queue.
    pub(crate) fn stop_job(&mut self, id: JobId, why: Stop) {
        if let Some(Tenure { worker, attempt, .. }) = self.jobs.get(&id).and_then(Job::tenure)
            && self.workers.contains_key(&worker)
        {
            self.act(Action::StopAttempt { worker, attempt, why });
        }
        self.drop_job(id);
    }

    /// Takes a job away; its open steps are idle again, and so are those that shared them.
    pub(crate) fn drop_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else { return };
        self.unlock(id);
        match &job.state {
            JobState::Queued(place) => self.unqueue(&job.tenant, &job.shape, *place),
            JobState::Leased(tenure) => self.end_tenure(&job, id, *tenure),
        }
        self.touch(job.build);
        for step in job.open() {
            self.close((job.build, *step));
        }
        if let Some(build) = self.builds.get_mut(&job.build) {
            build.jobs.remove(&id);
            if let Work::Output(output) = &job.work
                && let Some(output) = build.outputs.get_mut(output.index())
                && output.state == OutputState::InJob(id)
            {
                output.state = OutputState::Idle;
            }
        }
        self.clear_if_over(job.build);
    }

    fn end_tenure(&mut self, job: &Job, id: JobId, tenure: Tenure) {
        self.attempts.remove(&tenure.attempt);
        if let Some(tenant) = self.tenants.get_mut(&job.tenant) {
            tenant.running = tenant.running.saturating_sub(1);
        }
        self.forget_idle_tenant(&job.tenant);
        if let Some(worker) = self.workers.get_mut(&tenure.worker) {
            let asked = job.shape.requests;
            let used = &mut worker.used;
            worker.jobs.remove(&id);
            used.memory_bytes = used.memory_bytes.saturating_sub(asked.memory_bytes);
            used.cpu_millis = used.cpu_millis.saturating_sub(asked.cpu_millis);
        }
        self.count_free(tenure.worker);
    }

    /// An open step leaves its job without a result.
    fn close(&mut self, at: At) {
        self.out_of_flight(at);
        let Some(step) = self.step_mut(at) else { return };
        step.state = StepState::Idle;
        for subscriber in std::mem::take(&mut step.subscribers) {
            if let Some(step) = self.step_mut(subscriber) {
                step.state = StepState::Idle;
            }
            self.touch(subscriber.0);
        }
    }

    pub(crate) fn out_of_flight(&mut self, at: At) {
        let Some(key) = self
            .builds
            .get(&at.0)
            .and_then(|build| build.graph.steps.get(at.1.index()))
            .map(|node| node.key)
        else {
            return;
        };
        if let Some(steps) = self.in_flight.get_mut(&key) {
            steps.remove(&at);
            if steps.is_empty() {
                self.in_flight.remove(&key);
            }
        }
    }

    /// Cuts a job whose build has ended behind the last step that somebody else waits for.
    pub(crate) fn trim(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        if self.runs(job.build) {
            return;
        }
        let wanted = |step: &StepIndex| {
            self.step((job.build, *step)).is_some_and(|step| !step.subscribers.is_empty())
        };
        let last = job.open().iter().rposition(wanted);
        let (Some(last), Some(tenure)) = (last, job.tenure()) else {
            return self.stop_job(id, Stop::Unwanted);
        };
        let unwanted: Vec<At> =
            job.open().iter().skip(last + 1).map(|step| (job.build, *step)).collect();
        if unwanted.is_empty() {
            return;
        }
        for at in &unwanted {
            self.close(*at);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.cut = Cut::Shortened;
        if let Work::Steps(steps) = &mut job.work {
            steps.truncate(job.settled + last + 1);
            if let Some(last) = steps.last().copied()
                && self.workers.contains_key(&tenure.worker)
            {
                let Tenure { worker, attempt, .. } = tenure;
                self.act(Action::CutAttempt { worker, attempt, last });
            }
        }
    }

    /// Says whether a job has this step, settled or not.
    pub(crate) fn job_made(&self, id: JobId, step: StepIndex) -> bool {
        self.jobs.get(&id).is_some_and(|job| match &job.work {
            Work::Steps(steps) => steps.contains(&step),
            Work::Output(_) => false,
        })
    }
}

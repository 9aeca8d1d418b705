//! Workers' reports: only the attempt that holds the lease is heard, and only on the step whose turn it is.

use std::collections::BTreeSet;

use dcbuild_model::{BlobDigest, BuildId, JobId, StepIndex, WorkerId, limits};

use crate::action::{Action, Failure, How, Note, Outcome, Part, Refusal};
use crate::build::{OutputState, Source, Tries};
use crate::event::{Fence, InfraFault, Return, StepFault, Work};
use crate::graph::{Freshness, Made, OutputIndex, Sees};
use crate::job::{Job, Tenure};
use crate::result::{Kept, Pooled};
use crate::state::{At, Scheduler};
use crate::worker::{Duty, Worker};

/// How often the result of one step may be lost to a build before that fails. Results that lie on each other are missed
/// one after the other, so the jobs that miss them are not counted.
const LOSSES_MAX: u32 = 8;

impl Scheduler {
    fn fenced(&mut self, fence: Fence) -> Option<(JobId, Tenure)> {
        let job = self.attempts.get(&fence.attempt).copied();
        let tenure = job.and_then(|job| self.jobs.get(&job)).and_then(Job::tenure);
        let (Some(job), Some(tenure)) = (job, tenure) else {
            self.refuse(Refusal::UnknownAttempt(fence.attempt));
            return None;
        };
        if tenure.epoch != fence.epoch {
            let (attempt, got, current) = (fence.attempt, fence.epoch, tenure.epoch);
            self.refuse(Refusal::OldEpoch { attempt, got, current });
            return None;
        }
        Some((job, tenure))
    }

    /// What a worker's attempt is at, by what was heard of it: the step whose turn it is, or its output. There is none once
    /// its lease is over.
    pub fn turn_of(&self, worker: WorkerId, fence: Fence) -> Option<(BuildId, Part)> {
        let job = self.jobs.get(self.attempts.get(&fence.attempt)?)?;
        let tenure = job.tenure()?;
        if tenure.worker != worker || tenure.epoch != fence.epoch {
            return None;
        }
        let part = match &job.work {
            Work::Steps(_) => Part::Step(*job.open().first()?),
            Work::Output(output) => Part::Output(*output),
        };
        Some((job.build, part))
    }

    /// Lets a report on a step through if it is the one that runs; a repeated report of success is silent.
    fn in_turn(&mut self, fence: Fence, step: StepIndex) -> Option<(JobId, Tenure, At)> {
        let (id, tenure) = self.fenced(fence)?;
        let job = self.jobs.get(&id)?;
        let Work::Steps(steps) = &job.work else {
            self.refuse(Refusal::OtherWork(fence.attempt));
            return None;
        };
        if job.open().first() == Some(&step) {
            return Some((id, tenure, (job.build, step)));
        }
        if !steps.iter().take(job.settled).any(|settled| *settled == step) {
            self.refuse(Refusal::NotItsTurn { attempt: fence.attempt, step });
        }
        None
    }

    fn output_of(&mut self, fence: Fence) -> Option<(JobId, BuildId, OutputIndex)> {
        let (id, _) = self.fenced(fence)?;
        let job = self.jobs.get(&id)?;
        let Work::Output(output) = job.work else {
            self.refuse(Refusal::OtherWork(fence.attempt));
            return None;
        };
        Some((id, job.build, output))
    }

    pub(crate) fn step_done(&mut self, fence: Fence, step: StepIndex, (made, lasts): (Made, bool)) {
        let Some((job, tenure, at)) = self.in_turn(fence, step) else { return };
        let id = (tenure.attempt, step);
        if let Some(worker) = self.workers.get_mut(&tenure.worker) {
            worker.results.insert(id);
            worker.states.add(made.state, self.entry);
        }
        if let Some(pooled) = self.pooled(at, tenure, (made, lasts)) {
            self.results_by_key.entry(pooled.key).or_default().insert(id);
            self.results.insert(id, pooled);
        }
        let sharers = self.settle(job, at);
        if self.runs(at.0) {
            self.finish(at, Source::Pool(id, made), How::Ran { attempt: tenure.attempt });
        }
        for sharer in sharers {
            self.finish(sharer, Source::Pool(id, made), How::Shared { attempt: tenure.attempt });
        }
        self.drop_unused(id);
        self.mark_done(at, Source::Pool(id, made));
    }

    pub(crate) fn step_hit(&mut self, fence: Fence, step: StepIndex, made: Made) {
        let Some((job, _, at)) = self.in_turn(fence, step) else { return };
        let sharers = self.settle(job, at);
        if self.runs(at.0) {
            self.finish(at, Source::Record(made), How::Hit);
        }
        for sharer in sharers {
            if self.freshness(sharer) == Some(Freshness::Any) {
                self.finish(sharer, Source::Record(made), How::Hit);
            } else if let Some(step) = self.step_mut(sharer) {
                step.state = crate::build::StepState::Idle;
                self.touch(sharer.0);
            }
        }
        self.mark_done(at, Source::Record(made));
    }

    fn freshness(&self, at: At) -> Option<Freshness> {
        let node = self.builds.get(&at.0)?.graph.steps.get(at.1.index())?;
        Some(node.freshness)
    }

    /// An ended build's step is marked too: steps behind it in the same job are compared by it.
    fn mark_done(&mut self, at: At, source: Source) {
        let ended = !self.runs(at.0);
        if ended && let Some(step) = self.step_mut(at) {
            step.state = crate::build::StepState::Done(source);
        }
    }

    fn pooled(&self, at: At, tenure: Tenure, (made, lasts): (Made, bool)) -> Option<Pooled> {
        let build = self.builds.get(&at.0)?;
        let node = build.graph.steps.get(at.1.index())?;
        // An input that has no state at all any more can be compared with nothing: the result is nobody else's.
        let lineage: Option<Vec<_>> = node.needs().map(|on| self.state_of((at.0, on))).collect();
        Some(Pooled {
            key: node.key,
            scope: build.scope.clone(),
            share: node.share,
            begun: tenure.begun,
            lineage: lineage.unwrap_or_default(),
            made,
            lasts,
            kept: Kept::Held(BTreeSet::from([tenure.worker])),
            users: BTreeSet::new(),
        })
    }

    /// Takes a step out of its job as settled, and the job away after its last; returns who shared it.
    fn settle(&mut self, id: JobId, at: At) -> Vec<At> {
        self.out_of_flight(at);
        let sharers = self.step_mut(at).map(|step| std::mem::take(&mut step.subscribers));
        if let Some(job) = self.jobs.get_mut(&id) {
            job.settled += 1;
            if job.open().is_empty() {
                self.drop_job(id);
            } else {
                self.unlock(id);
                self.trim(id);
            }
        }
        sharers.unwrap_or_default()
    }

    pub(crate) fn step_failed(&mut self, fence: Fence, step: StepIndex, fault: StepFault) {
        let Some((job, _, at)) = self.in_turn(fence, step) else { return };
        match fault {
            StepFault::Infra(InfraFault::NoSpace) => self.no_space(job),
            StepFault::Infra(fault) => self.attempt_lost(job, fault),
            StepFault::InputLost(input) => self.input_lost(job, input),
            StepFault::Exit { .. } => {
                let node = self.builds.get(&at.0).and_then(|it| it.graph.steps.get(at.1.index()));
                let everybodys = node.is_some_and(|node| node.sees == Sees::KeyOnly);
                let sharers = self.step(at).filter(|_| everybodys).map(|it| it.subscribers.clone());
                self.drop_job(job);
                self.fail_step(at, fault);
                for sharer in sharers.unwrap_or_default() {
                    self.fail_step(sharer, fault);
                }
            }
            StepFault::Rejected
            | StepFault::TimeLimit
            | StepFault::MemoryLimit
            | StepFault::DiskLimit => {
                self.drop_job(job);
                self.fail_step(at, fault);
            }
        }
    }

    fn fail_step(&mut self, (build, step): At, fault: StepFault) {
        self.end_build(build, Outcome::Failed(Failure::Step { step, fault }));
    }

    pub(crate) fn output_done(&mut self, fence: Fence, result: BlobDigest) {
        let Some((job, build, output)) = self.output_of(fence) else { return };
        if let Some(output) = self.output_mut(build, output) {
            output.state = OutputState::Done(result);
        }
        self.drop_job(job);
        self.act(Action::OutputSettled { build, output, result });
    }

    pub(crate) fn output_failed(&mut self, fence: Fence, fault: StepFault) {
        let Some((job, build, output)) = self.output_of(fence) else { return };
        match fault {
            StepFault::Infra(InfraFault::NoSpace) => self.no_space(job),
            StepFault::Infra(fault) => self.attempt_lost(job, fault),
            StepFault::InputLost(input) => self.input_lost(job, input),
            StepFault::Exit { .. }
            | StepFault::Rejected
            | StepFault::TimeLimit
            | StepFault::MemoryLimit
            | StepFault::DiskLimit => {
                self.drop_job(job);
                self.fail_output(build, output, Failure::Output { output, fault });
            }
        }
    }

    /// An output cannot be made: what else the build makes it still makes.
    fn fail_output(&mut self, build: BuildId, output: OutputIndex, failure: Failure) {
        if let Some(output) = self.output_mut(build, output) {
            output.state = OutputState::Failed(failure);
        }
        self.act(Action::OutputFailed { build, output, failure });
        self.touch(build);
    }

    pub(crate) fn job_returned(&mut self, fence: Fence, why: Return) {
        let Some((job, tenure)) = self.fenced(fence) else { return };
        match why {
            Return::InputLost(input) => self.input_lost(job, input),
            Return::Draining => {
                // Or it would be given the same job again at once.
                if let Some(worker) = self.workers.get_mut(&tenure.worker) {
                    worker.duty = Duty::Drains;
                }
                self.put_ahead(job);
                self.drop_job(job);
            }
        }
    }

    fn output_mut(
        &mut self,
        build: BuildId,
        output: OutputIndex,
    ) -> Option<&mut crate::build::Output> {
        self.builds.get_mut(&build)?.outputs.get_mut(output.index())
    }

    /// Those whom the end of a job's running part concerns: its build first, then who shares.
    fn concerned(&self, job: &Job) -> Vec<At> {
        let Some(at) = job.open().first().map(|step| (job.build, *step)) else { return Vec::new() };
        let sharers = self.step(at).map(|step| step.subscribers.clone()).unwrap_or_default();
        std::iter::once(at).chain(sharers).collect()
    }

    /// An attempt was lost to a fault of a machine: it is made again, ahead of the queue, up to the limit.
    pub(crate) fn attempt_lost(&mut self, id: JobId, fault: InfraFault) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(tenure) = job.tenure() else { return };
        let (build, work) = (job.build, job.work.clone());
        let concerned = self.concerned(job);
        self.put_ahead(id);
        self.drop_job(id);
        let count = |tries: &mut Tries| {
            tries.lost += 1;
            tries.workers.insert(tenure.worker);
            tries.lost
        };
        if let Work::Output(output) = work
            && let Some(lost) = self.output_mut(build, output).map(|it| count(&mut it.tries))
        {
            self.retry_or_fail(build, Part::Output(output), lost, fault);
        }
        for at in concerned {
            if let Some(lost) = self.step_mut(at).map(|step| count(&mut step.tries)) {
                self.retry_or_fail(at.0, Part::Step(at.1), lost, fault);
            }
        }
    }

    /// A worker's disk is full: another one takes the job, and if there is none, trying again on this one is of no use.
    fn no_space(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(tenure) = job.tenure() else { return };
        let shape = job.shape.clone();
        let part = match (&job.work, job.open().first()) {
            (Work::Output(output), _) => Part::Output(*output),
            (Work::Steps(_), Some(step)) => Part::Step(*step),
            (Work::Steps(_), None) => return,
        };
        let build = job.build;
        let concerned = self.concerned(job);
        self.worker_is_full(tenure.worker);
        let mut tried = BTreeSet::new();
        self.each_tries(id, |tries| {
            tries.workers.insert(tenure.worker);
            tried.extend(tries.workers.iter().copied());
        });
        let untried =
            |(id, worker): (&WorkerId, &Worker)| !tried.contains(id) && worker.suits(&shape);
        let elsewhere = self.workers.iter().any(untried);
        self.put_ahead(id);
        self.drop_job(id);
        let told = match part {
            Part::Output(_) => vec![(build, part)],
            Part::Step(_) => {
                concerned.into_iter().map(|(on, step)| (on, Part::Step(step))).collect()
            }
        };
        for (build, part) in told {
            if elsewhere {
                self.act(Action::Note { build, note: Note::Moved { part } });
                continue;
            }
            let failure = Failure::AttemptsExhausted { part, last: InfraFault::NoSpace };
            match part {
                Part::Step(_) => self.end_build(build, Outcome::Failed(failure)),
                Part::Output(output) => self.fail_output(build, output, failure),
            }
        }
    }

    fn retry_or_fail(&mut self, build: BuildId, part: Part, attempts: u32, fault: InfraFault) {
        if !self.runs(build) {
            return;
        }
        let attempts_max = limits::ATTEMPTS_MAX;
        if attempts >= attempts_max {
            let failure = Failure::AttemptsExhausted { part, last: fault };
            return match part {
                Part::Step(_) => self.end_build(build, Outcome::Failed(failure)),
                Part::Output(output) => self.fail_output(build, output, failure),
            };
        }
        let note = Note::Retry { part, fault, attempts, attempts_max };
        self.act(Action::Note { build, note });
    }

    /// A job's input was not to be had: the input is made again, and then the job is.
    fn input_lost(&mut self, id: JobId, input: StepIndex) {
        let Some(job) = self.jobs.get(&id) else { return };
        let build = job.build;
        let withdrawn = self.step((build, input)).and_then(|step| step.withdrawn);
        // Others have said so of the result that this job was leased upon.
        if job.tenure().is_some_and(|tenure| Some(tenure.begun) < withdrawn) {
            self.put_ahead(id);
            return self.drop_job(id);
        }
        let between = self.builds.get(&build).map(|it| it.copied_from(&job.work, input));
        let losses = self.step_mut((build, input)).map_or(0, |step| {
            step.losses += 1;
            step.losses
        });
        self.put_ahead(id);
        self.drop_job(id);
        for step in std::iter::once(input).chain(between.unwrap_or_default()) {
            self.lose((build, step));
        }
        if losses > LOSSES_MAX {
            let failure = Failure::InputsExhausted { input };
            self.end_build(build, Outcome::Failed(failure));
        }
    }

    /// Takes a done step's result away; from everybody, where others have it too.
    fn lose(&mut self, at: At) {
        match self.builds.get(&at.0).and_then(|build| build.done(at.1)) {
            Some(Source::Pool(result, _)) => self.lose_result(result),
            Some(Source::Record(_)) => self.withdraw(at),
            None => {}
        }
    }
}

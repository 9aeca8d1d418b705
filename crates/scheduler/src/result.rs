//! Results that running builds made: who holds them until they are durable, and what happens when they are lost.

use std::collections::BTreeSet;

use dcbuild_model::{AttemptId, Scope, StateDigest, StepIndex, StepKey, WorkerId};

use crate::action::{Action, How, Note};
use crate::build::{OutputState, Source, StepState};
use crate::graph::{Made, Share};
use crate::state::{At, Scheduler};

/// A result by the attempt that made it and the step in that attempt's build.
pub(crate) type ResultId = (AttemptId, StepIndex);

/// A result that some running build uses, or may use before the store has it.
#[derive(Clone, Debug)]
pub(crate) struct Pooled {
    pub(crate) key: StepKey,
    pub(crate) scope: Scope,
    pub(crate) share: Share,
    /// The entry of the log that began the attempt.
    pub(crate) begun: u64,
    /// The states that it was made from: the parent's, then the inputs'.
    pub(crate) lineage: Vec<StateDigest>,
    pub(crate) made: Made,
    /// Whether it stays for builds to come until it is in the store, where they find it.
    pub(crate) lasts: bool,
    pub(crate) kept: Kept,
    pub(crate) users: BTreeSet<At>,
}

/// Where a result lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    /// On the disks of these workers alone.
    Held(BTreeSet<WorkerId>),
    /// In the store.
    Durable,
}

impl Scheduler {
    pub(crate) fn result_durable(&mut self, id: ResultId) {
        let Some(pooled) = self.results.get_mut(&id) else { return };
        let kept = std::mem::replace(&mut pooled.kept, Kept::Durable);
        self.let_go(id, kept);
        self.drop_unused(id);
    }

    pub(crate) fn result_kept_back(&mut self, id: ResultId) {
        if let Some(pooled) = self.results.get_mut(&id) {
            pooled.lasts = false;
            self.drop_unused(id);
        }
    }

    pub(crate) fn result_copied(&mut self, id: ResultId, worker: WorkerId) {
        let (Some(pooled), Some(holder)) =
            (self.results.get_mut(&id), self.workers.get_mut(&worker))
        else {
            return;
        };
        holder.states.add(pooled.made.state, self.entry);
        if let Kept::Held(holders) = &mut pooled.kept {
            holders.insert(worker);
            holder.results.insert(id);
        }
    }

    fn let_go(&mut self, id: ResultId, kept: Kept) {
        if let Kept::Held(holders) = kept {
            for worker in holders {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.results.remove(&id);
                }
            }
        }
    }

    fn drop_result(&mut self, id: ResultId) -> Option<Pooled> {
        let pooled = self.results.remove(&id)?;
        if let Some(ids) = self.results_by_key.get_mut(&pooled.key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.results_by_key.remove(&pooled.key);
            }
        }
        self.let_go(id, pooled.kept.clone());
        Some(pooled)
    }

    /// One step no longer uses a result; the last takes it along, unless it is on its way to the store.
    pub(crate) fn release_result(&mut self, id: ResultId, user: At) {
        if let Some(pooled) = self.results.get_mut(&id) {
            pooled.users.remove(&user);
        }
        self.drop_unused(id);
    }

    pub(crate) fn drop_unused(&mut self, id: ResultId) {
        let is_waited_for = |pooled: &Pooled| pooled.lasts && pooled.kept != Kept::Durable;
        let unused = |pooled: &Pooled| pooled.users.is_empty() && !is_waited_for(pooled);
        if self.results.get(&id).is_some_and(unused) {
            self.drop_result(id);
        }
    }

    /// A worker is gone: what it alone held is lost.
    pub(crate) fn lose_held(&mut self, worker: WorkerId, held: BTreeSet<ResultId>) {
        for id in held {
            let Some(pooled) = self.results.get_mut(&id) else { continue };
            let Kept::Held(holders) = &mut pooled.kept else { continue };
            holders.remove(&worker);
            if holders.is_empty() {
                self.lose_result(id);
            }
        }
    }

    /// A result is gone: every step that has it is to run again if it is needed.
    pub(crate) fn lose_result(&mut self, id: ResultId) {
        let Some(pooled) = self.drop_result(id) else { return };
        for user in pooled.users {
            self.withdraw(user);
        }
    }

    /// Takes a done step's result away; what was made of it stays until the next result says otherwise.
    pub(crate) fn withdraw(&mut self, at: At) {
        let entry = self.entry;
        let Some(step) = self.step_mut(at) else { return };
        let StepState::Done(source) = step.state else { return };
        step.state = StepState::Idle;
        step.former = Some(source.made().state);
        step.withdrawn = Some(entry);
        step.tries.ahead = true;
        if let Source::Pool(id, _) = source {
            self.release_result(id, at);
        }
        self.act(Action::Note { build: at.0, note: Note::Withdrawn { step: at.1 } });
        self.touch(at.0);
    }

    /// Gives a step its result.
    pub(crate) fn finish(&mut self, at: At, source: Source, how: How) {
        let made = source.made();
        let Some(step) = self.step_mut(at) else { return };
        step.state = StepState::Done(source);
        step.tries.ahead = false;
        let changed = step.former.take().is_some_and(|former| former != made.state);
        if let Source::Pool(id, _) = source
            && let Some(pooled) = self.results.get_mut(&id)
        {
            pooled.users.insert(at);
        }
        self.act(Action::StepSettled { build: at.0, step: at.1, made, how });
        if changed {
            self.input_changed(at);
        }
        self.touch(at.0);
    }

    /// A step's new result differs from its former one: what was made of that, or is being made, is made again.
    fn input_changed(&mut self, (id, input): At) {
        let Some(build) = self.builds.get(&id) else { return };
        let readers: Vec<StepIndex> = build
            .graph
            .numbered()
            .filter(|(_, node)| node.needs().any(|on| on == input))
            .map(|(step, _)| step)
            .collect();
        let mut jobs = BTreeSet::new();
        for (node, output) in build.graph.outputs.iter().zip(&build.outputs) {
            if let OutputState::InJob(job) = output.state
                && node.needs.contains(&input)
            {
                jobs.insert(job);
            }
        }
        for reader in readers {
            match self.step((id, reader)).map(|step| step.state) {
                Some(StepState::Done(_)) => self.withdraw((id, reader)),
                Some(StepState::Subscribed(_)) => self.unsubscribe((id, reader)),
                // The job that has just made the input goes on from what it made.
                Some(StepState::InJob(job)) if !self.job_made(job, input) => {
                    jobs.insert(job);
                }
                Some(StepState::Idle | StepState::InJob(_)) | None => {}
            }
        }
        for job in jobs {
            self.stop_job(job, crate::action::Stop::InputChanged);
        }
        self.reset_outputs(id, input);
    }

    fn reset_outputs(&mut self, id: dcbuild_model::BuildId, input: StepIndex) {
        let Some(build) = self.builds.get_mut(&id) else { return };
        for (node, output) in build.graph.outputs.iter().zip(&mut build.outputs) {
            if matches!(output.state, OutputState::Done(_)) && node.needs.contains(&input) {
                output.state = OutputState::Idle;
            }
        }
    }
}

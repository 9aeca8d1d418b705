//! The life of a build: submitted, cancelled or complete, forgotten.

use std::collections::BTreeSet;
use std::time::Duration;

use dcbuild_model::{BuildId, LogTime};

use crate::action::{Action, CancelledBy, Outcome, Refusal, Stop};
use crate::build::{Build, Life, Output, Source, Step, StepState};
use crate::event::{Presence, Submission, Work};
use crate::graph::{Graph, StepNode};
use crate::state::Scheduler;

/// Builds that run at a time.
pub const BUILDS_MAX: usize = 10_000;
/// Ended builds that are remembered; the oldest go first.
pub const ENDED_MAX: usize = 1_000;

fn fresh_step(node: &StepNode) -> Step {
    let state = match node.taken {
        Some(made) => StepState::Done(Source::Record(made)),
        None => StepState::Idle,
    };
    Step { state, ..Step::default() }
}

impl Scheduler {
    pub(crate) fn submit(&mut self, submission: Submission) {
        let Submission { build: id, body, scope, priority, presence, graph } = submission;
        if let Some(build) = self.builds.get(&id) {
            let same = build.body == body;
            if same {
                return self.act(Action::Accepted { build: id });
            }
            return self.refuse(Refusal::BuildExists(id));
        }
        if let Err(source) = graph.check() {
            return self.refuse(Refusal::InvalidGraph { build: id, source });
        }
        if self.builds.len().saturating_sub(self.ended.len()) >= BUILDS_MAX {
            return self.refuse(Refusal::Full { build: id, max: BUILDS_MAX });
        }
        let build = Build {
            body,
            scope,
            priority,
            presence,
            submitted: self.entry,
            steps: graph.steps.iter().map(fresh_step).collect(),
            outputs: graph.outputs.iter().map(|_| Output::default()).collect(),
            graph,
            jobs: BTreeSet::new(),
            life: Life::Running { until: None },
        };
        self.builds.insert(id, build);
        self.act(Action::Accepted { build: id });
        self.touch(id);
    }

    pub(crate) fn cancel(&mut self, id: BuildId) {
        if self.builds.contains_key(&id) {
            self.end_build(id, Outcome::Cancelled(CancelledBy::Request));
        } else {
            self.refuse(Refusal::UnknownBuild(id));
        }
    }

    pub(crate) fn client_gone(&mut self, id: BuildId, grace: Duration) {
        let millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let limit = LogTime(self.now.0.saturating_add(millis));
        let Some(build) = self.builds.get_mut(&id) else {
            return self.refuse(Refusal::UnknownBuild(id));
        };
        if build.presence == Presence::Attached
            && let Life::Running { until: until @ None } = &mut build.life
        {
            *until = Some(limit);
            self.absent.insert((limit, id));
            self.act(Action::WakeAt(limit));
        }
    }

    pub(crate) fn client_back(&mut self, id: BuildId) {
        let Some(build) = self.builds.get_mut(&id) else {
            return self.refuse(Refusal::UnknownBuild(id));
        };
        if let Life::Running { until } = &mut build.life
            && let Some(limit) = until.take()
        {
            self.absent.remove(&(limit, id));
        }
    }

    /// Ends the builds whose clients stayed away.
    pub(crate) fn end_absent(&mut self) {
        while let Some((limit, id)) = self.absent.first().copied() {
            if limit > self.now {
                return;
            }
            self.absent.remove(&(limit, id));
            self.end_build(id, Outcome::Cancelled(CancelledBy::ClientGone));
        }
    }

    /// Ends a running build; of its attempts only those go on that others wait for.
    pub(crate) fn end_build(&mut self, id: BuildId, outcome: Outcome) {
        let Some(build) = self.builds.get_mut(&id) else { return };
        let Life::Running { until } = build.life else { return };
        build.life = Life::Ended(outcome);
        if let Some(limit) = until {
            self.absent.remove(&(limit, id));
        }
        self.ended.insert((self.entry, id));
        self.act(Action::BuildEnded { build: id, outcome });
        let Some(build) = self.builds.get(&id) else { return };
        let jobs: Vec<_> = build.jobs.iter().copied().collect();
        let states: Vec<_> = build.steps.iter().map(|step| step.state).collect();
        for (step, state) in (0..).map(dcbuild_model::StepIndex).zip(states) {
            match state {
                StepState::Subscribed(_) => self.unsubscribe((id, step)),
                StepState::Done(Source::Pool(result, _)) => self.release_result(result, (id, step)),
                StepState::Idle | StepState::InJob(_) | StepState::Done(Source::Record(_)) => {}
            }
        }
        for job in jobs {
            match self.jobs.get(&job).map(|job| &job.work) {
                Some(Work::Output(_)) => self.stop_job(job, Stop::Unwanted),
                Some(Work::Steps(_)) => self.trim(job),
                None => {}
            }
        }
        self.clear_if_over(id);
    }

    /// Lets go of what an ended build keeps once none of its attempts runs.
    pub(crate) fn clear_if_over(&mut self, id: BuildId) {
        let Some(build) = self.builds.get_mut(&id) else { return };
        if !build.jobs.is_empty() || build.runs() {
            return;
        }
        build.graph = Graph::default();
        build.steps = Vec::new();
        build.outputs = Vec::new();
        if matches!(build.life, Life::Forgotten(_)) {
            self.builds.remove(&id);
            self.act(Action::Forgotten { build: id });
        }
    }

    pub(crate) fn forget(&mut self, id: BuildId) {
        match self.builds.get_mut(&id).map(|build| &mut build.life) {
            None => self.refuse(Refusal::UnknownBuild(id)),
            Some(Life::Running { .. }) => self.refuse(Refusal::BuildRuns(id)),
            Some(Life::Forgotten(_)) => {}
            Some(life @ Life::Ended(_)) => {
                if let Life::Ended(outcome) = *life {
                    *life = Life::Forgotten(outcome);
                }
                self.ended.retain(|(_, ended)| *ended != id);
                self.clear_if_over(id);
            }
        }
    }

    pub(crate) fn forget_oldest(&mut self) {
        while self.ended.len() > ENDED_MAX {
            let Some((_, id)) = self.ended.first().copied() else { return };
            self.forget(id);
        }
    }

    /// Says all that should be under way, for a leader that has only the log.
    pub(crate) fn recovered(&mut self) {
        // None of them is connected yet.
        let workers: Vec<_> = self.workers.keys().copied().collect();
        for worker in workers {
            self.worker_away(worker);
        }
        let jobs: Vec<_> = self.jobs.keys().copied().collect();
        for job in jobs {
            self.say_lease(job);
        }
        let mut said = Vec::new();
        for (id, build) in &self.builds {
            if let Some(outcome) = build.outcome() {
                said.push(Action::BuildEnded { build: *id, outcome });
            }
            for (step, state) in (0..).map(dcbuild_model::StepIndex).zip(&build.steps) {
                if let StepState::Subscribed((owner, owner_step)) = state.state {
                    said.push(Action::Subscribed { build: *id, step, owner, owner_step });
                }
            }
        }
        said.extend(self.absent.iter().map(|(limit, _)| Action::WakeAt(*limit)));
        for action in said {
            self.act(action);
        }
    }
}

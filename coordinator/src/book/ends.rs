//! How builds end, and what is left of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcbuild_model::{BuildId, Fault, UnixTime};
use dcbuild_progress::VertexState;
use dcbuild_proto::BASE_LOST;
use dcbuild_proto::document::{
    Caches, Failed, Outcome, OutputKind, OutputResult, StepErrorKind, Summary,
};
use dcbuild_scheduler as scheduler;
use dcbuild_scheduler::{CancelledBy, Failure, How};

use super::{Active, Book, Effect, Piece, Settling};
use crate::lend::Steps;
use crate::log::Entry;
use crate::planned::PlannedBuild;

pub(super) const CLIENT_GONE: &str = "no client came back in time";
/// Ended builds that can still be attended.
const ENDED_MAX: usize = 1_000;
/// How long a build can be attended after its end.
const ENDED_SECS_MAX: i64 = 7 * 24 * 60 * 60;

/// Which of these ended builds are remembered no more.
pub(crate) fn outlived(mut ended: Vec<(UnixTime, BuildId)>, now: UnixTime) -> Vec<BuildId> {
    ended.sort_unstable();
    let surplus = ended.len().saturating_sub(ENDED_MAX);
    let old = |time: UnixTime| now.secs.saturating_sub(time.secs) > ENDED_SECS_MAX;
    let beyond = |(at, (time, _)): &(usize, (UnixTime, BuildId))| *at < surplus || old(*time);
    ended.into_iter().enumerate().filter(beyond).map(|(_, (_, build))| build).collect()
}

impl Book {
    /// Ends a build that the scheduler does not have, or has ended.
    pub(crate) fn end(&mut self, build: BuildId, outcome: Outcome) {
        // They are told from what the end lets go of.
        let steps = self.steps(build, &outcome);
        self.end_with(build, outcome, steps);
    }

    fn end_with(&mut self, build: BuildId, outcome: Outcome, steps: Option<Steps>) {
        let Some(active) = self.builds.get(&build) else { return };
        if active.ended.is_some() {
            return;
        }
        let desk = active.desk.clone();
        self.end_wait(build, None);
        let failed = match &outcome {
            Outcome::Failed(Failed { vertex: Some(vertex), message, .. }) => {
                Some((vertex.clone(), message.clone()))
            }
            _ => None,
        };
        self.tell_stopped(build, failed);
        // It is written from what the end lets go of.
        let account = self.account(build);
        let (time, outcome) = (self.now.wall, Box::new(outcome));
        self.record(Entry::Ended { build, time, outcome: outcome.clone() });
        let scope = desk.scope.clone();
        self.effects.extend(account.map(|account| Effect::Account(scope, Box::new(account))));
        let steps = steps.map(Box::new);
        self.effects.push(Effect::Finish { build: desk, outcome, steps, ended: time });
        self.forget_oldest();
    }

    /// Ends a build whose steps were all found, and which wants no output of them.
    pub(crate) fn end_found(&mut self, build: BuildId, planned: PlannedBuild) {
        let Some(active) = self.builds.get(&build) else { return };
        let (carries, now) = (active.carries(), self.now.wall);
        let provenance = crate::provenance::told(&active.desk, &planned, now);
        let taken = planned.taken.iter();
        let results: BTreeMap<_, _> =
            taken.map(|(step, record)| (*step, Arc::new(record.clone()))).collect();
        let taken = results.keys().copied().collect();
        let steps = carries.then(|| Steps { plan: Arc::new(planned), results, taken });
        let (outputs, summary, caches) = (Vec::new(), Summary::default(), Vec::new());
        self.end_with(build, Outcome::Done { outputs, summary, caches, provenance }, steps);
    }

    /// What a build came to step by step, if that is wanted elsewhere or came from there.
    fn steps(&self, build: BuildId, outcome: &Outcome) -> Option<Steps> {
        let active = self.builds.get(&build)?;
        let plan = active.planned.clone()?;
        if !active.carries() || !matches!(outcome, Outcome::Done { .. }) {
            return None;
        }
        let clean = active.results.iter().filter(|(_, settled)| !settled.tainted);
        let results = clean.clone().map(|(step, it)| (*step, it.record.clone())).collect();
        let found = clean
            .filter(|(_, settled)| matches!(settled.how, Settling::Taken | Settling::By(How::Hit)));
        let taken = found.map(|(step, _)| *step).collect();
        Some(Steps { plan, results, taken })
    }

    pub(super) fn end_failed(&mut self, build: BuildId, fault: Fault, code: &str, message: String) {
        self.end(build, Outcome::Failed(crate::driver::failed(fault, code, message)));
    }

    /// Shows what was running as failed or stopped.
    fn tell_stopped(&mut self, build: BuildId, failed: Option<(String, String)>) {
        let completed = self.now.wall;
        let Some(active) = self.builds.get(&build) else { return };
        let mut running = active.running.clone();
        let named = |piece: &Piece| {
            let id = active.piece_vertex(*piece)?.to_string();
            failed.as_ref().filter(|(vertex, _)| *vertex == id)
        };
        // One that failed without having been seen to begin is shown too.
        if let Some(planned) = &active.planned {
            for step in (0..).map(dcbuild_model::StepIndex).take(planned.plan.steps.len()) {
                if named(&Piece::Step(step)).is_some() {
                    running.entry(Piece::Step(step)).or_insert(completed);
                }
            }
        }
        let states: Vec<(Piece, VertexState)> = running
            .into_iter()
            .map(|(piece, started)| match named(&piece) {
                Some((_, error)) => {
                    let error = error.clone();
                    (piece, VertexState::Failed { started, completed, error })
                }
                None => (piece, VertexState::Canceled { started, completed }),
            })
            .collect();
        for (piece, state) in states {
            self.tell_piece(build, piece, state);
        }
    }

    pub(super) fn take_ended(&mut self, build: BuildId, time: UnixTime, outcome: Box<Outcome>) {
        let unlent = self.replaying.then(|| self.steps(build, &outcome)).flatten();
        if let Some(active) = self.builds.get_mut(&build) {
            active.unlent =
                unlent.filter(|_| !crate::rpc::events::is_told(&active.desk)).map(Box::new);
            active.ended = Some((time, outcome));
            active.running.clear();
            active.alone = None;
        }
        self.clear_if_over(build);
    }

    /// Lets go of an ended build's plan and results once none of its attempts goes on.
    pub(super) fn clear_if_over(&mut self, build: BuildId) {
        if self.attempts.values().any(|attempt| attempt.lease.build == build) {
            return;
        }
        let Some(active) = self.builds.get_mut(&build) else { return };
        if active.ended.is_none() {
            return;
        }
        active.planned = None;
        active.results.clear();
        active.tainted.clear();
        active.assembled.clear();
        active.outputs.clear();
        active.packs.clear();
        active.errors.clear();
        active.failures.clear();
        self.followers.retain(|(owner, _), _| *owner != build);
        // A record that no build uses is the store's alone.
        self.release_held();
        self.records.retain(|_, record| std::sync::Arc::strong_count(record) > 1);
        self.tainted.retain(|digest| self.records.contains_key(digest));
        self.passed.retain(|digest, _| self.records.contains_key(digest));
    }

    /// Forgets ended builds that are old, or too many.
    pub(super) fn forget_oldest(&mut self) {
        let ended: Vec<(UnixTime, BuildId)> = self
            .builds
            .iter()
            .filter_map(|(build, active)| Some((active.ended.as_ref()?.0, *build)))
            .collect();
        for build in outlived(ended, self.now.wall) {
            self.builds.remove(&build);
            self.effects.push(Effect::Forget(build));
        }
    }

    /// The scheduler says that a build has ended.
    pub(super) fn build_ended(&mut self, build: BuildId, outcome: scheduler::Outcome) {
        // During a replay the entry that follows says how.
        if self.replaying {
            return;
        }
        let Some(active) = self.builds.get(&build).filter(|it| it.ended.is_none()) else { return };
        let outcome = match outcome {
            scheduler::Outcome::Done => active.done(self.now.wall),
            scheduler::Outcome::Failed(failure) => Outcome::Failed(active.failed(failure)),
            scheduler::Outcome::Cancelled(by) => {
                let said = match by {
                    CancelledBy::Request => "cancelled",
                    CancelledBy::ClientGone => CLIENT_GONE,
                };
                let reason = active.reason.clone().unwrap_or_else(|| said.to_owned());
                Outcome::Canceled { reason }
            }
        };
        self.end(build, outcome);
    }
}

impl Active {
    /// Whether it takes records from other places, or leaves some there.
    fn carries(&self) -> bool {
        let Caches { from, to } = &self.desk.submission.caches;
        !from.is_empty() || !to.is_empty()
    }

    fn done(&self, now: UnixTime) -> Outcome {
        let asked = self.desk.submission.outputs.len();
        let outputs: Vec<_> = self.outputs.values().cloned().collect();
        if outputs.len() != asked {
            let message = format!("{} of {asked} outputs were reported", outputs.len());
            return Outcome::Failed(crate::driver::failed(Fault::Bug, "OUTPUT_MISSING", message));
        }
        let planned = self.planned.as_deref();
        let provenance = planned.map(|planned| crate::provenance::told(&self.desk, planned, now));
        let provenance = provenance.unwrap_or_default();
        Outcome::Done { outputs, summary: self.summary(), caches: Vec::new(), provenance }
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for settled in self.results.values() {
            match settled.how {
                Settling::Taken | Settling::By(How::Hit) => summary.hits += 1,
                Settling::By(How::Ran { .. }) => summary.ran += 1,
                Settling::By(How::Shared { .. }) => summary.shared += 1,
            }
        }
        let steps = self.planned.as_ref().map_or(0, |planned| planned.plan.steps.len());
        let unneeded = steps.saturating_sub(self.results.len());
        summary.unneeded = u32::try_from(unneeded).unwrap_or(u32::MAX);
        summary
    }

    fn failed(&self, failure: Failure) -> Failed {
        let piece = match failure {
            Failure::Step { step, .. } => Piece::Step(step),
            Failure::InputsExhausted { input } => Piece::Step(input),
            Failure::Output { output, .. } => Piece::Output(output.0),
            Failure::AttemptsExhausted { part, .. } => super::piece_of(part),
        };
        let told = self.errors.get(&piece);
        let planned = match piece {
            Piece::Step(step) => {
                self.planned.as_ref().and_then(|it| it.plan.steps.get(step.index()))
            }
            Piece::Output(_) => None,
        };
        let exit_code = match failure {
            Failure::Step { fault: scheduler::StepFault::Exit { code }, .. } => Some(code),
            _ => None,
        };
        let fault = match told.map(|error| error.kind) {
            Some(StepErrorKind::Internal {}) => Fault::Bug,
            // The store is full, or a registry is not there, which no Dockerfile can mend.
            Some(
                StepErrorKind::DiskLimit {}
                | StepErrorKind::Unreachable {}
                | StepErrorKind::BaseLost {},
            ) => Fault::Cluster,
            _ => failure.fault(),
        };
        let code = match told.map(|error| error.kind) {
            Some(StepErrorKind::BaseLost {}) => BASE_LOST,
            _ => failure.code(),
        };
        let message = match piece {
            Piece::Step(_) => self.story(piece, failure),
            Piece::Output(_) => self.failed_outputs(),
        };
        Failed {
            fault,
            code: code.into(),
            message,
            hint: told.and_then(|error| error.hint.clone()),
            lines: planned.map(|step| step.lines),
            vertex: self.piece_vertex(piece).map(|it| it.to_string()),
            exit_code,
            outputs: self.made_outputs(),
        }
    }

    /// Why a piece failed: in the worker's words, where they are there.
    pub(super) fn story(&self, piece: Piece, failure: Failure) -> String {
        self.errors.get(&piece).map_or_else(|| plain(failure), |error| error.message.clone())
    }

    /// What is to be said of all outputs that failed; where there are several, each by its name.
    fn failed_outputs(&self) -> String {
        let specs = &self.desk.submission.outputs;
        let stories = self.failures.iter().map(|(output, failure)| {
            let story = self.story(Piece::Output(*output), *failure);
            let spec = usize::try_from(*output).ok().and_then(|at| specs.get(at));
            match spec.filter(|_| specs.len() > 1) {
                Some(spec) => format!("{} failed: {story}", output_name(&spec.kind)),
                None => story,
            }
        });
        stories.collect::<Vec<_>>().join("; ")
    }

    /// What was made of the outputs, if anything was.
    fn made_outputs(&self) -> Vec<Option<OutputResult>> {
        let outputs = (0..).zip(&self.desk.submission.outputs);
        if self.outputs.is_empty() {
            return Vec::new();
        }
        outputs.map(|(output, _)| self.outputs.get(&output).cloned()).collect()
    }
}

/// An output, as a person who asked for several tells it from the others.
fn output_name(kind: &OutputKind) -> String {
    match kind {
        OutputKind::Image { names, push, .. } => {
            let what = if *push { "push of image" } else { "image" };
            format!("{what} {}", names.join(", ")).trim_end().to_owned()
        }
        OutputKind::Files { .. } => "output of files".to_owned(),
    }
}

/// What can be said of a failure when the worker's own words are lost.
fn plain(failure: Failure) -> String {
    match failure {
        Failure::Step { fault: scheduler::StepFault::Exit { code }, .. } => {
            format!("the command ended with exit code {code}")
        }
        Failure::Step { .. } => "the step could not be carried out".into(),
        Failure::Output { .. } => "the output could not be made".into(),
        Failure::AttemptsExhausted { last, .. } => {
            format!("all attempts were lost to faults of machines, the last to {}", infra(last))
        }
        Failure::InputsExhausted { .. } => "the result of a step was lost again and again".into(),
    }
}

pub(super) fn infra(fault: scheduler::InfraFault) -> &'static str {
    match fault {
        scheduler::InfraFault::WorkerLost => "a lost worker",
        scheduler::InfraFault::Sandbox => "a sandbox that failed",
        scheduler::InfraFault::NoSpace => "a full disk",
        scheduler::InfraFault::NoMemory => "a machine without memory",
        scheduler::InfraFault::Store => "a store that failed",
        scheduler::InfraFault::Network => "a network that failed",
        scheduler::InfraFault::Internal => "a fault of the worker",
    }
}

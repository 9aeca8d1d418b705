//! The life of a build: submitted, planned, attended, cancelled.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcbuild_model::{BlobDigest, BuildId, Digest, Scope, Selection, StepIndex, UnixTime, limits};
use dcbuild_progress::{Update, Vertex, VertexId, VertexState};
use dcbuild_proto::document::{self, Outcome, Submission};
use dcbuild_scheduler::{Event, Graph, How, Presence};

use super::{Active, Book, Effect, Piece, Settled, Settling, note_record};
use crate::build::Build;
use crate::log::Entry;
use crate::planned::{PlannedBuild, inputs_of};

/// Says why a build was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error("build {0} exists and is another request")]
    Exists(BuildId),
    #[error("{max} builds are under way already")]
    Full { max: usize },
}

/// A build in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Summarised {
    pub(crate) build: BuildId,
    pub(crate) state: &'static str,
    pub(crate) name: String,
    pub(crate) scope: Scope,
    pub(crate) submitted: UnixTime,
    pub(crate) ended: Option<UnixTime>,
}

impl Book {
    /// Takes a build; the same again is the same build.
    pub(crate) fn submit(
        &mut self,
        build: BuildId,
        submission: Submission,
    ) -> Result<(), SubmitError> {
        if let Some(active) = self.builds.get(&build) {
            let same = active.desk.submission == submission;
            return if same { Ok(()) } else { Err(SubmitError::Exists(build)) };
        }
        let running = self.builds.values().filter(|active| active.ended.is_none()).count();
        if running >= self.builds_max {
            return Err(SubmitError::Full { max: self.builds_max });
        }
        let (time, submission) = (self.now.wall, Box::new(submission));
        self.record(Entry::Submitted { build, time, submission });
        if let Some(active) = self.builds.get(&build) {
            self.effects.push(Effect::Drive(active.desk.clone()));
        }
        Ok(())
    }

    pub(super) fn take_submitted(
        &mut self,
        build: BuildId,
        time: UnixTime,
        submission: Submission,
    ) {
        let desk = (self.make_desk)(build, submission, time);
        let active = Active {
            desk,
            planned: None,
            results: std::collections::BTreeMap::new(),
            tainted: std::collections::BTreeSet::new(),
            passed: std::collections::BTreeMap::new(),
            losses: std::collections::BTreeMap::new(),
            packs_lost: false,
            packs: Vec::new(),
            assembled: std::collections::BTreeMap::new(),
            outputs: std::collections::BTreeMap::new(),
            running: std::collections::BTreeMap::new(),
            errors: std::collections::BTreeMap::new(),
            failures: std::collections::BTreeMap::new(),
            reason: None,
            attending: 0,
            alone: Some(self.now.instant),
            starts: 1,
            scheduled: false,
            ended: None,
            unlent: None,
        };
        self.builds.insert(build, active);
    }

    /// Hands a planned build to the scheduler.
    pub(crate) fn planned(&mut self, build: BuildId, planned: PlannedBuild, graph: Graph) {
        let Some(active) = self.builds.get(&build) else { return };
        if active.ended.is_some() || active.scheduled {
            return;
        }
        // What cannot be written down would end the coordinator, and its next life.
        let bytes = document::to_bytes(&planned).len();
        if bytes > limits::PLANNED_BYTES_MAX {
            let message = format!(
                "the plan of this Dockerfile has {} MiB; at most {} can be taken",
                bytes >> 20,
                limits::PLANNED_BYTES_MAX >> 20
            );
            return self.end_failed(
                build,
                dcbuild_model::Fault::Request,
                "PLAN_TOO_LARGE",
                message,
            );
        }
        let submission = &active.desk.submission;
        let body = Digest::of(&document::to_bytes(submission));
        let scope = active.desk.scope.clone();
        let detached = submission.detached;
        let alone = active.attending == 0 && !detached;
        self.record(Entry::Planned { build, planned: Box::new(planned) });
        self.tell_plan(build);
        let submission = dcbuild_scheduler::Submission {
            build,
            body,
            scope,
            priority: 0,
            presence: if detached { Presence::Detached } else { Presence::Attached },
            graph,
        };
        if let Some(refusal) = self.apply(Event::Submit(submission)) {
            self.end_failed(build, dcbuild_model::Fault::Cluster, "REFUSED", refusal.to_string());
        } else if alone {
            self.apply(Event::ClientGone { build, grace: self.grace });
        }
    }

    pub(super) fn take_planned(&mut self, build: BuildId, planned: PlannedBuild) {
        let Some(active) = self.builds.get_mut(&build) else { return };
        for (step, record) in &planned.taken {
            let (_, record) = note_record(&mut self.records, record.clone());
            active.results.insert(*step, Settled { record, how: Settling::Taken, tainted: false });
        }
        active.planned = Some(Arc::new(planned));
        active.scheduled = true;
        active.alone = None;
    }

    /// Shows all steps: those that were taken as cached, the others as waiting.
    fn tell_plan(&mut self, build: BuildId) {
        let Some(active) = self.builds.get(&build) else { return };
        let Some(planned) = active.planned.clone() else { return };
        let taken: std::collections::BTreeMap<_, _> = planned.taken.iter().cloned().collect();
        let run = crate::planned::to_run(&planned.plan, &taken, &planned.plan.wanted());
        self.tally.hits_probed += u64::try_from(taken.len()).unwrap_or(0);
        let completed = self.now.wall;
        for step in (0..).map(StepIndex).take(planned.plan.steps.len()) {
            if taken.contains_key(&step) {
                self.tell_piece(build, Piece::Step(step), VertexState::Cached { completed });
            } else if run.contains(&step) {
                self.tell_piece(build, Piece::Step(step), VertexState::Waiting);
            }
        }
    }

    /// Says how far a piece of a build is.
    pub(super) fn tell_piece(&mut self, build: BuildId, piece: Piece, state: VertexState) {
        let Some(active) = self.builds.get_mut(&build) else { return };
        match &state {
            VertexState::Running { started } => {
                active.running.insert(piece, *started);
            }
            _ => {
                active.running.remove(&piece);
            }
        }
        if let Some(vertex) = active.vertex(piece, state) {
            self.tell(build, Update::Vertex(vertex));
        }
    }

    /// A client that answers attached.
    pub(crate) fn attached(&mut self, build: BuildId) {
        let Some(active) = self.builds.get_mut(&build) else { return };
        active.attending += 1;
        active.alone = None;
        if active.attending == 1 && active.scheduled && active.ended.is_none() {
            self.apply(Event::ClientBack { build });
        }
    }

    /// A client that answers went away.
    pub(crate) fn left(&mut self, build: BuildId) {
        let now = self.now.instant;
        let Some(active) = self.builds.get_mut(&build) else { return };
        active.attending = active.attending.saturating_sub(1);
        if active.attending > 0 || active.ended.is_some() || active.desk.submission.detached {
            return;
        }
        if active.scheduled {
            self.apply(Event::ClientGone { build, grace: self.grace });
        } else {
            active.alone = Some(now);
        }
    }

    /// Ends builds that nobody attended while they were planned.
    pub(super) fn end_alone(&mut self) {
        let now = self.now.instant;
        let gone = |active: &Active| {
            !active.scheduled
                && active.ended.is_none()
                && !active.desk.submission.detached
                && active.alone.is_some_and(|since| now - since >= self.grace)
        };
        let gone: Vec<BuildId> =
            self.builds.iter().filter(|(_, active)| gone(active)).map(|(id, _)| *id).collect();
        for build in gone {
            self.end(build, Outcome::Canceled { reason: super::ends::CLIENT_GONE.into() });
        }
    }

    /// Cancels a build; false if there is none.
    pub(crate) fn cancel(&mut self, build: BuildId, reason: &str) -> bool {
        let Some(active) = self.builds.get_mut(&build) else { return false };
        if active.ended.is_some() {
            return true;
        }
        active.reason = Some(reason.to_owned());
        if active.scheduled && self.scheduler.has(build) {
            self.apply(Event::Cancel { build });
        } else {
            self.end(build, Outcome::Canceled { reason: reason.to_owned() });
        }
        true
    }

    /// A selection is in the store since the plan was made.
    pub(crate) fn packed(&mut self, build: BuildId, packs: Vec<(String, Selection, BlobDigest)>) {
        if let Some(active) = self.builds.get_mut(&build) {
            active.packs.extend(packs);
        }
    }

    /// The builds that go on, each with when it was submitted.
    pub(crate) fn running(&self) -> BTreeMap<BuildId, UnixTime> {
        let running = self.builds.iter().filter(|(_, active)| active.ended.is_none());
        running.map(|(build, active)| (*build, active.desk.submitted)).collect()
    }

    pub(crate) fn find(&self, build: BuildId) -> Option<Arc<Build>> {
        self.builds.get(&build).map(|active| active.desk.clone())
    }

    /// All builds, the newest first.
    pub(crate) fn list(&self) -> Vec<Summarised> {
        let summarised = |(build, active): (&BuildId, &Active)| Summarised {
            build: *build,
            state: active.state(),
            name: active.desk.submission.title.clone(),
            scope: active.desk.scope.clone(),
            submitted: active.desk.submitted,
            ended: active.ended.as_ref().map(|(time, _)| *time),
        };
        let mut list: Vec<Summarised> = self.builds.iter().map(summarised).collect();
        list.sort_by_key(|it| std::cmp::Reverse((it.submitted, it.build)));
        list
    }

    /// After a replay: what should be under way is said again, and builds without a plan are planned again.
    pub(super) fn recover(&mut self) {
        let now = self.now.instant;
        for member in self.workers.values_mut() {
            // It may rest between two tries to connect for about as long as a lease.
            member.heard = now + limits::LEASE;
            member.session = None;
        }
        for attempt in self.attempts.values_mut() {
            attempt.recovered = true;
        }
        let mut planless = Vec::new();
        let (mut scheduled, mut alone) = (Vec::new(), Vec::new());
        for (build, active) in &mut self.builds {
            active.attending = 0;
            active.running.clear();
            if let Some((ended, outcome)) = &active.ended {
                // The end is the last that is logged: its image may have no name yet, and the watchers not be told.
                if active.desk.journal.count() == 0 || !crate::rpc::events::is_told(&active.desk) {
                    self.effects.push(Effect::Finish {
                        build: active.desk.clone(),
                        outcome: outcome.clone(),
                        steps: active.unlent.take(),
                        ended: *ended,
                    });
                } else {
                    active.desk.journal.end();
                    active.desk.over.cancel();
                }
            } else if active.scheduled && !self.scheduler.has(*build) {
                // Logs of before were cut off between the plan and its scheduling.
                active.scheduled = false;
                active.alone = Some(now);
                planless.push(*build);
            } else if active.scheduled {
                scheduled.push(*build);
                if !active.desk.submission.detached {
                    alone.push(*build);
                }
            } else {
                active.alone = Some(now);
                planless.push(*build);
            }
        }
        for build in planless {
            self.plan_again(build);
        }
        for build in scheduled {
            self.tell_settled(build);
        }
        self.forget_oldest();
        for build in alone {
            self.apply(Event::ClientGone { build, grace: self.grace });
        }
        self.apply(Event::Recovered);
    }

    /// Has a build planned that an earlier coordinator had begun to plan, unless that is what ends coordinators.
    fn plan_again(&mut self, build: BuildId) {
        let Some(active) = self.builds.get(&build) else { return };
        if active.starts < limits::PLANNING_STARTS_MAX {
            let desk = active.desk.clone();
            self.record(Entry::PlannedAgain { build });
            return self.effects.push(Effect::Drive(desk));
        }
        let message = format!(
            "the coordinator has ended {} times while it planned this build, which may be what ended it; if its log says otherwise, submit the build again",
            active.starts
        );
        let fault = dcbuild_model::Fault::Request;
        self.end_failed(build, fault, "PLANNING_ENDS_COORDINATOR", message);
    }

    /// Says again which steps are done; what is told twice is shown once.
    fn tell_settled(&mut self, build: BuildId) {
        let Some(active) = self.builds.get(&build) else { return };
        let settled: Vec<(StepIndex, Settling)> =
            active.results.iter().map(|(step, settled)| (*step, settled.how)).collect();
        let shown = crate::rpc::events::shown(&active.desk);
        let running =
            active.pieces().filter_map(|piece| match shown.get(&active.piece_vertex(piece)?)? {
                VertexState::Running { started } => Some((piece, *started)),
                _ => None,
            });
        let running = running.collect();
        if let Some(active) = self.builds.get_mut(&build) {
            active.running = running;
        }
        let completed = self.now.wall;
        for (step, how) in settled {
            let Some(id) = self.builds.get(&build).and_then(|it| it.step_vertex(step)) else {
                continue;
            };
            let started = match shown.get(&id) {
                Some(state) if state.completed().is_some() => continue,
                Some(VertexState::Running { started }) => *started,
                _ => completed,
            };
            let state = match how {
                Settling::By(How::Ran { .. }) => VertexState::Done { started, completed },
                Settling::Taken | Settling::By(How::Hit | How::Shared { .. }) => {
                    VertexState::Cached { completed }
                }
            };
            self.tell_piece(build, Piece::Step(step), state);
        }
    }
}

impl Active {
    fn state(&self) -> &'static str {
        match &self.ended {
            None if self.scheduled => "running",
            None => "waiting",
            Some((_, outcome)) => match **outcome {
                Outcome::Done { .. } | Outcome::Planned { .. } | Outcome::Reported { .. } => "done",
                Outcome::Failed(_) => "failed",
                Outcome::Canceled { .. } => "canceled",
            },
        }
    }

    pub(super) fn step_vertex(&self, step: StepIndex) -> Option<VertexId> {
        let planned = self.planned.as_ref()?;
        Some(VertexId(planned.plan.steps.get(step.index())?.recipe.0))
    }

    /// All pieces of a planned build.
    fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let steps = self.planned.as_ref().map_or(0, |planned| planned.plan.steps.len());
        let steps = (0..).map(StepIndex).take(steps).map(Piece::Step);
        let outputs = (0..).take(self.desk.submission.outputs.len()).map(Piece::Output);
        steps.chain(outputs)
    }

    pub(super) fn piece_vertex(&self, piece: Piece) -> Option<VertexId> {
        match piece {
            Piece::Step(step) => self.step_vertex(step),
            Piece::Output(output) => Some(VertexId::of(&format!("output {output}"))),
        }
    }

    fn vertex(&self, piece: Piece, state: VertexState) -> Option<Vertex> {
        let id = self.piece_vertex(piece)?;
        let plan = &self.planned.as_ref()?.plan;
        let (name, inputs) = match piece {
            Piece::Step(step) => {
                let step = plan.steps.get(step.index())?;
                let needs = step.parent.into_iter().chain(inputs_of(step));
                (step.name.clone(), needs.filter_map(|on| self.step_vertex(on)).collect())
            }
            Piece::Output(output) => {
                let at = usize::try_from(output).ok()?;
                let kind = &self.desk.submission.outputs.get(at)?.kind;
                let name = match kind {
                    document::OutputKind::Image { .. } => "exporting to image",
                    document::OutputKind::Files { .. } => "exporting files",
                };
                let needs = plan.wanted().into_iter().filter_map(|on| self.step_vertex(on));
                (name.to_owned(), needs.collect())
            }
        };
        Some(Vertex { id, name, inputs, state })
    }
}

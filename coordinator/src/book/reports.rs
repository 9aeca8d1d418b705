//! What workers report, and what they ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dcbuild_explain::Passed;
use dcbuild_model::{
    AttemptId, BlobDigest, BuildId, Digest, LayerId, Platform, Record, Scope, StepIndex, UnixTime,
    WorkerId, limits,
};
use dcbuild_plan::Step;
use dcbuild_progress::{Log, Update, VertexId, VertexState, Warning};
use dcbuild_proto::document::{self, OutputResult, StepError, StepErrorKind};
use dcbuild_remote::{CertificateDigest, PeerBytes};
use dcbuild_scheduler::{Event, Fence, How, InfraFault, Part, Refusal, Return, StepFault, Work};

use super::actions::fault_of;
use super::makers::{Fate, Hold, PeerPlace, Unsent};
use super::{Active, Attempt, Book, Order, Piece, Settled, Settling, note_record};
use crate::build::Build;
use crate::log::Entry;
use crate::planned;

/// How often a layer is lost in one build before no record that has it answers for a step of it: the blobs may be whole,
/// and not what the record says.
const LOSSES_BARREN: u32 = 2;

/// A step that a worker asks for by result key.
pub(crate) struct AskedStep {
    pub(crate) build: BuildId,
    pub(crate) scope: Scope,
    pub(crate) step: Box<Step>,
    /// Layers of which the build knows that their records are of no use.
    pub(crate) barren: BTreeSet<LayerId>,
}

/// What a worker says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) worker: WorkerId,
    pub(crate) slots: u32,
    pub(crate) platforms: Vec<Platform>,
    pub(crate) emulated: Vec<Platform>,
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_millis: u64,
    pub(crate) running: Vec<AttemptId>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Where other workers reach it.
    pub(crate) peer: Option<PeerPlace>,
    /// Results that it has and does not send unless it is told to.
    pub(crate) held: Vec<(AttemptId, StepIndex)>,
}

/// How a step came by its result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Made {
    /// It ran.
    Ran,
    /// It ran, and something went wrong that its command did not mind.
    Tainted(String),
    /// A record was found by result key.
    Hit,
}

/// What a worker says of itself while it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Renewal {
    /// The certificate that other workers are shown by now.
    pub(crate) certificate: Option<CertificateDigest>,
    /// What it has read from other workers since it started.
    pub(crate) peer_bytes: PeerBytes,
    /// The count of what it has said; zero if nobody waits to hear that it was heard.
    pub(crate) said: u64,
}

/// What a worker reports in its session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Report {
    Renew(Renewal),
    Started { fence: Fence, step: StepIndex },
    Done { fence: Fence, step: StepIndex, record: Box<Record>, made: Made },
    Durable { attempt: AttemptId, step: StepIndex },
    KeptBack { attempt: AttemptId, step: StepIndex },
    Failed { fence: Fence, step: Option<StepIndex>, error: StepError },
    OutputDone { fence: Fence, result: OutputResult },
    Returned { fence: Fence, lost: Option<StepIndex>, layer: Option<Gone> },
    JobEnded { fence: Fence },
    Progress { attempt: AttemptId, update: Update },
    HasRoom,
    Goodbye,
}

/// A layer that was found not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone {
    pub(crate) layer: LayerId,
    /// When it was put aside, if the store had it and it was damaged.
    pub(crate) damaged: Option<UnixTime>,
}

/// Why a lease is taken back whose worker has said what did not come here.
pub(super) const UNHEARD: &str = "what its worker said of it was not heard";

impl Book {
    /// Takes a report of a worker's session.
    pub(crate) fn report(&mut self, worker: WorkerId, session: u64, report: Report) {
        if !self.hear(worker, session) {
            return;
        }
        match report {
            Report::Started { fence, step } => {
                if self.holds(worker, fence)
                    && self.has_step(fence.attempt, step)
                    && self.has_heard_all_before(worker, fence, Some(step))
                {
                    self.started(fence.attempt, step);
                }
            }
            Report::Done { fence, step, record, made } => {
                if self.holds(worker, fence) && self.has_heard_all_before(worker, fence, Some(step))
                {
                    self.step_done(worker, fence, (step, made), record);
                }
            }
            Report::Durable { attempt, step } => {
                if self.undurable.contains_key(&(attempt, step)) {
                    self.apply(Event::StepDurable { attempt, step });
                }
            }
            Report::KeptBack { attempt, step } => {
                let unsent = self.undurable.get(&(attempt, step));
                if unsent.is_some_and(|unsent| unsent.worker == worker) {
                    self.apply(Event::StepKeptBack { attempt, step });
                }
            }
            Report::Failed { fence, step, error } => {
                if self.holds(worker, fence) && self.has_heard_all_before(worker, fence, step) {
                    self.failed(fence, step, error);
                }
            }
            Report::OutputDone { fence, result } => {
                if self.holds(worker, fence) {
                    self.output_done(fence, result);
                }
            }
            Report::Returned { fence, lost, layer } => {
                if self.holds(worker, fence) {
                    self.returned(fence, lost, layer);
                }
            }
            Report::JobEnded { fence } => self.job_ended(worker, fence),
            Report::Renew(renewal) => self.renewed(worker, renewal),
            Report::Progress { attempt, update } => self.progress(worker, attempt, update),
            Report::HasRoom => {
                self.apply(Event::WorkerHasRoom { worker });
            }
            Report::Goodbye => {
                self.apply(Event::WorkerLost { worker });
            }
        }
    }

    /// Whether nothing is missing of what an attempt said before its report on a step. If something is, nobody will say it
    /// any more, and what comes after it counts for nothing.
    fn has_heard_all_before(
        &mut self,
        worker: WorkerId,
        fence: Fence,
        step: Option<StepIndex>,
    ) -> bool {
        let turn = self.scheduler.turn_of(worker, fence);
        let is_ahead = matches!(turn, Some((_, Part::Step(turn))) if step > Some(turn));
        if is_ahead {
            self.take_back(worker, fence, UNHEARD);
        }
        !is_ahead
    }

    /// The last words on an attempt: by then its lease is over, or what would have ended it was not heard. A worker that
    /// leaves says no more than this either, and then goodbye, by which it is lost.
    fn job_ended(&mut self, worker: WorkerId, fence: Fence) {
        if self.scheduler.turn_of(worker, fence).is_none() {
            return;
        }
        let session = self.workers.get_mut(&worker).and_then(|member| member.session.as_mut());
        if let Some(session) = session {
            session.ended.push(fence);
        }
    }

    /// Ends a lease, if it is in force still, of which nothing will come: its job is leased again.
    pub(super) fn take_back(&mut self, worker: WorkerId, fence: Fence, why: &str) {
        let Some((build, part)) = self.scheduler.turn_of(worker, fence) else { return };
        let attempt = fence.attempt;
        tracing::warn!(%worker, %attempt, %build, why, "nothing will come of a lease; its job is leased again");
        self.order(worker, Order::Stop { attempt, after: None });
        let message = why.to_owned();
        let error = StepError { kind: StepErrorKind::Network {}, message, hint: None };
        let fault = fault_of(error.kind);
        let (step, output, event) = match part {
            Part::Step(step) => (Some(step), None, Event::StepFailed { fence, step, fault }),
            Part::Output(output) => (None, Some(output.0), Event::OutputFailed { fence, fault }),
        };
        self.record(Entry::Failed { build, step, output, error });
        self.apply(event);
    }

    /// A worker gives a job back: it is about to end, or lacks a layer.
    fn returned(&mut self, fence: Fence, lost: Option<StepIndex>, gone: Option<Gone>) {
        let maker = gone.as_ref().and_then(|gone| self.maker_of(fence.attempt, &gone.layer));
        if let (None, None, Some(Gone { layer, .. })) = (maker, lost, &gone) {
            let message = format!("layer {layer} is of no step of the build");
            let error = StepError { kind: StepErrorKind::Internal {}, message, hint: None };
            return self.failed(fence, None, error);
        }
        let lost = maker.or(lost);
        self.doubt_packs(fence.attempt, lost);
        self.note_gone(fence.attempt, lost, gone);
        let why = lost.map_or(Return::Draining, Return::InputLost);
        self.apply(Event::JobReturned { fence, why });
    }

    /// Which step of an attempt's build made a layer. What was copied may lie nowhere but where it was copied from, which
    /// need not be among the steps that the job was told of.
    fn maker_of(&self, attempt: AttemptId, layer: &LayerId) -> Option<StepIndex> {
        let build = self.attempts.get(&attempt)?.lease.build;
        let mut results = self.builds.get(&build)?.results.iter();
        let made = |record: &Record| record.result.layers.iter().any(|it| it.layer == *layer);
        results.find(|(_, settled)| made(&settled.record)).map(|(step, _)| *step)
    }

    /// A step that is lost though it was never made lacks its context: the client is to send it again.
    fn doubt_packs(&mut self, attempt: AttemptId, lost: Option<StepIndex>) {
        let build = self.attempts.get(&attempt).map(|it| it.lease.build);
        let active = build.and_then(|build| self.builds.get_mut(&build));
        if let (Some(active), Some(step)) = (active, lost)
            && !active.results.contains_key(&step)
        {
            active.packs.clear();
            active.packs_lost = true;
        }
    }

    /// Notes why the record of a step is of no use to its build, for whoever asks why the step ran.
    fn note_gone(&mut self, attempt: AttemptId, lost: Option<StepIndex>, gone: Option<Gone>) {
        let build = self.attempts.get(&attempt).map(|it| it.lease.build);
        let (Some(build), Some(step), Some(Gone { layer, damaged })) = (build, lost, gone) else {
            return;
        };
        self.missed(&layer);
        let damage = if damaged.is_some() { "damaged" } else { "missing" };
        tracing::info!(%build, step = step.0, %layer, damage, "a layer is not to be had; its step is made again");
        let why = match damaged {
            Some(at) => Passed::LayerDamaged { layer, at },
            None => Passed::LayerGone { layer },
        };
        self.record(Entry::Passed { build, step, why });
    }

    /// Notes that a build could not use the record that it had of a step, and why; the first reason is the cause.
    pub(super) fn take_passed(&mut self, build: BuildId, step: StepIndex, why: Passed) {
        let Some(active) = self.builds.get_mut(&build) else { return };
        if let Passed::LayerGone { layer } | Passed::LayerDamaged { layer, .. } = why {
            *active.losses.entry(layer).or_default() += 1;
        }
        let of_cache =
            |settled: &Settled| matches!(settled.how, Settling::Taken | Settling::By(How::Hit));
        if active.results.get(&step).is_some_and(of_cache) {
            active.passed.entry(step).or_insert(why);
        }
    }

    /// Whether a worker has this attempt under this epoch; one that has not is told to stop.
    fn holds(&mut self, worker: WorkerId, fence: Fence) -> bool {
        let Fence { attempt, epoch } = fence;
        let holder = self.attempts.get(&attempt).map(|it| it.lease.worker);
        let holds = holder == Some(worker) && self.epoch_of(attempt) == Some(epoch);
        if !holds {
            tracing::debug!(%worker, %attempt, "a report of an old lease is refused");
            self.order(worker, Order::Stop { attempt, after: None });
        }
        holds
    }

    fn started(&mut self, attempt: AttemptId, step: StepIndex) {
        let Some(attempt) = self.attempts.get_mut(&attempt) else { return };
        let again = !attempt.begun.insert(step) || attempt.recovered;
        let (build, started) = (attempt.lease.build, self.now.wall);
        for (build, step) in self.viewers((build, step)) {
            // A worker that comes back says again what may not have been heard: it runs since it was heard first.
            let known = |active: &Active| {
                let is_shown = again && active.running.contains_key(&Piece::Step(step));
                active.results.contains_key(&step) || is_shown
            };
            if !self.builds.get(&build).is_some_and(known) {
                self.tell_piece(build, Piece::Step(step), VertexState::Running { started });
            }
        }
    }

    fn step_done(
        &mut self,
        worker: WorkerId,
        fence: Fence,
        (step, how): (StepIndex, Made),
        record: Box<Record>,
    ) {
        let Some(attempt) = self.attempts.get(&fence.attempt) else { return };
        let active = self.builds.get(&attempt.lease.build);
        if active.and_then(|it| it.results.get(&step)).is_some_and(|it| *it.record == *record) {
            return;
        }
        let keeps = active.is_none_or(|it| it.keeps(step));
        let below = self.state_below(attempt, step);
        let recipe = self
            .builds
            .get(&attempt.lease.build)
            .and_then(|active| active.planned.as_ref()?.plan.steps.get(step.index()))
            .map(|step| step.recipe);
        let fits = recipe == Some(record.recipe)
            && below.is_some_and(|below| record.lineage.parent.is_none_or(|it| it == below));
        let (Some(below), true) = (below, fits) else {
            tracing::error!(%worker, attempt = %fence.attempt, step = step.0,
                "a record is not of the step that it was reported for");
            let fault = StepFault::Infra(InfraFault::Internal);
            self.order(worker, Order::Stop { attempt: fence.attempt, after: None });
            self.apply(Event::StepFailed { fence, step, fault });
            return;
        };
        let made = planned::made(&record, below);
        let tainted = matches!(how, Made::Tainted(_)) || self.stands_on_taint(attempt, step);
        if let Made::Tainted(why) = &how {
            self.warn_of_taint((attempt.lease.build, step), why);
        }
        self.record(Entry::Made { attempt: fence.attempt, step, record, tainted });
        let event = if how == Made::Hit {
            Event::StepHit { fence, step, made }
        } else {
            Event::StepDone { fence, step, made, lasts: keeps && !tainted }
        };
        if let Some(refusal) = self.apply(event) {
            self.refused(worker, &refusal);
        }
    }

    /// Whether a step stands on or reads a result that is not kept for later builds.
    fn stands_on_taint(&self, attempt: &Attempt, step: StepIndex) -> bool {
        let Some(active) = self.builds.get(&attempt.lease.build) else { return false };
        let Some(planned) = &active.planned else { return false };
        let Some(step) = planned.plan.steps.get(step.index()) else { return false };
        step.parent.into_iter().chain(planned::inputs_of(step)).any(|on| {
            let settled = || active.results.get(&on).map(|settled| &settled.record);
            match attempt.made.get(&on).or_else(settled) {
                Some(record) => self.tainted.contains(&planned::record_digest(record)),
                None => active.tainted.contains(&on),
            }
        })
    }

    fn warn_of_taint(&mut self, at: (BuildId, StepIndex), why: &str) {
        for (build, step) in self.viewers(at) {
            let vertex = self.builds.get(&build).and_then(|active| active.step_vertex(step));
            if let Some(vertex) = vertex {
                self.tell(build, Update::Warning(Warning::of(vertex, why)));
            }
        }
    }

    fn refused(&mut self, worker: WorkerId, refusal: &Refusal) {
        tracing::debug!(%worker, %refusal, "a report is refused");
        if let Refusal::UnknownAttempt(attempt) | Refusal::OldEpoch { attempt, .. } = refusal {
            self.order(worker, Order::Stop { attempt: *attempt, after: None });
        }
    }

    pub(super) fn take_made(
        &mut self,
        attempt: AttemptId,
        step: StepIndex,
        record: Record,
        tainted: bool,
    ) {
        let Some(known) = self.attempts.get_mut(&attempt) else { return };
        let (digest, record) = note_record(&mut self.records, record);
        if tainted {
            self.tainted.insert(digest);
        }
        known.made.insert(step, record.clone());
        let (worker, build) = (known.lease.worker, known.lease.build);
        let Some(active) = self.builds.get(&build) else { return };
        let (wanted, scope) = (active.keeps(step), active.desk.scope.clone());
        let hold = if wanted { Hold::No } else { Hold::Held };
        let unsent = Unsent { worker, record, scope, fate: Fate::Coming, hold, wanted };
        self.undurable.insert((attempt, step), unsent);
    }

    fn failed(&mut self, fence: Fence, step: Option<StepIndex>, error: StepError) {
        let Some(lease) = self.attempts.get(&fence.attempt).map(|it| &it.lease) else { return };
        let build = lease.build;
        let output = match &lease.work {
            Work::Output(output) if step.is_none() => Some(output.0),
            Work::Output(_) | Work::Steps(_) => None,
        };
        let fault = fault_of(error.kind);
        self.record(Entry::Failed { build, step, output, error });
        match step {
            Some(step) => self.apply(Event::StepFailed { fence, step, fault }),
            None => self.apply(Event::OutputFailed { fence, fault }),
        };
    }

    /// Notes why a piece failed, for its own build and those that share it.
    pub(super) fn take_error(&mut self, build: BuildId, piece: Piece, error: StepError) {
        let viewers = match piece {
            Piece::Output(_) => vec![(build, piece)],
            Piece::Step(step) => {
                let viewers = self.viewers((build, step)).into_iter();
                viewers.map(|(build, step)| (build, Piece::Step(step))).collect()
            }
        };
        for (build, piece) in viewers {
            if let Some(active) = self.builds.get_mut(&build) {
                active.errors.insert(piece, error.clone());
            }
        }
    }

    fn output_done(&mut self, fence: Fence, result: OutputResult) {
        let Some(build) = self.attempts.get(&fence.attempt).map(|it| it.lease.build) else {
            return;
        };
        let digest = BlobDigest(Digest::of(&document::to_bytes(&result)));
        self.record(Entry::Assembled { build, digest, result });
        self.apply(Event::OutputDone { fence, result: digest });
    }

    /// Shows what a worker says of a running attempt, at the piece that it is about.
    fn progress(&mut self, worker: WorkerId, id: AttemptId, update: Update) {
        let Some(attempt) = self.attempts.get(&id).filter(|it| it.lease.worker == worker) else {
            return;
        };
        let build = attempt.lease.build;
        let Some(active) = self.builds.get(&build) else { return };
        let said = match &update {
            Update::Status(status) => status.vertex,
            Update::Log(log) => log.vertex,
            Update::Vertex(_) | Update::Warning(_) => return,
        };
        let step = match &attempt.lease.work {
            Work::Output(output) => {
                if let Some(vertex) = active.piece_vertex(Piece::Output(output.0)) {
                    self.tell(build, at_vertex(update, vertex));
                }
                return;
            }
            Work::Steps(steps) => {
                let named = |step: &&StepIndex| active.step_vertex(**step) == Some(said);
                let current = || steps.iter().find(|step| !attempt.made.contains_key(step));
                steps.iter().find(named).or_else(current).copied()
            }
        };
        let Some(step) = step else { return };
        let Some(update) = self.limited(id, step, update) else { return };
        let began = active_since(self.builds.get(&build), step);
        let update = timed(update, began, self.now.wall);
        for (build, step) in self.viewers((build, step)) {
            let vertex = self.builds.get(&build).and_then(|active| active.step_vertex(step));
            if let Some(vertex) = vertex {
                self.tell(build, at_vertex(update.clone(), vertex));
            }
        }
    }

    /// Cuts a step's log at its limit, and says so where it is cut.
    fn limited(&mut self, id: AttemptId, step: StepIndex, update: Update) -> Option<Update> {
        let Update::Log(log) = update else { return Some(update) };
        let attempt: &mut Attempt = self.attempts.get_mut(&id)?;
        let logged = attempt.logged.entry(step).or_default();
        if *logged >= limits::STEP_LOG_BYTES_MAX {
            return None;
        }
        *logged = logged.saturating_add(u64::try_from(log.bytes.len()).unwrap_or(u64::MAX));
        if *logged < limits::STEP_LOG_BYTES_MAX {
            return Some(Update::Log(log));
        }
        let text = format!("[the log is cut here, at {} bytes]\n", limits::STEP_LOG_BYTES_MAX);
        Some(Update::Log(Log { bytes: text.into_bytes(), ..log }))
    }

    /// The step that a worker asks for by result key; none if it may take no record, or the lease is over.
    ///
    /// The question may overtake the report of the step below, so it is answered without what that made.
    pub(crate) fn asked_step(&self, fence: Fence, step: StepIndex) -> Option<AskedStep> {
        let attempt = self.attempts.get(&fence.attempt)?;
        if attempt.lease.epoch != fence.epoch || !self.has_step(fence.attempt, step) {
            return None;
        }
        let active = self.builds.get(&attempt.lease.build)?;
        let planned = active.planned.as_ref()?;
        let asked = planned.plan.steps.get(step.index())?;
        let barren = active.losses.iter().filter(|(_, losses)| **losses >= LOSSES_BARREN);
        (!asked.fresh).then(|| AskedStep {
            build: attempt.lease.build,
            scope: active.desk.scope.clone(),
            step: Box::new(asked.clone()),
            barren: barren.map(|(layer, _)| *layer).collect(),
        })
    }

    /// The build of an attempt, if a step of it may talk to this ssh agent of the build's client.
    pub(crate) fn agent_of(
        &self,
        fence: Fence,
        step: StepIndex,
        agent: &str,
    ) -> Option<Arc<Build>> {
        let attempt = self.attempts.get(&fence.attempt)?;
        if attempt.lease.epoch != fence.epoch || !self.has_step(fence.attempt, step) {
            return None;
        }
        let active = self.builds.get(&attempt.lease.build)?;
        let step = active.planned.as_ref()?.plan.steps.get(step.index())?;
        let named = planned::agents_of(step).any(|id| id == agent);
        (named && active.desk.submission.agents.contains(agent)).then(|| active.desk.clone())
    }
}

/// Since when a step is shown as running.
fn active_since(active: Option<&Active>, step: StepIndex) -> Option<UnixTime> {
    active?.running.get(&Piece::Step(step)).copied()
}

/// A log's time comes from the worker's clock; one at which the step cannot have written is of a clock that goes wrong.
fn timed(update: Update, began: Option<UnixTime>, now: UnixTime) -> Update {
    match update {
        Update::Log(log) => {
            let began = began.unwrap_or(log.time).min(now);
            Update::Log(Log { time: log.time.clamp(began, now), ..log })
        }
        other => other,
    }
}

fn at_vertex(update: Update, vertex: VertexId) -> Update {
    match update {
        Update::Status(status) => Update::Status(dcbuild_progress::Status { vertex, ..status }),
        Update::Log(log) => Update::Log(Log { vertex, ..log }),
        other => other,
    }
}

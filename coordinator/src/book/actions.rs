//! What the scheduler wants done, as changes of the book and effects.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_explain::Passed;
use dcbuild_model::{AttemptId, BuildId, Fault, LayerId, StepIndex, WorkerId, limits};
use dcbuild_progress::{Update, VertexState, Warning};
use dcbuild_proto::document;
use dcbuild_scheduler::{
    Action, Event, Failure, Fence, How, InfraFault, Lease, Made, Note, Return, StepFault, Work,
};

use super::ends::infra;
use super::{Attempt, Book, Effect, Order, Piece, Settled, Settling};
use crate::lease::{self, Lacking};

impl Book {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            // The book forgets by its own count.
            Action::Accepted { .. } | Action::Refused(_) | Action::Forgotten { .. } => {}
            Action::Lease(lease) => self.lease(lease),
            Action::StopAttempt { worker, attempt, why: _ } => {
                self.order(worker, Order::Stop { attempt, after: None });
                self.drop_attempt(attempt);
            }
            Action::CutAttempt { worker, attempt, last } => {
                if let Some(Attempt { lease: Lease { work: Work::Steps(steps), .. }, .. }) =
                    self.attempts.get_mut(&attempt)
                {
                    steps.retain(|step| *step <= last);
                }
                self.order(worker, Order::Stop { attempt, after: Some(last) });
            }
            Action::Subscribed { build, step, owner, owner_step } => {
                self.follow((build, step), (owner, owner_step));
            }
            Action::StepSettled { build, step, made, how } => self.settled(build, step, made, how),
            Action::OutputSettled { build, output, result } => {
                if let Some(active) = self.builds.get_mut(&build)
                    && let Some(made) = active.assembled.get(&result).cloned()
                {
                    active.outputs.insert(output.0, made);
                }
                self.complete(build, Piece::Output(output.0));
            }
            Action::OutputFailed { build, output, failure } => {
                self.output_failed(build, output.0, failure);
            }
            Action::Note { build, note } => self.note(build, note),
            Action::BuildEnded { build, outcome } => self.build_ended(build, outcome),
            Action::WakeAt(time) => {
                self.alarms.insert(time);
            }
        }
    }

    pub(super) fn order(&mut self, worker: WorkerId, order: Order) {
        let session = self.workers.get(&worker).and_then(|member| member.session.as_ref());
        if let Some(session) = session {
            let orders = session.orders.clone();
            self.effects.push(Effect::Order { orders, order });
        }
    }

    /// Notes a lease and hands it out; one that was noted before keeps what it made.
    fn lease(&mut self, lease: Lease) {
        let attempt = lease.attempt;
        let older: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(id, it)| it.lease.job == lease.job && **id != attempt)
            .map(|(id, _)| *id)
            .collect();
        for id in older {
            self.attempts.remove(&id);
        }
        let next = match self.attempts.remove(&attempt) {
            Some(known) => Attempt { lease, ..known },
            None => Attempt {
                lease,
                made: BTreeMap::new(),
                logged: BTreeMap::new(),
                begun: BTreeSet::new(),
                recovered: false,
            },
        };
        self.attempts.insert(attempt, next);
        self.leased.push_back(attempt);
    }

    /// What a lease wanted of its build's client does not come: whoever else waits for its steps has them leased anew.
    pub(crate) fn undelivered(&mut self, attempt: AttemptId) {
        let Some(Attempt { lease, .. }) = self.attempts.get(&attempt) else { return };
        let (worker, fence) = (lease.worker, Fence { attempt, epoch: lease.epoch });
        self.take_back(worker, fence, "the client that had what it needs is gone");
    }

    /// Hands a lease to its worker, or says what it wants of the client first.
    pub(crate) fn deliver(&mut self, attempt: AttemptId) {
        if self.replaying {
            return;
        }
        let Some(Attempt { lease, .. }) = self.attempts.get(&attempt) else { return };
        let (worker, build) = (lease.worker, lease.build);
        let Some(active) = self.builds.get(&build) else { return };
        let now = self.now.wall;
        let unsent = |attempt, layer: &LayerId| self.is_unsent(attempt, layer);
        match lease::document(active, (&active.desk.scope, &unsent), lease) {
            Ok(written) => {
                if let Work::Output(output) = lease.work {
                    let piece = Piece::Output(output.0);
                    self.tell_piece(build, piece, VertexState::Running { started: now });
                }
                let bytes = document::to_bytes(&written);
                // The worker's session would break, and be told the same when it is back.
                if bytes.len() > limits::LEASE_BYTES_MAX {
                    let (mib, max) = (bytes.len() >> 20, limits::LEASE_BYTES_MAX >> 20);
                    let message = format!(
                        "one job of this build has {mib} MiB of variables, scripts and secrets; it may have {max}"
                    );
                    self.fail_hopeless(build, (Fault::Request, "JOB_TOO_LARGE"), message);
                    return self.undelivered(attempt);
                }
                self.order(worker, Order::Lease(bytes));
            }
            Err(Lacking::Client(wanted)) => {
                let build = active.desk.clone();
                self.effects.push(Effect::Want { build, attempt, wanted });
            }
            // Another job of the build has found it lost since this one was leased.
            Err(Lacking::Result(Some(step))) => {
                tracing::info!(%build, %attempt, ?step, "a lease stands on what is not there any more");
                let fence = Fence { attempt, epoch: lease.epoch };
                self.apply(Event::JobReturned { fence, why: Return::InputLost(step) });
                if self.attempts.contains_key(&attempt) {
                    self.fail_groundless(build, attempt);
                }
            }
            Err(Lacking::Result(None)) => self.fail_groundless(build, attempt),
        }
    }

    fn fail_groundless(&mut self, build: BuildId, attempt: AttemptId) {
        let message = "a job was leased before what it stands on was there".to_owned();
        self.fail_hopeless(build, (Fault::Bug, "INTERNAL"), message);
        self.undelivered(attempt);
    }

    /// Ends a build that cannot go on; its attempts are stopped.
    fn fail_hopeless(
        &mut self,
        build: BuildId,
        (fault, code): (Fault, &'static str),
        message: String,
    ) {
        self.end_failed(build, fault, code, message);
        self.apply(Event::Cancel { build });
    }

    pub(super) fn drop_attempt(&mut self, attempt: AttemptId) {
        if let Some(dropped) = self.attempts.remove(&attempt) {
            self.clear_if_over(dropped.lease.build);
        }
    }

    /// A step shares another's attempt: it is shown as that, from the first byte of its log.
    fn follow(&mut self, follower: (BuildId, StepIndex), owner: (BuildId, StepIndex)) {
        if !self.followers.entry(owner).or_default().insert(follower) {
            return;
        }
        let (Some(theirs), Some(mine)) = (self.builds.get(&owner.0), self.builds.get(&follower.0))
        else {
            return;
        };
        let Some(vertex) = theirs.step_vertex(owner.1) else { return };
        let started = theirs.running.get(&Piece::Step(owner.1)).copied();
        let (from, to) = (theirs.desk.clone(), mine.desk.clone());
        if let Some(started) = started {
            let piece = Piece::Step(follower.1);
            self.tell_piece(follower.0, piece, VertexState::Running { started });
        }
        self.effects.push(Effect::CopyLog { from, to, vertex });
    }

    /// Those to whom a step of an attempt is shown: its own build, and all that share it.
    pub(super) fn viewers(&self, at: (BuildId, StepIndex)) -> Vec<(BuildId, StepIndex)> {
        let followers = self.followers.get(&at).into_iter().flatten().copied();
        std::iter::once(at).chain(followers).collect()
    }

    fn settled(&mut self, build: BuildId, step: StepIndex, made: Made, how: How) {
        let Some(record) = self.records.get(&made.record).cloned() else {
            tracing::error!(%build, step = step.0, "a step settled with a record that is not known");
            return;
        };
        let Some(active) = self.builds.get_mut(&build) else { return };
        let tainted = self.tainted.contains(&made.record);
        let shared = matches!(how, How::Shared { .. }) && !tainted;
        let wants = (shared && active.keeps(step)).then(|| record.clone());
        active.results.insert(step, Settled { record, how: Settling::By(how), tainted });
        active.tainted.remove(&step);
        let ran = active.running.contains_key(&Piece::Step(step));
        if let Some(record) = wants {
            self.want(&record);
        }
        match how {
            How::Ran { .. } => self.tally.ran += 1,
            How::Shared { .. } => self.tally.shared += 1,
            How::Hit => self.tally.hits_outcome += 1,
        }
        if matches!(how, How::Hit) || !ran {
            let completed = self.now.wall;
            let state = match how {
                How::Ran { .. } => VertexState::Done { started: completed, completed },
                How::Hit | How::Shared { .. } => VertexState::Cached { completed },
            };
            self.tell_piece(build, Piece::Step(step), state);
        } else {
            self.complete(build, Piece::Step(step));
        }
    }

    fn complete(&mut self, build: BuildId, piece: Piece) {
        let completed = self.now.wall;
        let active = self.builds.get(&build);
        let started = active.and_then(|it| it.running.get(&piece).copied()).unwrap_or(completed);
        self.tell_piece(build, piece, VertexState::Done { started, completed });
    }

    /// An output is shown as failed at once; the build ends when the others are over.
    fn output_failed(&mut self, build: BuildId, output: u32, failure: Failure) {
        let Some(active) = self.builds.get_mut(&build) else { return };
        active.failures.insert(output, failure);
        let piece = Piece::Output(output);
        let completed = self.now.wall;
        let started = active.running.get(&piece).copied().unwrap_or(completed);
        let error = active.story(piece, failure);
        self.tell_piece(build, piece, VertexState::Failed { started, completed, error });
    }

    fn note(&mut self, build: BuildId, note: Note) {
        let (piece, short) = match note {
            Note::Retry { part, fault, attempts, attempts_max } => {
                self.tally.retries += 1;
                let piece = super::piece_of(part);
                let mut words =
                    format!("attempt {attempts} of {attempts_max} was lost to {}", infra(fault));
                let told = self.builds.get(&build).and_then(|active| active.errors.get(&piece));
                match (fault, self.lost, told) {
                    (InfraFault::WorkerLost, Some(worker), _) => {
                        words.push_str(&format!(", {worker}"));
                    }
                    (InfraFault::WorkerLost, None, _) | (_, _, None) => {}
                    (_, _, Some(told)) => words = format!("{words}: {}", told.message),
                }
                (Some(piece), words)
            }
            Note::Moved { part } => {
                let piece = super::piece_of(part);
                let told = self.builds.get(&build).and_then(|active| active.errors.get(&piece));
                let told = told.map_or("its worker has no space left", |told| &told.message);
                (Some(piece), format!("another worker takes it: {told}"))
            }
            Note::Withdrawn { step } => {
                // Where nobody has said that it is gone, what it stands on or reads was made again, and is another now.
                self.take_passed(build, step, Passed::OtherResults {});
                let active = self.builds.get_mut(&build);
                let former = active.and_then(|active| {
                    let former = active.results.remove(&step)?;
                    if former.tainted {
                        active.tainted.insert(step);
                    }
                    Some(former)
                });
                if let Some(former) = former {
                    self.unused((former.record.attempt, step));
                }
                self.tell_piece(build, Piece::Step(step), VertexState::Waiting);
                let words = "its result was lost; it is made again if it is needed".to_owned();
                (Some(Piece::Step(step)), words)
            }
        };
        let Some(active) = self.builds.get(&build) else { return };
        let target = || active.planned.as_ref()?.plan.states().first().copied().map(Piece::Step);
        let vertex = piece.or_else(target).and_then(|piece| active.piece_vertex(piece));
        let vertex = vertex.unwrap_or_else(|| dcbuild_progress::VertexId::of("build"));
        self.tell(build, Update::Warning(Warning::of(vertex, short)));
    }
}

/// What a worker's words for a failure mean to the scheduler.
pub(super) fn fault_of(kind: document::StepErrorKind) -> StepFault {
    use document::StepErrorKind as Kind;
    match kind {
        Kind::Exit { code } => StepFault::Exit { code },
        Kind::Rejected {} | Kind::ContextChanged {} | Kind::Unreachable {} | Kind::BaseLost {} => {
            StepFault::Rejected
        }
        Kind::TimeLimit {} => StepFault::TimeLimit,
        Kind::MemoryLimit {} => StepFault::MemoryLimit,
        Kind::DiskLimit {} => StepFault::DiskLimit,
        Kind::Sandbox {} => StepFault::Infra(InfraFault::Sandbox),
        Kind::NoSpace {} => StepFault::Infra(InfraFault::NoSpace),
        Kind::Store {} => StepFault::Infra(InfraFault::Store),
        Kind::Network {} => StepFault::Infra(InfraFault::Network),
        Kind::Internal {} => StepFault::Infra(InfraFault::Internal),
    }
}

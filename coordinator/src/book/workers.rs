//! Workers come, are silent and go.

use std::collections::BTreeMap;

use dcbuild_model::{AttemptId, Platform, StepIndex, WorkerId, limits};
use dcbuild_remote::PeerBytes;
use dcbuild_scheduler::{Duty, Event, Refusal, Requests, Work, WorkerFacts};
use tokio::sync::mpsc;

use super::makers::{Hold, Unsent};
use super::reports::UNHEARD;
use super::{Book, Effect, Hello, Member, Order, PeerPlace, Renewal, Session};

/// A worker, as a person sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SeenWorker {
    pub(crate) worker: WorkerId,
    pub(crate) platforms: Vec<String>,
    pub(crate) slots: u32,
    pub(crate) jobs: u32,
    pub(crate) state: &'static str,
    pub(crate) labels: BTreeMap<String, String>,
    /// Where other workers reach it.
    pub(crate) peer: Option<PeerPlace>,
}

/// What an event takes away from its attempt once it was applied.
pub(super) enum Spent {
    Nothing,
    Attempt(AttemptId),
    Step(AttemptId, StepIndex),
}

impl Book {
    /// A worker's session began; returns the number that its reports carry.
    pub(crate) fn join(&mut self, hello: Hello, orders: mpsc::Sender<Order>) -> u64 {
        self.sessions += 1;
        let known = self.workers.contains_key(&hello.worker);
        // An attempt that it ended while nobody heard is not to be leased to it again.
        let back = known.then(|| hello.running.clone());
        let (held, ended) = (hello.held, Vec::new());
        let session = Session { number: self.sessions, orders, back, held, ended };
        let (labels, peer) = (hello.labels, hello.peer);
        let peer_bytes = self.workers.get(&hello.worker).map(|member| member.peer_bytes);
        let peer_bytes = peer_bytes.unwrap_or_default();
        let heard = self.now.instant;
        let member = Member { session: Some(session), heard, labels, peer, peer_bytes };
        self.workers.insert(hello.worker, member);
        if known {
            return self.sessions;
        }
        // What it runs was given up when it was lost.
        for attempt in hello.running {
            self.order(hello.worker, Order::Stop { attempt, after: None });
        }
        self.apply(Event::WorkerJoined(WorkerFacts {
            worker: hello.worker,
            slots: hello.slots,
            capacity: Requests { memory_bytes: hello.memory_bytes, cpu_millis: hello.cpu_millis },
            platforms: hello.platforms.into_iter().collect(),
            emulated: hello.emulated.into_iter().collect(),
        }));
        self.sessions
    }

    /// The platform that builds, where no worker is of the client's own: that of most workers.
    pub(crate) fn build_platform(&self, of_client: &Platform) -> Option<Platform> {
        let mut counts: BTreeMap<&Platform, usize> = BTreeMap::new();
        for (facts, _, duty) in self.scheduler.workers() {
            let mut native = facts.platforms.difference(&facts.emulated);
            if facts.platforms.contains(of_client) && !facts.emulated.contains(of_client) {
                return None;
            }
            // The plain architecture comes before its levels.
            if let (Some(own), false) = (native.next(), duty == Duty::Drains) {
                *counts.entry(own).or_default() += 1;
            }
        }
        let most = counts.into_iter().rev().max_by_key(|(_, count)| *count);
        most.map(|(platform, _)| platform.clone())
    }

    /// All workers, as a person sees them.
    pub(crate) fn workers(&self) -> Vec<SeenWorker> {
        let seen = |(facts, jobs, duty): (&WorkerFacts, usize, Duty)| {
            let member = self.workers.get(&facts.worker);
            let here = member.is_some_and(|member| member.session.is_some());
            SeenWorker {
                worker: facts.worker,
                platforms: facts.platforms.iter().map(ToString::to_string).collect(),
                slots: facts.slots,
                jobs: u32::try_from(jobs).unwrap_or(u32::MAX),
                state: match duty {
                    _ if !here => "away",
                    Duty::Works | Duty::IsAway => "working",
                    Duty::IsFull => "full",
                    Duty::Drains => "draining",
                },
                labels: member.map(|member| member.labels.clone()).unwrap_or_default(),
                peer: member.and_then(|it| it.peer.clone()),
            }
        };
        self.scheduler.workers().map(seen).collect()
    }

    /// A worker renews its lease: what it said again after it came back is heard by now.
    pub(super) fn renewed(&mut self, worker: WorkerId, renewal: Renewal) {
        let Some(member) = self.workers.get_mut(&worker) else { return };
        if let (Some(peer), Some(certificate)) = (&mut member.peer, renewal.certificate) {
            peer.certificate = Some(certificate);
        }
        let before = std::mem::replace(&mut member.peer_bytes, renewal.peer_bytes);
        let PeerBytes { encrypted, plain } = renewal.peer_bytes;
        self.tally.peer_bytes.encrypted += encrypted.saturating_sub(before.encrypted);
        self.tally.peer_bytes.plain += plain.saturating_sub(before.plain);
        let Some(session) = member.session.as_mut() else { return };
        let (back, held) = (session.back.take(), std::mem::take(&mut session.held));
        for fence in std::mem::take(&mut session.ended) {
            self.take_back(worker, fence, UNHEARD);
        }
        if let Some(running) = back {
            self.apply(Event::WorkerBack { worker, running });
        }
        self.held_still(worker, held);
        if renewal.said > 0 {
            self.order(worker, Order::Heard { said: renewal.said });
        }
    }

    /// A session's stream ended; its worker has until the end of its lease to come back.
    pub(crate) fn session_ended(&mut self, worker: WorkerId, number: u64) {
        if let Some(member) = self.workers.get_mut(&worker)
            && member.session.as_ref().is_some_and(|session| session.number == number)
        {
            member.session = None;
            self.apply(Event::WorkerAway { worker });
        }
    }

    /// Whether a worker is connected.
    pub(crate) fn has_sessions(&self) -> bool {
        self.workers.values().any(|member| member.session.is_some())
    }

    /// Ends the session behind a queue of orders.
    pub(crate) fn cut_off(&mut self, orders: &mpsc::Sender<Order>) {
        let mut away = Vec::new();
        for (worker, member) in &mut self.workers {
            if member.session.as_ref().is_some_and(|it| it.orders.same_channel(orders)) {
                member.session = None;
                away.push(*worker);
            }
        }
        for worker in away {
            self.apply(Event::WorkerAway { worker });
        }
    }

    /// Notes a sign of life; false if the worker was lost or has another session by now.
    pub(super) fn hear(&mut self, worker: WorkerId, number: u64) -> bool {
        let now = self.now.instant;
        let Some(member) = self.workers.get_mut(&worker) else { return false };
        let current = member.session.as_ref().is_some_and(|session| session.number == number);
        if current {
            member.heard = now;
        }
        current
    }

    pub(super) fn lose_silent(&mut self) {
        let now = self.now.instant;
        let silent: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, member)| now - member.heard >= limits::LEASE)
            .map(|(worker, _)| *worker)
            .collect();
        // What one of them had is not to go to the next.
        for worker in &silent {
            self.apply(Event::WorkerAway { worker: *worker });
        }
        for worker in silent {
            tracing::warn!(%worker, "a worker is lost: it was silent for the length of its lease");
            self.apply(Event::WorkerLost { worker });
        }
    }

    /// What an event changes beside the scheduler, before that decides.
    pub(super) fn before(&mut self, event: &Event) {
        match event {
            Event::WorkerJoined(facts) => {
                let heard = self.now.instant;
                let labels = BTreeMap::new();
                let peer_bytes = PeerBytes::default();
                let member = Member { session: None, heard, labels, peer: None, peer_bytes };
                self.workers.entry(facts.worker).or_insert(member);
            }
            Event::WorkerLost { worker } => {
                self.lost = Some(*worker);
                self.workers.remove(worker);
                let lost: Vec<AttemptId> = self
                    .attempts
                    .iter()
                    .filter(|(_, it)| it.lease.worker == *worker)
                    .map(|(id, _)| *id)
                    .collect();
                for attempt in lost {
                    self.drop_attempt(attempt);
                }
                self.undurable.retain(|_, unsent| unsent.worker != *worker);
            }
            Event::StepDurable { attempt, step } => {
                if let Some(sent) = self.undurable.remove(&(*attempt, *step)) {
                    self.keep(sent);
                }
            }
            Event::StepKeptBack { attempt, step } => self.kept_back((*attempt, *step)),
            Event::StepHit { fence, step, .. } => {
                if let Some(sent) = self.undurable.remove(&(fence.attempt, *step)) {
                    self.keep(sent);
                }
            }
            _ => {}
        }
    }

    /// Has a record kept for later builds, if they are to find it and nothing was wrong with how it came about.
    fn keep(&mut self, Unsent { record, scope, wanted, .. }: Unsent) {
        let digest = crate::planned::record_digest(&record);
        if self.tainted.contains(&digest) {
            return;
        }
        if wanted {
            self.effects.push(Effect::Keep(scope, record));
        } else {
            self.passed.insert(digest, scope);
        }
    }

    pub(super) fn spent(event: &Event) -> Spent {
        match event {
            Event::StepDone { fence, step, .. } | Event::StepHit { fence, step, .. } => {
                Spent::Step(fence.attempt, *step)
            }
            Event::StepFailed { fence, .. }
            | Event::OutputDone { fence, .. }
            | Event::OutputFailed { fence, .. }
            | Event::JobReturned { fence, .. } => Spent::Attempt(fence.attempt),
            _ => Spent::Nothing,
        }
    }

    /// Lets go of what an event used up.
    pub(super) fn after(&mut self, spent: &Spent, refusal: Option<&Refusal>) {
        match spent {
            Spent::Step(attempt, step) => {
                if refusal.is_some()
                    && let Some(refused) = self.undurable.remove(&(*attempt, *step))
                    && refused.hold != Hold::No
                {
                    self.let_go(refused.worker, (*attempt, *step));
                }
                let last = self.attempts.get(attempt).is_some_and(|it| match &it.lease.work {
                    Work::Steps(steps) => steps.last() == Some(step),
                    Work::Output(_) => false,
                });
                if last && refusal.is_none() {
                    self.drop_attempt(*attempt);
                }
            }
            Spent::Attempt(attempt) if refusal.is_none() => self.drop_attempt(*attempt),
            Spent::Attempt(_) | Spent::Nothing => {}
        }
    }
}

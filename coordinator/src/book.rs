//! What is known of builds, workers and attempts, beside the scheduler: changed by entries of the log alone.
//!
//! Every change makes entries, which are to be durable, and effects, which are done once the entries are. After a
//! restart the same entries make the same book; their effects are thrown away, but for the last records to keep.

mod account;
mod actions;
mod builds;
mod ends;
mod held;
mod makers;
mod reports;
mod unmet;
mod workers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dcbuild_explain::Passed;
use dcbuild_model::{
    AttemptId, BlobDigest, BuildId, Epoch, LayerId, LogTime, Record, Scope, StateDigest, StepIndex,
    UnixTime, WorkerId,
};
use dcbuild_progress::Update;
use dcbuild_proto::document::{Outcome, OutputResult, StepError, Submission};
use dcbuild_remote::PeerBytes;
use dcbuild_scheduler::{Event, Failure, Fence, How, Lease, Part, Refusal, Scheduler, Work};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::build::Build;
use crate::lease::Wanted;
use crate::lend::Steps;
use crate::log::{Entry, StoredEvent};
use crate::planned::PlannedBuild;

pub(crate) use builds::{SubmitError, Summarised};
pub(crate) use ends::outlived;
pub(crate) use makers::{Found, PeerPlace, Way};
pub(crate) use reports::{AskedStep, Gone, Hello, Made, Renewal, Report};
pub(crate) use workers::SeenWorker;

/// Records that are kept again at a restart: the last ones may have been logged and not yet kept.
const KEPT_AGAIN: usize = 256;

/// What a worker is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// A lease document.
    Lease(Vec<u8>),
    /// End an attempt, at once or behind a step.
    Stop { attempt: AttemptId, after: Option<StepIndex> },
    /// Send a result to the store that is held.
    Send { attempt: AttemptId, step: StepIndex },
    /// Hold a result no longer.
    LetGo { attempt: AttemptId, step: StepIndex },
    /// All that was said before a renewal is durable.
    Heard { said: u64 },
}

/// What is to be done once the entries are durable, in order.
pub(crate) enum Effect {
    /// Tell a worker; one whose queue is full is cut off.
    Order { orders: mpsc::Sender<Order>, order: Order },
    /// Tell a build's watchers.
    Tell { build: Arc<Build>, update: Update },
    /// Copy to one build what was told another of a vertex.
    CopyLog { from: Arc<Build>, to: Arc<Build>, vertex: dcbuild_progress::VertexId },
    /// Keep the account of a build.
    Account(Scope, Box<dcbuild_explain::Account>),
    /// Tell a build's watchers the end.
    Finish { build: Arc<Build>, outcome: Box<Outcome>, steps: Option<Box<Steps>>, ended: UnixTime },
    /// Begin to plan a build.
    Drive(Arc<Build>),
    /// Get from the client what a lease needs, then hand it out.
    Want { build: Arc<Build>, attempt: AttemptId, wanted: Wanted },
    /// Keep a record for later builds.
    Keep(Scope, Arc<Record>),
    /// The same after a restart: it may have been kept, and removed with its layers since.
    KeepAgain(Scope, Arc<Record>),
    /// The build is forgotten: its events go.
    Forget(BuildId),
    /// Answer whoever asked.
    Answer(Box<dyn FnOnce() + Send>),
}

/// A step's result in one build.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) record: Arc<Record>,
    pub(crate) how: Settling,
    /// Whether it is not kept for later builds.
    pub(crate) tainted: bool,
}

/// Where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Settling {
    Taken,
    By(How),
}

/// A build.
pub(crate) struct Active {
    pub(crate) desk: Arc<Build>,
    pub(crate) planned: Option<Arc<PlannedBuild>>,
    pub(crate) results: BTreeMap<StepIndex, Settled>,
    /// Steps whose results are not kept for later builds, and were taken away: what was made of them is of the same kind.
    tainted: BTreeSet<StepIndex>,
    /// Why records that were found were of no use after all.
    passed: BTreeMap<StepIndex, Passed>,
    /// How often a layer was found to be gone.
    losses: BTreeMap<LayerId, u32>,
    /// Whether the plan's parcels are not to be trusted any more.
    pub(crate) packs_lost: bool,
    /// Parcels of selections that were sent after the plan was made.
    pub(crate) packs: Vec<(String, dcbuild_model::Selection, dcbuild_model::BlobDigest)>,
    assembled: BTreeMap<BlobDigest, OutputResult>,
    outputs: BTreeMap<u32, OutputResult>,
    /// Vertices that run, since when.
    running: BTreeMap<Piece, UnixTime>,
    /// The worker's last words for each piece that failed.
    errors: BTreeMap<Piece, StepError>,
    /// Outputs that cannot be made.
    failures: BTreeMap<u32, Failure>,
    /// Why it was cancelled, if it was.
    reason: Option<String>,
    /// Clients that answer.
    attending: u32,
    /// Since when there is none, while the scheduler does not count.
    alone: Option<Instant>,
    /// How many coordinators have begun to plan it.
    starts: u32,
    /// Whether the scheduler has it.
    scheduled: bool,
    ended: Option<(UnixTime, Box<Outcome>)>,
    /// What its end may not have left elsewhere: the coordinator died upon it.
    unlent: Option<Box<Steps>>,
}

/// A piece of a build that a person sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Piece {
    Step(StepIndex),
    Output(u32),
}

fn piece_of(part: Part) -> Piece {
    match part {
        Part::Step(step) => Piece::Step(step),
        Part::Output(output) => Piece::Output(output.0),
    }
}

/// A lease that was handed out, or waits for what only the client has.
struct Attempt {
    lease: Lease,
    made: BTreeMap<StepIndex, Arc<Record>>,
    /// Bytes of each step's log.
    logged: BTreeMap<StepIndex, u64>,
    /// Steps of which it was told that they have begun.
    begun: BTreeSet<StepIndex>,
    /// Whether it was under way when the coordinator was started: what it had begun then is not known here.
    recovered: bool,
}

/// A worker that is not lost.
struct Member {
    session: Option<Session>,
    heard: Instant,
    /// What its configuration calls it.
    labels: BTreeMap<String, String>,
    /// Where other workers reach it.
    peer: Option<PeerPlace>,
    /// What it said last that it has read from others.
    peer_bytes: PeerBytes,
}

struct Session {
    number: u64,
    orders: mpsc::Sender<Order>,
    /// What the worker ran when it came back, until all is heard that it says again.
    back: Option<Vec<AttemptId>>,
    /// What the worker held when it came, until then.
    held: Vec<(AttemptId, StepIndex)>,
    /// Leases that it says have ended though nothing was heard of how, until it renews: who leaves does not renew.
    ended: Vec<Fence>,
}

/// The time, by all clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: UnixTime,
    pub(crate) instant: Instant,
}

/// Makes the shared part of a build; its journal lies where the shell says.
pub(crate) type MakeDesk = Box<dyn Fn(BuildId, Submission, UnixTime) -> Arc<Build> + Send>;

/// Counts for gauges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) ran: u64,
    pub(crate) hits_probed: u64,
    pub(crate) hits_outcome: u64,
    pub(crate) shared: u64,
    pub(crate) retries: u64,
    /// What workers read from each other.
    pub(crate) peer_bytes: PeerBytes,
}

/// All of it.
pub(crate) struct Book {
    scheduler: Scheduler,
    builds_max: usize,
    make_desk: MakeDesk,
    now: Now,
    last: LogTime,
    entries: Vec<Entry>,
    effects: Vec<Effect>,
    replaying: bool,
    builds: BTreeMap<BuildId, Active>,
    attempts: BTreeMap<AttemptId, Attempt>,
    /// Leases to be handed out when all is done that came with them.
    leased: VecDeque<AttemptId>,
    handing_out: bool,
    workers: BTreeMap<WorkerId, Member>,
    sessions: u64,
    records: BTreeMap<BlobDigest, Arc<Record>>,
    /// Records of results that are not kept for later builds.
    tainted: BTreeSet<BlobDigest>,
    /// The worker that was lost last, which is what notes of that moment are about.
    lost: Option<WorkerId>,
    /// Results whose blobs are not durable yet.
    undurable: BTreeMap<(AttemptId, StepIndex), makers::Unsent>,
    /// Records of results that came to the store for another worker, and are not kept, with the scope that they are of.
    passed: BTreeMap<BlobDigest, Scope>,
    /// Steps that share another's attempt, by that.
    followers: BTreeMap<(BuildId, StepIndex), BTreeSet<(BuildId, StepIndex)>>,
    alarms: BTreeSet<LogTime>,
    /// Builds that wait for a worker of a kind that is not there.
    waits: BTreeMap<BuildId, unmet::Wait>,
    no_worker_max: Duration,
    /// How long a build goes on without a client.
    grace: Duration,
    pub(crate) tally: Tally,
}

/// What a book is made with.
pub(crate) struct BookParts {
    pub(crate) builds_max: usize,
    /// How long a build waits for a worker of a kind that is not there.
    pub(crate) no_worker_max: Duration,
    /// How long a build goes on without a client.
    pub(crate) grace: Duration,
    pub(crate) make_desk: MakeDesk,
}

impl Book {
    pub(crate) fn new(parts: BookParts, seed: u128, now: Now) -> Book {
        let mut book = Book {
            scheduler: Scheduler::new(seed),
            builds_max: parts.builds_max,
            make_desk: parts.make_desk,
            now,
            last: LogTime(0),
            entries: Vec::new(),
            effects: Vec::new(),
            replaying: false,
            builds: BTreeMap::new(),
            attempts: BTreeMap::new(),
            leased: VecDeque::new(),
            handing_out: false,
            workers: BTreeMap::new(),
            sessions: 0,
            records: BTreeMap::new(),
            tainted: BTreeSet::new(),
            lost: None,
            undurable: BTreeMap::new(),
            passed: BTreeMap::new(),
            followers: BTreeMap::new(),
            alarms: BTreeSet::new(),
            waits: BTreeMap::new(),
            no_worker_max: parts.no_worker_max,
            grace: parts.grace,
            tally: Tally::default(),
        };
        let seed = format!("{seed:x}");
        book.entries.push(Entry::Founded { version: crate::log::VERSION, seed });
        book
    }

    /// Makes the book that these entries made before; effects that are left are those of the restart.
    pub(crate) fn replay(parts: BookParts, seed: u128, entries: Vec<Entry>, now: Now) -> Book {
        let mut book = Book::new(parts, seed, now);
        book.replaying = true;
        let mut keeps = VecDeque::new();
        for entry in entries {
            book.take(entry);
            let kept = |effect: &Effect| matches!(effect, Effect::Keep(..));
            keeps.extend(book.effects.drain(..).filter(kept));
            keeps.drain(..keeps.len().saturating_sub(KEPT_AGAIN));
        }
        book.replaying = false;
        book.entries.clear();
        book.effects.extend(keeps.into_iter().map(|effect| match effect {
            Effect::Keep(scope, record) => Effect::KeepAgain(scope, record),
            other => other,
        }));
        book.recover();
        book
    }

    /// Sets the time of all that follows.
    pub(crate) fn at(&mut self, now: Now) {
        self.now = now;
    }

    /// What is to be durable, and then to be done.
    pub(crate) fn drain(&mut self) -> (Vec<Entry>, Vec<Effect>) {
        (std::mem::take(&mut self.entries), std::mem::take(&mut self.effects))
    }

    /// Answers once all that came before is durable.
    pub(crate) fn answer(&mut self, answer: Box<dyn FnOnce() + Send>) {
        self.effects.push(Effect::Answer(answer));
    }

    pub(crate) fn counts(&self) -> dcbuild_scheduler::Counts {
        self.scheduler.counts()
    }

    /// How many results are on workers' disks alone.
    pub(crate) fn undurable(&self) -> usize {
        self.undurable.len()
    }

    fn record(&mut self, entry: Entry) {
        self.entries.push(entry.clone());
        self.take(entry);
    }

    /// Takes an entry, new or from the log.
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Founded { .. } => {}
            Entry::Submitted { build, time, submission } => {
                self.take_submitted(build, time, *submission);
            }
            Entry::PlannedAgain { build } => {
                if let Some(active) = self.builds.get_mut(&build) {
                    active.starts += 1;
                }
            }
            Entry::Planned { build, planned } => self.take_planned(build, *planned),
            Entry::Made { attempt, step, record, tainted } => {
                self.take_made(attempt, step, *record, tainted);
            }
            Entry::Assembled { build, digest, result } => {
                if let Some(active) = self.builds.get_mut(&build) {
                    active.assembled.insert(digest, result);
                }
            }
            Entry::Failed { build, step, output, error } => {
                let piece = step.map(Piece::Step).or(output.map(Piece::Output));
                if let Some(piece) = piece {
                    self.take_error(build, piece, error);
                }
            }
            Entry::Passed { build, step, why } => self.take_passed(build, step, why),
            Entry::Ended { build, time, outcome } => self.take_ended(build, time, outcome),
            Entry::Event { time, event } => {
                self.apply_at(time, event.into());
            }
        }
    }

    fn log_now(&self) -> LogTime {
        let secs = u64::try_from(self.now.wall.secs).unwrap_or(0);
        let millis = secs.saturating_mul(1_000) + u64::from(self.now.wall.nanos / 1_000_000);
        self.last.max(LogTime(millis))
    }

    /// Logs an event and applies it; the refusal, if it changed nothing.
    fn apply(&mut self, event: Event) -> Option<Refusal> {
        let time = self.log_now();
        self.entries.push(Entry::Event { time, event: StoredEvent::from(&event) });
        self.apply_at(time, event)
    }

    fn apply_at(&mut self, time: LogTime, event: Event) -> Option<Refusal> {
        self.last = self.last.max(time);
        self.before(&event);
        let spent = Book::spent(&event);
        let actions = self.scheduler.apply(time, event);
        let mut refusal = None;
        for action in actions {
            match action {
                dcbuild_scheduler::Action::Refused(why) => refusal = Some(why),
                action => self.act(action),
            }
        }
        self.after(&spent, refusal.as_ref());
        self.hand_out();
        refusal
    }

    /// Hands out what was leased. What keeps a lease from it is an event of its own, which comes in the log behind all that
    /// the one before it brought about.
    fn hand_out(&mut self) {
        if std::mem::replace(&mut self.handing_out, true) {
            return;
        }
        while let Some(attempt) = self.leased.pop_front() {
            self.deliver(attempt);
        }
        self.handing_out = false;
    }

    fn tell(&mut self, build: BuildId, update: Update) {
        if let Some(active) = self.builds.get(&build) {
            self.effects.push(Effect::Tell { build: active.desk.clone(), update });
        }
    }

    /// When something is due by the log's time, as a wait from now.
    pub(crate) fn next_alarm(&self) -> Option<std::time::Duration> {
        let due = self.alarms.first()?;
        Some(std::time::Duration::from_millis(due.0.saturating_sub(self.log_now().0)))
    }

    /// Looks for what time alone brings about.
    pub(crate) fn tick(&mut self) {
        self.lose_silent();
        self.end_alone();
        self.watch_unmet();
        self.release_held();
        let now = self.log_now();
        if self.alarms.first().is_some_and(|due| *due <= now) {
            self.alarms = self.alarms.split_off(&LogTime(now.0 + 1));
            self.apply(Event::Tick);
        }
    }

    /// The state below a step; of what was lost since, the one that it had.
    fn state_below(&self, attempt: &Attempt, step: StepIndex) -> Option<StateDigest> {
        let build = attempt.lease.build;
        let planned = self.builds.get(&build)?.planned.as_ref()?;
        match planned.plan.steps.get(step.index())?.parent {
            None => Some(StateDigest::empty()),
            Some(parent) => self.scheduler.state_of((build, parent)),
        }
    }

    fn has_step(&self, attempt: AttemptId, step: StepIndex) -> bool {
        self.attempts.get(&attempt).is_some_and(|attempt| match &attempt.lease.work {
            Work::Steps(steps) => steps.contains(&step),
            Work::Output(_) => false,
        })
    }

    fn epoch_of(&self, attempt: AttemptId) -> Option<Epoch> {
        self.attempts.get(&attempt).map(|attempt| attempt.lease.epoch)
    }
}

/// Notes a record that an attempt made, or that was found: one for all who have it, since it is forgotten when nobody has it
/// any more.
fn note_record(
    records: &mut BTreeMap<BlobDigest, Arc<Record>>,
    record: Record,
) -> (BlobDigest, Arc<Record>) {
    let digest = crate::planned::record_digest(&record);
    (digest, records.entry(digest).or_insert_with(|| Arc::new(record)).clone())
}

//! The one task that changes the book: commands in, entries to the log, then effects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::{AttemptId, BuildId, LayerId, Scope, StepIndex, UnixTime, WorkerId};
use dcbuild_process::Clock;
use dcbuild_progress::{Update, VertexId};
use dcbuild_proto::document::{Outcome, Submission};
use dcbuild_scheduler::{Counts, Fence, Graph};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::book::{
    AskedStep, Book, Effect, Found, Hello, Now, Order, Report, SeenWorker, SubmitError, Summarised,
    Tally, Way,
};
use crate::build::{AskError, Build};
use crate::driver::{Driven, DriverParts, drive, pack};
use crate::lease::Wanted;
use crate::lend::{Packing, Steps, lend};
use crate::log::{Log, LogError};
use crate::names;
use crate::planned::PlannedBuild;

/// Commands that wait; who sends more waits too.
const COMMANDS_MAX: usize = 1_024;
/// Commands made durable by one write.
const BATCH_MAX: usize = 256;
const TICK: Duration = Duration::from_secs(1);
/// How long a stop waits for what workers have said already.
pub(crate) const DRAIN: Duration = Duration::from_millis(500);

/// What the shell asks of the core.
pub(crate) enum Command {
    Submit {
        build: BuildId,
        submission: Box<Submission>,
        reply: oneshot::Sender<Result<(), SubmitError>>,
    },
    Planned {
        build: BuildId,
        ready: Box<(PlannedBuild, Graph)>,
    },
    /// All that a build wants was found.
    EndFound {
        build: BuildId,
        planned: Box<PlannedBuild>,
    },
    End {
        build: BuildId,
        outcome: Box<Outcome>,
    },
    Cancel {
        build: BuildId,
        reason: String,
        reply: Option<oneshot::Sender<bool>>,
    },
    Attached {
        build: BuildId,
    },
    Left {
        build: BuildId,
    },
    Find {
        build: BuildId,
        reply: oneshot::Sender<Option<Arc<Build>>>,
    },
    List {
        reply: oneshot::Sender<Vec<Summarised>>,
    },
    ListWorkers {
        reply: oneshot::Sender<Vec<SeenWorker>>,
    },
    Hello {
        hello: Hello,
        orders: mpsc::Sender<Order>,
        reply: oneshot::Sender<u64>,
    },
    Report {
        worker: WorkerId,
        session: u64,
        report: Report,
    },
    SessionEnded {
        worker: WorkerId,
        session: u64,
    },
    Ask {
        fence: Fence,
        step: StepIndex,
        reply: oneshot::Sender<Option<AskedStep>>,
    },
    FindAgent {
        fence: Fence,
        step: StepIndex,
        agent: String,
        reply: oneshot::Sender<Option<Arc<Build>>>,
    },
    FindMaker {
        asker: WorkerId,
        layer: LayerId,
        way: Way,
        reply: oneshot::Sender<Found>,
    },
    /// Has results of these attempts sent, and says whether any is on its way to the store.
    AreComing {
        attempts: BTreeSet<AttemptId>,
        reply: oneshot::Sender<bool>,
    },
    /// The records of an image that is being made.
    FindImage {
        fence: Fence,
        image: u32,
        reply: oneshot::Sender<Option<(Arc<Build>, Vec<dcbuild_model::Record>)>>,
    },
    Deliver {
        attempt: AttemptId,
        build: BuildId,
        packs: Vec<(String, dcbuild_model::Selection, dcbuild_model::BlobDigest)>,
    },
    /// What a lease wanted of a client is not to be had.
    Undelivered {
        attempt: AttemptId,
    },
    Gauge {
        reply: oneshot::Sender<Gauge>,
    },
    Account {
        build: BuildId,
        reply: oneshot::Sender<Option<Box<dcbuild_explain::Account>>>,
    },
}

/// What the metrics show.
pub(crate) struct Gauge {
    pub(crate) counts: Counts,
    pub(crate) tally: Tally,
    /// Builds by their state.
    pub(crate) builds: BTreeMap<&'static str, usize>,
    /// Results that are not durable yet.
    pub(crate) undurable: usize,
}

/// Says that the core has stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator is stopping")]
pub(crate) struct Stopped;

/// The way to the core; clones lead to the same.
#[derive(Clone)]
pub(crate) struct CoreHandle(mpsc::Sender<Command>);

impl CoreHandle {
    pub(crate) fn new() -> (CoreHandle, mpsc::Receiver<Command>) {
        let (tx, rx) = mpsc::channel(COMMANDS_MAX);
        (CoreHandle(tx), rx)
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.0.send(command).await.map_err(|_| Stopped)
    }

    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }
}

/// What the core leans on.
pub(crate) struct CoreParts {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) driver: DriverParts,
    pub(crate) tracker: TaskTracker,
    pub(crate) handle: CoreHandle,
    pub(crate) stop: CancellationToken,
    /// Removes what is kept of a build on disk.
    pub(crate) forget: Box<dyn Fn(BuildId) + Send>,
}

pub(crate) struct Core {
    pub(crate) book: Book,
    pub(crate) log: Box<dyn Log>,
    pub(crate) parts: CoreParts,
}

impl Core {
    /// Runs until it is told to stop or the log fails.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<(), LogError> {
        let stop = self.parts.stop.clone();
        let mut next_tick = Instant::now() + TICK;
        self.settle().await?;
        loop {
            let mut batch = Vec::new();
            let alarm = self.book.next_alarm().map(|wait| Instant::now() + wait);
            let wake = alarm.map_or(next_tick, |alarm| alarm.min(next_tick));
            // What waits in the queue is heard before anybody is found silent.
            let woken = tokio::select! {
                biased;
                () = stop.cancelled() => return self.drain(commands).await,
                count = commands.recv_many(&mut batch, BATCH_MAX) => {
                    if count == 0 {
                        return Ok(());
                    }
                    false
                }
                () = tokio::time::sleep_until(wake) => true,
            };
            self.book.at(self.now());
            for command in batch {
                self.meet(command);
            }
            if woken || (Instant::now() >= next_tick && commands.is_empty()) {
                self.book.tick();
                self.keep_use();
                next_tick = Instant::now() + TICK;
            }
            self.settle().await?;
        }
    }

    /// Takes what workers had said when the stop came: results that were reported are not lost.
    async fn drain(&mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), LogError> {
        let end = Instant::now() + DRAIN;
        while self.book.has_sessions() || !commands.is_empty() {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                _ = commands.recv_many(&mut batch, BATCH_MAX) => {}
                () = tokio::time::sleep_until(end) => return Ok(()),
            }
            self.book.at(self.now());
            for command in batch {
                self.meet(command);
            }
            self.settle().await?;
        }
        Ok(())
    }

    fn now(&self) -> Now {
        Now { wall: self.parts.clock.now(), instant: Instant::now() }
    }

    fn meet(&mut self, command: Command) {
        let book = &mut self.book;
        match command {
            Command::Submit { build, submission, reply } => self.submit(build, *submission, reply),
            Command::Planned { build, ready } => {
                let (planned, graph) = *ready;
                book.planned(build, planned, graph);
            }
            Command::EndFound { build, planned } => book.end_found(build, *planned),
            Command::End { build, outcome } => book.end(build, *outcome),
            Command::Cancel { build, reason, reply } => {
                let known = book.cancel(build, &reason);
                if let Some(reply) = reply {
                    self.answer(reply, known);
                }
            }
            Command::Attached { build } => book.attached(build),
            Command::Left { build } => book.left(build),
            Command::Find { build, reply } => {
                let found = book.find(build);
                self.answer(reply, found);
            }
            Command::List { reply } => {
                let list = book.list();
                self.answer(reply, list);
            }
            Command::ListWorkers { reply } => {
                let workers = book.workers();
                self.answer(reply, workers);
            }
            Command::Hello { hello, orders, reply } => {
                let session = book.join(hello, orders);
                self.answer(reply, session);
            }
            Command::Report { worker, session, report } => book.report(worker, session, report),
            Command::SessionEnded { worker, session } => book.session_ended(worker, session),
            Command::Ask { fence, step, reply } => {
                let asked = book.asked_step(fence, step);
                self.answer(reply, asked);
            }
            Command::FindAgent { fence, step, agent, reply } => {
                let build = book.agent_of(fence, step, &agent);
                self.answer(reply, build);
            }
            Command::FindMaker { asker, layer, way, reply } => {
                let found = book.maker(asker, layer, way);
                self.answer(reply, found);
            }
            Command::AreComing { attempts, reply } => {
                let coming = book.are_coming(&attempts);
                self.answer(reply, coming);
            }
            Command::FindImage { fence, image, reply } => {
                let found = book.image_records(fence, image);
                self.answer(reply, found);
            }
            Command::Undelivered { attempt } => book.undelivered(attempt),
            Command::Deliver { attempt, build, packs } => {
                book.packed(build, packs);
                book.deliver(attempt);
            }
            Command::Gauge { reply } => {
                let gauge = gauge(book);
                self.answer(reply, gauge);
            }
            Command::Account { build, reply } => {
                let account = book.account(build).map(Box::new);
                self.answer(reply, account);
            }
        }
    }

    fn submit(
        &mut self,
        build: BuildId,
        submission: Submission,
        reply: oneshot::Sender<Result<(), SubmitError>>,
    ) {
        let taken = self.book.submit(build, submission);
        self.answer(reply, taken);
    }

    /// Answers once all that came before is durable.
    fn answer<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, value: T) {
        // Whoever asked may have gone.
        self.book.answer(Box::new(move || drop(reply.send(value))));
    }

    /// Makes the entries durable, then does the effects.
    async fn settle(&mut self) -> Result<(), LogError> {
        let (entries, effects) = self.book.drain();
        if !entries.is_empty() {
            self.append(entries).await?;
        }
        for effect in effects {
            self.perform(effect);
        }
        Ok(())
    }

    async fn append(&mut self, entries: Vec<crate::log::Entry>) -> Result<(), LogError> {
        if !self.log.waits() {
            return self.log.append(&entries);
        }
        let mut log = std::mem::replace(&mut self.log, Box::new(crate::log::MemoryLog));
        let appended = tokio::task::spawn_blocking(move || {
            let appended = log.append(&entries);
            (log, appended)
        });
        match appended.await {
            Ok((log, appended)) => {
                self.log = log;
                appended
            }
            Err(error) => Err(LogError::Stopped { source: error }),
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Order { orders, order } => {
                if orders.try_send(order).is_err() {
                    // Its stream ends with the last sender; when it comes back it is told all again.
                    tracing::warn!("a worker takes no orders and is cut off");
                    self.book.cut_off(&orders);
                }
            }
            Effect::Tell { build, update } => build.tell(update),
            Effect::CopyLog { from, to, vertex } => copy_log(&from, &to, vertex),
            Effect::Account(scope, account) => self.note(&scope, account),
            Effect::Finish { build, outcome, steps, ended } => {
                self.finish(build, (*outcome, ended), steps);
            }
            Effect::Drive(build) => self.drive(build),
            Effect::Want { build, attempt, wanted } => self.want(build, attempt, wanted),
            Effect::Keep(scope, record) => self.keep(&scope, record),
            Effect::KeepAgain(scope, record) => self.keep_again(&scope, record),
            Effect::Forget(build) => (self.parts.forget)(build),
            Effect::Answer(answer) => answer(),
        }
    }

    fn drive(&self, build: Arc<Build>) {
        let handle = self.parts.handle.clone();
        let of_client = &build.submission.request.build_platform;
        let build_platform = self.book.build_platform(of_client);
        let parts = DriverParts { build_platform, ..self.parts.driver.of(&build) };
        let stop = self.parts.stop.clone();
        let id = build.id;
        self.parts.tracker.spawn(async move {
            let driven = tokio::select! {
                () = stop.cancelled() => return,
                driven = drive(build, parts) => driven,
            };
            let command = match driven {
                Driven::Ready(ready) => Command::Planned { build: id, ready },
                Driven::Found(planned) => Command::EndFound { build: id, planned },
                Driven::Over(outcome) => Command::End { build: id, outcome },
                Driven::Dropped => return,
            };
            // A core that has stopped plans it again in its next life.
            drop(handle.send(command).await);
        });
    }

    fn want(&self, build: Arc<Build>, attempt: AttemptId, wanted: Wanted) {
        let (handle, stop) = (self.parts.handle.clone(), self.parts.stop.clone());
        let parts = self.parts.driver.of(&build);
        self.parts.tracker.spawn(async move {
            let id = build.id;
            let (begun, limit) = (Instant::now(), dcbuild_model::limits::CLIENT_GONE);
            // One that is there may take its time: it reads and sends what a job needs.
            let fetched = tokio::select! {
                () = stop.cancelled() => return,
                fetched = fetch(&build, &parts, wanted) => Some(fetched),
                () = build.company.lacks_owner(begun, limit) => None,
            };
            let reason = match fetched {
                Some(Ok(packs)) => {
                    drop(handle.send(Command::Deliver { attempt, build: id, packs }).await);
                    return;
                }
                Some(Err(AskError::Ended)) => None,
                Some(Err(error @ (AskError::Failed(_) | AskError::Changed { .. }))) => {
                    Some(error.to_string())
                }
                None => Some(
                    "a step needs secrets, credentials or files of the client, and no client attached to give them"
                        .to_owned(),
                ),
            };
            if let Some(reason) = reason {
                drop(handle.send(Command::Cancel { build: id, reason, reply: None }).await);
            }
            // Another build may wait for the same step, and its client have what this one's has not.
            drop(handle.send(Command::Undelivered { attempt }).await);
        });
    }

    fn finish(
        &self,
        build: Arc<Build>,
        (outcome, ended): (Outcome, UnixTime),
        steps: Option<Box<Steps>>,
    ) {
        let given = names::given(&build.submission, &outcome, ended);
        let lent = self.parts.driver.records.stores.lent.clone();
        let end_loans = move |build: BuildId| lent.iter().for_each(|lent| lent.end(build));
        if given.is_empty() && steps.is_none() {
            end_loans(build.id);
            return build.finish(&outcome);
        }
        let (driver, core) = (self.parts.driver.of(&build), self.parts.handle.clone());
        let stop = self.parts.stop.clone();
        self.parts.tracker.spawn(async move {
            let mut outcome = names::keep(&driver.records, given, outcome).await;
            if let Some(steps) = steps {
                let packing = Packing { parts: &driver, core: &core, build: &build };
                let kept = outcome.clone();
                let lending = lend(packing, &steps, outcome);
                outcome = stop.run_until_cancelled(lending).await.unwrap_or(kept);
            }
            end_loans(build.id);
            build.finish(&outcome);
        });
    }

    /// Moves the mark of use on to the builds that go on now.
    fn keep_use(&self) {
        let Some(using) = self.parts.driver.records.stores.using.clone() else { return };
        let (begun, running) = (using.begun(), self.book.running());
        let now = self.parts.clock.now();
        self.parts.tracker.spawn(async move {
            if let Err(error) = using.keep(begun, &running, now).await {
                let error = dcbuild_process::story(&error);
                tracing::warn!(error, "the mark that builds go on could not be renewed");
            }
        });
    }

    fn note(&self, scope: &Scope, account: Box<dcbuild_explain::Account>) {
        let records = self.parts.driver.records.of(scope);
        let underway = records.noting.begin();
        self.parts.tracker.spawn(async move {
            let _underway = underway;
            records.note(&account).await;
        });
    }

    fn keep(&self, scope: &Scope, record: Arc<dcbuild_model::Record>) {
        let records = self.parts.driver.records.of(scope);
        let underway = records.keeping.begin();
        self.parts.tracker.spawn(async move {
            let _underway = underway;
            records.put(&record).await;
        });
    }

    fn keep_again(&self, scope: &Scope, record: Arc<dcbuild_model::Record>) {
        let records = self.parts.driver.records.of(scope);
        let underway = records.keeping.begin();
        self.parts.tracker.spawn(async move {
            let _underway = underway;
            if records.is_whole(&record).await {
                records.put(&record).await;
            }
        });
    }
}

fn gauge(book: &Book) -> Gauge {
    let mut builds = BTreeMap::new();
    for build in book.list() {
        *builds.entry(build.state).or_default() += 1;
    }
    let (counts, tally, undurable) = (book.counts(), book.tally, book.undurable());
    Gauge { counts, tally, builds, undurable }
}

async fn fetch(
    build: &Arc<Build>,
    parts: &DriverParts,
    wanted: Wanted,
) -> Result<Vec<(String, dcbuild_model::Selection, dcbuild_model::BlobDigest)>, AskError> {
    build.has_secrets(&wanted.secrets).await?;
    for host in wanted.hosts {
        build.credentials(&host).await?;
    }
    let mut packs = Vec::new();
    for (context, selection) in wanted.packs {
        packs.push(pack(build, parts, context, selection).await?.parcel);
    }
    Ok(packs)
}

/// Tells one build what another was told of a vertex so far.
fn copy_log(from: &Build, to: &Build, vertex: VertexId) {
    for update in crate::rpc::events::updates(from) {
        let of = match &update {
            Update::Log(log) => log.vertex,
            Update::Status(status) => status.vertex,
            Update::Vertex(_) | Update::Warning(_) => continue,
        };
        if of == vertex {
            to.tell(update);
        }
    }
}

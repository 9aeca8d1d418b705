//! Workers and clients that say what a test tells them to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_coordinator::{
    Coordinator, CoordinatorConfig, MemoryConnector, Parts, Stores, in_memory,
};
use dcbuild_model::{
    BlobDigest, BuildId, Compression, ConfigDigest, Digest, Lineage, ManifestDigest, Platform,
    Record, SelectionDigest, StateDigest, StepKey, StepResult, UnixTime, WorkerId,
};
use dcbuild_plan::Request;
use dcbuild_process::Clock;
use dcbuild_proto::document::{
    self, Aim, Answer, Attests, Caches, LayerCompression, Lease, LeasedStep, Origin, Outcome,
    OutputKind, OutputResult, OutputSpec, Question, StepError, Submission, Upload, Work,
};
use dcbuild_proto::pb;
use dcbuild_proto::pb::build_event::Event;
use dcbuild_proto::pb::builds_client::BuildsClient;
use dcbuild_proto::pb::worker_order::Order;
use dcbuild_proto::pb::worker_report::Report;
use dcbuild_proto::pb::workers_client::WorkersClient;
use dcbuild_store::FolderStore;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Streaming;
use tonic::transport::Channel;

/// How long a test waits for what must come, in paused time.
const PATIENCE: Duration = Duration::from_mins(1);

struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> UnixTime {
        let passed = self.0.elapsed();
        let secs = 1_700_000_000 + i64::try_from(passed.as_secs()).unwrap();
        UnixTime { secs, nanos: passed.subsec_nanos() }
    }
}

pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    clock: Arc<PausedClock>,
    data_dir: Option<PathBuf>,
    coordinator: Coordinator,
    connector: MemoryConnector,
    tasks: TaskTracker,
}

impl Cluster {
    pub(crate) fn in_memory() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(PausedClock(Instant::now()));
        Cluster::open(dir, None, clock, CoordinatorConfig::default())
    }

    pub(crate) fn on_disk() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let clock = Arc::new(PausedClock(Instant::now()));
        Cluster::open(dir, Some(data), clock, CoordinatorConfig::default())
    }

    fn open(
        dir: tempfile::TempDir,
        data_dir: Option<PathBuf>,
        clock: Arc<PausedClock>,
        config: CoordinatorConfig,
    ) -> Cluster {
        let store = FolderStore::open(&dir.path().join("store")).unwrap();
        let (stores, clock_too) = (Stores::folder(store), clock.clone());
        let parts = Parts { stores, holds: None, packs: None, clock: clock_too };
        let config = CoordinatorConfig { data_dir: data_dir.clone(), ..config };
        let coordinator = Coordinator::start(config, parts).unwrap();
        let (incoming, connector) = in_memory();
        let tasks = TaskTracker::new();
        let serving = coordinator.clone();
        tasks.spawn(async move {
            serving.serve(incoming, CancellationToken::new()).await.unwrap();
        });
        Cluster { dir, clock, data_dir, coordinator, connector, tasks }
    }

    /// Ends the process and starts the next on the same folders.
    pub(crate) async fn restart(self) -> Cluster {
        self.restart_with(CoordinatorConfig::default()).await
    }

    pub(crate) async fn restart_with(self, config: CoordinatorConfig) -> Cluster {
        let Cluster { dir, clock, data_dir, coordinator, connector, tasks } = self;
        drop(connector);
        coordinator.stop().await;
        tasks.close();
        tasks.wait().await;
        drop(coordinator);
        Cluster::open(dir, data_dir, clock, config)
    }

    pub(crate) fn channel(&self) -> Channel {
        self.connector.channel()
    }

    pub(crate) fn builds(&self) -> BuildsClient<Channel> {
        BuildsClient::new(self.channel())
    }

    pub(crate) async fn submit(&self, number: u128, submission: &Submission) -> BuildId {
        let build = BuildId::from_bits(number);
        self.try_submit(build, submission).await.unwrap();
        build
    }

    pub(crate) async fn try_submit(
        &self,
        build: BuildId,
        submission: &Submission,
    ) -> Result<(), tonic::Status> {
        let submission = document::to_bytes(submission).into();
        let request = pb::SubmitRequest { build: build.to_string(), submission };
        self.builds().submit(request).await.map(|_| ())
    }

    pub(crate) async fn cancel(&self, build: BuildId) {
        self.builds().cancel(pb::CancelRequest { build: build.to_string() }).await.unwrap();
    }

    pub(crate) async fn attach(&self, build: BuildId) -> Client {
        self.attach_with(build, BTreeMap::new()).await
    }

    pub(crate) async fn attach_with(
        &self,
        build: BuildId,
        secrets: BTreeMap<String, Vec<u8>>,
    ) -> Client {
        self.attach_as(build, secrets, true).await
    }

    /// A client that has not what the build was submitted with.
    pub(crate) async fn visit(&self, build: BuildId) -> Client {
        self.attach_as(build, BTreeMap::new(), false).await
    }

    async fn attach_as(
        &self,
        build: BuildId,
        secrets: BTreeMap<String, Vec<u8>>,
        owns: bool,
    ) -> Client {
        let secrets = secrets.into_iter().map(|(id, value)| (id, value.into())).collect();
        let build = build.to_string();
        self.attached(pb::Attach { build, from_event: 0, answers: true, secrets, owns }).await
    }

    pub(crate) async fn attached(&self, attach: pb::Attach) -> Client {
        let (tx, rx) = mpsc::channel(16);
        tx.send(message(pb::client_message::Message::Attach(attach))).await.unwrap();
        let events = self.builds().attend(ReceiverStream::new(rx)).await.unwrap().into_inner();
        Client { tx, events, seen: Vec::new(), about: Vec::new(), changes: 0, logins: 0 }
    }

    pub(crate) async fn worker(&self, number: u128, running: &[&Lease]) -> Worker {
        self.worker_that_says(number, running, Vec::new()).await
    }

    /// A worker of another platform.
    pub(crate) async fn worker_of(&self, number: u128, platform: &str) -> Worker {
        let hello = pb::Hello { platforms: vec![platform.to_owned()], ..hello(number, &[]) };
        self.joined(hello, Vec::new()).await
    }

    /// A worker that says again what may not have been heard in its last session.
    pub(crate) async fn worker_that_says(
        &self,
        number: u128,
        running: &[&Lease],
        kept: Vec<Report>,
    ) -> Worker {
        self.joined(hello(number, running), kept).await
    }

    /// A worker that holds results.
    pub(crate) async fn worker_that_holds(&self, number: u128, held: Vec<pb::HeldStep>) -> Worker {
        self.joined(pb::Hello { held, ..hello(number, &[]) }, Vec::new()).await
    }

    async fn joined(&self, hello: pb::Hello, kept: Vec<Report>) -> Worker {
        let (id, platform) = (hello.worker.parse().unwrap(), hello.platforms.join(" and "));
        let (tx, rx) = mpsc::channel(16);
        tx.send(report(Report::Hello(hello))).await.unwrap();
        for said in kept {
            tx.send(report(said)).await.unwrap();
        }
        let mut client = WorkersClient::new(self.channel());
        let orders = client.work(ReceiverStream::new(rx)).await.unwrap().into_inner();
        let alive = CancellationToken::new();
        let (renewing, renew) = (alive.clone(), tx.clone());
        self.tasks.spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_secs(1));
            while !renewing.is_cancelled() {
                beat.tick().await;
                if renew.send(report(Report::Renew(pb::Renew::default()))).await.is_err() {
                    return;
                }
            }
        });
        let mut worker = Worker { id, platform, tx, orders, alive, client };
        assert!(matches!(worker.order().await, Order::Welcome(_)));
        worker
    }
}

fn hello(number: u128, running: &[&Lease]) -> pb::Hello {
    pb::Hello {
        worker: WorkerId::from_bits(number).to_string(),
        slots: 2,
        platforms: vec![Platform { os: "linux".into(), ..Platform::host() }.to_string()],
        memory_bytes: 0,
        cpu_millis: 0,
        running: running.iter().map(|lease| lease.attempt.to_string()).collect(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        emulated: Vec::new(),
        peer_address: format!("worker-{number}:7072"),
        peer_key: vec![7; 32].into(),
        held: Vec::new(),
        peer_certificate: vec![5; 32].into(),
    }
}

fn message(message: pb::client_message::Message) -> pb::ClientMessage {
    pb::ClientMessage { message: Some(message) }
}

fn report(report: Report) -> pb::WorkerReport {
    pb::WorkerReport { report: Some(report) }
}

/// A client that answers each selection with the digest of its words.
pub(crate) struct Client {
    pub(crate) tx: mpsc::Sender<pb::ClientMessage>,
    events: Streaming<pb::BuildEvent>,
    /// What happened, one line each.
    pub(crate) seen: Vec<String>,
    /// How often a file changes before it is packed.
    pub(crate) changes: usize,
    /// How often it was asked for a login; the password is this number.
    logins: usize,
    /// What it was about, as far as it was about a vertex.
    about: Vec<String>,
}

impl Client {
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let event = timeout(PATIENCE, self.events.message()).await.expect("an event").ok()??;
        let event = event.event.unwrap();
        self.seen.push(show(&event));
        self.about.push(about(&event));
        Some(event)
    }

    /// Follows events and answers questions until one line is `wanted`.
    pub(crate) async fn until(&mut self, wanted: &str) {
        loop {
            if self.seen.iter().any(|line| line == wanted) {
                return;
            }
            match self.next().await {
                Some(Event::Question(question)) => self.answer(&question).await,
                Some(_) => {}
                None => panic!("no '{wanted}' in {:#?}", self.seen),
            }
        }
    }

    /// Follows events and answers questions until one of a kind was answered.
    pub(crate) async fn until_asked(&mut self, kind: &str) {
        let wanted = format!("asked for {kind}");
        while !self.seen.iter().any(|line| line.starts_with(&wanted)) {
            match self.next().await {
                Some(Event::Question(question)) => self.answer(&question).await,
                Some(_) => {}
                None => panic!("no '{wanted}' in {:#?}", self.seen),
            }
        }
    }

    /// Follows events and answers questions until one of a kind is asked, which is left open.
    pub(crate) async fn until_open(&mut self, kind: &str) -> pb::Question {
        let wanted = format!("asked for {kind}");
        loop {
            match self.next().await {
                Some(Event::Question(question)) => {
                    if self.seen.last().is_some_and(|line| line.starts_with(&wanted)) {
                        return question;
                    }
                    self.answer(&question).await;
                }
                Some(_) => {}
                None => panic!("no '{wanted}' in {:#?}", self.seen),
            }
        }
    }

    /// The vertex that the last line is about which ends like this.
    pub(crate) fn vertex_of(&self, line: &str) -> &str {
        let at = self.seen.iter().rposition(|seen| seen.ends_with(line)).unwrap();
        &self.about[at]
    }

    pub(crate) async fn answer(&mut self, question: &pb::Question) {
        let ask: Question = document::from_bytes("question", &question.ask).unwrap();
        if matches!(ask, Question::Credentials { .. }) {
            self.logins += 1;
            let given = pb::Credentials {
                question: question.question,
                username: "ann".into(),
                password: self.logins.to_string().into_bytes().into(),
                ..pb::Credentials::default()
            };
            return self
                .tx
                .send(message(pb::client_message::Message::Credentials(given)))
                .await
                .unwrap();
        }
        let answer = match ask {
            Question::Pack { .. } if self.changes > 0 => {
                self.changes -= 1;
                Answer::Changed { path: "/a".into() }
            }
            Question::Pack { .. } => Answer::Packed {
                parcel: BlobDigest(Digest::of(b"pack")),
                sent_bytes: 5,
                found_bytes: 7_000_000,
            },
            Question::Selection { selection, .. } => {
                let digest = Digest::of(selection.sources.join(" ").as_bytes());
                Answer::Selection { digest: SelectionDigest(digest) }
            }
            other => Answer::Failed { message: format!("no {other:?} here") },
        };
        let answer = document::to_bytes(&answer).into();
        let answer = pb::Answer { question: question.question, answer };
        self.tx.send(message(pb::client_message::Message::Answer(answer))).await.unwrap();
    }

    /// Follows the build to its end.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        loop {
            match self.next().await.expect("an end") {
                Event::Question(question) => self.answer(&question).await,
                Event::Finished(finished) => {
                    return document::from_bytes("outcome", &finished.outcome).unwrap();
                }
                _ => {}
            }
        }
    }
}

fn about(event: &Event) -> String {
    match event {
        Event::Vertex(vertex) => vertex.id.clone(),
        Event::Warning(warning) => warning.vertex.clone(),
        _ => String::new(),
    }
}

fn show(event: &Event) -> String {
    match event {
        Event::Question(question) => {
            let ask: Question = document::from_bytes("question", &question.ask).unwrap();
            match ask {
                Question::Selection { context, .. } => format!("asked for {context}"),
                other => format!("asked for {other:?}"),
            }
        }
        Event::Vertex(vertex) => {
            let state = pb::VertexState::try_from(vertex.state).unwrap();
            let state = state.as_str_name().trim_start_matches("VERTEX_STATE_").to_lowercase();
            format!("{state}: {}", vertex.name)
        }
        Event::Status(status) => format!("{}: {}", status.id, status.current),
        Event::Log(log) => format!("log {}", String::from_utf8_lossy(&log.bytes)),
        Event::Warning(warning) => format!("warning {}", warning.short),
        Event::Finished(_) => "finished".into(),
        Event::CaughtUp(_) => "caught up".into(),
    }
}

/// A worker that does as a test says.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    platform: String,
    tx: mpsc::Sender<pb::WorkerReport>,
    orders: Streaming<pb::WorkerOrder>,
    alive: CancellationToken,
    pub(crate) client: WorkersClient<Channel>,
}

impl Worker {
    pub(crate) fn platform(&self) -> String {
        self.platform.clone()
    }

    /// Ends the renewals; the session stays open.
    pub(crate) fn fall_silent(&self) {
        self.alive.cancel();
    }

    pub(crate) async fn order(&mut self) -> Order {
        let order = timeout(PATIENCE, self.orders.message()).await.expect("an order");
        order.unwrap().expect("a session").order.unwrap()
    }

    pub(crate) async fn lease(&mut self) -> Lease {
        match self.order().await {
            Order::Lease(lease) => document::from_bytes("lease", &lease).unwrap(),
            other => panic!("no lease but {other:?}"),
        }
    }

    pub(crate) async fn stopped(&mut self) -> String {
        match self.order().await {
            Order::Stop(stop) => stop.attempt,
            other => panic!("no stop but {other:?}"),
        }
    }

    /// The attempt that is to stop, if that is said in time.
    pub(crate) async fn stopped_within(&mut self, limit: Duration) -> dcbuild_model::AttemptId {
        timeout(limit, self.stopped()).await.expect("a stop").parse().unwrap()
    }

    pub(crate) async fn say(&self, said: Report) {
        self.tx.send(report(said)).await.unwrap();
    }

    pub(crate) async fn start(&self, lease: &Lease, step: &LeasedStep) {
        let started = pb::StepStarted { fence: Some(fence(lease)), step: step.index.0 };
        self.say(Report::StepStarted(started)).await;
    }

    pub(crate) async fn log(&self, lease: &Lease, step: &LeasedStep, text: &str) {
        let log = pb::Log {
            vertex: step.step.recipe.to_string(),
            stream: 1,
            bytes: text.as_bytes().to_vec().into(),
            time: Some(pb::Time { secs: 0, nanos: 0 }),
        };
        let attempt = lease.attempt.to_string();
        let progress = pb::Progress { attempt, update: Some(pb::progress::Update::Log(log)) };
        self.say(Report::Progress(progress)).await;
    }

    pub(crate) async fn done(&self, lease: &Lease, step: &LeasedStep, outcome: Option<StepKey>) {
        self.say(self.done_report(lease, step, outcome)).await;
        let attempt = lease.attempt.to_string();
        self.say(Report::StepDurable(pb::StepDurable { attempt, step: step.index.0 })).await;
    }

    pub(crate) fn done_report(
        &self,
        lease: &Lease,
        step: &LeasedStep,
        outcome: Option<StepKey>,
    ) -> Report {
        let record = Record {
            recipe: step.step.recipe,
            outcome,
            attempt: lease.attempt,
            worker: self.id,
            result: StepResult { layers: Vec::new(), created: UnixTime { secs: 5, nanos: 0 } },
            lineage: Lineage {
                parent: Some(StateDigest::empty()),
                inputs: step
                    .step
                    .inputs
                    .iter()
                    .filter(|it| matches!(it.source, dcbuild_plan::InputSource::Step { .. }))
                    .map(|_| StateDigest::empty())
                    .collect(),
                selections: Vec::new(),
            },
            components: step.step.components.clone(),
            took_ms: 1,
        };
        let record = document::to_bytes(&record).into();
        let fence = Some(fence(lease));
        let tainted = String::new();
        Report::StepDone(pb::StepDone { fence, step: step.index.0, record, hit: false, tainted })
    }

    /// Carries out all steps of a lease.
    pub(crate) async fn run(&self, lease: &Lease) {
        for step in steps(lease) {
            self.start(lease, step).await;
            self.log(lease, step, &format!("ran {}\n", step.step.name)).await;
            self.done(lease, step, None).await;
        }
        self.say(Report::JobEnded(pb::JobEnded { fence: Some(fence(lease)) })).await;
    }

    pub(crate) async fn fail(&self, lease: &Lease, step: &LeasedStep, error: &StepError) {
        let error = document::to_bytes(error).into();
        let failed = pb::StepFailed { fence: Some(fence(lease)), step: Some(step.index.0), error };
        self.say(Report::StepFailed(failed)).await;
    }

    pub(crate) async fn assemble(&self, lease: &Lease) {
        assert!(matches!(lease.work, Work::Output { .. }), "{lease:?}");
        let result = OutputResult::Image {
            manifest: ManifestDigest(Digest::of(b"manifest")),
            manifest_size: 8,
            media_type: "m".into(),
            config: ConfigDigest(Digest::of(b"config")),
            layers: Vec::new(),
            names: Vec::new(),
        };
        let result = document::to_bytes(&result).into();
        self.say(Report::OutputDone(pb::OutputDone { fence: Some(fence(lease)), result })).await;
    }
}

pub(crate) fn fence(lease: &Lease) -> pb::Fence {
    pb::Fence { attempt: lease.attempt.to_string(), epoch: lease.epoch.0 }
}

pub(crate) fn steps(lease: &Lease) -> &[LeasedStep] {
    match &lease.work {
        Work::Steps { steps, .. } => steps,
        Work::Output { .. } => panic!("an output is leased: {lease:?}"),
    }
}

/// A build of a Dockerfile whose image stays in the store.
pub(crate) fn submission(dockerfile: &str) -> Submission {
    let kind =
        OutputKind::Image { names: Vec::new(), push: false, push_by_digest: false, keep: false };
    let layers = LayerCompression { compression: Compression::Gzip, level: None, force: false };
    let annotations = Vec::new();
    Submission {
        request: Request::new(dockerfile),
        outputs: vec![OutputSpec {
            kind,
            layers,
            oci_media_types: true,
            annotations,
            rewrite_timestamp: false,
            inline_cache: false,
            attest: Attests::default(),
        }],
        detached: false,
        aim: Aim::Build {},
        in_place: true,
        title: "test".into(),
        agents: BTreeSet::new(),
        caches: Caches::default(),
        origin: Origin::default(),
        upload: Upload::All,
        scope: None,
    }
}

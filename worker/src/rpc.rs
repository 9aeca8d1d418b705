//! The session with the coordinator, and all that goes over the wire: no other file names `pb`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dcbuild_model::{AttemptId, LayerDigest, Record, StepIndex, StepKey, limits};
use dcbuild_process::TlsFault;
use dcbuild_proto::document::{self, Lease};
use dcbuild_proto::pb;
use dcbuild_proto::pb::worker_report::Report as Wire;
use dcbuild_proto::pb::workers_client::WorkersClient;
use dcbuild_remote::{Distrust, Peers, told};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::held::Fate;
use crate::kept::{Hearing, Kept};
use crate::peers::OpenDoor;
use crate::report::{AskCoordinator, Fence, How, Report, Reporter, Status};
use crate::shared::{Shared, earlier};
use crate::{attempt, ceiling};

/// How often a session says that the worker lives.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Reports on their way to the session.
const REPORT_QUEUE: usize = 1024;
/// Reports on their way to the wire.
const WIRE_QUEUE: usize = 64;
/// How long the first pause between sessions is at most.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// How long any pause between sessions is at most.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a worker that leaves waits until its last words are heard.
const GOODBYE_MAX: Duration = Duration::from_secs(3);
/// How long background work may take once everything else has ended.
const DRAIN_MAX: Duration = Duration::from_mins(5);

/// How a session ended.
enum Ended {
    /// The connection broke, or could not be made.
    Broken(String),
    /// The worker is done.
    Finished,
}

/// Why a session broke; of one that could not be trusted, also the way out.
fn broken(status: &tonic::Status) -> String {
    let Some(distrust) = Distrust::find(status) else { return told(status) };
    let hint = match distrust.fault {
        TlsFault::Untrusted => "name the CA of its certificate with worker.tls.ca",
        TlsFault::Wanted => "show it one with worker.tls.cert and worker.tls.key",
        TlsFault::RefusedIssuer => {
            "it must be from a CA in coordinator.tls.client_ca: name another with worker.tls.cert"
        }
        TlsFault::RefusedDate => {
            "renew it, which is seen by itself, or set the clocks of both machines"
        }
        TlsFault::RefusedUse => {
            "its extended key usage must allow the authentication of clients: name another with worker.tls.cert"
        }
        TlsFault::Refused => {
            "name another with worker.tls.cert; the coordinator's log says what is wrong with this one"
        }
        TlsFault::Plain => "write http:// in place of https://, or set coordinator.tls",
        TlsFault::Expired => "renew coordinator.tls.cert, which is read again by itself",
        TlsFault::Early => "set the clocks of both machines, or renew coordinator.tls.cert",
        TlsFault::OtherName => {
            "reach the coordinator by a name that its certificate has, or give it one with this name in coordinator.tls.cert"
        }
        TlsFault::Authority => {
            "name that certificate itself with worker.tls.ca, or have one made for the coordinator alone"
        }
        TlsFault::Unusable | TlsFault::Another => {
            "give the coordinator another one in coordinator.tls.cert"
        }
        TlsFault::Failed => "is it a coordinator of dcbuild that listens there?",
    };
    format!("{distrust}: {hint}")
}

/// What the coordinator orders.
enum Order {
    Lease(Box<Lease>),
    Stop(AttemptId, Option<StepIndex>),
    Drain,
    /// Send what is held.
    Send(AttemptId, StepIndex),
    /// Hold it no longer.
    LetGo(AttemptId, StepIndex),
    /// Be told from now on what was heard, or not.
    Welcome(Hearing),
    /// All reports up to this one are heard.
    Heard(u64),
    /// Something that has no effect.
    Nothing,
}

/// Says why a message is no order.
#[derive(Debug, thiserror::Error)]
enum InvalidOrder {
    #[error(transparent)]
    Lease(#[from] document::InvalidDocument),
    #[error("an attempt's id is malformed")]
    Attempt(#[from] dcbuild_model::InvalidId),
}

impl TryFrom<pb::WorkerOrder> for Order {
    type Error = InvalidOrder;

    fn try_from(wire: pb::WorkerOrder) -> Result<Order, InvalidOrder> {
        use pb::worker_order::Order as Wire;
        Ok(match wire.order {
            Some(Wire::Lease(bytes)) => {
                Order::Lease(Box::new(document::from_bytes("lease", &bytes)?))
            }
            Some(Wire::Stop(stop)) => Order::Stop(stop.attempt.parse()?, stop.after.map(StepIndex)),
            Some(Wire::Drain(pb::Drain {})) => Order::Drain,
            Some(Wire::Send(held)) => Order::Send(held.attempt.parse()?, StepIndex(held.step)),
            Some(Wire::LetGo(held)) => Order::LetGo(held.attempt.parse()?, StepIndex(held.step)),
            Some(Wire::Welcome(it)) if it.answers_renewals => Order::Welcome(Hearing::Told),
            Some(Wire::Welcome(_)) => Order::Welcome(Hearing::Guessed),
            Some(Wire::Heard(heard)) => Order::Heard(heard.said),
            None => Order::Nothing,
        })
    }
}

fn held((attempt, step): (AttemptId, StepIndex)) -> pb::HeldStep {
    pb::HeldStep { attempt: attempt.to_string(), step: step.0 }
}

fn fence(fence: Fence) -> pb::Fence {
    pb::Fence { attempt: fence.attempt.to_string(), epoch: fence.epoch.0 }
}

fn status(status: Status) -> pb::Status {
    pb::Status {
        vertex: status.vertex,
        id: status.id,
        current: status.current,
        total: status.total,
        time: Some(status.time.into()),
        started: Some(status.started.into()),
        completed: status.completed.map(Into::into),
    }
}

impl From<Report> for pb::WorkerReport {
    fn from(report: Report) -> pb::WorkerReport {
        let progress = |attempt: AttemptId, update| {
            Wire::Progress(pb::Progress { attempt: attempt.to_string(), update: Some(update) })
        };
        let report = match report {
            Report::StepStarted { fence: of, step } => {
                Wire::StepStarted(pb::StepStarted { fence: Some(fence(of)), step: step.0 })
            }
            Report::StepDone { fence: of, step, record, how } => Wire::StepDone(pb::StepDone {
                fence: Some(fence(of)),
                step: step.0,
                record: document::to_bytes(&record).into(),
                hit: how == How::Hit,
                tainted: match how {
                    How::Tainted(why) => why,
                    How::Ran | How::Hit => String::new(),
                },
            }),
            Report::StepDurable { attempt, step } => {
                Wire::StepDurable(pb::StepDurable { attempt: attempt.to_string(), step: step.0 })
            }
            Report::StepKeptBack { attempt, step } => {
                Wire::StepKeptBack(pb::StepKeptBack { attempt: attempt.to_string(), step: step.0 })
            }
            Report::StepFailed { fence: of, step, error } => Wire::StepFailed(pb::StepFailed {
                fence: Some(fence(of)),
                step: step.map(|step| step.0),
                error: document::to_bytes(&error).into(),
            }),
            Report::OutputDone { fence: of, result } => Wire::OutputDone(pb::OutputDone {
                fence: Some(fence(of)),
                result: document::to_bytes(&result).into(),
            }),
            Report::JobReturned { fence: of, lost, layer } => Wire::JobReturned(pb::JobReturned {
                fence: Some(fence(of)),
                lost_input: lost.map(|step| step.0),
                lost_layer: layer.map(|layer| layer.to_string()).unwrap_or_default(),
            }),
            Report::JobEnded { fence: of } => {
                Wire::JobEnded(pb::JobEnded { fence: Some(fence(of)) })
            }
            Report::HasRoom => Wire::HasRoom(pb::HasRoom {}),
            Report::Log { attempt, vertex, stream, bytes, time } => {
                let time = Some(time.into());
                progress(
                    attempt,
                    pb::progress::Update::Log(pb::Log { vertex, stream, bytes, time }),
                )
            }
            Report::Status { attempt, status: one } => {
                progress(attempt, pb::progress::Update::Status(status(*one)))
            }
        };
        pb::WorkerReport { report: Some(report) }
    }
}

/// Asks the coordinator.
struct Asker {
    client: WorkersClient<Channel>,
}

#[async_trait::async_trait]
impl AskCoordinator for Asker {
    async fn find(&self, of: Fence, step: StepIndex, key: StepKey) -> Option<Record> {
        let request =
            pb::FindOutcomeRequest { fence: Some(fence(of)), step: step.0, key: key.to_string() };
        let reply = match self.client.clone().find_outcome(request).await {
            Ok(reply) => reply.into_inner().record?,
            Err(error) => {
                // A build goes on without: the step just runs.
                tracing::debug!(%error, "could not ask for a record");
                return None;
            }
        };
        match document::from_bytes("record", &reply) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(%error, "a record came malformed");
                None
            }
        }
    }

    async fn inline(&self, of: Fence, image: u32, layers: &[LayerDigest]) -> Option<String> {
        let layers = layers.iter().map(|layer| layer.0.to_string()).collect();
        let request = pb::PackInlineRequest { fence: Some(fence(of)), image, layers };
        match self.client.clone().pack_inline(request).await {
            Ok(reply) => Some(reply.into_inner().records).filter(|records| !records.is_empty()),
            Err(error) => {
                tracing::warn!(%error, "the image has no records in its config");
                None
            }
        }
    }

    async fn agent(
        &self,
        of: Fence,
        step: StepIndex,
        agent: &str,
        message: &[u8],
    ) -> Option<Vec<u8>> {
        let request = pb::AskAgentRequest {
            fence: Some(fence(of)),
            step: step.0,
            agent: agent.to_owned(),
            message: message.to_vec().into(),
        };
        match self.client.clone().ask_agent(request).await {
            Ok(reply) => Some(reply.into_inner().message.into()),
            Err(error) => {
                tracing::warn!(%error, agent, "an ssh agent does not answer");
                None
            }
        }
    }
}

/// All that lasts longer than one session.
struct Service {
    shared: Arc<Shared>,
    client: WorkersClient<Channel>,
    reporter: Reporter,
    reports: mpsc::Receiver<Report>,
    /// What was said and may not have been heard.
    kept: Kept,
    stop: CancellationToken,
    /// No more leases are taken.
    draining: bool,
    /// When running attempts are stopped, once the worker is to stop.
    deadline: Option<Instant>,
}

/// Serves until the worker is to stop and nothing runs any more, and leaves nothing behind.
pub(crate) async fn serve(shared: Arc<Shared>, channel: Channel, stop: CancellationToken) {
    ceiling::watch(&shared);
    keep_session(shared.clone(), channel, stop).await;
    shared.close().await;
}

async fn keep_session(shared: Arc<Shared>, channel: Channel, stop: CancellationToken) {
    let (queue, reports) = mpsc::channel(REPORT_QUEUE);
    let client = WorkersClient::new(channel)
        .max_decoding_message_size(4 * limits::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(4 * limits::MESSAGE_BYTES_MAX);
    let mut service = Service {
        shared,
        client,
        reporter: Reporter::new(queue),
        reports,
        kept: Kept::default(),
        stop,
        draining: false,
        deadline: None,
    };
    let mut pause = PAUSE_FIRST;
    loop {
        let began = Instant::now();
        match service.session().await {
            Ended::Finished => return,
            Ended::Broken(reason) => {
                tracing::warn!(reason, "the session with the coordinator broke");
            }
        }
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_FIRST;
        }
        if service.pause(pause.mul_f64(rand::random_range(0.5..1.0))).await {
            return;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Service {
    fn hello(&self) -> pb::WorkerReport {
        let (config, door) = (&self.shared.config, self.shared.door.get());
        let millis = u64::try_from(self.shared.cores).unwrap_or(1).saturating_mul(1000);
        let hello = pb::Hello {
            worker: config.id.to_string(),
            slots: config.slots,
            platforms: config.platforms.iter().map(ToString::to_string).collect(),
            emulated: config.emulated.iter().map(ToString::to_string).collect(),
            memory_bytes: memory_bytes(),
            cpu_millis: millis,
            running: self.shared.attempts.ids().iter().map(ToString::to_string).collect(),
            labels: config.labels.clone().into_iter().collect(),
            peer_address: door.map(|door| door.address.clone()).unwrap_or_default(),
            peer_key: door.map(|door| door.key.bytes().to_vec().into()).unwrap_or_default(),
            held: self.shared.held.all().into_iter().map(held).collect(),
            peer_certificate: self.certificate(),
        };
        pb::WorkerReport { report: Some(Wire::Hello(hello)) }
    }

    /// The digest of what other workers are shown, as it is now; empty if that is nothing.
    fn certificate(&self) -> Bytes {
        let certificate = self.shared.door.get().and_then(OpenDoor::certificate);
        certificate.map(|certificate| certificate.bytes().into()).unwrap_or_default()
    }

    fn renewal(&self) -> pb::WorkerReport {
        let read = self.shared.parts.peers.as_ref().map(Peers::read_bytes).unwrap_or_default();
        let renew = pb::Renew {
            peer_certificate: self.certificate(),
            peer_bytes_encrypted: read.encrypted,
            peer_bytes_plain: read.plain,
            said: self.kept.last(),
        };
        pb::WorkerReport { report: Some(Wire::Renew(renew)) }
    }

    /// Waits before the next session; true if the worker is done meanwhile.
    async fn pause(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => false,
            () = self.stop.cancelled() => {
                // Nobody is there to hear of what still runs.
                self.let_go();
                self.stop_all();
                drop(tokio::time::timeout(DRAIN_MAX, self.drained_unheard()).await);
                true
            }
        }
    }

    async fn drained_unheard(&mut self) {
        let tasks = self.shared.tasks.clone();
        tasks.close();
        let wait = tasks.wait();
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return,
                report = self.reports.recv() => drop(report),
            }
        }
    }

    async fn session(&mut self) -> Ended {
        let (wire, outgoing) = mpsc::channel(WIRE_QUEUE);
        if wire.send(self.hello()).await.is_err() {
            return Ended::Broken("the queue of reports is gone".into());
        }
        let call = self.client.work(ReceiverStream::new(outgoing));
        let mut orders = match call.await {
            Ok(reply) => reply.into_inner(),
            Err(status) => return Ended::Broken(broken(&status)),
        };
        // They stay kept: this session may break before they are heard.
        let mut again = self.kept.all();
        let mut renew = tokio::time::interval(RENEW_EVERY);
        let tasks = self.shared.tasks.clone();
        loop {
            let idle = self.draining && self.deadline.is_some();
            let sent = tokio::select! {
                // What is reported goes out before anything else is done about it, what was said before first of all.
                // A renewal asks whether it was heard.
                biased;
                sent = say_again(&wire, again.front()), if !again.is_empty() => {
                    again.pop_front();
                    sent
                }
                report = self.reports.recv(), if again.is_empty() => match report {
                    Some(report) => self.say(&wire, report).await,
                    None => return Ended::Finished,
                },
                order = orders.message() => match order {
                    Ok(Some(order)) => { self.obey(order); true }
                    Ok(None) => return Ended::Broken("the coordinator ended the session".into()),
                    Err(status) => return Ended::Broken(broken(&status)),
                },
                _ = renew.tick(), if again.is_empty() => {
                    wire.send(self.renewal()).await.is_ok()
                }
                () = self.stop.cancelled(), if self.deadline.is_none() => { self.let_go(); true }
                () = at(self.deadline), if self.deadline.is_some() && !self.shared.attempts.ids().is_empty() => {
                    self.stop_all();
                    true
                }
                () = tasks.wait(), if idle && again.is_empty() => {
                    return self.goodbye(wire, orders).await;
                }
            };
            if !sent {
                return Ended::Broken("the stream of reports ended".into());
            }
        }
    }

    async fn goodbye(
        &mut self,
        wire: mpsc::Sender<pb::WorkerReport>,
        mut orders: tonic::Streaming<pb::WorkerOrder>,
    ) -> Ended {
        while let Ok(report) = self.reports.try_recv() {
            if !self.say(&wire, report).await {
                return Ended::Finished;
            }
        }
        let goodbye = Wire::Goodbye(pb::Goodbye {});
        let said = wire.send(pb::WorkerReport { report: Some(goodbye) }).await.is_ok();
        drop(wire);
        // A session that is cut takes along what is still on its way; the coordinator ends it when it has heard all.
        let heard = async { while let Ok(Some(_)) = orders.message().await {} };
        if said && tokio::time::timeout(GOODBYE_MAX, heard).await.is_err() {
            tracing::info!("the coordinator does not say whether it has heard the last words");
        }
        Ended::Finished
    }

    /// Sends a report; one that matters is kept until it is heard, in case the session is about to break.
    async fn say(&mut self, wire: &mpsc::Sender<pb::WorkerReport>, report: Report) -> bool {
        let matters = !matches!(report, Report::Log { .. } | Report::Status { .. });
        if matters {
            let running = self.shared.attempts.ids();
            self.kept.add(report.clone(), &running, Instant::now());
        }
        wire.send(report.into()).await.is_ok()
    }

    fn obey(&mut self, order: pb::WorkerOrder) {
        match Order::try_from(order) {
            Ok(Order::Lease(lease)) => self.take(*lease),
            Ok(Order::Stop(attempt, after)) => self.shared.attempts.stop(attempt, after),
            Ok(Order::Drain) => self.draining = true,
            Ok(Order::Send(attempt, step)) => self.shared.held.end((attempt, step), Fate::Send),
            Ok(Order::LetGo(attempt, step)) => self.shared.held.end((attempt, step), Fate::LetGo),
            Ok(Order::Welcome(hearing)) => self.kept.hears(hearing),
            Ok(Order::Heard(last)) => self.kept.heard(last),
            Ok(Order::Nothing) => {}
            Err(error) => tracing::warn!(%error, "an order came malformed"),
        }
    }

    fn take(&mut self, lease: Lease) {
        let fence = Fence { attempt: lease.attempt, epoch: lease.epoch };
        let reporter = self.reporter.clone();
        if self.draining {
            self.shared.tasks.spawn(async move {
                let returned = Report::JobReturned { fence, lost: None, layer: None };
                reporter.send(returned).await;
                reporter.send(Report::JobEnded { fence }).await;
            });
            return;
        }
        let token = CancellationToken::new();
        let began = earlier(self.shared.parts.clock.now());
        let Some(run) = self.shared.attempts.begin(lease.attempt, token, began) else { return };
        let ask = Arc::new(Asker { client: self.client.clone() });
        let shared = self.shared.clone();
        self.shared.tasks.spawn(attempt::run(shared, lease, reporter, ask, run));
    }

    /// Takes no more leases; what runs has the grace period.
    fn let_go(&mut self) {
        let (jobs, grace) = (self.shared.attempts.ids().len(), self.shared.config.grace);
        tracing::info!(
            jobs,
            ?grace,
            "the worker is to stop: it takes no more jobs, and ends with those that it has"
        );
        self.draining = true;
        self.shared.ending.cancel();
        self.deadline = Some(Instant::now() + self.shared.config.grace);
        self.shared.tasks.close();
    }

    fn stop_all(&mut self) {
        self.deadline = Some(Instant::now() + DRAIN_MAX);
        for attempt in self.shared.attempts.ids() {
            self.shared.attempts.stop(attempt, None);
        }
    }
}

/// Sends a report of an earlier session once more; one that is not sent to the end is not sent at all.
async fn say_again(wire: &mpsc::Sender<pb::WorkerReport>, report: Option<&Report>) -> bool {
    match report {
        Some(report) => wire.send(report.clone().into()).await.is_ok(),
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The machine's memory; zero where it cannot be told.
fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

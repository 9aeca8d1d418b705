//! The worker plane.

use std::time::Duration;

use dcbuild_model::{
    AttemptId, BlobDigest, Epoch, LayerId, ParseDigestError, StepIndex, WorkerId, limits,
};
use dcbuild_progress::{Log, Update};
use dcbuild_proto::{document, pb};
use dcbuild_remote::{CertificateDigest, PeerBytes, PeerKey};
use dcbuild_scheduler::Fence;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Services, guarded, invalid};
use crate::book::{AskedStep, Found, Gone, Hello, Made, Order, PeerPlace, Renewal, Report, Way};
use crate::core::{Command, DRAIN};
use crate::damage::damaged;
use crate::lend::Packing;

const ORDERS_MAX: usize = 1_024;
const RUNNING_MAX: usize = 10_000;
const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 256;
const ADDRESS_BYTES_MAX: usize = 256;
/// How long it may take to find out what has become of a layer.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// How much of what went wrong with a step is shown.
const TAINT_CHARS_MAX: usize = 500;

pub(super) struct WorkersService(pub(super) Services);

#[tonic::async_trait]
impl pb::workers_server::Workers for WorkersService {
    type WorkStream = BoxStream<'static, Result<pb::WorkerOrder, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<pb::WorkerReport>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        guarded("Work", async {
            self.0.let_work(&request)?;
            let mut reports = request.into_inner();
            let hello = first(&mut reports).await?;
            let worker = hello.worker;
            let (orders, queue) = mpsc::channel(ORDERS_MAX);
            let session = self.0.core.ask(|reply| Command::Hello { hello, orders, reply }).await?;
            let over = CancellationToken::new();
            let heard = over.clone().drop_guard();
            let hearing = hear(self.0.clone(), worker, session, reports);
            self.0.tracker.spawn(async move {
                hearing.await;
                drop(heard);
            });
            let lease_millis = u64::try_from(limits::LEASE.as_millis()).unwrap_or(u64::MAX);
            let welcome = pb::Welcome { lease_millis, answers_renewals: true };
            let welcome = pb::worker_order::Order::Welcome(welcome);
            let welcome = pb::WorkerOrder { order: Some(welcome) };
            let orders = ReceiverStream::new(queue).map(|order| Ok(order_out(order)));
            Ok(futures::stream::iter([Ok(welcome)])
                .chain(orders)
                .take_until(over.cancelled_owned())
                .boxed())
        })
        .await
    }

    async fn find_outcome(
        &self,
        request: Request<pb::FindOutcomeRequest>,
    ) -> Result<Response<pb::FindOutcomeReply>, Status> {
        guarded("FindOutcome", async {
            self.0.let_work(&request)?;
            let request = request.into_inner();
            let fence = fence_in(request.fence)?;
            let step = StepIndex(request.step);
            let key = request
                .key
                .parse()
                .map_err(|error: dcbuild_model::ParseDigestError| invalid(error))?;
            let asked = self.0.core.ask(|reply| Command::Ask { fence, step, reply }).await?;
            let record = match asked {
                Some(AskedStep { build, scope, step, barren }) => {
                    let records = self.0.records.of_build(&scope, build);
                    records.find_outcome(&step, key, &barren).await
                }
                None => None,
            };
            let record = record.map(|record| document::to_bytes(&record).into());
            Ok(pb::FindOutcomeReply { record })
        })
        .await
    }

    async fn ask_agent(
        &self,
        request: Request<pb::AskAgentRequest>,
    ) -> Result<Response<pb::AskAgentReply>, Status> {
        guarded("AskAgent", async {
            self.0.let_work(&request)?;
            let request = request.into_inner();
            if request.message.len() > limits::AGENT_MESSAGE_BYTES_MAX {
                return Err(Status::invalid_argument("a message too long for an ssh agent"));
            }
            let (fence, step) = (fence_in(request.fence)?, StepIndex(request.step));
            let agent = request.agent;
            let find = {
                let agent = agent.clone();
                |reply| Command::FindAgent { fence, step, agent, reply }
            };
            let build = self.0.core.ask(find).await?.ok_or_else(|| {
                Status::permission_denied(format!("the step has no ssh agent '{agent}'"))
            })?;
            let message = build.ask_agent(agent, &request.message).await;
            let message = message.map_err(|error| Status::unavailable(error.to_string()))?;
            Ok(pb::AskAgentReply { message: message.into() })
        })
        .await
    }

    async fn pack_inline(
        &self,
        request: Request<pb::PackInlineRequest>,
    ) -> Result<Response<pb::PackInlineReply>, Status> {
        guarded("PackInline", async {
            self.0.let_work(&request)?;
            let request = request.into_inner();
            let (fence, image) = (fence_in(request.fence)?, request.image);
            if request.layers.len() > limits::LAYERS_MAX {
                return Err(Status::invalid_argument("more layers than an image may have"));
            }
            let layer = |text: &String| {
                text.parse::<BlobDigest>().map_err(|error: ParseDigestError| invalid(error))
            };
            let layers = request.layers.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
            let find = |reply| Command::FindImage { fence, image, reply };
            let Some((build, records)) = self.0.core.ask(find).await? else {
                return Ok(pb::PackInlineReply::default());
            };
            let driver = self.0.driver.of(&build);
            let packing = Packing { parts: &driver, core: &self.0.core, build: &build };
            let packed = packing.inline(&records, layers).await;
            let records = packed.map_err(super::builds::store_failed)?.unwrap_or_default();
            Ok(pb::PackInlineReply { records })
        })
        .await
    }

    async fn find_maker(
        &self,
        request: Request<pb::FindMakerRequest>,
    ) -> Result<Response<pb::FindMakerReply>, Status> {
        guarded("FindMaker", async {
            self.0.let_work(&request)?;
            let pb::FindMakerRequest { worker, layer, send } = request.into_inner();
            let asker = id(&worker)?;
            let layer: LayerId = layer.parse().map_err(|error: ParseDigestError| invalid(error))?;
            let way = if send { Way::Store } else { Way::Any };
            let find = |reply| Command::FindMaker { asker, layer, way, reply };
            let Found { coming, peer } = self.0.core.ask(find).await?;
            let peer = peer.map(|(worker, place)| pb::Peer {
                worker: worker.to_string(),
                address: place.address,
                ticket: place.key.ticket(&layer).into(),
                certificate: place.certificate.map(|it| it.bytes().into()).unwrap_or_default(),
            });
            Ok(pb::FindMakerReply { coming, peer })
        })
        .await
    }
}

async fn first(reports: &mut Streaming<pb::WorkerReport>) -> Result<Hello, Status> {
    match reports.message().await? {
        Some(pb::WorkerReport { report: Some(pb::worker_report::Report::Hello(hello)) }) => {
            hello_in(hello)
        }
        _ => Err(Status::invalid_argument("the first report of a session is a Hello")),
    }
}

/// Takes a session's reports until its stream ends or says what is not understood.
async fn hear(
    services: Services,
    worker: WorkerId,
    session: u64,
    mut reports: Streaming<pb::WorkerReport>,
) {
    let stop = services.stop.clone();
    let cut = async move {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN / 2).await;
    };
    tokio::pin!(cut);
    loop {
        let report = tokio::select! {
            biased;
            report = reports.message() => report,
            () = &mut cut => break,
        };
        let report = match report {
            Ok(Some(report)) => report_in(report),
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(%worker, %status, "a worker's session broke off");
                break;
            }
        };
        let report = match report {
            Ok(report) => report,
            Err(status) => {
                tracing::warn!(%worker, %status, "a worker says what is not understood");
                break;
            }
        };
        let report = examined(&services, report).await;
        if services.core.send(Command::Report { worker, session, report }).await.is_err() {
            return;
        }
    }
    drop(services.core.send(Command::SessionEnded { worker, session }).await);
}

/// Adds to what a worker says of a lost layer whether it was damaged.
async fn examined(services: &Services, report: Report) -> Report {
    let Report::Returned { fence, lost, layer: Some(Gone { layer, .. }) } = report else {
        return report;
    };
    let look = damaged(&services.records.stores, layer);
    let damaged = match tokio::time::timeout(LOOK_MAX, look).await {
        Ok(Ok(damaged)) => damaged,
        // A store that fails does not say; the step is made again all the same.
        Ok(Err(_)) | Err(_) => None,
    };
    Report::Returned { fence, lost, layer: Some(Gone { layer, damaged }) }
}

fn id<T: std::str::FromStr<Err = dcbuild_model::InvalidId>>(text: &str) -> Result<T, Status> {
    text.parse().map_err(invalid)
}

fn fence_in(fence: Option<pb::Fence>) -> Result<Fence, Status> {
    let fence = fence.ok_or_else(|| Status::invalid_argument("a report without a fence"))?;
    Ok(Fence { attempt: id(&fence.attempt)?, epoch: Epoch(fence.epoch) })
}

fn hello_in(hello: pb::Hello) -> Result<Hello, Status> {
    if hello.running.len().max(hello.held.len()) > RUNNING_MAX {
        let words = format!("more than {RUNNING_MAX} attempts run, or as many results are held");
        return Err(Status::invalid_argument(words));
    }
    if hello.labels.len() > LABELS_MAX
        || hello.labels.iter().any(|(name, value)| name.len().max(value.len()) > LABEL_BYTES_MAX)
    {
        return Err(Status::invalid_argument(format!(
            "more than {LABELS_MAX} labels, or one of more than {LABEL_BYTES_MAX} bytes"
        )));
    }
    let platform = |text: &String| {
        text.parse().map_err(|error: dcbuild_model::platform::ParsePlatformError| invalid(error))
    };
    Ok(Hello {
        worker: id(&hello.worker)?,
        slots: hello.slots,
        platforms: hello.platforms.iter().map(platform).collect::<Result<_, _>>()?,
        emulated: hello.emulated.iter().map(platform).collect::<Result<_, _>>()?,
        memory_bytes: hello.memory_bytes,
        cpu_millis: hello.cpu_millis,
        labels: hello.labels.into_iter().collect(),
        running: hello.running.iter().map(|text| id(text)).collect::<Result<_, _>>()?,
        peer: peer_in(hello.peer_address, &hello.peer_key, &hello.peer_certificate)?,
        held: hello.held.iter().map(held_in).collect::<Result<_, _>>()?,
    })
}

fn held_in(held: &pb::HeldStep) -> Result<(AttemptId, StepIndex), Status> {
    Ok((id(&held.attempt)?, StepIndex(held.step)))
}

fn peer_in(address: String, key: &[u8], certificate: &[u8]) -> Result<Option<PeerPlace>, Status> {
    if address.is_empty() {
        return Ok(None);
    }
    let is_place = address.len() <= ADDRESS_BYTES_MAX
        && address
            .parse::<tonic::codegen::http::uri::Authority>()
            .is_ok_and(|it| it.port().is_some());
    if !is_place {
        return Err(Status::invalid_argument("a worker's own address is not HOST:PORT"));
    }
    let key = PeerKey::new(key).map_err(invalid)?;
    let certificate = CertificateDigest::read(certificate).map_err(invalid)?;
    Ok(Some(PeerPlace { address, key, certificate }))
}

fn report_in(report: pb::WorkerReport) -> Result<Report, Status> {
    use pb::worker_report::Report as Wire;
    let report =
        report.report.ok_or_else(|| Status::invalid_argument("a report of an unknown kind"))?;
    Ok(match report {
        Wire::Hello(_) => return Err(Status::invalid_argument("a Hello comes first, and once")),
        Wire::Renew(it) => Report::Renew(Renewal {
            certificate: CertificateDigest::read(&it.peer_certificate).map_err(invalid)?,
            peer_bytes: PeerBytes {
                encrypted: it.peer_bytes_encrypted,
                plain: it.peer_bytes_plain,
            },
            said: it.said,
        }),
        Wire::StepStarted(it) => {
            Report::Started { fence: fence_in(it.fence)?, step: StepIndex(it.step) }
        }
        Wire::StepDone(it) => Report::Done {
            fence: fence_in(it.fence)?,
            step: StepIndex(it.step),
            record: document::from_bytes("record", &it.record).map_err(invalid)?,
            made: match (it.hit, it.tainted) {
                (true, _) => Made::Hit,
                (false, why) if why.is_empty() => Made::Ran,
                (false, why) => Made::Tainted(why.chars().take(TAINT_CHARS_MAX).collect()),
            },
        },
        Wire::StepDurable(it) => {
            Report::Durable { attempt: id(&it.attempt)?, step: StepIndex(it.step) }
        }
        Wire::StepKeptBack(it) => {
            Report::KeptBack { attempt: id(&it.attempt)?, step: StepIndex(it.step) }
        }
        Wire::StepFailed(it) => Report::Failed {
            fence: fence_in(it.fence)?,
            step: it.step.map(StepIndex),
            error: document::from_bytes("step error", &it.error).map_err(invalid)?,
        },
        Wire::OutputDone(it) => Report::OutputDone {
            fence: fence_in(it.fence)?,
            result: document::from_bytes("output result", &it.result).map_err(invalid)?,
        },
        Wire::JobReturned(it) => {
            let layer = match it.lost_layer.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|error: ParseDigestError| invalid(error))?),
            };
            let layer = layer.map(|layer| Gone { layer, damaged: None });
            let lost = it.lost_input.map(StepIndex);
            Report::Returned { fence: fence_in(it.fence)?, lost, layer }
        }
        Wire::JobEnded(it) => Report::JobEnded { fence: fence_in(it.fence)? },
        Wire::Progress(it) => {
            let update = match it.update {
                Some(pb::progress::Update::Status(status)) => {
                    Update::Status(status.try_into().map_err(progress_failed)?)
                }
                Some(pb::progress::Update::Log(log)) => {
                    Update::Log(Log::try_from(log).map_err(progress_failed)?)
                }
                None => return Err(Status::invalid_argument("progress of an unknown kind")),
            };
            Report::Progress { attempt: id(&it.attempt)?, update }
        }
        Wire::HasRoom(_) => Report::HasRoom,
        Wire::Goodbye(_) => Report::Goodbye,
    })
}

fn progress_failed(error: dcbuild_proto::progress::InvalidUpdate) -> Status {
    invalid(error)
}

fn held_out(attempt: AttemptId, step: StepIndex) -> pb::HeldStep {
    pb::HeldStep { attempt: attempt.to_string(), step: step.0 }
}

fn order_out(order: Order) -> pb::WorkerOrder {
    use pb::worker_order::Order as Wire;
    let order = match order {
        Order::Lease(lease) => Wire::Lease(lease.into()),
        Order::Stop { attempt, after } => Wire::Stop(pb::StopAttempt {
            attempt: attempt.to_string(),
            after: after.map(|step| step.0),
        }),
        Order::Send { attempt, step } => Wire::Send(held_out(attempt, step)),
        Order::LetGo { attempt, step } => Wire::LetGo(held_out(attempt, step)),
        Order::Heard { said } => Wire::Heard(pb::Heard { said }),
    };
    pb::WorkerOrder { order: Some(order) }
}

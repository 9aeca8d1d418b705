//! The client's side of the `Builds` service: the only place here that knows the messages.

use std::collections::BTreeMap;

use dcbuild_explain::Explanation;
use dcbuild_model::{
    BuildId, Fault, InvalidId, ManifestDigest, ParseDigestError, Scope, UnixTime, limits,
};
use dcbuild_process::{Hint, TlsFault};
use dcbuild_progress::Update;
use dcbuild_proto::SCOPE_HEADER;
use dcbuild_proto::cache::{CacheAsk, CacheTold};
use dcbuild_proto::document::{
    Answer, InvalidDocument, Outcome, Question, RegistryCredentials, Submission, from_bytes,
    to_bytes,
};
use dcbuild_proto::pb;
use dcbuild_proto::pb::build_event::Event as Wire;
use dcbuild_proto::pb::builds_client::BuildsClient;
use dcbuild_proto::pb::client_message::Message;
use dcbuild_proto::progress::InvalidUpdate;
use dcbuild_remote::{CertificateDigest, Distrust, Unreached, told};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

/// How many answers may wait to be sent.
const ANSWERS_MAX: usize = 16;

/// Says why a coordinator did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// It refused, or was not to be reached.
    #[error("the coordinator could not {what}: {message}")]
    Refused {
        /// What it was asked.
        what: &'static str,
        /// The kind of failure.
        code: Code,
        /// Its words.
        message: String,
    },
    /// It was not reached.
    #[error("could not reach the coordinator at {message}")]
    Unreached {
        /// Where it was looked for, and what happened there.
        message: String,
    },
    /// The connection failed in the middle of it.
    #[error("the coordinator could not {what}: {message}")]
    Broken {
        /// What it was asked.
        what: &'static str,
        /// What happened to the connection.
        message: String,
    },
    /// The two do not trust each other.
    #[error("could not speak to the coordinator over TLS: {distrust}")]
    Tls {
        /// Why not.
        distrust: Distrust,
    },
    /// It ended the conversation.
    #[error("the coordinator ended the conversation before the build had ended")]
    Ended,
    /// A document cannot be read.
    #[error("the coordinator sent something that cannot be read")]
    Document(#[from] InvalidDocument),
    /// An update cannot be read.
    #[error("the coordinator sent progress that cannot be read")]
    Update(#[from] InvalidUpdate),
    /// A message is of no known kind.
    #[error("the coordinator sent a message of a kind that this version does not know")]
    Unknown,
    /// An id is none.
    #[error("the coordinator sent an id that is none")]
    Id(#[from] InvalidId),
    /// A digest is none.
    #[error("the coordinator sent a digest that is none")]
    Digest(#[from] ParseDigestError),
}

impl RpcError {
    fn of(what: &'static str) -> impl FnOnce(Status) -> RpcError {
        move |status| {
            if let Some(distrust) = Distrust::find(&status) {
                return RpcError::Tls { distrust };
            }
            let message: String = told(&status).chars().take(2_000).collect();
            if Unreached::find(&status).is_some() {
                let message = message.trim_start_matches("could not reach ").to_owned();
                return RpcError::Unreached { message };
            }
            // What the coordinator itself answers was made of nothing here.
            if std::error::Error::source(&status).is_some() {
                return RpcError::Broken { what, message };
            }
            RpcError::Refused { what, code: status.code(), message }
        }
    }

    /// Whether the question may be asked again: it was the connection that failed, or nobody knows.
    pub fn may_pass(&self) -> bool {
        match self {
            RpcError::Ended | RpcError::Unreached { .. } | RpcError::Broken { .. } => true,
            RpcError::Refused { code, .. } => matches!(
                code,
                Code::Unavailable
                    | Code::Unknown
                    | Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Internal
                    | Code::ResourceExhausted
            ),
            _ => false,
        }
    }

    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            RpcError::Refused { code, .. } => match code {
                Code::InvalidArgument | Code::NotFound | Code::AlreadyExists => Fault::Request,
                Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated => {
                    Fault::Request
                }
                _ => Fault::Cluster,
            },
            RpcError::Tls { .. } => Fault::Request,
            RpcError::Ended | RpcError::Unreached { .. } | RpcError::Broken { .. } => {
                Fault::Cluster
            }
            _ => Fault::Bug,
        }
    }
}

impl Hint for RpcError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            RpcError::Refused { code: Code::Unavailable, .. } | RpcError::Ended => {
                "is the coordinator running, and its address right?"
            }
            RpcError::Refused { code: Code::Aborted, .. } => {
                "the coordinator is well, and its store or index is not: its log says more, and `dcbuild doctor` with the \
                 coordinator's --store, --index and credentials says what is wrong"
            }
            RpcError::Unreached { .. } => {
                "is the coordinator running, and its address right? --coordinator, DCBUILD_COORDINATOR or submit.coordinator \
                 names it, and `dcbuild coordinator --listen HOST:PORT` starts one"
            }
            RpcError::Broken { .. } => {
                "is it a coordinator of dcbuild that listens at this address, and is it still running?"
            }
            RpcError::Refused { code: Code::Cancelled | Code::Unimplemented, .. } => {
                "is it a coordinator that listens at this address?"
            }
            RpcError::Tls { distrust } => way_out(distrust.fault),
            RpcError::Update(_) | RpcError::Document(_) | RpcError::Unknown => {
                "client and coordinator must be of the same version"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What to do about a coordinator and a client that do not trust each other.
fn way_out(fault: TlsFault) -> &'static str {
    match fault {
        TlsFault::Untrusted => {
            "name the CA of the coordinator's certificate with submit.tls.ca or DCBUILD_TLS_CA; workers have worker.tls.ca"
        }
        TlsFault::Expired => {
            "renew the certificate in coordinator.tls.cert; it is read again by itself"
        }
        TlsFault::Early => {
            "check the clocks of both machines, and from when coordinator.tls.cert is valid"
        }
        TlsFault::OtherName => {
            "reach the coordinator by a name that its certificate has, or give it one with this name"
        }
        TlsFault::Authority => {
            "name that certificate itself with submit.tls.ca or DCBUILD_TLS_CA, or have one made for the server alone"
        }
        TlsFault::Unusable | TlsFault::Another => {
            "look at the coordinator's certificate with `openssl s_client -connect HOST:PORT`"
        }
        TlsFault::Plain => {
            "write http:// in place of https://, or give the coordinator a certificate with coordinator.tls"
        }
        TlsFault::Wanted => {
            "show it one with submit.tls.cert and submit.tls.key, or DCBUILD_TLS_CERT and DCBUILD_TLS_KEY"
        }
        TlsFault::RefusedIssuer => {
            "it must be from a CA in coordinator.tls.client_ca: name another with submit.tls.cert or DCBUILD_TLS_CERT, or ask \
             whoever runs the coordinator for one"
        }
        TlsFault::RefusedDate => {
            "renew the certificate in submit.tls.cert or DCBUILD_TLS_CERT, or set the clocks of both machines"
        }
        TlsFault::RefusedUse => {
            "its extended key usage must allow the authentication of clients: ask for another one"
        }
        TlsFault::Refused => {
            "name another with submit.tls.cert or DCBUILD_TLS_CERT; the coordinator's log says what is wrong with this one"
        }
        TlsFault::Failed => "is it a coordinator of dcbuild that listens there?",
    }
}

/// What happens in a build, as its client hears it.
#[derive(Debug)]
pub(crate) enum Event {
    Update(Update),
    Question {
        number: u64,
        ask: Question,
    },
    Finished(Box<Outcome>),
    CaughtUp {
        /// What the coordinator's clock says.
        now: Option<UnixTime>,
    },
}

/// What a client says to a build.
#[derive(Debug)]
pub(crate) enum Reply {
    Answer(Answer),
    /// Empty credentials mean that there are none.
    Credentials(RegistryCredentials),
}

/// How a client attends a build.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    /// It submitted it, answers all that it asks, and knows these secrets.
    Owns(BTreeMap<String, Vec<u8>>),
    /// It answers what it can.
    Answers,
    /// It looks on.
    LooksOn,
}

/// A build in a coordinator's list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedBuild {
    /// Its id.
    pub id: BuildId,
    /// How far it is: waiting, running, done, failed or canceled.
    pub state: String,
    /// Its name, for people.
    pub name: String,
    /// Whose records it reads and writes.
    pub scope: String,
    /// When it was submitted.
    pub submitted: Option<UnixTime>,
    /// When it ended.
    pub ended: Option<UnixTime>,
}

/// A worker of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedWorker {
    /// Its id, which is another one each time that it starts.
    pub id: String,
    /// The platforms that it runs.
    pub platforms: Vec<String>,
    /// How many jobs it takes.
    pub slots: u32,
    /// How many it runs.
    pub jobs: u32,
    /// `working`, `full`, `draining` or `away`.
    pub state: String,
    /// What its configuration calls it.
    pub labels: BTreeMap<String, String>,
    /// Where other workers reach it; empty if they cannot.
    pub peer_address: String,
    /// The certificate that they are shown there; none where nothing is encrypted.
    pub peer_certificate: Option<CertificateDigest>,
}

/// A named image in a coordinator's list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedImage {
    /// Its name.
    pub name: String,
    /// Its manifest.
    pub manifest: ManifestDigest,
    /// When it got the name.
    pub tagged: Option<UnixTime>,
    /// The bytes of its blobs.
    pub size: u64,
}

/// The builds of a coordinator.
#[derive(Clone)]
pub(crate) struct Builds {
    client: BuildsClient<InterceptedService<Channel, Asking>>,
}

/// Says in each request for which scope it is.
#[derive(Clone)]
struct Asking(Option<AsciiMetadataValue>);

impl Interceptor for Asking {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(scope) = &self.0 {
            request.metadata_mut().insert(SCOPE_HEADER, scope.clone());
        }
        Ok(request)
    }
}

/// A conversation with a build.
pub(crate) struct Session {
    events: Streaming<pb::BuildEvent>,
    pub(crate) replies: Replies,
}

/// Where answers go.
#[derive(Clone)]
pub(crate) struct Replies(mpsc::Sender<pb::ClientMessage>);

impl Builds {
    pub(crate) fn new(channel: Channel, scope: Option<&Scope>) -> Builds {
        // A scope is of letters, digits and a few signs, which a header may hold.
        let asking = Asking(scope.and_then(|scope| scope.as_str().parse().ok()));
        let client = BuildsClient::with_interceptor(channel, asking);
        Builds { client: client.max_decoding_message_size(limits::MESSAGE_BYTES_MAX) }
    }

    pub(crate) async fn submit(
        &self,
        id: BuildId,
        submission: &Submission,
    ) -> Result<(), RpcError> {
        let submission = to_bytes(submission).into();
        let request = pb::SubmitRequest { build: id.to_string(), submission };
        self.client.clone().submit(request).await.map_err(RpcError::of("take the build"))?;
        Ok(())
    }

    pub(crate) async fn attend(
        &self,
        id: BuildId,
        from_event: u64,
        role: Role,
    ) -> Result<Session, RpcError> {
        let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
        let (answers, owns, secrets) = match role {
            Role::LooksOn => (false, false, BTreeMap::new()),
            Role::Answers => (true, false, BTreeMap::new()),
            Role::Owns(secrets) => (true, true, secrets),
        };
        let secrets = secrets.into_iter().map(|(id, value)| (id, value.into())).collect();
        let attach = pb::Attach { build: id.to_string(), from_event, answers, secrets, owns };
        let replies = Replies(sender);
        replies.send(Message::Attach(attach)).await;
        let reply = self.client.clone().attend(ReceiverStream::new(receiver)).await;
        let events = reply.map_err(RpcError::of("show the build"))?.into_inner();
        Ok(Session { events, replies })
    }

    pub(crate) async fn cancel(&self, id: BuildId) -> Result<(), RpcError> {
        let request = pb::CancelRequest { build: id.to_string() };
        self.client.clone().cancel(request).await.map_err(RpcError::of("cancel the build"))?;
        Ok(())
    }

    pub(crate) async fn list(&self) -> Result<Vec<ListedBuild>, RpcError> {
        let reply = self.client.clone().list(pb::ListRequest {}).await;
        let builds = reply.map_err(RpcError::of("list its builds"))?.into_inner().builds;
        builds
            .into_iter()
            .map(|build| {
                Ok(ListedBuild {
                    id: build.build.parse()?,
                    state: build.state,
                    name: build.name,
                    scope: build.scope,
                    submitted: build.submitted.map(TryInto::try_into).transpose()?,
                    ended: build.ended.map(TryInto::try_into).transpose()?,
                })
            })
            .collect()
    }

    pub(crate) async fn workers(&self) -> Result<Vec<ListedWorker>, RpcError> {
        let reply = self.client.clone().list_workers(pb::ListWorkersRequest {}).await;
        let workers = reply.map_err(RpcError::of("list its workers"))?.into_inner().workers;
        let listed = |worker: pb::WorkerSummary| ListedWorker {
            id: worker.worker,
            platforms: worker.platforms,
            slots: worker.slots,
            jobs: worker.jobs,
            state: worker.state,
            labels: worker.labels.into_iter().collect(),
            peer_address: worker.peer_address,
            peer_certificate: CertificateDigest::read(&worker.peer_certificate).ok().flatten(),
        };
        Ok(workers.into_iter().map(listed).collect())
    }

    pub(crate) async fn images(&self) -> Result<Vec<ListedImage>, RpcError> {
        let reply = self.client.clone().list_images(pb::ListImagesRequest {}).await;
        let images = reply.map_err(RpcError::of("list its images"))?.into_inner().images;
        images
            .into_iter()
            .map(|image| {
                Ok(ListedImage {
                    name: image.name,
                    manifest: image.manifest.parse()?,
                    tagged: image.tagged.map(TryInto::try_into).transpose()?,
                    size: image.size,
                })
            })
            .collect()
    }

    pub(crate) async fn remove_image(&self, name: &str) -> Result<bool, RpcError> {
        let request = pb::RemoveImageRequest { name: name.to_owned() };
        let reply = self.client.clone().remove_image(request).await;
        Ok(reply.map_err(RpcError::of("remove the name"))?.into_inner().removed)
    }
}

impl Builds {
    pub(crate) async fn cache(&self, ask: &CacheAsk) -> Result<CacheTold, RpcError> {
        let request = pb::CacheRequest { ask: to_bytes(ask).into() };
        let reply = self.client.clone().cache(request).await;
        let reply = reply.map_err(RpcError::of("look after its cache"))?.into_inner();
        Ok(from_bytes("answer", &reply.told)?)
    }

    pub(crate) async fn explain(
        &self,
        build: Option<BuildId>,
        step: Option<String>,
    ) -> Result<Explanation, RpcError> {
        let build = build.map(|build| build.to_string()).unwrap_or_default();
        let reply = self.client.clone().explain(pb::ExplainRequest { build, step }).await;
        let reply = reply.map_err(RpcError::of("explain the build"))?.into_inner();
        Ok(from_bytes("explanation", &reply.explanation)?)
    }
}

impl Session {
    /// The next event, with its number among the build's.
    pub(crate) async fn next(&mut self) -> Result<(u64, Event), RpcError> {
        let event = self.events.message().await.map_err(RpcError::of("show the build"))?;
        let pb::BuildEvent { number, event } = event.ok_or(RpcError::Ended)?;
        let event = match event.ok_or(RpcError::Unknown)? {
            Wire::Question(question) => {
                let ask = from_bytes("question", &question.ask)?;
                Event::Question { number: question.question, ask }
            }
            Wire::Vertex(vertex) => Event::Update(Update::Vertex(vertex.try_into()?)),
            Wire::Status(status) => Event::Update(Update::Status(status.try_into()?)),
            Wire::Log(log) => Event::Update(Update::Log(log.try_into()?)),
            Wire::Warning(warning) => Event::Update(Update::Warning(warning.try_into()?)),
            Wire::Finished(finished) => {
                Event::Finished(Box::new(from_bytes("outcome", &finished.outcome)?))
            }
            Wire::CaughtUp(pb::CaughtUp { now }) => {
                Event::CaughtUp { now: now.and_then(|now| now.try_into().ok()) }
            }
        };
        Ok((number, event))
    }
}

impl Replies {
    async fn send(&self, message: Message) {
        // Where the conversation has ended, reading from it says so.
        drop(self.0.send(pb::ClientMessage { message: Some(message) }).await);
    }

    pub(crate) async fn reply(&self, question: u64, reply: Reply) {
        let message = match reply {
            Reply::Answer(answer) => {
                Message::Answer(pb::Answer { question, answer: to_bytes(&answer).into() })
            }
            Reply::Credentials(found) => Message::Credentials(pb::Credentials {
                question,
                username: found.username,
                password: found.password.into_bytes().into(),
                identity_token: found.identity_token.into_bytes().into(),
                registry_token: found.registry_token.into_bytes().into(),
                source: found.source,
            }),
        };
        self.send(message).await;
    }
}

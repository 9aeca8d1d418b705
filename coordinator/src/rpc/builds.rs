//! The client plane.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcbuild_model::{BlobDigest, BuildId, Digest, Scope, limits};
use dcbuild_oci::{Manifest, ManifestOrIndex};
use dcbuild_proto::cache::CacheAsk;
use dcbuild_proto::document::{self, Question, RegistryCredentials, Submission};
use dcbuild_proto::pb;
use dcbuild_store::NamedImage;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Services, events, guarded, invalid};
use crate::access::Caller;
use crate::book::{PeerPlace, SeenWorker, SubmitError, Summarised};
use crate::build::Build;
use crate::cache::View;
use crate::company::Visit;
use crate::core::Command;
use crate::explain::{Asked, ExplainError, explain};
use crate::questions::Reply;

const EVENTS_MAX: usize = 64;
const SECRETS_MAX: usize = 256;

pub(super) struct BuildsService(pub(super) Services);

fn no_build(build: BuildId) -> Status {
    Status::not_found(format!("there is no build {build}"))
}

fn build_id(text: &str) -> Result<BuildId, Status> {
    text.parse().map_err(|error: dcbuild_model::InvalidId| invalid(error))
}

#[tonic::async_trait]
impl pb::builds_server::Builds for BuildsService {
    async fn submit(
        &self,
        request: Request<pb::SubmitRequest>,
    ) -> Result<Response<pb::SubmitReply>, Status> {
        guarded("Submit", async {
            let caller = self.0.caller(&request)?;
            let request = request.into_inner();
            let build = build_id(&request.build)?;
            let mut submission: Box<Submission> =
                document::from_bytes("submission", &request.submission).map_err(invalid)?;
            // By the credential, whatever the client says.
            submission.scope = Some(caller.scope);
            let taken =
                self.0.core.ask(|reply| Command::Submit { build, submission, reply }).await?;
            taken.map(|()| pb::SubmitReply {}).map_err(|error| match error {
                SubmitError::Exists(_) => Status::already_exists(error.to_string()),
                SubmitError::Full { .. } => Status::resource_exhausted(error.to_string()),
            })
        })
        .await
    }

    type AttendStream = ReceiverStream<Result<pb::BuildEvent, Status>>;

    async fn attend(
        &self,
        request: Request<Streaming<pb::ClientMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        guarded("Attend", async {
            let caller = self.0.caller(&request)?;
            let mut messages = request.into_inner();
            let attach = first(&mut messages).await?;
            let id = build_id(&attach.build)?;
            let build = self.find(id, &caller).await?;
            let (tx, rx) = mpsc::channel(EVENTS_MAX);
            let visit = attach.answers.then(|| build.company.enter(attach.owns));
            if attach.answers {
                if attach.secrets.len() > SECRETS_MAX {
                    return Err(Status::invalid_argument(format!(
                        "more than {SECRETS_MAX} secrets"
                    )));
                }
                let value = |(id, value): (String, _)| (id, Vec::from(value));
                let secrets: BTreeMap<String, Vec<u8>> =
                    attach.secrets.into_iter().map(value).collect();
                self.0.core.send(Command::Attached { build: id }).await?;
                build.confide(secrets, attach.owns);
            }
            let attendance =
                Attendance { services: self.0.clone(), build, from: attach.from_event, visit };
            self.0.tracker.spawn(attendance.run(messages, tx));
            Ok(ReceiverStream::new(rx))
        })
        .await
    }

    async fn cancel(
        &self,
        request: Request<pb::CancelRequest>,
    ) -> Result<Response<pb::CancelReply>, Status> {
        guarded("Cancel", async {
            let caller = self.0.caller(&request)?;
            let build = build_id(&request.into_inner().build)?;
            self.find(build, &caller).await?;
            let reason = "cancelled by request".to_owned();
            let command = |reply| Command::Cancel { build, reason, reply: Some(reply) };
            let known = self.0.core.ask(command).await?;
            known.then_some(pb::CancelReply {}).ok_or_else(|| no_build(build))
        })
        .await
    }

    async fn list(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListReply>, Status> {
        guarded("List", async {
            let caller = self.0.caller(&request)?;
            let mut list = self.0.core.ask(|reply| Command::List { reply }).await?;
            list.retain(|build| caller.sees(&build.scope));
            Ok(pb::ListReply { builds: list.into_iter().map(summary).collect() })
        })
        .await
    }

    async fn list_workers(
        &self,
        _: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersReply>, Status> {
        guarded("ListWorkers", async {
            let workers = self.0.core.ask(|reply| Command::ListWorkers { reply }).await?;
            let certificate = |place: &PeerPlace| place.certificate.map(|it| it.bytes().into());
            let summary = |seen: SeenWorker| pb::WorkerSummary {
                worker: seen.worker.to_string(),
                platforms: seen.platforms,
                slots: seen.slots,
                jobs: seen.jobs,
                state: seen.state.to_owned(),
                labels: seen.labels.into_iter().collect(),
                peer_certificate: seen.peer.as_ref().and_then(certificate).unwrap_or_default(),
                peer_address: seen.peer.map(|place| place.address).unwrap_or_default(),
            };
            Ok(pb::ListWorkersReply { workers: workers.into_iter().map(summary).collect() })
        })
        .await
    }

    async fn list_images(
        &self,
        request: Request<pb::ListImagesRequest>,
    ) -> Result<Response<pb::ListImagesReply>, Status> {
        guarded("ListImages", async {
            let Caller { scope, .. } = self.0.caller(&request)?;
            let names = &self.0.records.stores.names;
            let list = names.list(&scope).await.map_err(store_failed)?;
            let mut images = Vec::new();
            for image in list {
                images.push(self.image(image).await);
            }
            Ok(pb::ListImagesReply { images })
        })
        .await
    }

    async fn remove_image(
        &self,
        request: Request<pb::RemoveImageRequest>,
    ) -> Result<Response<pb::RemoveImageReply>, Status> {
        guarded("RemoveImage", async {
            let Caller { scope, .. } = self.0.caller(&request)?;
            let name = request.into_inner().name;
            let removed = self.0.records.stores.names.remove(&scope, &name).await;
            Ok(pb::RemoveImageReply { removed: removed.map_err(store_failed)? })
        })
        .await
    }

    async fn cache(
        &self,
        request: Request<pb::CacheRequest>,
    ) -> Result<Response<pb::CacheReply>, Status> {
        guarded("Cache", async {
            let Caller { scope, sees_all } = self.0.caller(&request)?;
            let view = if sees_all { View::Whole(scope) } else { View::Within(scope) };
            let ask = request.into_inner().ask;
            let ask: CacheAsk = document::from_bytes("question", &ask).map_err(invalid)?;
            if let Some(refused) = view.refuses(&ask) {
                return Err(Status::failed_precondition(refused));
            }
            if !matches!(ask, CacheAsk::List {}) {
                self.keep_use().await?;
            }
            // An end is told while the account is still being written.
            self.0.records.noting.settled().await;
            let stores = &self.0.records.stores;
            let now = self.0.clock.now();
            let sweeps = &self.0.sweeps;
            let told = crate::cache::counted(stores, &view, &ask, now, sweeps).await;
            let told = told.map_err(store_failed)?;
            Ok(pb::CacheReply { told: document::to_bytes(&told).into() })
        })
        .await
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainReply>, Status> {
        guarded("Explain", async {
            let caller = self.0.caller(&request)?;
            let pb::ExplainRequest { build, step } = request.into_inner();
            let build = if build.is_empty() { None } else { Some(build_id(&build)?) };
            let scope = self.scope_of(build, &caller).await?;
            let live = match build {
                Some(build) => self.0.core.ask(|reply| Command::Account { build, reply }).await?,
                None => None,
            };
            let records = &self.0.records;
            // An end is told while the account is still being written.
            records.noting.settled().await;
            let asked = Asked { build, step };
            let explained = explain(&records.stores, &scope, &asked, live.map(|it| *it));
            let explanation = explained.await.map_err(explain_failed)?;
            Ok(pb::ExplainReply { explanation: document::to_bytes(&explanation).into() })
        })
        .await
    }
}

impl BuildsService {
    /// Moves the mark of use on to the builds that go on now: one that has just ended holds nothing back.
    async fn keep_use(&self) -> Result<(), Status> {
        let Some(using) = &self.0.records.stores.using else { return Ok(()) };
        let begun = using.begun();
        let builds = self.0.core.ask(|reply| Command::List { reply }).await?;
        let going_on = builds.into_iter().filter(|build| build.ended.is_none());
        let running = going_on.map(|build| (build.build, build.submitted)).collect();
        if let Err(error) = using.keep(begun, &running, self.0.clock.now()).await {
            let error = dcbuild_process::story(&error);
            tracing::debug!(error, "the mark that builds go on is moved on later");
        }
        Ok(())
    }

    /// A build that the caller sees; another is none to him.
    async fn find(&self, id: BuildId, caller: &Caller) -> Result<Arc<Build>, Status> {
        let build = self.0.core.ask(|reply| Command::Find { build: id, reply }).await?;
        build.filter(|build| caller.sees(&build.scope)).ok_or_else(|| no_build(id))
    }

    /// The scope where the account of a build lies, as far as the caller sees it; of none, or one that is long over, the
    /// caller's own.
    async fn scope_of(&self, build: Option<BuildId>, caller: &Caller) -> Result<Scope, Status> {
        let Some(id) = build else { return Ok(caller.scope.clone()) };
        match self.0.core.ask(|reply| Command::Find { build: id, reply }).await? {
            None => Ok(caller.scope.clone()),
            Some(build) if caller.sees(&build.scope) => Ok(build.scope.clone()),
            Some(_) => Err(no_build(id)),
        }
    }

    /// An image of the list; its size is what its manifests say of their blobs, and 0 if they are gone.
    async fn image(&self, image: NamedImage) -> pb::Image {
        let mut blobs = BTreeMap::new();
        match self.manifest(image.manifest.0).await {
            Some(ManifestOrIndex::Manifest(manifest)) => note_sizes(&manifest, &mut blobs),
            Some(ManifestOrIndex::Index(index)) => {
                for entry in index.manifests.iter().take(limits::PLATFORMS_MAX) {
                    if let Some(ManifestOrIndex::Manifest(manifest)) =
                        self.manifest(entry.digest).await
                    {
                        note_sizes(&manifest, &mut blobs);
                    }
                }
            }
            None => {}
        }
        pb::Image {
            name: image.name,
            manifest: image.manifest.to_string(),
            tagged: Some(image.tagged.into()),
            size: blobs.values().sum(),
        }
    }

    async fn manifest(&self, digest: Digest) -> Option<ManifestOrIndex> {
        let max = u64::try_from(limits::MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        let blobs = &*self.0.records.stores.blobs;
        let bytes = dcbuild_store::read_bytes(blobs, &BlobDigest(digest), max).await.ok()?;
        ManifestOrIndex::parse(&bytes, None).ok()
    }
}

/// Notes the blobs of an image with their sizes: what two platforms share counts once.
fn note_sizes(manifest: &Manifest, blobs: &mut BTreeMap<Digest, u64>) {
    let all = manifest.layers.iter().chain([&manifest.config]);
    blobs.extend(all.map(|blob| (blob.digest, blob.size)));
}

fn explain_failed(error: ExplainError) -> Status {
    let text = dcbuild_process::story(&error);
    match error {
        ExplainError::Store(error) => store_failed(error),
        ExplainError::Account { .. } => Status::data_loss(text),
        ExplainError::NoBuilds | ExplainError::NoSuchBuild { .. } | ExplainError::NoSuchStep(_) => {
            Status::not_found(text)
        }
    }
}

pub(super) fn store_failed(error: dcbuild_store::StoreError) -> Status {
    let text = dcbuild_process::story(&error);
    match error {
        dcbuild_store::StoreError::NotFound { .. } => Status::not_found(text),
        dcbuild_store::StoreError::Corrupt { .. } => Status::data_loss(text),
        dcbuild_store::StoreError::DigestMismatch { .. }
        | dcbuild_store::StoreError::TooLarge { .. } => Status::invalid_argument(text),
        // It is the store that is not there: the coordinator is.
        _ => Status::aborted(text),
    }
}

fn summary(build: Summarised) -> pb::BuildSummary {
    pb::BuildSummary {
        build: build.build.to_string(),
        state: build.state.into(),
        name: build.name,
        scope: build.scope.to_string(),
        submitted: Some(build.submitted.into()),
        ended: build.ended.map(Into::into),
    }
}

async fn first(messages: &mut Streaming<pb::ClientMessage>) -> Result<pb::Attach, Status> {
    match messages.message().await? {
        Some(pb::ClientMessage { message: Some(pb::client_message::Message::Attach(attach)) }) => {
            Ok(attach)
        }
        _ => Err(Status::invalid_argument("the first message of Attend is an Attach")),
    }
}

/// One client at one build.
struct Attendance {
    services: Services,
    build: Arc<Build>,
    from: u64,
    /// Of one that answers.
    visit: Option<Visit>,
}

type Events = mpsc::Sender<Result<pb::BuildEvent, Status>>;

impl Attendance {
    fn answers(&self) -> bool {
        self.visit.is_some()
    }

    async fn run(self, messages: Streaming<pb::ClientMessage>, tx: Events) {
        let ended = tokio::select! {
            ended = self.tell(&tx) => ended,
            ended = self.hear(messages) => ended,
            () = tx.closed() => Ok(()),
            () = self.services.stop.cancelled() => {
                Err(Status::unavailable("the coordinator is stopping"))
            }
        };
        if let Err(status) = ended {
            // The client may be gone or slow, and then nobody reads why.
            drop(tx.try_send(Err(status)));
        }
        if self.answers() {
            drop(self.services.core.send(Command::Left { build: self.build.id }).await);
        }
        // What was left to this client others may answer now.
        let build = self.build.clone();
        drop(self);
        build.journal.nudge();
    }

    /// Tells all events from the first wanted on, and asks what is open.
    async fn tell(&self, tx: &Events) -> Result<(), Status> {
        let journal = &self.build.journal;
        let mut changed = journal.watch();
        // A journal is not synced: after a loss of power it may be shorter than what a client has read of it. What comes then
        // is new to that client, and the end always is.
        let count = journal.count();
        let known = if journal.has_ended() { count.saturating_sub(1) } else { count };
        let (mut next, mut asked, mut caught_up) = (self.from.min(known), 0, false);
        loop {
            changed.mark_unchanged();
            let ended = journal.has_ended();
            loop {
                let part = journal
                    .read(next, events::READ_MAX)
                    .map_err(|error| Status::unavailable(dcbuild_process::story(&error)))?;
                if part.is_empty() {
                    break;
                }
                for kept in part {
                    if let Some(event) = events::decode(next, &kept) {
                        send(tx, event).await?;
                    }
                    next += 1;
                }
            }
            let last = next.saturating_sub(1);
            if !caught_up {
                caught_up = true;
                send(tx, events::caught_up(last, self.services.clock.now())).await?;
            }
            if ended {
                return Ok(());
            }
            if self.answers() {
                for (number, question) in self.build.questions.from(asked) {
                    if self.leaves_to_owner(&question) {
                        break;
                    }
                    send(tx, events::question(last, number, &question)).await?;
                    asked = number + 1;
                }
            }
            if changed.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Whether a question is not for who only looks on: another person's login is not the build's.
    fn leaves_to_owner(&self, question: &Question) -> bool {
        let is_guest = self.visit.as_ref().is_some_and(|visit| !visit.owns());
        let is_login = matches!(question, Question::Credentials { .. });
        is_guest && is_login && self.build.company.has_owner()
    }

    /// Takes answers until the client's side ends; one that only looks on may end its side at once.
    async fn hear(&self, mut messages: Streaming<pb::ClientMessage>) -> Result<(), Status> {
        loop {
            match messages.message().await {
                Ok(Some(message)) if self.answers() => self.answer(message)?,
                Ok(Some(_)) => {
                    return Err(Status::failed_precondition(
                        "this client said that it only looks on",
                    ));
                }
                Ok(None) if self.answers() => return Ok(()),
                Ok(None) => std::future::pending().await,
                Err(status) => return Err(status),
            }
        }
    }

    fn answer(&self, message: pb::ClientMessage) -> Result<(), Status> {
        use pb::client_message::Message;
        let (question, reply) = match message.message {
            Some(Message::Answer(answer)) => {
                let read = document::from_bytes("answer", &answer.answer).map_err(invalid)?;
                (answer.question, Reply::Answer(read))
            }
            Some(Message::Credentials(found)) => {
                let text = |bytes: &[u8]| {
                    let text = std::str::from_utf8(bytes).map(str::to_owned);
                    text.map_err(|_| Status::invalid_argument("credentials are not UTF-8"))
                };
                let credentials = RegistryCredentials {
                    username: found.username.clone(),
                    password: text(&found.password)?,
                    identity_token: text(&found.identity_token)?,
                    registry_token: text(&found.registry_token)?,
                    source: found.source.clone(),
                };
                let some = !credentials.is_nothing() || !credentials.source.is_empty();
                (found.question, Reply::Credentials(some.then_some(credentials)))
            }
            Some(Message::Attach(_)) => {
                return Err(Status::invalid_argument("an Attach comes first, and once"));
            }
            None => return Err(Status::invalid_argument("a message of an unknown kind")),
        };
        self.build.questions.answer(question, reply).map_err(invalid)
    }
}

async fn send(tx: &Events, event: pb::BuildEvent) -> Result<(), Status> {
    tx.send(Ok(event)).await.map_err(|_| Status::cancelled("the client is gone"))
}

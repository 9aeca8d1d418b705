//! Builds against a coordinator that follows a script: questions, cuts, failures, outputs.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dcbuild_client::{
    BuildFlags, BuildRequest, Client, ClientConfig, Ended, GatherError, Gathered, Handover, Place,
    Screen, Wanted, gather, prepare,
};
use dcbuild_model::{
    BlobDigest, BuildId, ConfigDigest, DiffId, Digest, Fault, LayerDigest, ManifestDigest,
    Selection, SelectionForm, UnixTime,
};
use dcbuild_process::Env;
use dcbuild_progress::{Log, Output, Size, Stream, Update, Vertex, VertexId, VertexState};
use dcbuild_proto::document::{
    Answer, Failed, Outcome, OutputLayer, OutputResult, Question, Submission, Summary, from_bytes,
    to_bytes,
};
use dcbuild_proto::pb;
use dcbuild_proto::pb::build_event::Event;
use dcbuild_proto::pb::builds_server::{Builds, BuildsServer};
use dcbuild_proto::pb::client_message::Message;
use dcbuild_remote::StoreService;
use dcbuild_store::BlobStore as _;
use dcbuild_testkit::{MemoryBlobs, MemoryLayers};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// What the coordinator does next with the client that attends.
enum Act {
    Tell(Box<Update>),
    Ask(Question, fn(&Message) -> bool),
    Cut,
    Finish(Box<Outcome>),
}

#[derive(Default)]
struct Seen {
    submissions: Vec<Submission>,
    attaches: Vec<pb::Attach>,
    cancels: usize,
    acts: VecDeque<Act>,
    told: u64,
}

#[derive(Clone, Default)]
struct Script(Arc<Mutex<Seen>>);

#[tonic::async_trait]
impl Builds for Script {
    async fn submit(
        &self,
        request: Request<pb::SubmitRequest>,
    ) -> Result<Response<pb::SubmitReply>, Status> {
        let submission = from_bytes("submission", &request.into_inner().submission).unwrap();
        let mut seen = self.0.lock().unwrap();
        seen.submissions.push(submission);
        // The first answer is lost on its way.
        if seen.submissions.len() == 1 {
            return Err(Status::unavailable("lost"));
        }
        Ok(Response::new(pb::SubmitReply {}))
    }

    type AttendStream = ReceiverStream<Result<pb::BuildEvent, Status>>;

    async fn attend(
        &self,
        request: Request<Streaming<pb::ClientMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let mut messages = request.into_inner();
        let Some(Message::Attach(attach)) = messages.message().await?.unwrap().message else {
            return Err(Status::invalid_argument("no attach"));
        };
        self.0.lock().unwrap().attaches.push(attach);
        let (tx, rx) = mpsc::channel(4);
        let script = self.clone();
        drop(TaskTracker::new().spawn(async move {
            loop {
                let act = script.0.lock().unwrap().acts.pop_front();
                let number = script.0.lock().unwrap().told;
                let event = match act {
                    None => return tx.closed().await,
                    Some(Act::Cut) => {
                        return drop(tx.send(Err(Status::unavailable("cut"))).await);
                    }
                    Some(Act::Tell(update)) => {
                        script.0.lock().unwrap().told += 1;
                        (*update).into()
                    }
                    Some(Act::Finish(outcome)) => {
                        Event::Finished(pb::Finished { outcome: to_bytes(&*outcome).into() })
                    }
                    Some(Act::Ask(ask, fits)) => {
                        let question = pb::Question { question: 7, ask: to_bytes(&ask).into() };
                        let event = Some(Event::Question(question));
                        tx.send(Ok(pb::BuildEvent { number, event })).await.unwrap();
                        let answer = messages.message().await.unwrap().unwrap().message.unwrap();
                        assert!(fits(&answer), "{ask:?}: {answer:?}");
                        continue;
                    }
                };
                tx.send(Ok(pb::BuildEvent { number, event: Some(event) })).await.unwrap();
            }
        }));
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn cancel(
        &self,
        _: Request<pb::CancelRequest>,
    ) -> Result<Response<pb::CancelReply>, Status> {
        self.0.lock().unwrap().cancels += 1;
        Ok(Response::new(pb::CancelReply {}))
    }

    async fn list(&self, _: Request<pb::ListRequest>) -> Result<Response<pb::ListReply>, Status> {
        let build = BuildId::from_bits(3).to_string();
        let build = pb::BuildSummary { build, state: "done".into(), ..pb::BuildSummary::default() };
        Ok(Response::new(pb::ListReply { builds: vec![build] }))
    }

    async fn list_workers(
        &self,
        _: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersReply>, Status> {
        Ok(Response::new(pb::ListWorkersReply { workers: Vec::new() }))
    }

    async fn list_images(
        &self,
        _: Request<pb::ListImagesRequest>,
    ) -> Result<Response<pb::ListImagesReply>, Status> {
        Ok(Response::new(pb::ListImagesReply { images: Vec::new() }))
    }

    async fn remove_image(
        &self,
        request: Request<pb::RemoveImageRequest>,
    ) -> Result<Response<pb::RemoveImageReply>, Status> {
        let removed = request.into_inner().name == "there";
        Ok(Response::new(pb::RemoveImageReply { removed }))
    }

    async fn cache(
        &self,
        _: Request<pb::CacheRequest>,
    ) -> Result<Response<pb::CacheReply>, Status> {
        Err(Status::unavailable("the store failed"))
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainReply>, Status> {
        let asked = request.into_inner();
        Err(Status::not_found(format!("there is no account of build {:?}", asked.build)))
    }
}

/// A screen that remembers.
#[derive(Default)]
struct Paper(String);

impl Screen for Paper {
    fn write(&mut self, text: &str) {
        self.0.push_str(text);
    }

    fn size(&self) -> Size {
        Size::default()
    }

    fn output(&self) -> Output {
        Output::Stream
    }
}

struct World {
    script: Script,
    blobs: Arc<MemoryBlobs>,
    layers: Arc<MemoryLayers>,
    client: Client,
    folder: tempfile::TempDir,
}

async fn serve(script: Script, store: StoreService) -> Channel {
    let (sender, receiver) = mpsc::channel::<Result<_, std::io::Error>>(4);
    let router =
        Server::builder().add_service(BuildsServer::new(script)).add_service(store.into_server());
    let incoming = ReceiverStream::new(receiver);
    drop(TaskTracker::new().spawn(async move { router.serve_with_incoming(incoming).await }));
    let connector = tower::service_fn(move |_| {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let sender = sender.clone();
        async move {
            sender.send(Ok(theirs)).await.map_err(|_| std::io::Error::other("gone"))?;
            Ok::<_, std::io::Error>(TokioIo::new(ours))
        }
    });
    Endpoint::from_static("http://fake").connect_with_connector(connector).await.unwrap()
}

async fn world(acts: Vec<Act>) -> World {
    let script = Script::default();
    script.0.lock().unwrap().acts = acts.into();
    let (blobs, layers) = (Arc::new(MemoryBlobs::default()), Arc::new(MemoryLayers::default()));
    let store = StoreService::new(blobs.clone(), layers.clone());
    let channel = serve(script.clone(), store).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\nRUN false\nCOPY a .\n")
        .unwrap();
    std::fs::write(folder.path().join("a"), "text").unwrap();
    let docker = r#"{"auths": {"r.example": {"auth": "dTpw"}}}"#;
    std::fs::write(folder.path().join("config.json"), docker).unwrap();
    let env = Env::from_iter([("DOCKER_CONFIG", folder.path())]);
    let config = ClientConfig::new(&env, folder.path().into());
    World { script, blobs, layers, client: Client::new(channel, config), folder }
}

impl World {
    fn request(&self, flags: BuildFlags) -> BuildRequest {
        let env = Env::default();
        let flags = BuildFlags {
            context: self.folder.path().display().to_string(),
            progress: Some("plain".into()),
            ..flags
        };
        let wanted = Wanted::new(&flags, &env).unwrap();
        let cache = self.folder.path().join("cache");
        let now = UnixTime::default();
        let working = self.folder.path();
        let place = Place { working, stat_cache: &cache, now, env: &env };
        let prepared = prepare(&wanted, Gathered::default(), place).unwrap();
        let handover = Handover::default();
        BuildRequest::new(BuildId::from_bits(5), &wanted, prepared, handover)
    }

    async fn build(&self, flags: BuildFlags, stop: &CancellationToken) -> (Ended, String) {
        let mut paper = Paper::default();
        let built = self.client.build(self.request(flags), &mut paper, stop);
        let ended = tokio::time::timeout(Duration::from_secs(20), built).await.unwrap().unwrap();
        (ended, paper.0)
    }
}

fn selection() -> Selection {
    let sources = vec!["a".into()];
    Selection { form: SelectionForm::Copy, sources, exclude: Vec::new(), parents: false }
}

fn vertex(state: VertexState) -> Act {
    let id = VertexId::of("run");
    let vertex = Vertex { id, name: "[1/2] RUN false".into(), inputs: Vec::new(), state };
    Act::Tell(Box::new(Update::Vertex(vertex)))
}

fn log(text: &str) -> Act {
    let (vertex, bytes) = (VertexId::of("run"), text.into());
    let time = UnixTime { secs: 12, nanos: 0 };
    Act::Tell(Box::new(Update::Log(Log { vertex, stream: Stream::Stdout, bytes, time })))
}

const BEGIN: UnixTime = UnixTime { secs: 10, nanos: 0 };

fn image(blobs: &MemoryBlobs) -> OutputResult {
    let (layer, config) = (blobs.insert("layer"), blobs.insert("{}"));
    OutputResult::Image {
        manifest: ManifestDigest(blobs.insert("manifest").0),
        manifest_size: 8,
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        config: ConfigDigest(config.0),
        layers: vec![OutputLayer {
            digest: LayerDigest(layer.0),
            diff_id: DiffId(layer.0),
            size: 5,
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        }],
        names: vec!["docker.io/library/app:1".into()],
    }
}

fn answer(message: &Message) -> Answer {
    match message {
        Message::Answer(answer) => from_bytes("answer", &answer.answer).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_build_is_answered_shown_and_delivered_over_two_connections() {
    let context = || "context".to_owned();
    let select = |selection| Question::Selection { context: context(), selection };
    let missing = Selection { sources: vec!["missing".into()], ..selection() };
    let world = world(vec![
        vertex(VertexState::Running { started: BEGIN }),
        Act::Ask(select(selection()), |it| matches!(answer(it), Answer::Selection { .. })),
        Act::Ask(select(missing), |it| match answer(it) {
            Answer::Failed { message } => message.contains("\"/missing\": not found"),
            _ => false,
        }),
        Act::Cut,
        log("hello\n"),
        Act::Ask(Question::Pack { context: context(), selection: selection() }, |it| {
            matches!(answer(it), Answer::Packed { .. })
        }),
        Act::Ask(Question::Credentials { host: "r.example".into() }, |it| match it {
            Message::Credentials(found) => found.username == "u" && &*found.password == b"p",
            _ => false,
        }),
        Act::Ask(Question::Credentials { host: "other.example".into() }, |it| match it {
            Message::Credentials(found) => found.username.is_empty(),
            _ => false,
        }),
    ])
    .await;
    let outputs = vec![image(&world.blobs)];
    let (summary, caches, provenance) = (Summary::default(), Vec::new(), Vec::new());
    let outcome = Outcome::Done { outputs, summary, caches, provenance };
    {
        let mut seen = world.script.0.lock().unwrap();
        seen.acts.push_back(vertex(VertexState::Done { started: BEGIN, completed: BEGIN }));
        seen.acts.push_back(Act::Finish(Box::new(outcome)));
    }
    let flags = BuildFlags {
        outputs: vec!["type=oci,dest=app.tar,name=app:1".into()],
        iidfile: Some("iid".into()),
        metadata_file: Some("meta.json".into()),
        ..BuildFlags::default()
    };
    let (ended, text) = world.build(flags, &CancellationToken::new()).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "{text}");
    assert!(text.contains("hello") && text.contains("writing OCI image to app.tar"), "{text}");
    let file = |name: &str| world.folder.path().join(name);
    assert!(file("app.tar").is_file());
    let iid = std::fs::read_to_string(file("iid")).unwrap();
    assert_eq!(iid, Digest::of(b"{}").to_string());
    assert!(std::fs::read_to_string(file("meta.json")).unwrap().contains(&iid));
    {
        let seen = world.script.0.lock().unwrap();
        assert_eq!(seen.submissions.len(), 2, "the lost one was sent again");
        let from: Vec<u64> = seen.attaches.iter().map(|attach| attach.from_event).collect();
        assert_eq!(from, [0, 1]);
    }
    check_pack(&world).await;
}

async fn check_pack(world: &World) {
    let stored = world.layers.all();
    let [(_, stored)] = stored.as_slice() else { panic!("one pack: {stored:?}") };
    let needed = [BlobDigest(stored.blob.digest.0), stored.index];
    assert_eq!(world.blobs.find_missing(&needed).await.unwrap(), []);
}

#[tokio::test]
async fn a_failure_shows_the_log_the_lines_and_the_hint() {
    let failed = Failed {
        fault: Fault::Step,
        code: "STEP_FAILED".into(),
        message: "process \"/bin/sh -c false\" did not complete successfully: exit code: 1".into(),
        hint: Some("look at the log".into()),
        lines: Some((2, 2)),
        vertex: Some(VertexId::of("run").to_string()),
        exit_code: Some(1),
        outputs: Vec::new(),
    };
    let world = world(vec![
        vertex(VertexState::Running { started: BEGIN }),
        log("it went\nwrong"),
        Act::Finish(Box::new(Outcome::Failed(failed))),
    ])
    .await;
    let (ended, text) = world.build(BuildFlags::default(), &CancellationToken::new()).await;
    assert_eq!(ended.code, 1);
    let at = text.find("------\n > ").unwrap();
    expect_test::expect![[r#"
        ------
         > [1/2] RUN false:
        2.000 it went
        2.000 wrong
        ------
        Dockerfile:2
        --------------------
           1 |     FROM scratch
           2 | >>> RUN false
           3 |     COPY a .
        --------------------
        error: process "/bin/sh -c false" did not complete successfully: exit code: 1
        hint: look at the log
    "#]]
    .assert_eq(&text[at..]);
}

#[tokio::test]
async fn a_stop_cancels_the_build_and_does_not_wait_for_long() {
    let world = world(vec![vertex(VertexState::Running { started: BEGIN })]).await;
    let stop = CancellationToken::new();
    let later = stop.clone();
    let script = world.script.clone();
    drop(TaskTracker::new().spawn(async move {
        while script.0.lock().unwrap().told == 0 {
            tokio::task::yield_now().await;
        }
        later.cancel();
    }));
    let (ended, text) = world.build(BuildFlags::default(), &stop).await;
    assert_eq!(ended.code, 130);
    assert!(text.ends_with("error: the build was cancelled: the user stopped it\n"), "{text}");
    assert_eq!(world.script.0.lock().unwrap().cancels, 1);
}

#[tokio::test]
async fn a_detached_build_is_left_when_its_first_step_is_under_way() {
    let world = world(vec![
        Act::Ask(Question::Selection { context: "context".into(), selection: selection() }, |it| {
            matches!(answer(it), Answer::Selection { .. })
        }),
        vertex(VertexState::Running { started: BEGIN }),
    ])
    .await;
    let mut request = world.request(BuildFlags::default());
    request.submission.detached = true;
    let (mut paper, stop) = (Paper::default(), CancellationToken::new());
    let ended = world.client.build(request, &mut paper, &stop).await.unwrap();
    assert_eq!((ended.code, ended.outcome), (0, None));
    assert_eq!(ended.stdout, format!("{}\n", BuildId::from_bits(5)));
    assert_eq!(world.script.0.lock().unwrap().cancels, 0);
}

#[tokio::test]
async fn small_calls_reach_the_coordinator() {
    let world = world(Vec::new()).await;
    let builds = world.client.builds().await.unwrap();
    assert_eq!(builds.first().map(|build| build.id), Some(BuildId::from_bits(3)));
    assert_eq!(world.client.images().await.unwrap(), []);
    assert!(world.client.remove_image("there").await.unwrap());
    assert!(!world.client.remove_image("elsewhere").await.unwrap());
    world.client.cancel(BuildId::from_bits(3)).await.unwrap();
}

/// They travel in one message, which the coordinator would refuse without a word of them.
#[tokio::test]
async fn secrets_that_are_too_large_together_are_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("s"), vec![b's'; 500 << 10]).unwrap();
    let env = Env::default();
    let now = UnixTime::default();
    let place = Place { working: folder.path(), stat_cache: folder.path(), now, env: &env };
    let given = async |count: usize| {
        let secrets = (0..count).map(|number| format!("id=s{number:02},src=s")).collect();
        let context = folder.path().display().to_string();
        let flags = BuildFlags { context, secrets, ..BuildFlags::default() };
        let wanted = Wanted::new(&flags, &env).unwrap();
        gather(&wanted, place, std::io::empty(), &mut |_| {}).await
    };
    assert_eq!(given(16).await.unwrap().secrets.len(), 16);
    let refused = given(17).await.unwrap_err().to_string();
    assert!(refused.contains("the 17 secrets of the build"), "{refused}");
    assert!(refused.contains("the largest is 's16'"), "{refused}");
}

#[tokio::test]
async fn a_dockerfile_can_come_from_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::default();
    let place = Place {
        working: Path::new("/"),
        stat_cache: Path::new("/nonexistent"),
        now: UnixTime::default(),
        env: &env,
    };
    let given = async |wanted: &Wanted, stdin: &'static [u8]| {
        gather(wanted, place, stdin, &mut |what| panic!("nothing is fetched: {what}")).await
    };
    let flags = BuildFlags { context: "-".into(), ..BuildFlags::default() };
    let wanted = Wanted::new(&flags, &env).unwrap();
    let gathered = given(&wanted, b"FROM scratch\n").await.unwrap();
    let prepared = prepare(&wanted, gathered, place).unwrap();
    assert_eq!(prepared.found.dockerfile, "FROM scratch\n");
    let damaged = given(&wanted, b"\x1f\x8b\x08").await;
    assert!(matches!(damaged, Err(GatherError::Unpack { .. })), "{damaged:?}");
    let context = folder.path().display().to_string();
    let flags = BuildFlags { context, file: Some("-".into()), ..BuildFlags::default() };
    let wanted = Wanted::new(&flags, &env).unwrap();
    let archive = given(&wanted, b"\x1f\x8b\x08").await;
    assert!(matches!(archive, Err(GatherError::Archive { .. })), "{archive:?}");
    std::fs::write(folder.path().join(".dockerignore"), "[\n").unwrap();
    let gathered = given(&wanted, b"FROM scratch\n").await.unwrap();
    let bad = prepare(&wanted, gathered, place);
    assert!(matches!(bad, Err(dcbuild_client::PrepareError::Ignore { .. })), "{bad:?}");
}

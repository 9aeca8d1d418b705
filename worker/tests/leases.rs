//! A worker against a coordinator that only hands out leases and writes down reports. The test binary is also the
//! sandbox's helper, which is why it has no harness; it speaks enough of the harness's language to be listed.
#![expect(clippy::unwrap_used, reason = "test")]
#![expect(clippy::print_stdout, reason = "the harness's language is spoken on standard output")]

mod failing;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dcbuild_context::{LocalContext, LocalContexts};
use dcbuild_layer::{BlobForm, InlineContents, write_blob};
use dcbuild_model::{
    AttemptId, BlobDigest, BuildId, Compression, ConfigDigest, ContentDigest, DiffId, Digest,
    Epoch, JobId, LayerDigest, LayerRef, ManifestDigest, Platform, Record, Scope, Selection,
    SelectionForm, StageIndex, StepIndex, StepKey, TreePath, UnixTime, WorkerId,
};
use dcbuild_plan::ImageTemplate;
use dcbuild_plan::op::{
    CopyOp, CopySource, ImageLayer, ImageOp, ImageSource, Input, InputSource, MountKind, Op,
    Resources, RunNetwork, RunOp, RunSecurity, WorkdirOp,
};
use dcbuild_plan::plan::{HistoryLine, Step};
use dcbuild_process::SystemClock;
use dcbuild_proto::document::{
    self, Attests, ContextPlace, LayerCompression, Lease, LeasedContext, LeasedImage, LeasedStep,
    OutputKind, OutputResult, OutputSpec, Sending, StepError, Upload, Work,
};
use dcbuild_proto::pb;
use dcbuild_proto::pb::worker_order::Order;
use dcbuild_proto::pb::worker_report::Report;
use dcbuild_proto::pb::workers_server::{Workers, WorkersServer};
use dcbuild_registry::{Anonymous, RegistryClient, RegistryConfig};
use dcbuild_sandbox::{CELL_ARGUMENT, cell_main};
use dcbuild_store::FolderStore;
use dcbuild_tree::{Change, Changes, Entry, FileBody, Ignore, Kind, Meta, Origin};
use dcbuild_worker::{DefaultNetwork, Parts, Worker, WorkerConfig};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use failing::Failing;
use registry::Registry;

const TESTS: &[(&str, fn())] = &[
    ("an_image_is_built_from_base_copy_and_workdir", image_copy_workdir),
    ("a_run_sees_what_was_copied_and_leaves_a_layer", run_sees_and_leaves),
    ("a_failing_run_says_its_exit_code", failing_run),
    ("mounts_are_seen_and_gone", mounts),
    ("a_cancelled_run_leaves_nothing", cancelled_run),
    ("a_layer_that_is_another_than_claimed_is_refused", wrong_diff_id),
    ("an_image_is_pushed_and_its_base_is_mounted_or_sent_on", pushed),
    ("a_result_that_could_not_be_kept_is_tried_again", tried_again),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().map(String::as_str) == Some(CELL_ARGUMENT) {
        return cell_main();
    }
    if arguments.iter().any(|each| each == "--list") {
        if !arguments.iter().any(|each| each == "--ignored") {
            for (name, _) in TESTS {
                println!("{name}: test");
            }
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<_> = arguments.iter().filter(|each| !each.starts_with("--")).collect();
    let mut all = true;
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|each| name.contains(each.as_str())) {
            let passed = std::panic::catch_unwind(test).is_ok();
            println!("{name}: {}", if passed { "ok" } else { "FAILED" });
            all &= passed;
        }
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Hands out leases and writes down reports.
struct Leaser {
    orders: Mutex<Option<mpsc::Receiver<Result<pb::WorkerOrder, Status>>>>,
    reports: mpsc::Sender<Report>,
}

#[tonic::async_trait]
impl Workers for Leaser {
    type WorkStream = ReceiverStream<Result<pb::WorkerOrder, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<pb::WorkerReport>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let orders = self.orders.lock().unwrap().take();
        let orders = orders.ok_or_else(|| Status::unavailable("one session only"))?;
        let (mut stream, reports) = (request.into_inner(), self.reports.clone());
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        let _hearing = tokio::spawn(async move {
            while let Ok(Some(report)) = stream.message().await {
                if reports.send(report.report.unwrap()).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(orders)))
    }

    async fn find_outcome(
        &self,
        _: Request<pb::FindOutcomeRequest>,
    ) -> Result<Response<pb::FindOutcomeReply>, Status> {
        Ok(Response::new(pb::FindOutcomeReply { record: None }))
    }

    /// An agent that says what it was asked, with all bytes turned round.
    async fn ask_agent(
        &self,
        request: Request<pb::AskAgentRequest>,
    ) -> Result<Response<pb::AskAgentReply>, Status> {
        let request = request.into_inner();
        let said = request.message.iter().rev().copied().chain(request.agent.bytes());
        Ok(Response::new(pb::AskAgentReply { message: said.collect() }))
    }

    async fn pack_inline(
        &self,
        _: Request<pb::PackInlineRequest>,
    ) -> Result<Response<pb::PackInlineReply>, Status> {
        Ok(Response::new(pb::PackInlineReply::default()))
    }

    async fn find_maker(
        &self,
        _: Request<pb::FindMakerRequest>,
    ) -> Result<Response<pb::FindMakerReply>, Status> {
        Ok(Response::new(pb::FindMakerReply::default()))
    }
}

/// A worker with all that it leans on.
struct Fixture {
    dir: tempfile::TempDir,
    store: Arc<FolderStore>,
    contexts: Arc<LocalContexts>,
    orders: mpsc::Sender<Result<pb::WorkerOrder, Status>>,
    reports: mpsc::Receiver<Report>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    attempts: u128,
}

const BUILD: u128 = 7;

impl Fixture {
    async fn new() -> Fixture {
        Fixture::with(|_, _| {}).await
    }

    async fn with(change: impl FnOnce(&mut WorkerConfig, &mut Parts)) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(FolderStore::open(&dir.path().join("store")).unwrap());
        let contexts = Arc::new(LocalContexts::new());
        let mut parts = Parts {
            blobs: store.clone(),
            layers: store.clone(),
            caches: None,
            images: Some(store.clone()),
            folder: Some(store.clone()),
            near: None,
            peers: None,
            contexts: contexts.clone(),
            clock: Arc::new(SystemClock),
        };
        let mut config = WorkerConfig {
            id: WorkerId::from_bits(std::process::id().into()),
            slots: 2,
            platforms: vec![Platform::host()],
            emulated: Vec::new(),
            data_dir: dir.path().join("worker"),
            exe: std::env::current_exe().unwrap(),
            registries: RegistryConfig::default(),
            network: DefaultNetwork::None,
            step_memory_max: None,
            keep_bytes: None,
            labels: std::collections::BTreeMap::new(),
            in_process: true,
            cache_mount_bytes_max: 1 << 30,
            allow: BTreeSet::new(),
            grace: Duration::ZERO,
        };
        change(&mut config, &mut parts);
        let (orders, given) = mpsc::channel(16);
        let (heard, reports) = mpsc::channel(1024);
        let leaser = Leaser { orders: Mutex::new(Some(given)), reports: heard };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder().add_service(WorkersServer::new(leaser));
        let stop = CancellationToken::new();
        let worker = Worker::new(config, parts).unwrap();
        let channel = tonic::transport::Endpoint::new(address).unwrap().connect_lazy();
        let token = stop.clone();
        #[expect(clippy::disallowed_methods, reason = "both end with the test's runtime")]
        let running = {
            let _serving =
                tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            tokio::spawn(worker.run(channel, token))
        };
        Fixture { dir, store, contexts, orders, reports, stop, running, attempts: 0 }
    }

    fn context(&self, files: &[(&str, &str)]) {
        let root = self.dir.path().join("context");
        std::fs::create_dir_all(&root).unwrap();
        for (name, text) in files {
            std::fs::write(root.join(name), text).unwrap();
        }
        let ignore = Ignore::parse(b"").unwrap();
        let stats = self.dir.path().join("stats");
        let now = UnixTime::default();
        let local = LocalContext::open_folder(&root, ignore, &stats, 0, now).unwrap();
        self.contexts.insert(BuildId::from_bits(BUILD), "context", Arc::new(local));
    }

    async fn order(&mut self, work: Work) -> AttemptId {
        self.attempts += 1;
        let attempt = AttemptId::from_bits(self.attempts);
        let lease = Lease {
            attempt,
            epoch: Epoch(1),
            build: BuildId::from_bits(BUILD),
            job: JobId::from_bits(self.attempts),
            scope: Scope::local(),
            work,
            layers: Vec::new(),
            secrets: BTreeMap::from([("tok".into(), "73337272".into())]),
            credentials: BTreeMap::new(),
            agents: BTreeSet::from(["default".into()]),
            upload: Upload::All,
        };
        let order = Order::Lease(document::to_bytes(&lease).into());
        self.orders.send(Ok(pb::WorkerOrder { order: Some(order) })).await.unwrap();
        attempt
    }

    async fn steps(&mut self, steps: Vec<Step>) -> Ended {
        let contexts = steps.iter().flat_map(|step| &step.inputs).filter_map(|input| {
            let InputSource::Context { name, .. } = &input.source else { return None };
            let (name, selection) = (name.clone(), input.selection.clone());
            Some(LeasedContext { name, selection, place: ContextPlace::InPlace {} })
        });
        let contexts = contexts.collect();
        let leased = steps.into_iter().zip(0..).map(|(step, index)| LeasedStep {
            tainted: false,
            index: StepIndex(index),
            step,
            ask: false,
            ships: None,
            sending: Sending::AtOnce,
        });
        let work =
            Work::Steps { steps: leased.collect(), parent: vec![], inputs: vec![], contexts };
        self.order(work).await;
        self.ended().await
    }

    async fn next(&mut self) -> Report {
        tokio::time::timeout(Duration::from_mins(1), self.reports.recv()).await.unwrap().unwrap()
    }

    /// Hears reports until the job has ended and all that it made is durable.
    async fn ended(&mut self) -> Ended {
        let mut ended = Ended::default();
        let mut over = false;
        while !over || ended.durable < ended.records.len() {
            match self.next().await {
                Report::StepDone(done) => {
                    ended.records.push(document::from_bytes("record", &done.record).unwrap());
                }
                Report::StepDurable(_) => ended.durable += 1,
                Report::StepFailed(failed) => {
                    ended.error = Some(document::from_bytes("error", &failed.error).unwrap());
                }
                Report::OutputDone(done) => {
                    ended.output = Some(document::from_bytes("output", &done.result).unwrap());
                }
                Report::Progress(pb::Progress {
                    update: Some(pb::progress::Update::Log(log)),
                    ..
                }) => ended.log.push_str(&String::from_utf8_lossy(&log.bytes)),
                Report::JobReturned(returned) => panic!("a job came back: {returned:?}"),
                Report::JobEnded(_) => over = true,
                _ => {}
            }
        }
        ended
    }

    async fn output(
        &mut self,
        kind: OutputKind,
        state: Vec<LayerRef>,
        created: UnixTime,
    ) -> OutputResult {
        let image = ImageTemplate {
            config: r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"]}}"#.into(),
            history: vec![
                HistoryLine { created_by: "ENV A=b".into(), step: None },
                HistoryLine {
                    created_by: "COPY a.txt /dst/ # buildkit".into(),
                    step: Some(StepIndex(1)),
                },
            ],
            epoch: None,
            platform: Platform::host(),
        };
        let spec = OutputSpec {
            kind,
            layers: LayerCompression { compression: Compression::Gzip, level: None, force: false },
            oci_media_types: true,
            annotations: Vec::new(),
            rewrite_timestamp: false,
            inline_cache: false,
            attest: Attests::default(),
        };
        let created = vec![(StepIndex(1), created)];
        let images =
            vec![LeasedImage { template: image, state, created, provenance: None, sbom: None }];
        let work = Work::Output { output: 0, spec, images, index: false };
        self.order(work).await;
        let ended = self.ended().await;
        ended.output.unwrap_or_else(|| panic!("no output: {:?}", ended.error))
    }

    /// Stops the worker and says what is left in its temporary folders.
    async fn leftovers(self) -> Vec<String> {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.running).await.unwrap().unwrap();
        let names = ["worker/tmp", "worker/snapshots/tmp"].map(|folder| {
            let folder = self.dir.path().join(folder);
            std::fs::read_dir(folder).unwrap().map(|one| one.unwrap().file_name())
        });
        names.into_iter().flatten().map(|name| name.to_string_lossy().into_owned()).collect()
    }
}

#[derive(Default, Debug)]
struct Ended {
    records: Vec<Record>,
    durable: usize,
    error: Option<StepError>,
    output: Option<OutputResult>,
    log: String,
}

impl Ended {
    fn state(&self) -> Vec<LayerRef> {
        self.records.iter().flat_map(|record| record.result.layers.clone()).collect()
    }
}

fn path(text: &str) -> TreePath {
    TreePath::clean(text.as_bytes()).unwrap()
}

fn put(changes: &mut Changes, at: &str, mode: u32, kind: Kind) {
    let meta = Meta { mode, ..Meta::default() };
    changes.0.insert(path(at), Change::Put(Entry { meta, kind, links: None }));
}

fn file(bytes: Vec<u8>) -> Kind {
    let size = u64::try_from(bytes.len()).unwrap();
    let content = ContentDigest(Digest::of(&bytes));
    Kind::File(FileBody { content, size, origin: Origin::Inline(bytes.into()) })
}

/// Puts a base layer with busybox into the store.
fn base(store: &FolderStore) -> ImageLayer {
    let mut changes = Changes::default();
    for folder in ["bin", "etc", "tmp", "dev", "proc", "sys"] {
        put(&mut changes, folder, 0o755, Kind::Dir);
    }
    put(&mut changes, "bin/busybox", 0o755, file(std::fs::read("/bin/busybox").unwrap()));
    for name in ["sh", "cat", "sleep", "ls", "echo", "touch"] {
        put(&mut changes, &format!("bin/{name}"), 0o777, Kind::Symlink(b"busybox".to_vec()));
    }
    let users = b"root:x:0:0:root:/root:/bin/sh\nbob:x:77:88::/:/bin/sh\n".to_vec();
    put(&mut changes, "etc/passwd", 0o644, file(users));
    let form = BlobForm { compression: Compression::Gzip, level: None, threads: 2 };
    let mut writer = store.blob_writer().unwrap();
    let written = write_blob(&changes, &InlineContents, &form, &mut writer).unwrap();
    writer.finish_as(&BlobDigest(written.blob.digest.0)).unwrap();
    ImageLayer {
        digest: written.blob.digest,
        diff_id: written.blob.diff_id,
        size: written.blob.size,
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
    }
}

fn step(op: Op, parent: Option<u32>, inputs: Vec<Input>) -> Step {
    Step {
        stage: StageIndex(0),
        name: "step".into(),
        lines: (1, 1),
        platform: Platform::host(),
        parent: parent.map(StepIndex),
        inputs,
        recipe: StepKey(Digest::of(format!("{op:?}").as_bytes())),
        op,
        components: vec![],
        fresh: false,
    }
}

fn image(layer: ImageLayer) -> Step {
    image_from(layer, ImageSource::Store {})
}

fn image_from(layer: ImageLayer, source: ImageSource) -> Step {
    let op = Op::Image(ImageOp {
        name: "busybox:test".into(),
        manifest: ManifestDigest(Digest::of(b"manifest")),
        config: ConfigDigest(Digest::of(b"config")),
        layers: vec![layer],
        source,
    });
    step(op, None, vec![])
}

fn reads(form: SelectionForm, source: &str) -> Input {
    let selection =
        Selection { form, sources: vec![source.into()], exclude: vec![], parents: false };
    let digest = dcbuild_model::SelectionDigest(Digest::of(source.as_bytes()));
    Input { source: InputSource::Context { name: "context".into(), digest }, selection }
}

fn copy(source: &str, dest: &str, chown: Option<&str>) -> Step {
    let op = Op::Copy(CopyOp {
        sources: vec![CopySource::Paths { input: 0, patterns: vec![source.into()], unpack: false }],
        dest: dest.into(),
        chown: chown.map(Into::into),
        chmod: None,
        exclude: vec![],
        parents: false,
        link: false,
        keep_owners: false,
    });
    step(op, Some(0), vec![reads(SelectionForm::Copy, source)])
}

fn run(script: &str, parent: u32, mounts: Vec<MountKind>, inputs: Vec<Input>) -> Step {
    let op = Op::Run(Box::new(RunOp {
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: vec![("PATH".into(), "/bin".into())],
        cwd: "/".into(),
        user: String::new(),
        network: RunNetwork::Default,
        security: RunSecurity::Sandbox,
        mounts,
        scripts: vec![],
        hosts: vec![],
        hostname: String::new(),
        shm_bytes: 0,
        ulimits: vec![],
        proxies: vec![],
        cgroup_parent: None,
        resources: Resources::default(),
        empty_caches: false,
    }));
    step(op, Some(parent), inputs)
}

fn started(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(test)));
    // What a failed test leaves running is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// RUN and snapshots want to be root, as do their tests.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// The names in a tar with the owner of each.
fn listed(tar: &[u8]) -> BTreeMap<String, (u64, u64)> {
    let mut names = BTreeMap::new();
    let mut rest = tar;
    while let Some((header, after)) = rest.split_at_checked(512) {
        if header[0] == 0 {
            break;
        }
        let text = |from: usize, to: usize| {
            let field = &header[from..to];
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
            String::from_utf8_lossy(&field[..end]).trim().to_owned()
        };
        let octal = |from, to| u64::from_str_radix(&text(from, to), 8).unwrap_or(0);
        names.insert(text(0, 100), (octal(108, 116), octal(116, 124)));
        let size = usize::try_from(octal(124, 136)).unwrap();
        rest = after.get(size.div_ceil(512) * 512..).unwrap_or_default();
    }
    names
}

fn image_copy_workdir() {
    started(async {
        let mut fixture = Fixture::new().await;
        fixture.context(&[("a.txt", "hello\n"), ("unread", "")]);
        let base = base(&fixture.store);
        let workdir = Op::Workdir(WorkdirOp { path: "/w/x".into(), user: String::new() });
        let steps = vec![
            image(base.clone()),
            copy("a.txt", "/dst/", Some("bob")),
            step(workdir, Some(1), vec![]),
        ];
        let ended = fixture.steps(steps.clone()).await;
        assert_eq!(ended.error, None);
        assert_eq!((ended.records.len(), ended.durable), (3, 3));
        let [first, second, third] = &ended.records[..] else { panic!() };
        assert_eq!(first.lineage.parent, None);
        let below = first.result.state_after(dcbuild_model::StateDigest::empty());
        assert_eq!(second.lineage.parent, Some(below));
        assert_eq!(third.lineage.parent, Some(second.result.state_after(below)));

        let created = second.result.created;
        let names = vec!["docker.io/library/made:latest".to_owned()];
        let kind = OutputKind::Image { names, push: false, push_by_digest: false, keep: true };
        let made = fixture.output(kind.clone(), ended.state(), created).await;
        let OutputResult::Image { manifest, config, layers, .. } = &made else { panic!() };
        assert_eq!(layers[0].digest, base.digest);
        let config = fixture.store.get_bytes(&BlobDigest(config.0), 1 << 20).unwrap();
        let config = String::from_utf8(config.to_vec()).unwrap();
        let time = created.rfc3339();
        assert!(
            config.contains(&format!(r#""created":"{time}","created_by":"ENV A=b""#)),
            "{config}"
        );
        assert!(config.contains(&layers[2].diff_id.to_string()), "{config}");
        assert!(fixture.store.has(&BlobDigest(manifest.0)).unwrap());
        let again = fixture.output(kind, ended.state(), created).await;
        assert_eq!(again, made);

        let files =
            fixture.output(OutputKind::Files { split: false }, ended.state(), created).await;
        let OutputResult::Files { tar, .. } = files else { panic!() };
        let tar = fixture.store.get_bytes(&BlobDigest(tar.0), 1 << 30).unwrap();
        let names = listed(&tar);
        assert_eq!(names.get("dst/a.txt"), Some(&(77, 88)), "{names:?}");
        assert!(names.contains_key("w/x/") && names.contains_key("bin/busybox"), "{names:?}");
        assert_eq!(fixture.leftovers().await, Vec::<String>::new());
    });
}

fn run_sees_and_leaves() {
    if !is_root() {
        return;
    }
    started(async {
        let mut fixture = Fixture::new().await;
        fixture.context(&[("a.txt", "hello\n")]);
        let steps = vec![
            image(base(&fixture.store)),
            copy("a.txt", "/a", None),
            run("cat /a > /got; echo said; echo wrong >&2", 1, vec![], vec![]),
            run("cat /got /got > /twice", 2, vec![], vec![]),
        ];
        let ended = fixture.steps(steps).await;
        assert_eq!(ended.error, None);
        assert!(ended.log.contains("said\n") && ended.log.contains("wrong\n"), "{}", ended.log);
        let [.., last] = &ended.records[..] else { panic!() };
        // The file alone: the root, whose names it changed, is not of the layer.
        assert_eq!((last.result.layers[0].entries, last.result.layers[0].bytes), (1, 12));
        let kind = OutputKind::Files { split: false };
        let created = last.result.created;
        let files = fixture.output(kind, ended.state(), created).await;
        let OutputResult::Files { tar, .. } = files else { panic!() };
        let tar = fixture.store.get_bytes(&BlobDigest(tar.0), 1 << 30).unwrap();
        assert!(listed(&tar).contains_key("twice"));
        assert_eq!(fixture.leftovers().await, Vec::<String>::new());
    });
}

fn failing_run() {
    if !is_root() {
        return;
    }
    started(async {
        let mut fixture = Fixture::new().await;
        let steps = vec![image(base(&fixture.store)), run("exit 7", 0, vec![], vec![])];
        let ended = fixture.steps(steps).await;
        let error = ended.error.unwrap();
        assert_eq!(
            error.message,
            "process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7"
        );
        assert_eq!(error.kind, document::StepErrorKind::Exit { code: 7 });
        assert_eq!(fixture.leftovers().await, Vec::<String>::new());
    });
}

fn mounts() {
    if !is_root() {
        return;
    }
    started(async {
        let mut fixture = Fixture::new().await;
        fixture.context(&[("a.txt", "hello\n")]);
        let bind = |writable| MountKind::Bind {
            input: 0,
            source: "/".into(),
            writable,
            target: "/c".into(),
        };
        let cache = MountKind::Cache {
            id: "one".into(),
            sharing: dcbuild_plan::op::CacheSharing::Locked,
            input: None,
            source: "/".into(),
            readonly: false,
            mode: 0o711,
            uid: 0,
            gid: 0,
            target: "/k".into(),
        };
        let secret = |required, id: &str| {
            MountKind::Secret(dcbuild_plan::op::SecretMount {
                id: id.into(),
                target: None,
                env: None,
                required,
                mode: 0o400,
                uid: 0,
                gid: 0,
            })
        };
        let input = || vec![reads(SelectionForm::Mount, "/")];
        let script = "cat /c/a.txt; echo new > /c/a.txt; cat /c/a.txt /run/secrets/tok > /got; echo kept > /k/f";
        let first = vec![bind(true), cache.clone(), secret(true, "tok")];
        let second = "cat /c/a.txt /k/f; touch /c/x 2>/dev/null || echo denied";
        let steps = vec![
            image(base(&fixture.store)),
            run(script, 0, first, input()),
            run(second, 1, vec![bind(false), cache], input()),
        ];
        let ended = fixture.steps(steps).await;
        assert_eq!(ended.error, None, "{}", ended.log);
        for text in ["hello\nhello\nkept\n", "denied\n"] {
            assert!(ended.log.contains(text), "{}", ended.log);
        }
        let bytes: Vec<u64> =
            ended.records[1..].iter().map(|record| record.result.layers[0].bytes).collect();
        assert_eq!(bytes, [8, 0]);
        let missing = vec![secret(true, "none")];
        let steps = vec![image(base(&fixture.store)), run("true", 0, missing, vec![])];
        let error = fixture.steps(steps).await.error.unwrap();
        assert_eq!(error.message, "secret none: not found");
        assert_eq!(fixture.leftovers().await, Vec::<String>::new());
    });
}

fn cancelled_run() {
    if !is_root() {
        return;
    }
    started(async {
        let mut fixture = Fixture::new().await;
        let steps =
            vec![image(base(&fixture.store)), run("echo on; sleep 1000", 0, vec![], vec![])];
        let leased = steps.into_iter().zip(0..).map(|(step, index)| LeasedStep {
            tainted: false,
            index: StepIndex(index),
            step,
            ask: false,
            ships: None,
            sending: Sending::AtOnce,
        });
        let (steps, parent) = (leased.collect(), vec![]);
        let work = Work::Steps { steps, parent, inputs: vec![], contexts: vec![] };
        let attempt = fixture.order(work).await.to_string();
        while !matches!(
            fixture.next().await,
            Report::Progress(pb::Progress { update: Some(pb::progress::Update::Log(_)), .. })
        ) {}
        let order = Order::Stop(pb::StopAttempt { attempt, after: None });
        fixture.orders.send(Ok(pb::WorkerOrder { order: Some(order) })).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(3), async {
            while !matches!(fixture.next().await, Report::JobEnded(_)) {}
        });
        ended.await.unwrap();
        assert_eq!(fixture.leftovers().await, Vec::<String>::new());
    });
}

fn wrong_diff_id() {
    started(async {
        let mut fixture = Fixture::new().await;
        let mut layer = base(&fixture.store);
        layer.diff_id = DiffId(Digest::of(b"another"));
        let digest: LayerDigest = layer.digest;
        let error = fixture.steps(vec![image(layer)]).await.error.unwrap();
        assert!(error.message.starts_with(&format!("layer {digest} of busybox:test holds")));
        assert_eq!(error.kind, document::StepErrorKind::Rejected {});
    });
}

/// Pushes what a COPY on this base makes.
async fn push(fixture: &mut Fixture, base: Step, name: String) -> OutputResult {
    fixture.context(&[("a.txt", "hello\n")]);
    let ended = fixture.steps(vec![base, copy("a.txt", "/a", None)]).await;
    assert_eq!(ended.error, None);
    let created = ended.records[1].result.created;
    let names = vec![name];
    let kind = OutputKind::Image { names, push: true, push_by_digest: false, keep: false };
    fixture.output(kind, ended.state(), created).await
}

/// Holds that a registry has an image with all its blobs.
async fn is_whole(name: &str, made: &OutputResult) {
    let OutputResult::Image { manifest, config, layers, .. } = made else { panic!("{made:?}") };
    let client = RegistryClient::new(RegistryConfig::default(), Arc::new(Anonymous)).unwrap();
    let image: dcbuild_oci::ImageRef = name.parse().unwrap();
    assert_eq!(client.manifest(&image).await.unwrap().digest, *manifest);
    let blobs = layers.iter().map(|layer| layer.digest.0).chain([config.0]);
    for blob in blobs {
        let there = client.has_blob(image.repository(), &blob).await.unwrap();
        assert!(there, "{blob} of {name}");
    }
}

fn pushed() {
    started(async {
        let (near, far) = (Registry::start().await, Registry::start().await);
        let mut fixture = Fixture::new().await;
        let base = base(&fixture.store);
        let first = format!("{}/some/first:1", near.host);
        let made = push(&mut fixture, image(base.clone()), first.clone()).await;
        is_whole(&first, &made).await;
        assert_eq!(fixture.leftovers().await, Vec::<String>::new());

        let source = ImageSource::Registry { repository: format!("{}/some/first", near.host) };
        let mut fixture = Fixture::new().await;
        let second = format!("{}/second:1", near.host);
        let step = image_from(base.clone(), source);
        let made = push(&mut fixture, step.clone(), second.clone()).await;
        is_whole(&second, &made).await;
        let hex = base.digest.0.hex();
        let log = near.log();
        let asked = format!("/v2/second/blobs/uploads/?mount=sha256%3A{hex}&from=some%2Ffirst");
        assert!(log.contains(&asked), "{log}");
        let sent = |line: &str| line.contains("/v2/second/") && line.contains("digest=sha256");
        assert!(!log.lines().any(|line| sent(line) && line.contains(&hex)), "{log}");

        let third = format!("{}/third:1", far.host);
        let made = push(&mut fixture, step, third.clone()).await;
        is_whole(&third, &made).await;
        assert_eq!(fixture.leftovers().await, Vec::<String>::new());
    });
}

fn tried_again() {
    started(async {
        let mut failing = None;
        let mut fixture = Fixture::with(|config, parts| {
            config.in_process = false;
            let store = parts.folder.clone().unwrap();
            let index = Arc::new(Failing { store, left: AtomicU32::new(2) });
            parts.layers = index.clone();
            failing = Some(index);
        })
        .await;
        fixture.context(&[("a.txt", "hello\n")]);
        let steps = vec![image(base(&fixture.store)), copy("a.txt", "/a", None)];
        let ended = fixture.steps(steps).await;
        assert_eq!((ended.error, ended.durable), (None, 2));
        assert_eq!(failing.unwrap().left.load(Ordering::SeqCst), 0);
        assert_eq!(fixture.leftovers().await, Vec::<String>::new());
    });
}

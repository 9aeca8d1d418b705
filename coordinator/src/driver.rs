//! Takes a build from its submission to a graph: sources, plan, records, packs.

use std::collections::BTreeSet;
use std::sync::Arc;

use dcbuild_model::{
    BlobDigest, Digest, Fault, Platform, Selection, SelectionDigest, StepIndex, limits,
};
use dcbuild_plan::{
    Choice, ImageAnswer, Need, Op, Plan, PlanError, Planned, Request, Sources, choose, plan,
};
use dcbuild_process::Clock;
use dcbuild_progress::{Update, Warning};
use dcbuild_proto::document::{Answer, Failed, Outcome, OutputKind, Question, Summary};
use dcbuild_registry::RegistryConfig;
use dcbuild_scheduler::Graph;
use futures::StreamExt as _;

use crate::account::{self, passed};
use crate::build::{AskError, Build, Shown};
use crate::graph::{GraphKind, graph};
use crate::images::Images;
use crate::planned::{PlannedBuild, contexts_of, keep_grounded, secrets_of, to_run};
use crate::questions::Reply;
use crate::records::Records;

/// Sources looked for at a time by one build.
const LOOKUPS_MAX: usize = 16;

/// What drivers lean on.
#[derive(Clone)]
pub(crate) struct DriverParts {
    pub(crate) records: Records,
    pub(crate) registries: RegistryConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) mac_key: Digest,
}

/// What a driver comes to.
pub(crate) enum Driven {
    /// The build can be scheduled.
    Ready(Box<(PlannedBuild, Graph)>),
    /// It has ended without the scheduler.
    Over(Box<Outcome>),
    /// Somebody else ended it.
    Dropped,
}

/// Why a driver stops before the graph.
enum Stop {
    Failed(Box<Failed>),
    /// The context is not what was planned.
    Changed(AskError),
    Ended,
}

impl Stop {
    fn failed(failed: Failed) -> Stop {
        Stop::Failed(Box::new(failed))
    }
}

impl From<AskError> for Stop {
    fn from(error: AskError) -> Stop {
        match error {
            AskError::Ended => Stop::Ended,
            AskError::Failed(message) => Stop::failed(failed(Fault::Request, "CLIENT", message)),
            AskError::Changed { .. } => Stop::Changed(error),
        }
    }
}

pub(crate) fn failed(fault: Fault, code: &str, message: String) -> Failed {
    Failed {
        fault,
        code: code.into(),
        message,
        hint: None,
        lines: None,
        vertex: None,
        exit_code: None,
        outputs: Vec::new(),
    }
}

/// Drives a build to its graph.
pub(crate) async fn drive(build: Arc<Build>, parts: DriverParts) -> Driven {
    let driver = Driver { build, parts };
    let over = driver.build.over.clone();
    let run = async {
        match driver.run().await {
            // A file that was saved just then is no reason to fail: the scan starts anew, once.
            Err(Stop::Changed(_)) => driver.run().await,
            end => end,
        }
    };
    let end = tokio::select! {
        () = over.cancelled() => return Driven::Dropped,
        end = run => end,
    };
    match end {
        Ok(end) => end,
        Err(Stop::Ended) => Driven::Dropped,
        Err(Stop::Failed(failed)) => Driven::Over(Box::new(Outcome::Failed(*failed))),
        Err(Stop::Changed(error)) => {
            let failed = failed(Fault::Request, "CONTEXT_CHANGED", error.to_string());
            let hint = "start the build again when nothing writes to the file".to_owned();
            Driven::Over(Box::new(Outcome::Failed(Failed { hint: Some(hint), ..failed })))
        }
    }
}

struct Driver {
    build: Arc<Build>,
    parts: DriverParts,
}

impl Driver {
    async fn run(&self) -> Result<Driven, Stop> {
        let plan = self.plan().await?;
        let submission = &self.build.submission;
        if submission.plan_only {
            return Ok(Driven::Over(Box::new(Outcome::Planned { plan })));
        }
        let wanted: Vec<_> = plan.state.into_iter().collect();
        self.parts.records.begin_use(self.build.id, self.parts.clock.now()).await;
        let probed = self.parts.records.probe(&plan).await;
        let Choice { mut taken, run: _ } = choose(&plan, &probed.found, &wanted);
        keep_grounded(&plan, &mut taken);
        let run = to_run(&plan, &taken, &wanted);
        let passed = passed(&probed, &taken, &run);
        if submission.in_place {
            refuse_foreign(&plan, &run, &submission.request.build_platform)?;
        }
        let named: BTreeSet<String> = run
            .iter()
            .flat_map(|step| secrets_of(plan.step(*step)))
            .map(|(id, _)| id.to_owned())
            .collect();
        if !named.is_empty() {
            self.build.met().await?;
        }
        let reads = run.iter().flat_map(|step| contexts_of(plan.step(*step)));
        let packs =
            self.packs(reads.map(|(name, it)| (name.clone(), it.clone())).collect()).await?;
        self.push_credentials().await?;
        let kind = GraphKind { scope: &self.parts.records.scope, mac_key: self.parts.mac_key };
        let secret = |id: &str| self.build.secret(id);
        let graph = graph(&kind, &plan, &taken, submission.outputs.len(), &secret);
        let planned = PlannedBuild {
            plan: *plan,
            taken: taken.into_iter().collect(),
            packs,
            secrets: named.into_iter().filter(|id| secret(id).is_some()).collect(),
            hosts: self.build.credentialed(),
            passed,
        };
        if graph.outputs.is_empty() && graph.wanted.is_empty() {
            self.parts.records.note(&account::of_hits(&self.build, &planned)).await;
            let summary = Summary::default();
            return Ok(Driven::Over(Box::new(Outcome::Done { outputs: Vec::new(), summary })));
        }
        Ok(Driven::Ready(Box::new((planned, graph))))
    }

    async fn plan(&self) -> Result<Box<Plan>, Stop> {
        let request = Arc::new(self.build.submission.request.clone());
        let clock = &*self.parts.clock;
        let name = format!("[internal] load build definition from {}", request.filename);
        let shown = Shown::start(&self.build, clock, name);
        let vertex = shown.id();
        let mut sources = Arc::new(Sources::default());
        let mut planned = plan_once(&request, &sources).await;
        match &planned {
            Ok(_) => shown.done(),
            Err(Stop::Failed(failed)) => shown.failed(failed.message.clone()),
            Err(Stop::Changed(_) | Stop::Ended) => {}
        }
        for _ in 0..limits::PLAN_ROUNDS_MAX {
            let needs = match planned? {
                Planned::Ready(plan) => {
                    for (line, text) in &plan.warnings {
                        let short = match line {
                            Some(line) => format!("{text} (line {line})"),
                            None => text.clone(),
                        };
                        let warning = Warning { vertex, short, detail: Vec::new(), url: None };
                        self.build.tell(Update::Warning(warning));
                    }
                    return Ok(plan);
                }
                Planned::Lacks(needs) => needs,
            };
            let mut known = Sources::clone(&sources);
            self.look_up(needs, &mut known).await?;
            sources = Arc::new(known);
            planned = plan_once(&request, &sources).await;
        }
        let message =
            format!("the plan asked for sources in more than {} rounds", limits::PLAN_ROUNDS_MAX);
        Err(Stop::failed(failed(Fault::Request, "PLAN_ROUNDS", message)))
    }

    /// Looks for all sources of a round at once.
    async fn look_up(&self, needs: Vec<Need>, sources: &mut Sources) -> Result<(), Stop> {
        let images = Images::new(
            self.build.clone(),
            self.parts.records.stores.clone(),
            self.parts.records.scope.clone(),
            self.parts.registries.clone(),
        );
        let (mut references, mut selections) = (Vec::new(), Vec::new());
        for need in needs {
            match need {
                Need::Image { reference, platform } => references.push((reference, platform)),
                Need::Selection { context, selection } => selections.push((context, selection)),
            }
        }
        let lookups = references.into_iter().map(|(reference, platform)| async {
            let answer = self.image(&images, &reference, &platform).await;
            ((reference, platform), answer)
        });
        let images = futures::stream::iter(lookups).buffer_unordered(LOOKUPS_MAX).collect();
        let (images, selections): (Vec<_>, _) = tokio::join!(images, self.selections(selections));
        sources.images.extend(images);
        sources.selections.extend(selections?);
        if self.build.over.is_cancelled() {
            return Err(Stop::Ended);
        }
        Ok(())
    }

    async fn image(
        &self,
        images: &Images,
        reference: &str,
        platform: &dcbuild_model::Platform,
    ) -> ImageAnswer {
        let of = reference.strip_prefix("layout:").unwrap_or(reference);
        let name = format!("[internal] load metadata for {of}");
        let shown = Shown::start(&self.build, &*self.parts.clock, name);
        let answer = images.resolve(reference, platform).await;
        match &answer {
            Ok(_) => shown.done(),
            Err(error) => shown.failed(error.clone()),
        }
        answer
    }

    async fn selections(
        &self,
        asked: Vec<(String, Selection)>,
    ) -> Result<Vec<((String, Selection), Result<SelectionDigest, String>)>, Stop> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let shown = Shown::start(&self.build, &*self.parts.clock, "[internal] load build context");
        let lookups = asked.into_iter().map(|(context, selection)| async {
            let question =
                Question::Selection { context: context.clone(), selection: selection.clone() };
            let answer = match self.build.ask(question).await {
                Ok(Reply::Answer(Answer::Selection { digest })) => Ok(digest),
                Ok(_) => Err("the client gave another answer".into()),
                Err(AskError::Ended) => return Err(Stop::Ended),
                Err(error) => Err(error.to_string()),
            };
            Ok(((context, selection), answer))
        });
        let found: Vec<Result<_, Stop>> =
            futures::stream::iter(lookups).buffer_unordered(LOOKUPS_MAX).collect().await;
        let found: Vec<_> = found.into_iter().collect::<Result<_, _>>()?;
        match found.iter().find_map(|(_, answer)| answer.as_ref().err()) {
            Some(error) => shown.failed(error.clone()),
            None => shown.done(),
        }
        Ok(found)
    }

    /// Has the client pack what steps that run will read, unless they read it where it lies.
    async fn packs(
        &self,
        reads: BTreeSet<(String, Selection)>,
    ) -> Result<Vec<(String, Selection, BlobDigest)>, Stop> {
        if self.build.submission.in_place || reads.is_empty() {
            return Ok(Vec::new());
        }
        let shown = Shown::start(&self.build, &*self.parts.clock, "[internal] send build context");
        let packs = reads.into_iter().map(|(name, selection)| pack(&self.build, name, selection));
        let packed: Vec<Result<_, AskError>> =
            futures::stream::iter(packs).buffer_unordered(LOOKUPS_MAX).collect().await;
        let packed: Result<Vec<Packed>, AskError> = packed.into_iter().collect();
        match &packed {
            Ok(packed) => {
                shown.bytes("sent", packed.iter().map(|it| it.sent_bytes).sum());
                shown.bytes("already in the store", packed.iter().map(|it| it.found_bytes).sum());
                shown.done();
            }
            Err(error) => shown.failed(error.to_string()),
        }
        Ok(packed?.into_iter().map(|it| it.parcel).collect())
    }

    /// Asks for the credentials of registries that will be pushed to, while the client is surely there.
    async fn push_credentials(&self) -> Result<(), Stop> {
        let mut hosts = BTreeSet::new();
        for output in &self.build.submission.outputs {
            if let OutputKind::Image { names, push: true, .. } = &output.kind {
                hosts.extend(names.iter().map(|name| host_of(name).to_owned()));
            }
        }
        for host in hosts {
            self.build.credentials(&host).await?;
        }
        Ok(())
    }
}

/// The registry of a canonical name or repository.
pub(crate) fn host_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// A selection that is in the store.
pub(crate) struct Packed {
    pub(crate) parcel: (String, Selection, BlobDigest),
    sent_bytes: u64,
    found_bytes: u64,
}

/// Has the client put a selection into the store.
pub(crate) async fn pack(
    build: &Build,
    context: String,
    selection: Selection,
) -> Result<Packed, AskError> {
    let question = Question::Pack { context: context.clone(), selection: selection.clone() };
    match build.ask(question).await? {
        Reply::Answer(Answer::Packed { parcel, sent_bytes, found_bytes }) => {
            Ok(Packed { parcel: (context, selection, parcel), sent_bytes, found_bytes })
        }
        Reply::Answer(Answer::Changed { path }) => Err(AskError::Changed { path }),
        _ => Err(AskError::Failed("the client gave another answer".into())),
    }
}

/// Plans on a thread that may take its time.
async fn plan_once(request: &Arc<Request>, sources: &Arc<Sources>) -> Result<Planned, Stop> {
    let (request, sources) = (request.clone(), sources.clone());
    let planned = tokio::task::spawn_blocking(move || plan(&request, &sources)).await;
    match planned {
        Ok(Ok(planned)) => Ok(planned),
        Ok(Err(error)) => Err(Stop::failed(plan_failed(&error))),
        Err(error) => {
            let message = format!("the planner stopped: {error}");
            Err(Stop::failed(failed(Fault::Bug, "PLANNER", message)))
        }
    }
}

/// The worker of a client's own process runs programs of its own platform; no other worker will ever join.
fn refuse_foreign(plan: &Plan, run: &BTreeSet<StepIndex>, own: &Platform) -> Result<(), Stop> {
    let steps = run.iter().map(|step| plan.step(*step));
    let mut foreign = steps.filter(|step| matches!(step.op, Op::Run(_)) && step.platform != *own);
    let Some(step) = foreign.next() else { return Ok(()) };
    let message = format!("a RUN for {} cannot run on this machine, which is {own}", step.platform);
    let hint = "submit the build to a cluster that has a worker of that platform".to_owned();
    let failed = failed(Fault::Request, "PLATFORM", message);
    Err(Stop::failed(Failed { hint: Some(hint), lines: Some(step.lines), ..failed }))
}

fn plan_failed(error: &PlanError) -> Failed {
    Failed {
        lines: error.lines(),
        hint: error.hint(),
        ..failed(Fault::Request, "PLAN_FAILED", crate::images::chain(error))
    }
}

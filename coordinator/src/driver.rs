//! Takes a build from its submission to a graph: sources, plan, records, packs.

mod sources;
mod weigh;

use std::collections::BTreeSet;
use std::sync::Arc;

use dcbuild_fetch::FetchConfig;
use dcbuild_model::{Added, BlobDigest, Digest, Fault, Platform, Selection, StepIndex};
use dcbuild_plan::{Choice, Op, Plan, choose};
use dcbuild_process::Clock;
use dcbuild_proto::document::{Aim, Answer, Failed, Outcome, OutputKind, Question};
use dcbuild_registry::RegistryConfig;
use dcbuild_scheduler::Graph;
use futures::StreamExt as _;
use futures::future::{Either, select};

use crate::account::{self, passed};
use crate::borrow::borrow;
use crate::build::{AskError, Build, Shown};
use crate::config::Granting;
use crate::graph::{GraphKind, graph};
use crate::planned::{PlannedBuild, contexts_of, secrets_of, to_run};
use crate::questions::Reply;
use crate::records::Records;
use crate::remotes::Fetching;

/// Sources looked for at a time by one build.
const LOOKUPS_MAX: usize = 16;

/// What drivers lean on.
#[derive(Clone)]
pub(crate) struct DriverParts {
    pub(crate) records: Records,
    pub(crate) registries: RegistryConfig,
    pub(crate) fetch: FetchConfig,
    pub(crate) granting: Granting,
    /// What the only worker runs, where there will never be another one.
    pub(crate) platforms: Arc<[Platform]>,
    /// The platform that builds, where it is not the client's.
    pub(crate) build_platform: Option<Platform>,
    /// What makes blobs of layers that a worker of this process has.
    pub(crate) packs: Option<Arc<dyn dcbuild_carry::Packs>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) mac_key: Digest,
}

impl DriverParts {
    /// The same for one build, of whatever scope.
    pub(crate) fn of(&self, build: &Build) -> DriverParts {
        DriverParts { records: self.records.of_build(&build.scope, build.id), ..self.clone() }
    }

    /// What fetches for a build.
    pub(crate) fn fetching<'a>(&'a self, build: &'a Arc<Build>) -> Fetching<'a> {
        let (stores, config, clock) = (&self.records.stores, &self.fetch, &*self.clock);
        Fetching { build, stores, config, clock }
    }
}

/// What a driver comes to.
pub(crate) enum Driven {
    /// The build can be scheduled.
    Ready(Box<(PlannedBuild, Graph)>),
    /// All that it wants is there already.
    Found(Box<PlannedBuild>),
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
        let submission = &self.build.submission;
        self.refuse_ungranted()?;
        let plan = match submission.aim {
            Aim::Call { call } => {
                let report = self.call(call).await?;
                return Ok(Driven::Over(Box::new(Outcome::Reported { report })));
            }
            Aim::Plan {} => {
                let plan = self.plan().await?;
                return Ok(Driven::Over(Box::new(Outcome::Planned { plan })));
            }
            Aim::Build {} => self.plan_in_use().await?,
        };
        let wanted = plan.wanted();
        borrow(&self.build, &self.parts).await?;
        let probed = self.parts.records.probe(&plan).await;
        let Choice { taken, run: _ } = choose(&plan, &probed.found, &wanted);
        let run = to_run(&plan, &taken, &wanted);
        let passed = passed(&probed, &taken, &run);
        refuse_foreign(&plan, &run, &self.parts.platforms)?;
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
            mirrors: self.parts.registries.mirrors(),
            passed,
            fetched: self.build.remotes.fetched(),
            builds_on: self.parts.build_platform.clone(),
        };
        if graph.outputs.is_empty() && graph.wanted.is_empty() {
            self.parts.records.note(&account::of_hits(&self.build, &planned)).await;
            return Ok(Driven::Found(Box::new(planned)));
        }
        Ok(Driven::Ready(Box::new((planned, graph))))
    }

    /// Plans while the store is told that a build goes on: one that is silent is known for it by the end of the plan.
    async fn plan_in_use(&self) -> Result<Box<Plan>, Stop> {
        let begun = self.parts.records.begin_use(self.build.id, self.parts.clock.now());
        let (plan, begun) = (std::pin::pin!(self.plan()), std::pin::pin!(begun));
        match select(plan, begun).await {
            Either::Left((plan, begun)) => {
                let plan = plan?;
                begun.await;
                Ok(plan)
            }
            Either::Right(((), plan)) => plan.await,
        }
    }

    /// Refuses a build that asks for more than the operator grants.
    fn refuse_ungranted(&self) -> Result<(), Stop> {
        let asked = &self.build.submission.request.allow;
        let Some(what) = self.parts.granting.refused(asked) else { return Ok(()) };
        let message = format!("{what} is not granted by this cluster");
        let flag = match what {
            "network.host" => "--allow network.host (or --network host)".to_owned(),
            "cgroup-parent" => "--cgroup-parent".to_owned(),
            _ => format!("--allow {what}"),
        };
        let hint = format!(
            "leave {flag} out, or have its operator name {what} in coordinator.allow and worker.allow"
        );
        let failed = failed(Fault::Request, "NOT_GRANTED", message);
        Err(Stop::failed(Failed { hint: Some(hint), ..failed }))
    }

    /// Has the client pack what steps that run will read, unless they read it where it lies.
    async fn packs(
        &self,
        reads: BTreeSet<(String, Selection)>,
    ) -> Result<Vec<(String, Selection, BlobDigest)>, Stop> {
        let in_place = self.build.submission.in_place;
        let reads: Vec<(String, Selection)> =
            reads.into_iter().filter(|(name, _)| !in_place || Added::is_context(name)).collect();
        if reads.is_empty() {
            return Ok(Vec::new());
        }
        let shown = Shown::start(&self.build, &*self.parts.clock, "[internal] send build context");
        let packs = reads
            .into_iter()
            .map(|(name, selection)| pack(&self.build, &self.parts, name, selection));
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

/// Has the client put a selection into the store; what was fetched for an ADD is put there from here.
pub(crate) async fn pack(
    build: &Arc<Build>,
    parts: &DriverParts,
    context: String,
    selection: Selection,
) -> Result<Packed, AskError> {
    if Added::is_context(&context) {
        let parcel = parts.fetching(build).stow(&context, &selection).await?;
        return Ok(Packed { parcel: (context, selection, parcel), sent_bytes: 0, found_bytes: 0 });
    }
    let question = Question::Pack { context: context.clone(), selection: selection.clone() };
    match build.ask(question).await? {
        Reply::Answer(Answer::Packed { parcel, sent_bytes, found_bytes }) => {
            Ok(Packed { parcel: (context, selection, parcel), sent_bytes, found_bytes })
        }
        Reply::Answer(Answer::Changed { path }) => Err(AskError::Changed { path }),
        _ => Err(AskError::Failed("the client gave another answer".into())),
    }
}

const NO_INTERPRETER: &str = "install one (apt-get install qemu-user-static), run what makes files for another platform in a \
                              stage FROM --platform=$BUILDPLATFORM, or submit the build to a cluster that has a worker of that \
                              platform";
const OTHER_SYSTEM: &str = "run what makes files for it in a stage FROM --platform=$BUILDPLATFORM and COPY them from there";

/// The only worker that will ever join has its platforms; a program of another one would wait for ever.
fn refuse_foreign(plan: &Plan, run: &BTreeSet<StepIndex>, own: &[Platform]) -> Result<(), Stop> {
    let Some(machine) = own.first() else { return Ok(()) };
    let steps = run.iter().map(|step| plan.step(*step));
    let mut foreign =
        steps.filter(|step| matches!(step.op, Op::Run(_)) && !own.contains(&step.platform));
    let Some(step) = foreign.next() else { return Ok(()) };
    let platform = &step.platform;
    let (message, hint) = if platform.os == machine.os {
        let why = format!("which is {machine} and has no interpreter for {platform}");
        (format!("a RUN for {platform} cannot run on this machine, {why}"), NO_INTERPRETER)
    } else {
        (format!("a RUN for {platform} cannot run: dcbuild runs programs of Linux"), OTHER_SYSTEM)
    };
    let failed = failed(Fault::Request, "PLATFORM", message);
    Err(Stop::failed(Failed { hint: Some(hint.to_owned()), lines: Some(step.lines), ..failed }))
}

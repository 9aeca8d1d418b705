//! The life of one lease: its steps one after the other, or its output.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use dcbuild_model::{
    BuildId, LayerId, LayerRef, Lineage, Record, Scope, StateDigest, StepIndex, StepResult,
};
use dcbuild_plan::key::{Parent, sees_parent, step_key};
use dcbuild_plan::op::{InputSource, Op};
use dcbuild_proto::document::{
    self, Chain, Lease, LeasedContext, LeasedStep, Sending, StepErrorKind, Upload, Work,
};
use dcbuild_registry::RegistryClient;
use dcbuild_store::{KeyLock, LockMode};
use tokio::time::Instant;

use crate::error::{Failed, blocking};
use crate::held::{Fate, Holding};
use crate::output;
use crate::publish::{self, Publish, Publishing};
use crate::report::{AskCoordinator, Fence, How, Progress, Report, Reporter};
use crate::room;
use crate::running::Run;
use crate::shared::Shared;
use crate::steps::{self, Inputs, Made};

/// One execution of a job.
pub(crate) struct Attempt {
    pub(crate) shared: Arc<Shared>,
    pub(crate) fence: Fence,
    pub(crate) build: BuildId,
    pub(crate) scope: Scope,
    pub(crate) secrets: BTreeMap<String, String>,
    /// The ssh agents that the build's client answers for.
    pub(crate) agents: BTreeSet<String>,
    /// Which results of the build the store keeps.
    pub(crate) upload: Upload,
    /// Which step made each layer that the job stands on or reads.
    makers: HashMap<LayerId, StepIndex>,
    pub(crate) registry: RegistryClient,
    pub(crate) reporter: Reporter,
    pub(crate) ask: Arc<dyn AskCoordinator>,
    pub(crate) run: Arc<Run>,
}

/// What the steps of a job stand on and read.
struct Ground {
    parent: Chain,
    states: HashMap<StepIndex, Chain>,
    contexts: Vec<LeasedContext>,
    /// Steps of this job whose results are not kept for later builds.
    tainted: HashSet<StepIndex>,
    /// Whether a RUN follows, so that a base layer is unpacked while it streams by.
    runs: bool,
}

/// Runs a lease to its end and reports it.
pub(crate) async fn run(
    shared: Arc<Shared>,
    lease: Lease,
    reporter: Reporter,
    ask: Arc<dyn AskCoordinator>,
    run: Arc<Run>,
) {
    let fence = Fence { attempt: lease.attempt, epoch: lease.epoch };
    let id = lease.attempt;
    let registry = match shared.registry(&lease) {
        Ok(registry) => registry,
        Err(error) => {
            let step = first_step(&lease.work);
            fail(&shared, &reporter, (fence, step), error).await;
            shared.attempts.end(id);
            reporter.send(Report::JobEnded { fence }).await;
            return;
        }
    };
    let Lease { build, scope, work, layers, secrets, agents, upload, .. } = lease;
    shared.layers.expect(layers.iter().filter(|it| it.coming).map(|it| it.layer));
    let makers = layers.iter().map(|it| (it.layer, it.step)).collect();
    let attempt = Arc::new(Attempt {
        shared,
        fence,
        build,
        scope,
        secrets,
        agents,
        upload,
        makers,
        registry,
        reporter,
        ask,
        run,
    });
    match work {
        Work::Steps { steps, parent, inputs, contexts } => {
            let runs = steps.iter().any(|leased| matches!(leased.step.op, Op::Run(_)));
            let states = inputs.into_iter().collect();
            let tainted = HashSet::new();
            let ground = Ground { parent, states, contexts, tainted, runs };
            run_steps(&attempt, steps, ground).await;
        }
        Work::Output { output, spec, images, index } => {
            let job = output::Job { output, spec, images, index };
            run_output(&attempt, job).await;
        }
    }
    attempt.shared.attempts.end(id);
    attempt.reporter.send(Report::JobEnded { fence }).await;
}

fn first_step(work: &Work) -> Option<StepIndex> {
    match work {
        Work::Steps { steps, .. } => steps.first().map(|leased| leased.index),
        Work::Output { .. } => None,
    }
}

async fn fail(
    shared: &Arc<Shared>,
    reporter: &Reporter,
    (fence, step): (Fence, Option<StepIndex>),
    error: Failed,
) {
    let full = error.is_for_want_of_space();
    match error {
        Failed::Stopped => {}
        Failed::Lost { layer } => {
            tracing::warn!(%layer, attempt = %fence.attempt, "a layer is not to be had");
            let layer = Some(layer);
            reporter.send(Report::JobReturned { fence, lost: step, layer }).await;
        }
        // A step that is lost to itself lacks its context.
        Failed::ContextLost => {
            tracing::warn!(attempt = %fence.attempt, "files of the context are not in the store");
            reporter.send(Report::JobReturned { fence, lost: step, layer: None }).await;
        }
        Failed::Step(error) => {
            let error = Box::new(room::named(shared, *error));
            reporter.send(Report::StepFailed { fence, step, error }).await;
        }
    }
    if full {
        room::watch(shared, reporter.clone());
    }
}

async fn run_output(attempt: &Arc<Attempt>, job: output::Job) {
    let fence = attempt.fence;
    let made = tokio::select! {
        () = attempt.run.stop.cancelled() => Err(Failed::Stopped),
        made = output::make(attempt, &job) => made,
    };
    match made {
        Ok(result) => {
            let result = Box::new(result);
            attempt.reporter.send(Report::OutputDone { fence, result }).await;
        }
        Err(Failed::Lost { layer }) => {
            attempt.shared.layers.doubt(layer);
            // Where no layer of the image is it, one was copied from it: the coordinator knows whose it is, if it is
            // anybody's still.
            let with = || {
                let among = attempt.makers.keys().copied();
                attempt.shared.layers.lost_with(&layer, among)
            };
            let step = attempt.makers.get(&layer).or_else(|| attempt.makers.get(&with()?)).copied();
            fail(&attempt.shared, &attempt.reporter, (fence, step), Failed::Lost { layer }).await;
        }
        Err(error) => fail(&attempt.shared, &attempt.reporter, (fence, None), error).await,
    }
}

async fn run_steps(attempt: &Arc<Attempt>, steps: Vec<LeasedStep>, mut ground: Ground) {
    let layers = &attempt.shared.layers;
    if ground.runs {
        let shared = attempt.shared.clone();
        // By the time that the first RUN wants it, it may be there; whether it can be is that one's to say.
        attempt.shared.tasks.spawn(async move { drop(shared.sandbox().await.map(drop)) });
    }
    layers.learn(&ground.parent, &attempt.registry);
    for chain in ground.states.values() {
        layers.learn(chain, &attempt.registry);
    }
    for leased in steps {
        if !attempt.run.begin(leased.index) {
            return;
        }
        let step = leased.index;
        let report = Report::StepStarted { fence: attempt.fence, step };
        attempt.reporter.send(report).await;
        match run_step(attempt, leased, &ground).await {
            Ok((state, taint)) => {
                ground.states.insert(step, state);
                if taint == Taint::Tainted {
                    ground.tainted.insert(step);
                }
            }
            Err((lost, error)) => {
                let step = match error {
                    Failed::Lost { layer } => {
                        layers.doubt(layer);
                        lost
                    }
                    _ => Some(step),
                };
                fail(&attempt.shared, &attempt.reporter, (attempt.fence, step), error).await;
                return;
            }
        }
    }
}

/// A step with all that it stands on and reads.
pub(crate) struct Task {
    pub(crate) leased: LeasedStep,
    /// The state below.
    pub(crate) below: Chain,
    pub(crate) inputs: Inputs,
    pub(crate) progress: Progress,
    pub(crate) runs: bool,
    taint: Taint,
}

/// Whether a result may be kept for later builds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taint {
    Clean,
    Tainted,
}

impl Task {
    /// Whether the step has a state below and the operation knows of it.
    fn sees_parent(&self) -> bool {
        sees_parent(&self.leased.step.op) && self.leased.step.parent.is_some()
    }

    fn lineage(&self) -> Lineage {
        Lineage {
            parent: self.sees_parent().then(|| state_of(&self.below)),
            inputs: self.inputs.states(),
            selections: self.inputs.selections(),
        }
    }
}

/// The state digest of a chain.
pub(crate) fn state_of(chain: &[LayerRef]) -> StateDigest {
    chain.iter().fold(StateDigest::empty(), |state, layer| state.then(&layer.change))
}

/// Which step's result is lost where a layer is not to be had.
fn lost_step(
    attempt: &Attempt,
    leased: &LeasedStep,
    ground: &Ground,
    error: &Failed,
) -> Option<StepIndex> {
    let Failed::Lost { layer } = error else { return None };
    let maker = |layer: &LayerId| {
        let holds = |chain: &Chain| chain.iter().any(|one| one.layer == *layer);
        // The lowest of those that have it made it.
        let having = ground.states.iter().filter(|(_, chain)| holds(chain)).map(|(step, _)| *step);
        attempt.makers.get(layer).copied().or(having.min())
    };
    // Nobody's it may be by now, where its step was made again: who copied from it is lost with it.
    let with = || {
        let all = ground.states.values().chain([&ground.parent]).flatten();
        attempt.shared.layers.lost_with(layer, all.map(|one| one.layer))
    };
    let maker = maker(layer).or_else(|| maker(&with()?));
    maker.or(leased.step.parent).or(Some(leased.index))
}

async fn run_step(
    attempt: &Arc<Attempt>,
    leased: LeasedStep,
    ground: &Ground,
) -> Result<(Chain, Taint), (Option<StepIndex>, Failed)> {
    let lost = |error: Failed| {
        let step = lost_step(attempt, &leased, ground, &error);
        (step, steps::copy::hinted(error, &leased.step.op))
    };
    let below = match leased.step.parent {
        None => Vec::new(),
        Some(parent) => ground.states.get(&parent).unwrap_or(&ground.parent).clone(),
    };
    let progress = Progress::new(
        attempt.fence.attempt,
        leased.step.recipe.to_string(),
        attempt.reporter.clone(),
        attempt.shared.parts.clock.clone(),
    );
    let inputs = load_inputs(attempt, &leased, ground).await.map_err(lost)?;
    let runs = ground.runs;
    let taint = taint_below(&leased, ground);
    let task = Task { leased: leased.clone(), below, inputs, progress, runs, taint };
    let task = Arc::new(task);
    let mut made = take_or_make(attempt, task.clone()).await;
    if matches!(&made, Err(error) if error.is_for_want_of_space())
        && room::make(&attempt.shared).await > 0
    {
        made = take_or_make(attempt, task).await;
    }
    made.map_err(lost)
}

/// Whether a step stands on or reads what is not kept for later builds.
fn taint_below(leased: &LeasedStep, ground: &Ground) -> Taint {
    let inputs = leased.step.inputs.iter().filter_map(|input| match &input.source {
        InputSource::Step { step } => Some(*step),
        _ => None,
    });
    let mut needs = leased.step.parent.into_iter().chain(inputs);
    if leased.tainted || needs.any(|on| ground.tainted.contains(&on)) {
        Taint::Tainted
    } else {
        Taint::Clean
    }
}

async fn load_inputs(
    attempt: &Arc<Attempt>,
    leased: &LeasedStep,
    ground: &Ground,
) -> Result<Inputs, Failed> {
    let (attempt, step) = (attempt.clone(), leased.step.clone());
    let (states, contexts) = (ground.states.clone(), ground.contexts.clone());
    blocking(move || Inputs::load(&attempt, &step, &states, &contexts)).await
}

async fn take_or_make(attempt: &Arc<Attempt>, task: Arc<Task>) -> Result<(Chain, Taint), Failed> {
    let step = &task.leased.step;
    let parent =
        if task.sees_parent() { Parent::Outcome(state_of(&task.below)) } else { Parent::None };
    let (outcome, _) = step_key(&step.op, &step.platform, parent, &task.inputs.seen(step));
    if task.leased.ask
        && let Some(record) = attempt.ask.find(attempt.fence, task.leased.index, outcome).await
    {
        let record = Record { outcome: Some(outcome), ..record };
        return Ok((hit(attempt, &task, record).await, task.taint));
    }
    let lock = lock(attempt, &task).await?;
    // Another process may have made it since the build looked: before it let the lock go it kept a record.
    if lock.is_some()
        && !step.fresh
        && let Some(record) = attempt.ask.find(attempt.fence, task.leased.index, outcome).await
    {
        let record = Record { outcome: Some(outcome), ..record };
        return Ok((hit(attempt, &task, record).await, task.taint));
    }
    let started = Instant::now();
    let made = make(attempt, &task).await?;
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let Made { layers, publish, taint } = made;
    let created = attempt.shared.parts.clock.now();
    let result = StepResult { layers, created };
    let record = Record {
        recipe: step.recipe,
        outcome: Some(outcome),
        attempt: attempt.fence.attempt,
        worker: attempt.shared.config.id,
        result,
        lineage: task.lineage(),
        components: step.components.clone(),
        took_ms,
    };
    let state = [task.below.clone(), record.result.layers.clone()].concat();
    let how = taint.map_or(How::Ran, How::Tainted);
    let taint = if how == How::Ran { task.taint } else { Taint::Tainted };
    finish(attempt, &task, Finished { record, how, taint, publish, lock }).await;
    Ok((state, taint))
}

/// Takes a record found by result key: it counts for this step's own key and lineage from now on.
async fn hit(attempt: &Attempt, task: &Task, record: Record) -> Chain {
    let step = &task.leased.step;
    let (recipe, components) = (step.recipe, step.components.clone());
    let record = Record { recipe, components, lineage: task.lineage(), ..record };
    let layers = record.result.layers.clone();
    attempt.shared.layers.learn(&layers, &attempt.registry);
    let (fence, step) = (attempt.fence, task.leased.index);
    let report = Report::StepDone { fence, step, record: Box::new(record), how: How::Hit };
    attempt.reporter.send(report).await;
    [task.below.clone(), layers].concat()
}

/// Takes the lock of the step's key among the processes of this machine.
async fn lock(attempt: &Attempt, task: &Task) -> Result<Option<KeyLock>, Failed> {
    if !attempt.shared.config.in_process || attempt.shared.parts.folder.is_none() {
        return Ok(None);
    }
    let name = format!("step-{}", task.leased.step.recipe.0.hex());
    let stop = &attempt.run.stop;
    Ok(Some(attempt.shared.locks.lock(&name, LockMode::Exclusive, stop).await?))
}

async fn make(attempt: &Arc<Attempt>, task: &Arc<Task>) -> Result<Made, Failed> {
    let work = async {
        match &task.leased.step.op {
            Op::Image(op) => steps::image::make(attempt, task, op).await,
            Op::Copy(op) => steps::copy::make(attempt, task, op).await,
            Op::Workdir(op) => steps::workdir::make(attempt, task, op).await,
            Op::Run(op) => steps::run::make(attempt, task, op).await,
        }
    };
    if matches!(task.leased.step.op, Op::Run(_)) {
        // It hears the stop itself, and tidies up.
        return work.await;
    }
    tokio::select! {
        () = attempt.run.stop.cancelled() => Err(Failed::Stopped),
        made = work => made,
    }
}

/// A step that ran, with all that is left to be done about it.
struct Finished {
    record: Record,
    how: How,
    taint: Taint,
    publish: Publish,
    lock: Option<KeyLock>,
}

/// Holds a result where its lease says so: in the process of its coordinator nothing is sent anyway, and who cannot make a
/// snapshot has no other place for it than the store.
fn hold(attempt: &Attempt, task: &Task, layers: &[LayerId]) -> Option<Holding> {
    let shared = &attempt.shared;
    shared.held.wanted_again(layers);
    let holds = task.leased.sending == Sending::WhenAsked
        && !shared.config.in_process
        && crate::shared::can_snapshot();
    let result = (attempt.fence.attempt, task.leased.index);
    holds.then(|| shared.held.hold(result, layers.to_vec()))
}

/// Reports a step as done, and makes it durable behind its back.
async fn finish(attempt: &Arc<Attempt>, task: &Task, finished: Finished) {
    let Finished { record, how, taint, publish, lock } = finished;
    let (fence, step) = (attempt.fence, task.leased.index);
    let tables = record.result.layers.iter().map(|layer| layer.layer).collect();
    let publish = Publishing { what: publish, ships: task.leased.ships, tables };
    // It may be asked for as soon as it is reported.
    let holding = hold(attempt, task, &publish.tables);
    let report = Report::StepDone { fence, step, record: Box::new(record.clone()), how };
    attempt.reporter.send(report).await;
    let (shared, reporter) = (attempt.shared.clone(), attempt.reporter.clone());
    let scope = attempt.scope.clone();
    attempt.shared.tasks.spawn(async move {
        let mut lock = lock;
        if let Some(holding) = holding
            && publish::settle(&shared, &publish).await
            && holding.fate(&shared.ending).await == Fate::LetGo
        {
            return;
        }
        let kept = match publish::publish(&shared, &publish).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // Who makes the step again looks first whether its sources are there.
                if let Failed::Lost { layer } = error {
                    shared.layers.doubt(layer);
                }
                // Who waits for the step's key need not wait for a store that has trouble.
                drop(lock.take());
                publish::again(&shared, &publish, error).await
            }
        };
        if kept.is_ok()
            && lock.is_some()
            && taint == Taint::Clean
            && let Some(folder) = &shared.parts.folder
            && let Err(error) = dcbuild_store::StepIndex::put(&**folder, &scope, &record).await
        {
            tracing::warn!(%error, "a step's record is left to the coordinator");
        }
        match kept {
            Ok(()) => reporter.send(Report::StepDurable { attempt: fence.attempt, step }).await,
            Err(error) => {
                tracing::warn!(%error, attempt = %fence.attempt, "a step's result is not kept");
                reporter.send(Report::StepKeptBack { attempt: fence.attempt, step }).await;
            }
        }
        drop(lock);
    });
}

impl Attempt {
    /// A secret's value; nothing if the client gave none.
    pub(crate) fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Failed> {
        let Some(digits) = self.secrets.get(id) else { return Ok(None) };
        let bytes = document::from_hex(digits);
        let malformed =
            || Failed::new(StepErrorKind::Internal {}, format!("secret {id} came malformed"));
        bytes.map(Some).ok_or_else(malformed)
    }
}

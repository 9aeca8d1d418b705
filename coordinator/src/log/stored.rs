//! The scheduler's events as they are stored.

use std::time::Duration;

use dcbuild_model::{
    AttemptId, BlobDigest, BuildId, Epoch, Platform, Scope, StageIndex, StateDigest, StepIndex,
    StepKey, WorkerId,
};
use dcbuild_scheduler as scheduler;
use dcbuild_scheduler::{Event, Fence, InfraFault, Return, StepFault, WorkerFacts};
use serde::{Deserialize, Serialize};

/// The grace of events that were stored without one, in milliseconds: five minutes.
fn grace_of_old() -> u64 {
    300_000
}

/// An event of the scheduler, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum StoredEvent {
    Submit(Box<StoredSubmission>),
    Cancel {
        build: BuildId,
    },
    ClientGone {
        build: BuildId,
        #[serde(default = "grace_of_old")]
        grace_ms: u64,
    },
    ClientBack {
        build: BuildId,
    },
    Forget {
        build: BuildId,
    },
    WorkerJoined {
        worker: WorkerId,
        slots: u32,
        capacity: StoredRequests,
        platforms: Vec<Platform>,
        #[serde(default)]
        emulated: Vec<Platform>,
    },
    WorkerAway {
        worker: WorkerId,
    },
    WorkerBack {
        worker: WorkerId,
        running: Vec<AttemptId>,
    },
    WorkerDraining {
        worker: WorkerId,
    },
    WorkerHasRoom {
        worker: WorkerId,
    },
    WorkerLost {
        worker: WorkerId,
    },
    StepDone {
        fence: StoredFence,
        step: StepIndex,
        made: StoredMade,
        #[serde(default)]
        lasts: bool,
    },
    StepHit {
        fence: StoredFence,
        step: StepIndex,
        made: StoredMade,
    },
    StepDurable {
        attempt: AttemptId,
        step: StepIndex,
    },
    StepKeptBack {
        attempt: AttemptId,
        step: StepIndex,
    },
    StepCopied {
        attempt: AttemptId,
        step: StepIndex,
        worker: WorkerId,
    },
    StepFailed {
        fence: StoredFence,
        step: StepIndex,
        fault: StoredFault,
    },
    OutputDone {
        fence: StoredFence,
        result: BlobDigest,
    },
    OutputFailed {
        fence: StoredFence,
        fault: StoredFault,
    },
    JobReturned {
        fence: StoredFence,
        lost: Option<StepIndex>,
    },
    Tick {},
    Recovered {},
}

/// A fence, as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFence {
    attempt: AttemptId,
    epoch: Epoch,
}

/// What a step made, as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredMade {
    state: StateDigest,
    record: BlobDigest,
}

/// What a job asks of a worker, as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredRequests {
    memory_bytes: u64,
    cpu_millis: u64,
}

/// A fault, as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum StoredFault {
    Exit { code: i32 },
    Rejected,
    TimeLimit,
    MemoryLimit,
    DiskLimit,
    WorkerLost,
    Sandbox,
    NoSpace,
    NoMemory,
    Store,
    Network,
    Internal,
    InputLost { input: StepIndex },
}

/// A submission to the scheduler, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredSubmission {
    build: BuildId,
    body: BlobDigest,
    scope: Scope,
    priority: i32,
    detached: bool,
    steps: Vec<StoredNode>,
    wanted: Vec<StepIndex>,
    outputs: Vec<StoredOutput>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each stands for an enum of two, and they are stored so"
)]
struct StoredNode {
    stage: StageIndex,
    key: StepKey,
    parent: Option<StepIndex>,
    inputs: Vec<StepIndex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<StepIndex>,
    platform: Platform,
    runs: bool,
    share: StoredShare,
    sees_more: bool,
    fresh: bool,
    caches: Vec<BlobDigest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    locked: Vec<BlobDigest>,
    requests: StoredRequests,
    taken: Option<StoredMade>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum StoredShare {
    Anyone,
    SameValues(BlobDigest),
    Nobody,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredOutput {
    needs: Vec<StepIndex>,
    platform: Option<Platform>,
    requests: StoredRequests,
}

impl From<Fence> for StoredFence {
    fn from(fence: Fence) -> StoredFence {
        StoredFence { attempt: fence.attempt, epoch: fence.epoch }
    }
}

impl From<StoredFence> for Fence {
    fn from(fence: StoredFence) -> Fence {
        Fence { attempt: fence.attempt, epoch: fence.epoch }
    }
}

impl From<scheduler::Made> for StoredMade {
    fn from(made: scheduler::Made) -> StoredMade {
        StoredMade { state: made.state, record: made.record }
    }
}

impl From<StoredMade> for scheduler::Made {
    fn from(made: StoredMade) -> scheduler::Made {
        scheduler::Made { state: made.state, record: made.record }
    }
}

impl From<scheduler::Requests> for StoredRequests {
    fn from(asked: scheduler::Requests) -> StoredRequests {
        StoredRequests { memory_bytes: asked.memory_bytes, cpu_millis: asked.cpu_millis }
    }
}

impl From<StoredRequests> for scheduler::Requests {
    fn from(asked: StoredRequests) -> scheduler::Requests {
        scheduler::Requests { memory_bytes: asked.memory_bytes, cpu_millis: asked.cpu_millis }
    }
}

impl From<StepFault> for StoredFault {
    fn from(fault: StepFault) -> StoredFault {
        match fault {
            StepFault::Exit { code } => StoredFault::Exit { code },
            StepFault::Rejected => StoredFault::Rejected,
            StepFault::TimeLimit => StoredFault::TimeLimit,
            StepFault::MemoryLimit => StoredFault::MemoryLimit,
            StepFault::DiskLimit => StoredFault::DiskLimit,
            StepFault::Infra(InfraFault::WorkerLost) => StoredFault::WorkerLost,
            StepFault::Infra(InfraFault::Sandbox) => StoredFault::Sandbox,
            StepFault::Infra(InfraFault::NoSpace) => StoredFault::NoSpace,
            StepFault::Infra(InfraFault::NoMemory) => StoredFault::NoMemory,
            StepFault::Infra(InfraFault::Store) => StoredFault::Store,
            StepFault::Infra(InfraFault::Network) => StoredFault::Network,
            StepFault::Infra(InfraFault::Internal) => StoredFault::Internal,
            StepFault::InputLost(input) => StoredFault::InputLost { input },
        }
    }
}

impl From<StoredFault> for StepFault {
    fn from(fault: StoredFault) -> StepFault {
        match fault {
            StoredFault::Exit { code } => StepFault::Exit { code },
            StoredFault::Rejected => StepFault::Rejected,
            StoredFault::TimeLimit => StepFault::TimeLimit,
            StoredFault::MemoryLimit => StepFault::MemoryLimit,
            StoredFault::DiskLimit => StepFault::DiskLimit,
            StoredFault::WorkerLost => StepFault::Infra(InfraFault::WorkerLost),
            StoredFault::Sandbox => StepFault::Infra(InfraFault::Sandbox),
            StoredFault::NoSpace => StepFault::Infra(InfraFault::NoSpace),
            StoredFault::NoMemory => StepFault::Infra(InfraFault::NoMemory),
            StoredFault::Store => StepFault::Infra(InfraFault::Store),
            StoredFault::Network => StepFault::Infra(InfraFault::Network),
            StoredFault::Internal => StepFault::Infra(InfraFault::Internal),
            StoredFault::InputLost { input } => StepFault::InputLost(input),
        }
    }
}

impl From<&scheduler::Submission> for StoredSubmission {
    fn from(submission: &scheduler::Submission) -> StoredSubmission {
        let scheduler::Submission { build, body, scope, priority, presence, graph } = submission;
        StoredSubmission {
            build: *build,
            body: BlobDigest(*body),
            scope: scope.clone(),
            priority: *priority,
            detached: *presence == scheduler::Presence::Detached,
            steps: graph.steps.iter().map(stored_node).collect(),
            wanted: graph.wanted.clone(),
            outputs: graph.outputs.iter().map(stored_output).collect(),
        }
    }
}

fn stored_node(node: &scheduler::StepNode) -> StoredNode {
    StoredNode {
        stage: node.stage,
        key: node.key,
        parent: node.parent,
        inputs: node.inputs.clone(),
        parts: node.parts.clone(),
        platform: node.platform.clone(),
        runs: node.kind == scheduler::StepKind::Run,
        share: match node.share {
            scheduler::Share::Anyone => StoredShare::Anyone,
            scheduler::Share::SameValues(values) => StoredShare::SameValues(BlobDigest(values)),
            scheduler::Share::Nobody => StoredShare::Nobody,
        },
        sees_more: node.sees == scheduler::Sees::More,
        fresh: node.freshness == scheduler::Freshness::Fresh,
        caches: stored_mounts(&node.caches),
        locked: stored_mounts(&node.locked),
        requests: node.requests.into(),
        taken: node.taken.map(Into::into),
    }
}

fn stored_output(node: &scheduler::OutputNode) -> StoredOutput {
    StoredOutput {
        needs: node.needs.clone(),
        platform: node.platform.clone(),
        requests: node.requests.into(),
    }
}

impl From<StoredSubmission> for scheduler::Submission {
    fn from(stored: StoredSubmission) -> scheduler::Submission {
        let presence = if stored.detached {
            scheduler::Presence::Detached
        } else {
            scheduler::Presence::Attached
        };
        scheduler::Submission {
            build: stored.build,
            body: stored.body.0,
            scope: stored.scope,
            priority: stored.priority,
            presence,
            graph: scheduler::Graph {
                steps: stored.steps.into_iter().map(node).collect(),
                wanted: stored.wanted,
                outputs: stored.outputs.into_iter().map(output).collect(),
            },
        }
    }
}

fn node(stored: StoredNode) -> scheduler::StepNode {
    scheduler::StepNode {
        stage: stored.stage,
        key: stored.key,
        parent: stored.parent,
        inputs: stored.inputs,
        parts: stored.parts,
        platform: stored.platform,
        kind: if stored.runs { scheduler::StepKind::Run } else { scheduler::StepKind::Files },
        share: match stored.share {
            StoredShare::Anyone => scheduler::Share::Anyone,
            StoredShare::SameValues(values) => scheduler::Share::SameValues(values.0),
            StoredShare::Nobody => scheduler::Share::Nobody,
        },
        sees: if stored.sees_more { scheduler::Sees::More } else { scheduler::Sees::KeyOnly },
        freshness: if stored.fresh {
            scheduler::Freshness::Fresh
        } else {
            scheduler::Freshness::Any
        },
        caches: mounts(&stored.caches),
        locked: mounts(&stored.locked),
        requests: stored.requests.into(),
        taken: stored.taken.map(Into::into),
    }
}

fn mounts(stored: &[BlobDigest]) -> Vec<scheduler::CacheMount> {
    stored.iter().map(|cache| scheduler::CacheMount(cache.0)).collect()
}

fn stored_mounts(mounts: &[scheduler::CacheMount]) -> Vec<BlobDigest> {
    mounts.iter().map(|cache| BlobDigest(cache.0)).collect()
}

fn output(stored: StoredOutput) -> scheduler::OutputNode {
    scheduler::OutputNode {
        needs: stored.needs,
        platform: stored.platform,
        requests: stored.requests.into(),
    }
}

impl From<&Event> for StoredEvent {
    fn from(event: &Event) -> StoredEvent {
        match event.clone() {
            Event::Submit(submission) => StoredEvent::Submit(Box::new((&submission).into())),
            Event::Cancel { build } => StoredEvent::Cancel { build },
            Event::ClientGone { build, grace } => StoredEvent::ClientGone {
                build,
                grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            },
            Event::ClientBack { build } => StoredEvent::ClientBack { build },
            Event::Forget { build } => StoredEvent::Forget { build },
            Event::WorkerJoined(facts) => {
                let WorkerFacts { worker, slots, capacity, platforms, emulated } = facts;
                StoredEvent::WorkerJoined {
                    worker,
                    slots,
                    capacity: capacity.into(),
                    platforms: platforms.into_iter().collect(),
                    emulated: emulated.into_iter().collect(),
                }
            }
            Event::WorkerAway { worker } => StoredEvent::WorkerAway { worker },
            Event::WorkerBack { worker, running } => StoredEvent::WorkerBack { worker, running },
            Event::WorkerDraining { worker } => StoredEvent::WorkerDraining { worker },
            Event::WorkerHasRoom { worker } => StoredEvent::WorkerHasRoom { worker },
            Event::WorkerLost { worker } => StoredEvent::WorkerLost { worker },
            Event::StepDone { fence, step, made, lasts } => {
                StoredEvent::StepDone { fence: fence.into(), step, made: made.into(), lasts }
            }
            Event::StepHit { fence, step, made } => {
                StoredEvent::StepHit { fence: fence.into(), step, made: made.into() }
            }
            Event::StepDurable { attempt, step } => StoredEvent::StepDurable { attempt, step },
            Event::StepKeptBack { attempt, step } => StoredEvent::StepKeptBack { attempt, step },
            Event::StepCopied { attempt, step, worker } => {
                StoredEvent::StepCopied { attempt, step, worker }
            }
            Event::StepFailed { fence, step, fault } => {
                StoredEvent::StepFailed { fence: fence.into(), step, fault: fault.into() }
            }
            Event::OutputDone { fence, result } => {
                StoredEvent::OutputDone { fence: fence.into(), result }
            }
            Event::OutputFailed { fence, fault } => {
                StoredEvent::OutputFailed { fence: fence.into(), fault: fault.into() }
            }
            Event::JobReturned { fence, why } => {
                let lost = match why {
                    Return::InputLost(input) => Some(input),
                    Return::Draining => None,
                };
                StoredEvent::JobReturned { fence: fence.into(), lost }
            }
            Event::Tick => StoredEvent::Tick {},
            Event::Recovered => StoredEvent::Recovered {},
        }
    }
}

impl From<StoredEvent> for Event {
    fn from(stored: StoredEvent) -> Event {
        match stored {
            StoredEvent::Submit(submission) => Event::Submit((*submission).into()),
            StoredEvent::Cancel { build } => Event::Cancel { build },
            StoredEvent::ClientGone { build, grace_ms } => {
                Event::ClientGone { build, grace: Duration::from_millis(grace_ms) }
            }
            StoredEvent::ClientBack { build } => Event::ClientBack { build },
            StoredEvent::Forget { build } => Event::Forget { build },
            StoredEvent::WorkerJoined { worker, slots, capacity, platforms, emulated } => {
                Event::WorkerJoined(WorkerFacts {
                    worker,
                    slots,
                    capacity: capacity.into(),
                    platforms: platforms.into_iter().collect(),
                    emulated: emulated.into_iter().collect(),
                })
            }
            StoredEvent::WorkerAway { worker } => Event::WorkerAway { worker },
            StoredEvent::WorkerBack { worker, running } => Event::WorkerBack { worker, running },
            StoredEvent::WorkerDraining { worker } => Event::WorkerDraining { worker },
            StoredEvent::WorkerHasRoom { worker } => Event::WorkerHasRoom { worker },
            StoredEvent::WorkerLost { worker } => Event::WorkerLost { worker },
            StoredEvent::StepDone { fence, step, made, lasts } => {
                Event::StepDone { fence: fence.into(), step, made: made.into(), lasts }
            }
            StoredEvent::StepHit { fence, step, made } => {
                Event::StepHit { fence: fence.into(), step, made: made.into() }
            }
            StoredEvent::StepDurable { attempt, step } => Event::StepDurable { attempt, step },
            StoredEvent::StepKeptBack { attempt, step } => Event::StepKeptBack { attempt, step },
            StoredEvent::StepCopied { attempt, step, worker } => {
                Event::StepCopied { attempt, step, worker }
            }
            StoredEvent::StepFailed { fence, step, fault } => {
                Event::StepFailed { fence: fence.into(), step, fault: fault.into() }
            }
            StoredEvent::OutputDone { fence, result } => {
                Event::OutputDone { fence: fence.into(), result }
            }
            StoredEvent::OutputFailed { fence, fault } => {
                Event::OutputFailed { fence: fence.into(), fault: fault.into() }
            }
            StoredEvent::JobReturned { fence, lost } => {
                let why = lost.map_or(Return::Draining, Return::InputLost);
                Event::JobReturned { fence: fence.into(), why }
            }
            StoredEvent::Tick {} => Event::Tick,
            StoredEvent::Recovered {} => Event::Recovered,
        }
    }
}

//! What happens to the scheduler: every event is in the log, and nothing else reaches it.

use std::collections::BTreeSet;
use std::time::Duration;

use dcbuild_model::{
    AttemptId, BlobDigest, BuildId, Digest, Epoch, Platform, Scope, StepIndex, WorkerId,
};

use crate::graph::{Graph, Made, OutputIndex, Requests};

/// Whether a build ends with its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// A client that stays away for longer than the limit ends the build.
    Attached,
    /// The build runs on without a client.
    Detached,
}

/// A build as it is submitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submission {
    /// Its id, made by the client.
    pub build: BuildId,
    /// The digest of the whole request: the same id with another digest is refused.
    pub body: Digest,
    /// The scope that its credential gives.
    pub scope: Scope,
    /// The higher, the sooner among the builds of one tenant.
    pub priority: i32,
    /// Whether it ends with its client.
    pub presence: Presence,
    /// What is to be done.
    pub graph: Graph,
}

/// What a worker says of itself when it joins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerFacts {
    /// Its id.
    pub worker: WorkerId,
    /// How many jobs it runs at a time.
    pub slots: u32,
    /// What it can give to jobs in all; zero is unknown and limits nothing.
    pub capacity: Requests,
    /// The platforms that it runs.
    pub platforms: BTreeSet<Platform>,
    /// Those of them whose programs an interpreter runs, which takes its time.
    pub emulated: BTreeSet<Platform>,
}

/// The fence of a report: who speaks, under which lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fence {
    /// The attempt.
    pub attempt: AttemptId,
    /// The epoch of its lease.
    pub epoch: Epoch,
}

/// Why a step or an output did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepFault {
    /// The user's command ended with this code.
    Exit {
        /// The code.
        code: i32,
    },
    /// The instruction cannot be carried out: a COPY source that is missing, a registry that refuses the push.
    Rejected,
    /// It ran for longer than its build allows.
    TimeLimit,
    /// It used more memory than its build allows.
    MemoryLimit,
    /// It wrote more than its build allows.
    DiskLimit,
    /// The machine or what it leans on failed.
    Infra(InfraFault),
    /// The result of another step was not to be had; that is no attempt.
    InputLost(StepIndex),
}

/// What failed where nobody's Dockerfile is to blame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum InfraFault {
    /// The worker was lost.
    WorkerLost,
    /// The sandbox could not be made or died.
    Sandbox,
    /// The worker's disk is full.
    NoSpace,
    /// The machine killed it for want of memory.
    NoMemory,
    /// The store failed.
    Store,
    /// A network between our own parts, or a registry, failed.
    Network,
    /// The worker met a fault of its own.
    Internal,
}

/// Why a worker hands a job back unfinished; none of these is an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Return {
    /// The result of this step was not to be had.
    InputLost(StepIndex),
    /// The worker is about to leave.
    Draining,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A client submitted a build.
    Submit(Submission),
    /// A client asked for a build's end.
    Cancel {
        /// The build.
        build: BuildId,
    },
    /// The last client of a build went away.
    ClientGone {
        /// The build.
        build: BuildId,
        /// How long it goes on without one; it comes with the event, so that a log reads the same under another setting.
        grace: Duration,
    },
    /// A client attached to a build.
    ClientBack {
        /// The build.
        build: BuildId,
    },
    /// An ended build is no longer asked for.
    Forget {
        /// The build.
        build: BuildId,
    },
    /// A worker's process registered.
    WorkerJoined(WorkerFacts),
    /// A worker is out of reach, and not lost yet.
    WorkerAway {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker that never was lost is connected again.
    WorkerBack {
        /// The worker.
        worker: WorkerId,
        /// The attempts that it runs.
        running: Vec<AttemptId>,
    },
    /// A worker whose disk was full has room again.
    WorkerHasRoom {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker takes no more jobs.
    WorkerDraining {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker's lease ran out, or its process ended.
    WorkerLost {
        /// The worker.
        worker: WorkerId,
    },
    /// A step succeeded; its result is on the worker's disk.
    StepDone {
        /// Who says so.
        fence: Fence,
        /// The step.
        step: StepIndex,
        /// What it made.
        made: Made,
        /// Whether it goes to the store: builds that come meanwhile may have it, though nobody uses it.
        lasts: bool,
    },
    /// A record was found by result key before the step ran; its blobs are durable.
    StepHit {
        /// Who asked.
        fence: Fence,
        /// The step.
        step: StepIndex,
        /// What the record holds.
        made: Made,
    },
    /// The blobs of a result that `StepDone` reported are in the store; may come after the attempt's end.
    StepDurable {
        /// The attempt that made it.
        attempt: AttemptId,
        /// The step.
        step: StepIndex,
    },
    /// The worker of a result has given up to make it durable, and has it still: builds that use it go on, and no other
    /// takes it.
    StepKeptBack {
        /// The attempt that made it.
        attempt: AttemptId,
        /// The step.
        step: StepIndex,
    },
    /// A result that is not durable yet lies on another worker's disk too.
    StepCopied {
        /// The attempt that made it.
        attempt: AttemptId,
        /// The step.
        step: StepIndex,
        /// The worker that now holds it.
        worker: WorkerId,
    },
    /// A step failed; the attempt ends with it.
    StepFailed {
        /// Who says so.
        fence: Fence,
        /// The step.
        step: StepIndex,
        /// Why.
        fault: StepFault,
    },
    /// An output is made: pushed, or handed to the client.
    OutputDone {
        /// Who says so.
        fence: Fence,
        /// What it made.
        result: BlobDigest,
    },
    /// An output failed; the attempt ends with it.
    OutputFailed {
        /// Who says so.
        fence: Fence,
        /// Why.
        fault: StepFault,
    },
    /// A worker hands a job back.
    JobReturned {
        /// Who says so.
        fence: Fence,
        /// Why.
        why: Return,
    },
    /// Time passed; carries nothing but the entry's stamp.
    Tick,
    /// A leader took over: all that should be under way is said again.
    Recovered,
}

/// What a lease is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// Steps, each upon the one before it.
    Steps(Vec<StepIndex>),
    /// An output.
    Output(OutputIndex),
}

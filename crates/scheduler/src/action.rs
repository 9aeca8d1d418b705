//! What the scheduler wants done, in order; an action may be repeated after a recovery and means the same then.

use dcbuild_model::{
    AttemptId, BlobDigest, BuildId, Epoch, Fault, JobId, LogTime, StepIndex, WorkerId,
};

use crate::event::{InfraFault, StepFault, Work};
use crate::graph::{InvalidGraph, Made, OutputIndex};

/// A job that a worker is to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The worker.
    pub worker: WorkerId,
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The fence of the attempt's reports.
    pub epoch: Epoch,
    /// The build whose graph names the steps.
    pub build: BuildId,
    /// What is to be done.
    pub work: Work,
}

/// Where a step's result came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// The build's own attempt made it.
    Ran {
        /// The attempt.
        attempt: AttemptId,
    },
    /// An attempt that it shared with another step made it.
    Shared {
        /// The attempt.
        attempt: AttemptId,
    },
    /// A record was found by result key.
    Hit,
}

/// What is still to happen to the steps of an attempt that is told to stop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stop {
    /// Nobody wants them any more.
    Unwanted,
    /// The lease is over: another attempt may run, or has run.
    Stale,
    /// An input was made again and is now another.
    InputChanged,
}

/// A part of a build that is tried, and that may fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// A step.
    Step(StepIndex),
    /// An output.
    Output(OutputIndex),
}

/// Why a build failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// A step failed by its own or its build's fault.
    Step {
        /// The step.
        step: StepIndex,
        /// Why.
        fault: StepFault,
    },
    /// An output failed by its own or its build's fault.
    Output {
        /// The output.
        output: OutputIndex,
        /// Why.
        fault: StepFault,
    },
    /// Every attempt that a step or an output may have was lost to faults of machines.
    AttemptsExhausted {
        /// What was tried.
        part: Part,
        /// The last fault.
        last: InfraFault,
    },
    /// An input was lost again and again.
    InputsExhausted {
        /// The step that kept getting lost.
        input: StepIndex,
    },
}

impl Failure {
    /// The name that users and programs know the failure by.
    pub fn code(&self) -> &'static str {
        match self {
            Failure::Step { .. } => "STEP_FAILED",
            Failure::Output { .. } => "OUTPUT_FAILED",
            Failure::AttemptsExhausted { .. } => "INFRA_ATTEMPTS_EXHAUSTED",
            Failure::InputsExhausted { .. } => "INPUT_LOST_TOO_OFTEN",
        }
    }

    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            Failure::Step { .. } | Failure::Output { .. } => Fault::Step,
            Failure::AttemptsExhausted { .. } | Failure::InputsExhausted { .. } => Fault::Cluster,
        }
    }
}

/// Who ended a build before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CancelledBy {
    /// A client asked for it.
    Request,
    /// No client came back in time.
    ClientGone,
}

/// How a build ended; it ends once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All that was wanted is there.
    Done,
    /// It failed.
    Failed(Failure),
    /// It was cancelled.
    Cancelled(CancelledBy),
}

/// Why an event changed nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The id is taken by another request.
    #[error("build {0} exists and is another request")]
    BuildExists(BuildId),
    /// No such build.
    #[error("build {0} is not known")]
    UnknownBuild(BuildId),
    /// The build has not ended.
    #[error("build {0} is still running")]
    BuildRuns(BuildId),
    /// The graph is none.
    #[error("build {build} has no valid graph")]
    InvalidGraph {
        /// The build.
        build: BuildId,
        /// What is wrong with it.
        source: InvalidGraph,
    },
    /// The cluster has as many running builds as it takes.
    #[error("build {build} does not fit: {max} builds are running")]
    Full {
        /// The build.
        build: BuildId,
        /// The limit.
        max: usize,
    },
    /// No such worker, or it was lost.
    #[error("worker {0} is not known")]
    UnknownWorker(WorkerId),
    /// The attempt has ended, was lost or never was.
    #[error("attempt {0} is not known")]
    UnknownAttempt(AttemptId),
    /// The report is of an older lease.
    #[error("attempt {attempt} reports epoch {} and has epoch {}", got.0, current.0)]
    OldEpoch {
        /// The attempt.
        attempt: AttemptId,
        /// The report's epoch.
        got: Epoch,
        /// The lease's epoch.
        current: Epoch,
    },
    /// The attempt has no such step to report on now.
    #[error("attempt {attempt} does not run step {}", step.0)]
    NotItsTurn {
        /// The attempt.
        attempt: AttemptId,
        /// The step.
        step: StepIndex,
    },
    /// The attempt reports on an output and has steps, or the other way round.
    #[error("attempt {0} reports on work that it does not have")]
    OtherWork(AttemptId),
}

/// Something that a person who waits should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// The worker's disk is full: the job goes to another, which is no attempt.
    Moved {
        /// What was tried.
        part: Part,
    },
    /// An attempt was lost, and another will be made.
    Retry {
        /// What was tried.
        part: Part,
        /// What happened.
        fault: InfraFault,
        /// How many attempts there were.
        attempts: u32,
        /// How many there may be.
        attempts_max: u32,
    },
    /// A result was lost before it was durable, or its input is now another; the step runs again if it is needed.
    Withdrawn {
        /// The step.
        step: StepIndex,
    },
}

/// One thing to do or to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// The build is in the log; also the answer to a repeated submission.
    Accepted {
        /// The build.
        build: BuildId,
    },
    /// The event changed nothing; the answer to whoever sent it.
    Refused(Refusal),
    /// Hand a job to a worker; a worker that runs the attempt already does nothing.
    Lease(Lease),
    /// Tell a worker to end an attempt at once; one that does not run it does nothing.
    StopAttempt {
        /// The worker.
        worker: WorkerId,
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        why: Stop,
    },
    /// Tell a worker to end an attempt behind this step.
    CutAttempt {
        /// The worker.
        worker: WorkerId,
        /// The attempt.
        attempt: AttemptId,
        /// The last step that somebody wants.
        last: StepIndex,
    },
    /// A step shares another's attempt: its log is the other's, from the first byte.
    Subscribed {
        /// The build.
        build: BuildId,
        /// Its step.
        step: StepIndex,
        /// The build that owns the attempt.
        owner: BuildId,
        /// The step in that build.
        owner_step: StepIndex,
    },
    /// A step has its result.
    StepSettled {
        /// The build.
        build: BuildId,
        /// Its step.
        step: StepIndex,
        /// What was made.
        made: Made,
        /// By whom.
        how: How,
    },
    /// An output is made.
    OutputSettled {
        /// The build.
        build: BuildId,
        /// Its output.
        output: OutputIndex,
        /// What was made.
        result: BlobDigest,
    },
    /// An output cannot be made; the build fails once its other outputs are made or failed.
    OutputFailed {
        /// The build.
        build: BuildId,
        /// Its output.
        output: OutputIndex,
        /// Why.
        failure: Failure,
    },
    /// Tell a build's watchers.
    Note {
        /// The build.
        build: BuildId,
        /// What.
        note: Note,
    },
    /// A build has ended; told once, and once more by each `Recovered`.
    BuildEnded {
        /// The build.
        build: BuildId,
        /// How.
        outcome: Outcome,
    },
    /// The scheduler no longer knows the build: what is kept for it may go.
    Forgotten {
        /// The build.
        build: BuildId,
    },
    /// Log a `Tick` no later than this: something is due then.
    WakeAt(LogTime),
}

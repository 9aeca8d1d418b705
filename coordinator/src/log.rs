//! The log: the one order of all that must survive; what is not in it did not happen.

mod file;
pub(crate) mod renewal;
mod stored;

use std::path::PathBuf;

use dcbuild_explain::Passed;
use dcbuild_model::{AttemptId, BlobDigest, BuildId, LogTime, Record, StepIndex, UnixTime};
use dcbuild_proto::document::{Outcome, OutputResult, StepError, Submission};
use serde::{Deserialize, Serialize};

use crate::planned::PlannedBuild;

pub use file::FileLog;
pub use stored::StoredEvent;

/// The only form of the log that is understood.
pub const VERSION: u32 = 1;

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Entry {
    /// The first: what makes the ids of this cluster differ from those of others.
    Founded {
        /// The form of the log.
        version: u32,
        /// The scheduler's seed, in hex digits.
        seed: String,
    },
    /// A client submitted a build; it is to be planned.
    Submitted {
        /// The build.
        build: BuildId,
        /// When.
        time: UnixTime,
        /// What it asks.
        submission: Box<Submission>,
    },
    /// A coordinator that was started found a build without a plan, and plans it once more.
    PlannedAgain {
        /// The build.
        build: BuildId,
    },
    /// A build is planned; the scheduler's own entry follows.
    Planned {
        /// The build.
        build: BuildId,
        /// How.
        planned: Box<PlannedBuild>,
    },
    /// An attempt made a step's result; the scheduler decides whether it counts.
    Made {
        /// The attempt.
        attempt: AttemptId,
        /// The step.
        step: StepIndex,
        /// What it made.
        record: Box<Record>,
        /// Whether it is not to be kept for later builds.
        #[serde(default)]
        tainted: bool,
    },
    /// An attempt made an output.
    Assembled {
        /// The build.
        build: BuildId,
        /// The digest that the scheduler knows it by.
        digest: BlobDigest,
        /// What it made.
        result: OutputResult,
    },
    /// An attempt failed.
    Failed {
        /// The build.
        build: BuildId,
        /// The step; none for an output.
        step: Option<StepIndex>,
        /// The output; none for a step.
        #[serde(default)]
        output: Option<u32>,
        /// Why.
        error: StepError,
    },
    /// A record that a build had taken is of no use.
    Passed {
        /// The build.
        build: BuildId,
        /// The step.
        step: StepIndex,
        /// Why.
        why: Passed,
    },
    /// A build has ended.
    Ended {
        /// The build.
        build: BuildId,
        /// When.
        time: UnixTime,
        /// How.
        outcome: Box<Outcome>,
    },
    /// An event of the scheduler.
    Event {
        /// The stamp.
        time: LogTime,
        /// The event.
        event: StoredEvent,
    },
}

/// Says why the log could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file failed.
    #[error("could not use the log file {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another coordinator has the folder.
    #[error("the data folder {path} is used by another coordinator", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder's lock failed.
    #[error("could not lock the data folder {path}", path = path.display())]
    Lock {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: dcbuild_store::LockError,
    },
    /// Bytes in the middle of the log are not what was written.
    #[error(
        "the log {path} is damaged at byte {at}; `truncate --size={at} {path}` keeps what came before, and loses the builds that were taken later",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        at: u64,
    },
    /// A whole entry is not one that this version knows.
    #[error("the log {path} has an unknown entry at byte {at}", path = path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Where.
        at: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The task that writes was stopped or panicked.
    #[error("the log's writer stopped")]
    Stopped {
        /// Why.
        source: tokio::task::JoinError,
    },
    /// An entry is longer than an entry may be.
    #[error("an entry of the log has {bytes} bytes, more than {max}")]
    TooLarge {
        /// How many.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

/// Keeps entries in order.
pub trait Log: Send {
    /// Appends entries; they are durable when this returns.
    fn append(&mut self, entries: &[Entry]) -> Result<(), LogError>;

    /// Whether an append waits for a disk.
    fn waits(&self) -> bool;
}

/// A log that ends with its process: nobody replays it, so nothing is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryLog;

impl Log for MemoryLog {
    fn append(&mut self, _: &[Entry]) -> Result<(), LogError> {
        Ok(())
    }

    fn waits(&self) -> bool {
        false
    }
}

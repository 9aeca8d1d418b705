//! What a worker tells its coordinator.

use bytes::Bytes;
use dcbuild_model::{AttemptId, Epoch, LayerDigest, LayerId, Record, StepIndex, StepKey, UnixTime};
use dcbuild_process::Clock;
use dcbuild_proto::document::{OutputResult, StepError};
use dcbuild_registry::Ear;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// What each report of an attempt carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fence {
    pub(crate) attempt: AttemptId,
    pub(crate) epoch: Epoch,
}

/// A status line of a step, such as a download.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Status {
    pub(crate) vertex: String,
    pub(crate) id: String,
    pub(crate) current: u64,
    pub(crate) total: Option<u64>,
    pub(crate) time: UnixTime,
    pub(crate) started: UnixTime,
    pub(crate) completed: Option<UnixTime>,
}

/// How a step came by its result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// It ran.
    Ran,
    /// It ran, and something went wrong that its command did not mind: this is what.
    Tainted(String),
    /// A record was found by result key.
    Hit,
}

/// One report.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    StepStarted {
        fence: Fence,
        step: StepIndex,
    },
    StepDone {
        fence: Fence,
        step: StepIndex,
        record: Box<Record>,
        how: How,
    },
    StepDurable {
        attempt: AttemptId,
        step: StepIndex,
    },
    /// It is not tried any more to make the result durable.
    StepKeptBack {
        attempt: AttemptId,
        step: StepIndex,
    },
    StepFailed {
        fence: Fence,
        step: Option<StepIndex>,
        error: Box<StepError>,
    },
    OutputDone {
        fence: Fence,
        result: Box<OutputResult>,
    },
    JobReturned {
        fence: Fence,
        lost: Option<StepIndex>,
        layer: Option<LayerId>,
    },
    JobEnded {
        fence: Fence,
    },
    /// The disk was full and is not any more.
    HasRoom,
    Log {
        attempt: AttemptId,
        vertex: String,
        stream: u32,
        bytes: Bytes,
        time: UnixTime,
    },
    Status {
        attempt: AttemptId,
        status: Box<Status>,
    },
}

impl Report {
    /// The attempt of which it says how one of its steps, or all of it, has ended.
    pub(crate) fn end_of(&self) -> Option<AttemptId> {
        match self {
            Report::StepDone { fence, .. }
            | Report::StepFailed { fence, .. }
            | Report::OutputDone { fence, .. }
            | Report::JobReturned { fence, .. } => Some(fence.attempt),
            _ => None,
        }
    }
}

/// Hands reports to the session; waits while the queue is full.
#[derive(Clone)]
pub(crate) struct Reporter {
    queue: mpsc::Sender<Report>,
}

impl Reporter {
    pub(crate) fn new(queue: mpsc::Sender<Report>) -> Reporter {
        Reporter { queue }
    }

    pub(crate) async fn send(&self, report: Report) {
        // Once the session's task is gone, so is everybody who would listen.
        drop(self.queue.send(report).await);
    }

    /// Hands over what may be left out when there is no room.
    pub(crate) fn hint(&self, report: Report) {
        drop(self.queue.try_send(report));
    }
}

/// Tells how far one thing of a step has come.
#[derive(Clone)]
pub(crate) struct Progress {
    attempt: AttemptId,
    vertex: String,
    reporter: Reporter,
    clock: Arc<dyn Clock>,
}

impl Progress {
    pub(crate) fn new(
        attempt: AttemptId,
        vertex: String,
        reporter: Reporter,
        clock: Arc<dyn Clock>,
    ) -> Progress {
        Progress { attempt, vertex, reporter, clock }
    }

    /// Begins a status line.
    pub(crate) fn begin(&self, id: impl Into<String>, total: Option<u64>) -> Line {
        let started = self.clock.now();
        let line = Line {
            progress: self.clone(),
            id: id.into(),
            total,
            started,
            current: 0,
            told: tokio::time::Instant::now(),
        };
        line.tell(None);
        line
    }

    /// Hears of a registry that says nothing, and says so.
    pub(crate) fn ear(&self) -> Ear {
        let progress = self.clone();
        Arc::new(move |host: &str, time: Duration| {
            let bytes = format!("{host} has said nothing for {} s\n", time.as_secs()).into();
            let (attempt, vertex) = (progress.attempt, progress.vertex.clone());
            let (stream, time) = (STDERR, progress.clock.now());
            progress.reporter.hint(Report::Log { attempt, vertex, stream, bytes, time });
        })
    }

    /// Passes on a piece of a log.
    pub(crate) async fn log(&self, stream: u32, bytes: Bytes) {
        let (attempt, vertex) = (self.attempt, self.vertex.clone());
        let time = self.clock.now();
        self.reporter.send(Report::Log { attempt, vertex, stream, bytes, time }).await;
    }
}

/// The stream of a log that is no command's own output.
const STDERR: u32 = 2;

/// How often a status line changes at most.
const TELL_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// One status line; it is complete when it is dropped by [`Line::done`].
pub(crate) struct Line {
    progress: Progress,
    id: String,
    total: Option<u64>,
    started: UnixTime,
    current: u64,
    told: tokio::time::Instant,
}

impl Line {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.current += bytes;
        if self.told.elapsed() >= TELL_EVERY {
            self.told = tokio::time::Instant::now();
            self.tell(None);
        }
    }

    pub(crate) fn done(self) {
        self.tell(Some(self.progress.clock.now()));
    }

    fn tell(&self, completed: Option<UnixTime>) {
        let status = Status {
            vertex: self.progress.vertex.clone(),
            id: self.id.clone(),
            current: self.current,
            total: self.total,
            time: self.progress.clock.now(),
            started: self.started,
            completed,
        };
        let attempt = self.progress.attempt;
        self.progress.reporter.hint(Report::Status { attempt, status: Box::new(status) });
    }
}

/// What an attempt asks of its coordinator.
#[async_trait::async_trait]
pub(crate) trait AskCoordinator: Send + Sync {
    /// The record of a step under a key; none where there is none, or nobody answers.
    async fn find(&self, fence: Fence, step: StepIndex, key: StepKey) -> Option<Record>;

    /// The records of an image that an output makes, for its config; none where there are none, or nobody answers.
    async fn inline(&self, fence: Fence, image: u32, layers: &[LayerDigest]) -> Option<String>;

    /// What an ssh agent of the build's client says to a message of a step; none where nobody answers.
    async fn agent(
        &self,
        fence: Fence,
        step: StepIndex,
        agent: &str,
        message: &[u8],
    ) -> Option<Vec<u8>>;
}

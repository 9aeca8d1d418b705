//! What happens in a build, as whoever shows it is told.

use std::fmt;
use std::time::Duration;

use dcbuild_model::{Digest, UnixTime};

/// Names one vertex of a build: a step, a pull, an export.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VertexId(pub Digest);

impl VertexId {
    /// Makes an id of any text that is unique within the build.
    pub fn of(text: &str) -> VertexId {
        VertexId(Digest::of(text.as_bytes()))
    }
}

impl fmt::Display for VertexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How far a vertex is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VertexState {
    /// It has not begun.
    Waiting,
    /// It runs.
    Running {
        /// Since then.
        started: UnixTime,
    },
    /// It ran, and well.
    Done {
        /// When it began.
        started: UnixTime,
        /// When it ended.
        completed: UnixTime,
    },
    /// Its result was there already.
    Cached {
        /// When it was found.
        completed: UnixTime,
    },
    /// It failed.
    Failed {
        /// When it began.
        started: UnixTime,
        /// When it ended.
        completed: UnixTime,
        /// Why, in one line.
        error: String,
    },
    /// Nobody wants it any more.
    Canceled {
        /// When it began.
        started: UnixTime,
        /// When it ended.
        completed: UnixTime,
    },
}

impl VertexState {
    /// When it began.
    pub fn started(&self) -> Option<UnixTime> {
        match self {
            VertexState::Waiting => None,
            VertexState::Running { started }
            | VertexState::Done { started, .. }
            | VertexState::Failed { started, .. }
            | VertexState::Canceled { started, .. } => Some(*started),
            VertexState::Cached { completed } => Some(*completed),
        }
    }

    /// When it ended.
    pub fn completed(&self) -> Option<UnixTime> {
        match self {
            VertexState::Waiting | VertexState::Running { .. } => None,
            VertexState::Done { completed, .. }
            | VertexState::Cached { completed }
            | VertexState::Failed { completed, .. }
            | VertexState::Canceled { completed, .. } => Some(*completed),
        }
    }

    /// How long it took, or has taken so far.
    pub fn took(&self, now: UnixTime) -> Duration {
        self.started().map_or(Duration::ZERO, |from| between(from, self.completed().unwrap_or(now)))
    }
}

/// One piece of work that a person sees by name; a later update of the same id replaces it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vertex {
    /// Its id.
    pub id: VertexId,
    /// Its name, such as `[build 2/5] RUN make`.
    pub name: String,
    /// What it waits for.
    pub inputs: Vec<VertexId>,
    /// How far it is.
    pub state: VertexState,
}

/// Which of its two outputs a step wrote to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Bytes that a step wrote, cut anywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// The step.
    pub vertex: VertexId,
    /// Where it wrote to.
    pub stream: Stream,
    /// What it wrote.
    pub bytes: Vec<u8>,
    /// When.
    pub time: UnixTime,
}

/// How far a part of a vertex is, such as one layer of a pull; a later one of the same vertex and id replaces it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// The vertex.
    pub vertex: VertexId,
    /// What a person reads, such as `transferring context`.
    pub id: String,
    /// Bytes so far.
    pub current: u64,
    /// Bytes in all, where that is known.
    pub total: Option<u64>,
    /// When this was so.
    pub time: UnixTime,
    /// When it began.
    pub started: Option<UnixTime>,
    /// When it ended.
    pub completed: Option<UnixTime>,
}

/// Something that the author of a Dockerfile should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The vertex that it belongs to.
    pub vertex: VertexId,
    /// One line.
    pub short: String,
    /// What more there is to say.
    pub detail: Vec<String>,
    /// A page about it.
    pub url: Option<String>,
    /// The lines of the Dockerfile that are meant, first and last, from 1.
    pub lines: Option<(u32, u32)>,
}

impl Warning {
    /// A warning of one line about something that is not in the Dockerfile.
    pub fn of(vertex: VertexId, short: impl Into<String>) -> Warning {
        Warning { vertex, short: short.into(), detail: Vec::new(), url: None, lines: None }
    }

    /// Whether it is a finding in the Dockerfile, which a check of that shows too.
    pub fn is_finding(&self) -> bool {
        self.lines.is_some() || self.url.is_some()
    }
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Update {
    /// A vertex is new, or further.
    Vertex(Vertex),
    /// A part of a vertex is further.
    Status(Status),
    /// A step wrote something.
    Log(Log),
    /// A warning.
    Warning(Warning),
}

/// Whether a name is of what a build does for itself, `[internal] load build context` or `[linux/amd64 internal] ...`, and
/// not of a step.
pub fn is_internal(name: &str) -> bool {
    let inside = name.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    inside.is_some_and(|(inside, _)| inside == "internal" || inside.ends_with(" internal"))
}

/// The time from one moment to a later one; zero where the clocks disagree.
pub(crate) fn between(from: UnixTime, to: UnixTime) -> Duration {
    let nanos = |time: UnixTime| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let nanos = u64::try_from((nanos(to) - nanos(from)).max(0)).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos)
}

//! Scripts of updates for the tests of every display.

use dcbuild_model::UnixTime;

use crate::{Log, Status, Stream, Update, Vertex, VertexId, VertexState, Warning};

/// A time, in milliseconds after a fixed one.
pub(crate) fn at(ms: i64) -> UnixTime {
    let nanos = u32::try_from(ms.rem_euclid(1000)).unwrap() * 1_000_000;
    UnixTime { secs: 1_700_000_000 + ms.div_euclid(1000), nanos }
}

/// Updates with their times; vertices are called by their names.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) updates: Vec<(i64, Update)>,
}

impl Script {
    /// The time of the last update.
    pub(crate) fn now(&self) -> i64 {
        self.updates.last().map_or(0, |(time, _)| *time)
    }

    fn push(mut self, time: i64, update: Update) -> Script {
        self.updates.push((time, update));
        self
    }

    fn vertex(self, time: i64, name: &str, state: VertexState) -> Script {
        let (id, name) = (VertexId::of(name), name.to_owned());
        self.push(time, Update::Vertex(Vertex { id, name, inputs: Vec::new(), state }))
    }

    fn started(&self, name: &str) -> UnixTime {
        let id = VertexId::of(name);
        let started = self.updates.iter().find_map(|(_, update)| match update {
            Update::Vertex(vertex) if vertex.id == id => vertex.state.started(),
            _ => None,
        });
        started.unwrap()
    }

    pub(crate) fn waits(self, time: i64, name: &str) -> Script {
        self.vertex(time, name, VertexState::Waiting)
    }

    pub(crate) fn start(self, time: i64, name: &str) -> Script {
        self.vertex(time, name, VertexState::Running { started: at(time) })
    }

    pub(crate) fn cached(self, time: i64, name: &str) -> Script {
        self.vertex(time, name, VertexState::Cached { completed: at(time) })
    }

    pub(crate) fn done(self, time: i64, name: &str) -> Script {
        let started = self.started(name);
        self.vertex(time, name, VertexState::Done { started, completed: at(time) })
    }

    pub(crate) fn failed(self, time: i64, name: &str, error: &str) -> Script {
        let (started, error) = (self.started(name), error.to_owned());
        self.vertex(time, name, VertexState::Failed { started, completed: at(time), error })
    }

    pub(crate) fn canceled(self, time: i64, name: &str) -> Script {
        let started = self.started(name);
        self.vertex(time, name, VertexState::Canceled { started, completed: at(time) })
    }

    pub(crate) fn log(self, time: i64, name: &str, bytes: &[u8]) -> Script {
        let (vertex, bytes) = (VertexId::of(name), bytes.to_vec());
        self.push(time, Update::Log(Log { vertex, stream: Stream::Stdout, bytes, time: at(time) }))
    }

    pub(crate) fn status(self, time: i64, name: &str, part: (&str, u64, Option<u64>)) -> Script {
        let update = Update::Status(part_of(time, name, part));
        self.push(time, update)
    }

    pub(crate) fn status_done(
        self,
        time: i64,
        name: &str,
        part: (&str, u64, Option<u64>),
    ) -> Script {
        let status = Status { completed: Some(at(time)), ..part_of(time, name, part) };
        self.push(time, Update::Status(status))
    }

    pub(crate) fn warning(self, time: i64, name: &str, short: &str) -> Script {
        let (vertex, short) = (VertexId::of(name), short.to_owned());
        let detail = vec!["more".to_owned()];
        let warning = Warning { detail, ..Warning::of(vertex, short) };
        self.push(time, Update::Warning(warning))
    }
}

fn part_of(time: i64, name: &str, (id, current, total): (&str, u64, Option<u64>)) -> Status {
    Status {
        vertex: VertexId::of(name),
        id: id.to_owned(),
        current,
        total,
        time: at(time),
        started: Some(at(0)),
        completed: None,
    }
}

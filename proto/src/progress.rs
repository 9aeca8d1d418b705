//! Progress on the wire: vertices, statuses, logs, warnings, and the times inside them.

use dcbuild_model::{ParseDigestError, UnixTime};
use dcbuild_progress::{Log, Status, Stream, Update, Vertex, VertexId, VertexState, Warning};

use crate::pb;

/// Says why a message is no update that can be shown.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidUpdate {
    /// A vertex has no proper id.
    #[error("the id of a vertex is malformed")]
    Vertex {
        /// What is wrong with it.
        source: ParseDigestError,
    },
    /// A vertex is in a state that this version does not know.
    #[error("vertex {vertex} is in the unknown state {state}")]
    State {
        /// The vertex.
        vertex: VertexId,
        /// The number on the wire.
        state: i32,
    },
    /// A time that the state needs is absent.
    #[error("vertex {vertex} has no time when it {what}")]
    MissingTime {
        /// The vertex.
        vertex: VertexId,
        /// Which time.
        what: &'static str,
    },
    /// A time has more nanoseconds than a second.
    #[error("{nanos} nanoseconds are more than a second")]
    Time {
        /// The nanoseconds.
        nanos: u32,
    },
    /// A log comes from neither output.
    #[error("stream {stream} is neither 1 (standard output) nor 2 (standard error)")]
    Stream {
        /// The number on the wire.
        stream: u32,
    },
}

impl From<UnixTime> for pb::Time {
    fn from(time: UnixTime) -> pb::Time {
        pb::Time { secs: time.secs, nanos: time.nanos }
    }
}

impl TryFrom<pb::Time> for UnixTime {
    type Error = InvalidUpdate;

    fn try_from(wire: pb::Time) -> Result<UnixTime, InvalidUpdate> {
        match wire {
            pb::Time { secs, nanos } if nanos < 1_000_000_000 => Ok(UnixTime { secs, nanos }),
            pb::Time { nanos, .. } => Err(InvalidUpdate::Time { nanos }),
        }
    }
}

fn id(text: &str) -> Result<VertexId, InvalidUpdate> {
    text.parse().map(VertexId).map_err(|source| InvalidUpdate::Vertex { source })
}

fn optional(time: Option<pb::Time>) -> Result<Option<UnixTime>, InvalidUpdate> {
    time.map(UnixTime::try_from).transpose()
}

fn needed(
    time: Option<pb::Time>,
    vertex: VertexId,
    what: &'static str,
) -> Result<UnixTime, InvalidUpdate> {
    time.ok_or(InvalidUpdate::MissingTime { vertex, what })?.try_into()
}

impl From<Vertex> for pb::Vertex {
    fn from(vertex: Vertex) -> pb::Vertex {
        use pb::VertexState as Wire;
        let started = match vertex.state {
            VertexState::Cached { .. } => None,
            _ => vertex.state.started().map(Into::into),
        };
        let completed = vertex.state.completed().map(Into::into);
        let (state, error) = match vertex.state {
            VertexState::Waiting => (Wire::Waiting, String::new()),
            VertexState::Running { .. } => (Wire::Running, String::new()),
            VertexState::Done { .. } => (Wire::Done, String::new()),
            VertexState::Cached { .. } => (Wire::Cached, String::new()),
            VertexState::Failed { error, .. } => (Wire::Failed, error),
            VertexState::Canceled { .. } => (Wire::Canceled, String::new()),
        };
        pb::Vertex {
            id: vertex.id.to_string(),
            name: vertex.name,
            inputs: vertex.inputs.iter().map(ToString::to_string).collect(),
            started,
            completed,
            state: state.into(),
            error,
        }
    }
}

impl TryFrom<pb::Vertex> for Vertex {
    type Error = InvalidUpdate;

    fn try_from(wire: pb::Vertex) -> Result<Vertex, InvalidUpdate> {
        use pb::VertexState as Wire;
        let vertex = id(&wire.id)?;
        let unknown = InvalidUpdate::State { vertex, state: wire.state };
        let started = || needed(wire.started, vertex, "started");
        let completed = || needed(wire.completed, vertex, "completed");
        let state = match Wire::try_from(wire.state) {
            Err(_) | Ok(Wire::Unspecified) => return Err(unknown),
            Ok(Wire::Waiting) => VertexState::Waiting,
            Ok(Wire::Running) => VertexState::Running { started: started()? },
            Ok(Wire::Done) => VertexState::Done { started: started()?, completed: completed()? },
            Ok(Wire::Cached) => VertexState::Cached { completed: completed()? },
            Ok(Wire::Failed) => {
                let (started, completed) = (started()?, completed()?);
                VertexState::Failed { started, completed, error: wire.error }
            }
            Ok(Wire::Canceled) => {
                VertexState::Canceled { started: started()?, completed: completed()? }
            }
        };
        let inputs = wire.inputs.iter().map(|input| id(input)).collect::<Result<_, _>>()?;
        Ok(Vertex { id: vertex, name: wire.name, inputs, state })
    }
}

impl From<Status> for pb::Status {
    fn from(status: Status) -> pb::Status {
        pb::Status {
            vertex: status.vertex.to_string(),
            id: status.id,
            current: status.current,
            total: status.total,
            time: Some(status.time.into()),
            started: status.started.map(Into::into),
            completed: status.completed.map(Into::into),
        }
    }
}

impl TryFrom<pb::Status> for Status {
    type Error = InvalidUpdate;

    fn try_from(wire: pb::Status) -> Result<Status, InvalidUpdate> {
        let vertex = id(&wire.vertex)?;
        Ok(Status {
            vertex,
            id: wire.id,
            current: wire.current,
            total: wire.total,
            time: needed(wire.time, vertex, "was so")?,
            started: optional(wire.started)?,
            completed: optional(wire.completed)?,
        })
    }
}

impl From<Log> for pb::Log {
    fn from(log: Log) -> pb::Log {
        pb::Log {
            vertex: log.vertex.to_string(),
            stream: match log.stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            },
            bytes: log.bytes.into(),
            time: Some(log.time.into()),
        }
    }
}

impl TryFrom<pb::Log> for Log {
    type Error = InvalidUpdate;

    fn try_from(wire: pb::Log) -> Result<Log, InvalidUpdate> {
        let vertex = id(&wire.vertex)?;
        let stream = match wire.stream {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            stream => return Err(InvalidUpdate::Stream { stream }),
        };
        let time = needed(wire.time, vertex, "wrote")?;
        Ok(Log { vertex, stream, bytes: wire.bytes.into(), time })
    }
}

impl From<Warning> for pb::Warning {
    fn from(warning: Warning) -> pb::Warning {
        let (first_line, last_line) = warning.lines.unwrap_or_default();
        pb::Warning {
            vertex: warning.vertex.to_string(),
            short: warning.short,
            detail: warning.detail,
            url: warning.url.unwrap_or_default(),
            first_line,
            last_line,
        }
    }
}

impl TryFrom<pb::Warning> for Warning {
    type Error = InvalidUpdate;

    fn try_from(wire: pb::Warning) -> Result<Warning, InvalidUpdate> {
        Ok(Warning {
            vertex: id(&wire.vertex)?,
            short: wire.short,
            detail: wire.detail,
            url: Some(wire.url).filter(|url| !url.is_empty()),
            lines: Some((wire.first_line, wire.last_line)).filter(|(first, _)| *first > 0),
        })
    }
}

impl From<Update> for pb::build_event::Event {
    fn from(update: Update) -> pb::build_event::Event {
        use pb::build_event::Event;
        match update {
            Update::Vertex(vertex) => Event::Vertex(vertex.into()),
            Update::Status(status) => Event::Status(status.into()),
            Update::Log(log) => Event::Log(log.into()),
            Update::Warning(warning) => Event::Warning(warning.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY: UnixTime = UnixTime { secs: -5, nanos: 7 };
    const LATE: UnixTime = UnixTime { secs: 9, nanos: 999_999_999 };

    fn there_and_back<T, W>(value: T)
    where
        T: Clone + PartialEq + std::fmt::Debug + Into<W> + TryFrom<W, Error = InvalidUpdate>,
    {
        let wire: W = value.clone().into();
        assert_eq!(T::try_from(wire), Ok(value));
    }

    fn vertex(state: VertexState) -> Vertex {
        let inputs = vec![VertexId::of("b"), VertexId::of("c")];
        Vertex { id: VertexId::of("a"), name: "[1/2] RUN a".into(), inputs, state }
    }

    #[test]
    fn updates_survive_the_wire() {
        let (started, completed) = (EARLY, LATE);
        for state in [
            VertexState::Waiting,
            VertexState::Running { started },
            VertexState::Done { started, completed },
            VertexState::Cached { completed },
            VertexState::Failed { started, completed, error: "exit code 1".into() },
            VertexState::Canceled { started, completed },
        ] {
            there_and_back::<_, pb::Vertex>(vertex(state));
        }
        for (total, started) in [(None, None), (Some(9), Some(EARLY))] {
            there_and_back::<_, pb::Status>(Status {
                vertex: VertexId::of("a"),
                id: "extracting".into(),
                current: 5,
                total,
                time: LATE,
                started,
                completed: started,
            });
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let bytes = vec![0xff, b'\n'];
            there_and_back::<_, pb::Log>(Log {
                vertex: VertexId::of("a"),
                stream,
                bytes,
                time: EARLY,
            });
        }
        for (url, lines) in [(None, Some((3, 4))), (Some("https://example.com/".into()), None)] {
            there_and_back::<_, pb::Warning>(Warning {
                vertex: VertexId::of("a"),
                short: "odd".into(),
                detail: vec!["very".into()],
                url,
                lines,
            });
        }
    }

    #[test]
    fn malformed_messages_are_refused() {
        let good = pb::Vertex::from(vertex(VertexState::Running { started: EARLY }));
        let refused = |wire: pb::Vertex| Vertex::try_from(wire).unwrap_err().to_string();
        let name = VertexId::of("a");
        for state in [0, 7, -1] {
            let want = format!("vertex {name} is in the unknown state {state}");
            assert_eq!(refused(pb::Vertex { state, ..good.clone() }), want);
        }
        let want = format!("vertex {name} has no time when it started");
        assert_eq!(refused(pb::Vertex { started: None, ..good.clone() }), want);
        let want = "the id of a vertex is malformed";
        assert_eq!(refused(pb::Vertex { id: "a".into(), ..good.clone() }), want);
        assert_eq!(refused(pb::Vertex { inputs: vec![String::new()], ..good.clone() }), want);
        let time = pb::Time { secs: 0, nanos: 1_000_000_000 };
        let want = "1000000000 nanoseconds are more than a second";
        assert_eq!(refused(pb::Vertex { started: Some(time), ..good }), want);
        let log =
            pb::Log { vertex: name.to_string(), time: Some(EARLY.into()), ..pb::Log::default() };
        assert_eq!(Log::try_from(log), Err(InvalidUpdate::Stream { stream: 0 }));
    }
}

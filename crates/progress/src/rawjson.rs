//! One JSON object a line, with the fields of `client.SolveStatus` in moby/buildkit, so that tools which read its `rawjson`
//! read this one too.

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use crate::update::{Log, Status, Stream, Update, Vertex, VertexState, Warning};

/// Gathers updates until the next draw and writes them as one object.
#[derive(Debug, Default)]
pub struct RawJson {
    batch: SolveStatus,
}

#[derive(Debug, Default, Serialize)]
struct SolveStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<VertexJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<StatusJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<LogJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<WarningJson>,
}

#[derive(Debug, Serialize)]
struct VertexJson {
    digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

#[derive(Debug, Serialize)]
struct StatusJson {
    id: String,
    vertex: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    current: u64,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Debug, Serialize)]
struct LogJson {
    vertex: String,
    stream: u8,
    data: String,
    timestamp: String,
}

#[derive(Debug, Serialize)]
struct WarningJson {
    vertex: String,
    level: u8,
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(rename = "sourceInfo", skip_serializing_if = "Option::is_none")]
    source: Option<SourceJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<RangeJson>,
}

/// The text that a warning speaks of.
#[derive(Debug, Serialize)]
struct SourceJson {
    filename: String,
    data: String,
    language: &'static str,
}

#[derive(Debug, Serialize)]
struct RangeJson {
    start: PlaceJson,
    end: PlaceJson,
}

#[derive(Debug, Serialize)]
struct PlaceJson {
    line: u32,
}

impl From<&Vertex> for VertexJson {
    fn from(vertex: &Vertex) -> VertexJson {
        let error = match &vertex.state {
            VertexState::Failed { error, .. } => error.clone(),
            // The ending by which readers of this format tell a cancel from a failure.
            VertexState::Canceled { .. } => "context canceled".into(),
            _ => String::new(),
        };
        VertexJson {
            digest: vertex.id.to_string(),
            inputs: vertex.inputs.iter().map(ToString::to_string).collect(),
            name: vertex.name.clone(),
            started: vertex.state.started().map(|time| time.rfc3339()),
            completed: vertex.state.completed().map(|time| time.rfc3339()),
            cached: matches!(vertex.state, VertexState::Cached { .. }),
            error,
        }
    }
}

impl From<&Status> for StatusJson {
    fn from(status: &Status) -> StatusJson {
        StatusJson {
            id: status.id.clone(),
            vertex: status.vertex.to_string(),
            total: status.total.filter(|total| *total > 0),
            current: status.current,
            timestamp: status.time.rfc3339(),
            started: status.started.map(|time| time.rfc3339()),
            completed: status.completed.map(|time| time.rfc3339()),
        }
    }
}

impl From<&Log> for LogJson {
    fn from(log: &Log) -> LogJson {
        LogJson {
            vertex: log.vertex.to_string(),
            stream: match log.stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            },
            data: STANDARD.encode(&log.bytes),
            timestamp: log.time.rfc3339(),
        }
    }
}

impl From<&Warning> for WarningJson {
    fn from(warning: &Warning) -> WarningJson {
        let place = |line| PlaceJson { line };
        let range = |(first, last)| RangeJson { start: place(first), end: place(last) };
        WarningJson {
            vertex: warning.vertex.to_string(),
            level: 1,
            short: STANDARD.encode(&warning.short),
            detail: warning.detail.iter().map(|text| STANDARD.encode(text)).collect(),
            url: warning.url.clone(),
            source: None,
            range: warning.lines.map(range).into_iter().collect(),
        }
    }
}

/// A warning as `client.VertexWarning` of moby/buildkit is written, with the Dockerfile that it speaks of.
pub fn warning_json(warning: &Warning, filename: &str, dockerfile: &str) -> Value {
    let source = warning.lines.map(|_| SourceJson {
        filename: filename.to_owned(),
        data: STANDARD.encode(dockerfile),
        language: "Dockerfile",
    });
    let value = serde_json::to_value(WarningJson { source, ..warning.into() });
    value.expect("texts and numbers are always JSON")
}

impl RawJson {
    /// Takes one update.
    pub fn update(&mut self, update: &Update) {
        match update {
            Update::Vertex(vertex) => self.batch.vertexes.push(vertex.into()),
            Update::Status(status) => self.batch.statuses.push(status.into()),
            Update::Log(log) => self.batch.logs.push(log.into()),
            Update::Warning(warning) => self.batch.warnings.push(warning.into()),
        }
    }

    /// One line with all updates since the last draw; nothing if there were none.
    pub fn draw(&mut self) -> String {
        let batch = std::mem::take(&mut self.batch);
        let empty = batch.vertexes.is_empty()
            && batch.statuses.is_empty()
            && batch.logs.is_empty()
            && batch.warnings.is_empty();
        if empty {
            return String::new();
        }
        let mut text = serde_json::to_string(&batch).expect("texts and numbers are always JSON");
        text.push('\n');
        text
    }
}

//! Plain lines, as `docker buildx build --progress=plain` prints them.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use dcbuild_model::UnixTime;

use crate::text::{Lines, bytes, line, log_time, printable, printable_line, seconds};
use crate::trace::Trace;
use crate::update::{Log, Status, Stream, Update, Vertex, VertexId, VertexState, between};

/// A vertex that waits longer than this for its lines to be shown gets its turn.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A vertex that has shown nothing for this long gives its turn to one that has something.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// A status is shown again after this time.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Lines of one vertex that wait for its turn; more are left out of the live view.
const PENDING_BYTES_MAX: usize = 1 << 20;

/// Prints each vertex in blocks of lines, one vertex at a time.
#[derive(Clone, Debug, Default)]
pub struct Plain {
    trace: Trace,
    blocks: BTreeMap<VertexId, Block>,
    current: Option<VertexId>,
    /// When the current vertex last showed something.
    shown: UnixTime,
    any: bool,
}

/// What one vertex has to say and has not said yet.
#[derive(Clone, Debug, Default)]
struct Block {
    pending: Vec<String>,
    pending_bytes: usize,
    clipped: u64,
    /// Since when something waits; set by the first draw that sees it.
    since: Option<UnixTime>,
    partial: BTreeMap<Stream, (UnixTime, Lines)>,
    statuses: BTreeMap<String, (UnixTime, u64)>,
    /// Its end was printed.
    closed: bool,
    turn: Turn,
    changed: bool,
}

/// Whether the next draw shows a block, so that nothing needs to be left out, or a later one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Turn {
    #[default]
    Waits,
    Now,
}

impl Block {
    fn push(&mut self, text: String) {
        if self.turn == Turn::Waits && self.pending_bytes + text.len() > PENDING_BYTES_MAX {
            self.clipped += 1;
            return;
        }
        self.pending_bytes += text.len();
        self.pending.push(text);
    }

    fn log(&mut self, log: &Log, started: UnixTime) {
        let (since, mut lines) = self.partial.remove(&log.stream).unwrap_or_default();
        let mut time = if lines.is_empty() { log.time } else { since };
        let mut found = Vec::new();
        lines.feed(&log.bytes, |text| {
            found.push(format!("{} {}", log_time(between(started, time)), printable_line(text)));
            time = log.time;
        });
        for text in found {
            self.push(text);
        }
        self.partial.insert(log.stream, (time, lines));
    }

    /// Lets go of lines that were never ended.
    fn end_lines(&mut self, started: UnixTime) {
        for (_, (time, mut lines)) in std::mem::take(&mut self.partial) {
            if let Some(text) = lines.rest() {
                self.push(format!(
                    "{} {}",
                    log_time(between(started, time)),
                    printable_line(&text)
                ));
            }
        }
    }

    fn status(&mut self, status: &Status) {
        if let Some((time, current)) = self.statuses.get(&status.id) {
            let little = status.total.is_none_or(|total| {
                u128::from(status.current.saturating_sub(*current)) * 20 < u128::from(total)
            });
            if status.completed.is_none() && little && between(*time, status.time) < STATUS_EVERY {
                return;
            }
        }
        self.statuses.insert(status.id.clone(), (status.time, status.current));
        self.push(status_line(status));
    }
}

fn status_line(status: &Status) -> String {
    let mut text = printable(&status.id);
    match status.total.filter(|total| *total > 0) {
        Some(total) => text += &format!(" {} / {}", bytes(status.current), bytes(total)),
        None if status.current > 0 => text += &format!(" {}", bytes(status.current)),
        None => {}
    }
    if let Some(started) = status.started {
        let took = between(started, status.completed.unwrap_or(status.time));
        if took > Duration::from_millis(10) {
            text += &format!(" {}", seconds(took));
        }
    }
    if status.completed.is_some() {
        text += " done";
    }
    text
}

impl Plain {
    /// Takes one update; what it says is shown by a later draw.
    pub fn update(&mut self, update: &Update) {
        match update {
            Update::Vertex(vertex) => {
                if self.trace.put(vertex) && vertex.state.started().is_some() {
                    let block = self.blocks.entry(vertex.id).or_default();
                    block.changed = true;
                    block.closed = false;
                }
            }
            Update::Status(status) => self.block(status.vertex).status(status),
            Update::Log(log) => {
                let started = self.trace.get(log.vertex).and_then(|vertex| vertex.state.started());
                let shown = self.current.is_none_or(|current| current == log.vertex);
                let block = self.block(log.vertex);
                block.turn = if shown { Turn::Now } else { Turn::Waits };
                block.log(log, started.unwrap_or(log.time));
            }
            Update::Warning(warning) => {
                self.block(warning.vertex).push(format!("WARN: {}", printable(&warning.short)));
            }
        }
    }

    /// The lines that are due: those of vertices that ended, then those of the one that has its turn.
    pub fn draw(&mut self, now: UnixTime) -> String {
        let mut out = String::new();
        for block in self.blocks.values_mut().filter(|block| block.waits()) {
            block.since.get_or_insert(now);
        }
        for id in self.ended() {
            self.show(id, &mut out);
        }
        if let Some(id) = self.turn(now) {
            self.show(id, &mut out);
            self.shown = now;
        }
        out
    }

    /// The last lines, when nothing more will come.
    pub fn finish(&mut self, now: UnixTime) -> String {
        let mut out = self.draw(now);
        let waiting = |plain: &Plain, id: &VertexId| {
            plain.blocks.get(id).is_some_and(|block| block.waits() || block.holds_partial())
        };
        let ids: Vec<VertexId> = self.trace.begun().map(|vertex| vertex.id).collect();
        for id in ids {
            let started = self.trace.get(id).and_then(|vertex| vertex.state.started());
            if waiting(self, &id) {
                self.block(id).end_lines(started.unwrap_or(now));
                self.show(id, &mut out);
            }
        }
        out
    }

    fn block(&mut self, id: VertexId) -> &mut Block {
        self.blocks.entry(id).or_default()
    }

    /// The vertices that ended and were not closed: the current one first, then as they ended.
    fn ended(&self) -> Vec<VertexId> {
        let mut ended: Vec<(bool, UnixTime, usize, VertexId)> = self
            .trace
            .begun()
            .filter(|vertex| self.blocks.get(&vertex.id).is_some_and(|block| !block.closed))
            .filter_map(|vertex| {
                let place = self.trace.number(vertex.id)?;
                let completed = vertex.state.completed()?;
                Some((self.current != Some(vertex.id), completed, place, vertex.id))
            })
            .collect();
        ended.sort_unstable();
        ended.into_iter().map(|(.., id)| id).collect()
    }

    /// The running vertex whose lines are shown now.
    fn turn(&self, now: UnixTime) -> Option<VertexId> {
        let mut waiting: Vec<(UnixTime, usize, VertexId)> = self
            .blocks
            .iter()
            .filter(|(_, block)| block.waits())
            .filter_map(|(id, block)| Some((block.since?, self.trace.number(*id)?, *id)))
            .collect();
        waiting.sort_unstable();
        let (since, _, first) = *waiting.first()?;
        let Some(current) = self.current else { return Some(first) };
        if between(since, now) >= WAIT_MAX {
            return Some(first);
        }
        if waiting.iter().any(|(.., id)| *id == current) {
            return Some(current);
        }
        (between(self.shown, now) >= SILENT_MAX).then_some(first)
    }

    fn show(&mut self, id: VertexId, out: &mut String) {
        let (Some(vertex), Some(number)) = (self.trace.get(id), self.trace.number(id)) else {
            return;
        };
        let block = self.blocks.entry(id).or_default();
        if self.current != Some(id) {
            if let Some(left) = self.current.and_then(|left| self.trace.number(left)) {
                line(out, format_args!("#{left} ..."));
            }
            if std::mem::replace(&mut self.any, true) {
                out.push('\n');
            }
            line(out, format_args!("#{number} {}", printable(&vertex.name)));
        }
        if let (Some(started), Some(_)) = (vertex.state.started(), vertex.state.completed()) {
            block.end_lines(started);
        }
        for text in std::mem::take(&mut block.pending) {
            line(out, format_args!("#{number} {text}"));
        }
        if block.clipped > 0 {
            line(out, format_args!("#{number} [{} lines left out here]", block.clipped));
        }
        block.pending_bytes = 0;
        block.clipped = 0;
        block.since = None;
        block.changed = false;
        self.current = Some(id);
        if let Some(text) = ending(vertex) {
            line(out, format_args!("#{number} {text}"));
            block.closed = true;
            self.current = None;
        }
    }
}

impl Block {
    fn waits(&self) -> bool {
        self.changed || !self.pending.is_empty() || self.clipped > 0
    }

    fn holds_partial(&self) -> bool {
        self.partial.values().any(|(_, lines)| !lines.is_empty())
    }
}

fn ending(vertex: &Vertex) -> Option<String> {
    match &vertex.state {
        VertexState::Waiting | VertexState::Running { .. } => None,
        VertexState::Done { started, completed } => {
            Some(format!("DONE {}", seconds(between(*started, *completed))))
        }
        VertexState::Cached { .. } => Some("CACHED".into()),
        VertexState::Failed { error, .. } => Some(format!("ERROR: {}", printable(error))),
        VertexState::Canceled { .. } => Some("CANCELED".into()),
    }
}

//! A live frame: a header, a line for each vertex, and the last words of those that run.

mod frame;
mod look;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use dcbuild_model::UnixTime;

pub use frame::{Frame, FrameLine, Size, Style, redraw};
pub use look::{Colour, Look, Paint, Palette};

use crate::text::{Lines, bytes, clip, printable, printable_line, seconds, width};
use crate::trace::Trace;
use crate::update::{Status, Stream, Update, Vertex, VertexId, VertexState, between};

/// The narrowest terminal that is drawn for; a narrower one is treated as this wide.
const COLUMNS_MIN: usize = 24;

/// Holds what is known of a build and draws frames of it.
#[derive(Clone, Debug)]
pub struct Tty {
    trace: Trace,
    parts: BTreeMap<VertexId, Parts>,
    look: Look,
    /// How many lines of the last frame stand above the cursor.
    drawn: usize,
}

#[derive(Clone, Debug, Default)]
struct Parts {
    statuses: Vec<Status>,
    warnings: Vec<String>,
    window: VecDeque<String>,
    lines: BTreeMap<Stream, Lines>,
}

/// Whether a frame is one of many or the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    During,
    End,
}

/// The lines of one vertex; those of a running one are kept when there is little room.
struct Group {
    running: bool,
    lines: Vec<FrameLine>,
    window: Vec<FrameLine>,
}

impl Tty {
    /// Starts with nothing drawn.
    pub fn new(look: Look) -> Tty {
        Tty { trace: Trace::default(), parts: BTreeMap::new(), look, drawn: 0 }
    }

    /// Takes one update.
    pub fn update(&mut self, update: &Update) {
        match update {
            Update::Vertex(vertex) => {
                self.trace.put(vertex);
                if vertex.state.completed().is_some()
                    && let Some(parts) = self.parts.get_mut(&vertex.id)
                {
                    parts.window.clear();
                    parts.lines.clear();
                }
            }
            Update::Status(status) => {
                let statuses = &mut self.parts.entry(status.vertex).or_default().statuses;
                match statuses.iter_mut().find(|known| known.id == status.id) {
                    Some(known) => *known = status.clone(),
                    None => statuses.push(status.clone()),
                }
            }
            Update::Log(log) => {
                let room = self.look.log_lines;
                let Parts { window, lines, .. } = self.parts.entry(log.vertex).or_default();
                lines.entry(log.stream).or_default().feed(&log.bytes, |text| {
                    let text = printable_line(text);
                    if text.is_empty() {
                        return;
                    }
                    window.push_back(text);
                    if window.len() > room {
                        window.pop_front();
                    }
                });
            }
            Update::Warning(warning) => {
                let parts = self.parts.entry(warning.vertex).or_default();
                parts.warnings.push(printable(&warning.short));
            }
        }
    }

    /// The frame as it stands now, no higher than the terminal.
    pub fn frame(&self, now: UnixTime, size: Size) -> Frame {
        self.lines(now, size, Moment::During)
    }

    /// What to write so that the terminal shows the frame of now.
    pub fn draw(&mut self, now: UnixTime, size: Size) -> String {
        self.replace(&self.lines(now, size, Moment::During))
    }

    /// What to write so that the terminal shows the whole build, as it ended.
    pub fn finish(&mut self, now: UnixTime, size: Size) -> String {
        self.replace(&self.lines(now, size, Moment::End))
    }

    fn replace(&mut self, frame: &Frame) -> String {
        let text = redraw(self.drawn, frame, self.look.colour);
        self.drawn = frame.lines.len();
        text
    }

    fn lines(&self, now: UnixTime, size: Size, moment: Moment) -> Frame {
        let columns = size.columns.max(COLUMNS_MIN);
        let mut groups: Vec<Group> =
            self.trace.begun().map(|vertex| self.group(vertex, now, columns)).collect();
        if moment == Moment::During {
            fit(&mut groups, size.rows.saturating_sub(2).max(1));
        }
        let mut lines = vec![self.header(now, columns, moment)];
        for group in groups {
            lines.extend(group.lines);
            lines.extend(group.window);
        }
        Frame { lines }
    }

    fn header(&self, now: UnixTime, columns: usize, moment: Moment) -> FrameLine {
        let took = self.trace.started().map(|started| between(started, now)).unwrap_or_default();
        let (done, all) = (self.trace.completed(), self.trace.len());
        let end = if moment == Moment::End && done == all && all > 0 { " FINISHED" } else { "" };
        let text = format!("[+] Building {} ({done}/{all}){end}", seconds(took));
        FrameLine { text: clip(&text, columns).into(), style: Style::Plain }
    }

    fn group(&self, vertex: &Vertex, now: UnixTime, columns: usize) -> Group {
        let running = vertex.state.completed().is_none();
        let (mark, style) = match &vertex.state {
            VertexState::Waiting | VertexState::Running { .. } => ("", Style::Plain),
            VertexState::Done { .. } => ("", Style::Done),
            VertexState::Cached { .. } => ("CACHED ", Style::Done),
            VertexState::Failed { .. } => ("ERROR ", Style::Error),
            VertexState::Canceled { .. } => ("CANCELED ", Style::Canceled),
        };
        let name = format!(" => {mark}{}", printable(&vertex.name));
        let time = seconds(vertex.state.took(now));
        let mut lines = vec![FrameLine { text: aligned(&name, &time, columns), style }];
        let Some(parts) = self.parts.get(&vertex.id) else {
            return Group { running, lines, window: Vec::new() };
        };
        lines.extend(parts.statuses.iter().map(|status| status_line(status, now, columns)));
        lines.extend(parts.warnings.iter().map(|warning| FrameLine {
            text: clip(&format!(" => WARN: {warning}"), columns).into(),
            style: Style::Warning,
        }));
        let window = parts.window.iter().map(|text| FrameLine {
            text: clip(&format!(" => => # {text}"), columns).into(),
            style: Style::Faint,
        });
        Group { running, lines, window: window.collect() }
    }
}

fn status_line(status: &Status, now: UnixTime, columns: usize) -> FrameLine {
    let size = match status.total.filter(|total| *total > 0) {
        Some(total) => format!("  {} / {}", bytes(status.current), bytes(total)),
        None if status.current > 0 => format!("  {}", bytes(status.current)),
        None => String::new(),
    };
    let took = status
        .started
        .map(|started| between(started, status.completed.unwrap_or(now)))
        .unwrap_or_default();
    let right = format!("{size}  {}", seconds(took));
    let style = if status.completed.is_some() { Style::Done } else { Style::Plain };
    let left = format!(" => => {}", printable(&status.id));
    FrameLine { text: aligned(&left, right.trim_start(), columns), style }
}

/// Puts one text at the left edge, clipped, and one at the right.
fn aligned(left: &str, right: &str, columns: usize) -> String {
    let room = columns.saturating_sub(width(right) + 1);
    let left = clip(left, room);
    let gap = " ".repeat(room.saturating_sub(width(left)));
    clip(&format!("{left}{gap} {right}"), columns).into()
}

/// Leaves out what there is no room for: output first, then vertices that ended, oldest first, then whatever is above.
fn fit(groups: &mut Vec<Group>, rows: usize) {
    let height = |groups: &[Group]| -> usize {
        groups.iter().map(|group| group.lines.len() + group.window.len()).sum()
    };
    let mut over = height(groups).saturating_sub(rows);
    for group in groups.iter_mut() {
        let cut = over.min(group.window.len());
        group.window.drain(..cut);
        over -= cut;
    }
    groups.retain(|group| {
        let cut = over > 0 && !group.running;
        if cut {
            over = over.saturating_sub(group.lines.len());
        }
        !cut
    });
    for group in groups.iter_mut() {
        let cut = over.min(group.lines.len().saturating_sub(1));
        group.lines.truncate(group.lines.len() - cut);
        over -= cut;
    }
    let cut = over.min(groups.len());
    groups.drain(..cut);
}

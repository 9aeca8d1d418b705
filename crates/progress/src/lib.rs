//! What a person or a program sees of a build while it runs and when it ends: plain lines, a live frame, JSON lines,
//! the block of an error and a summary.
//!
//! Everything here turns values into text: times come in with the updates or as an argument, and nothing touches a
//! clock, a terminal or a stream. No text of a build reaches the output with a control character in it. Start with
//! [`Update`] for what goes in and [`Display`] for what comes out.

pub mod display;
pub mod failure;
pub mod mode;
pub mod plain;
pub mod rawjson;
pub mod summary;
pub mod text;
mod trace;
pub mod tty;
pub mod update;
pub mod warnings;

pub use display::{Display, Output, quiet_line};
pub use failure::{Excerpt, Failure, LogLine};
pub use mode::{Mode, ParseModeError};
pub use plain::Plain;
pub use rawjson::RawJson;
pub use summary::{Summary, Tally};
pub use tty::{Colour, Frame, FrameLine, Look, Paint, Palette, Size, Style, Tty, redraw};
pub use update::{
    Log, Status, Stream, Update, Vertex, VertexId, VertexState, Warning, is_internal,
};
pub use warnings::Warnings;

#[cfg(test)]
mod tests;

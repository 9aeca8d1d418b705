//! A frame, and the bytes that put it in the place of the one before.

use super::{Colour, Palette};

/// The terminal's size, in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// How wide it is.
    pub columns: usize,
    /// How high it is.
    pub rows: usize,
}

impl Default for Size {
    fn default() -> Size {
        Size { columns: 80, rows: 24 }
    }
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// As any text.
    Plain,
    /// A vertex that ended well.
    Done,
    /// A vertex that failed.
    Error,
    /// A vertex that was cancelled.
    Canceled,
    /// A warning.
    Warning,
    /// What a step wrote.
    Faint,
}

impl Style {
    fn code(self, palette: &Palette) -> Option<String> {
        match self {
            Style::Plain => None,
            Style::Done => Some(palette.done.code()),
            Style::Error => Some(palette.error.code()),
            Style::Canceled => Some(palette.canceled.code()),
            Style::Warning => Some(palette.warning.code()),
            Style::Faint => Some("2".into()),
        }
    }
}

/// One line of a frame: never wider than the terminal, never with a control character.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameLine {
    /// The text.
    pub text: String,
    /// How it looks.
    pub style: Style,
}

/// What the terminal shows of a build at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frame {
    /// The lines, from the top.
    pub lines: Vec<FrameLine>,
}

/// The bytes that replace a frame of `prev_lines` lines, above the cursor, by this one; the cursor ends below it.
pub fn redraw(prev_lines: usize, frame: &Frame, colour: Colour) -> String {
    let mut out = String::from("\x1b[?25l");
    if prev_lines > 0 {
        out += &format!("\x1b[{prev_lines}A");
    }
    out.push('\r');
    for line in &frame.lines {
        let code = match &colour {
            Colour::On(palette) => line.style.code(palette),
            Colour::Off => None,
        };
        match code {
            Some(code) => out += &format!("\x1b[{code}m{}\x1b[0m", line.text),
            None => out += &line.text,
        }
        out += "\x1b[K\n";
    }
    out += "\x1b[J\x1b[?25h";
    out
}

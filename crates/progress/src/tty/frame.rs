//! A frame, and the bytes that put it in the place of the one before.

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

/// Whether the terminal is to show colours; off where `NO_COLOR` is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Colour {
    /// With colours.
    On,
    /// Without.
    Off,
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
    /// A vertex that was cancelled, and warnings.
    Canceled,
    /// What a step wrote.
    Faint,
}

impl Style {
    fn code(self) -> Option<&'static str> {
        match self {
            Style::Plain => None,
            Style::Done => Some("34"),
            Style::Error => Some("31"),
            Style::Canceled => Some("33"),
            Style::Faint => Some("2"),
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
        match line.style.code().filter(|_| colour == Colour::On) {
            Some(code) => out += &format!("\x1b[{code}m{}\x1b[0m", line.text),
            None => out += &line.text,
        }
        out += "\x1b[K\n";
    }
    out += "\x1b[J\x1b[?25h";
    out
}

//! One display for each mode, behind one door.

use dcbuild_model::UnixTime;

use crate::text::printable;
use crate::{Look, Mode, Plain, RawJson, Size, Tty, Update};

/// Turns updates into what is written to standard error, in one of the modes.
#[derive(Debug)]
pub enum Display {
    /// Plain lines.
    Plain(Plain),
    /// A live frame.
    Tty(Tty),
    /// One JSON object a line.
    RawJson(RawJson),
    /// Nothing.
    Silent,
}

/// What the output can show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// A terminal.
    Terminal(Look),
    /// A file or a pipe.
    Stream,
}

impl Display {
    /// Picks the display for a mode; `auto` depends on the output, and `tty` on a stream is plain.
    pub fn new(mode: Mode, output: Output) -> Display {
        match (mode, output) {
            (Mode::Auto | Mode::Tty, Output::Terminal(look)) => Display::Tty(Tty::new(look)),
            (Mode::Auto | Mode::Tty | Mode::Plain, _) => Display::Plain(Plain::default()),
            (Mode::RawJson, _) => Display::RawJson(RawJson::default()),
            (Mode::Quiet | Mode::None, _) => Display::Silent,
        }
    }

    /// Takes one update; nothing is shown before the next draw.
    pub fn update(&mut self, update: &Update) {
        match self {
            Display::Plain(plain) => plain.update(update),
            Display::Tty(tty) => tty.update(update),
            Display::RawJson(json) => json.update(update),
            Display::Silent => {}
        }
    }

    /// What to write now; to be called about ten times a second.
    pub fn draw(&mut self, now: UnixTime, size: Size) -> String {
        match self {
            Display::Plain(plain) => plain.draw(now),
            Display::Tty(tty) => tty.draw(now, size),
            Display::RawJson(json) => json.draw(),
            Display::Silent => String::new(),
        }
    }

    /// What to write when the build has ended.
    pub fn finish(&mut self, now: UnixTime, size: Size) -> String {
        match self {
            Display::Plain(plain) => plain.finish(now),
            Display::Tty(tty) => tty.finish(now, size),
            Display::RawJson(json) => json.draw(),
            Display::Silent => String::new(),
        }
    }
}

/// The only line of a quiet build: what it made.
pub fn quiet_line(result: &str) -> String {
    format!("{}\n", printable(result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_pick_their_display() {
        let name = |mode, output| match Display::new(mode, output) {
            Display::Plain(_) => "plain",
            Display::Tty(_) => "tty",
            Display::RawJson(_) => "rawjson",
            Display::Silent => "silent",
        };
        let terminal = Output::Terminal(Look::default());
        for (mode, output, want) in [
            (Mode::Auto, terminal, "tty"),
            (Mode::Auto, Output::Stream, "plain"),
            (Mode::Tty, Output::Stream, "plain"),
            (Mode::Plain, terminal, "plain"),
            (Mode::RawJson, terminal, "rawjson"),
            (Mode::Quiet, terminal, "silent"),
            (Mode::None, Output::Stream, "silent"),
        ] {
            assert_eq!(name(mode, output), want, "{mode} {output:?}");
        }
        assert_eq!(quiet_line("sha256:abc\x1b[2J"), "sha256:abc\n");
    }
}

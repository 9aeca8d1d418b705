//! Makes foreign text fit to print: no escape sequence, no control character, no bytes that are not UTF-8.

use std::fmt::Write as _;
use std::time::Duration;

use unicode_width::UnicodeWidthChar as _;

/// A line of a log is cut into pieces of this size in the live view.
pub(crate) const LINE_BYTES_MAX: usize = 4096;
/// Where a terminal sets its tabs.
const TAB: usize = 8;

/// One line of output as a terminal would have left it: what a carriage return overwrote is gone, escape sequences are
/// taken out, other control characters are written as `^X`.
pub fn printable_line(bytes: &[u8]) -> String {
    let shown = bytes.split(|byte| *byte == b'\r').rfind(|part| !part.is_empty());
    printable(&String::from_utf8_lossy(shown.unwrap_or_default()))
}

/// A text on one line, without escape sequences and control characters.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        match char {
            '\u{1b}' | '\u{9b}' | '\u{9d}' | '\u{90}' => match skip_sequence(char, rest.as_str()) {
                Some(after) => rest = after.chars(),
                None => out.push_str("^["),
            },
            '\t' => {
                let width: usize = out.chars().map(|char| char.width().unwrap_or(0)).sum();
                if width < LINE_BYTES_MAX {
                    out.extend(std::iter::repeat_n(' ', TAB - width % TAB));
                }
            }
            '\n' | '\r' => out.push(' '),
            '\u{7f}' => out.push_str("^?"),
            '\0'..='\u{1f}' => {
                out.push('^');
                out.extend(char::from_u32(u32::from(char) + 0x40));
            }
            // What remains of C1, and the marks that turn the direction of the text round.
            '\u{80}'..='\u{9f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{2028}'
            | '\u{2029}' => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

/// What follows an escape sequence whose first character was just read; none if it has no end in this line, so that it
/// cannot hide the rest.
fn skip_sequence(first: char, rest: &str) -> Option<&str> {
    let (kind, body) = match first {
        '\u{9b}' => ('[', rest),
        '\u{9d}' => (']', rest),
        '\u{90}' => ('P', rest),
        _ => {
            let kind = rest.chars().next()?;
            (kind, rest.get(kind.len_utf8()..)?)
        }
    };
    match kind {
        '[' => {
            let end = body.find(|char: char| !matches!(char, ' '..='?'))?;
            let last = body.get(end..)?.chars().next()?;
            matches!(last, '@'..='~').then(|| body.get(end + 1..)).flatten()
        }
        ']' | 'P' | 'X' | '^' | '_' => {
            let end = body.find(['\u{7}', '\u{1b}', '\u{9c}'])?;
            let tail = body.get(end..)?;
            tail.strip_prefix("\u{1b}\\").or_else(|| tail.strip_prefix(['\u{7}', '\u{9c}']))
        }
        ' '..='/' => {
            let end = body.find(|char: char| !matches!(char, ' '..='/'))?;
            let last = body.get(end..)?.chars().next()?;
            matches!(last, '0'..='~').then(|| body.get(end + 1..)).flatten()
        }
        '0'..='~' => Some(body),
        _ => None,
    }
}

/// How many columns a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(|char| char.width().unwrap_or(0)).sum()
}

/// As much of a text as fits into a number of columns.
pub fn clip(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, char) in text.char_indices() {
        used += char.width().unwrap_or(0);
        if used > columns {
            return &text[..at];
        }
    }
    text
}

/// A number of bytes as a person reads it: `512B`, `3.41MB`.
pub fn bytes(count: u64) -> String {
    let units = [("EB", 18), ("PB", 15), ("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)];
    for (unit, power) in units {
        let whole = 10_u64.pow(power);
        if count >= whole {
            let hundredths = u128::from(count) * 100 / u128::from(whole);
            return format!("{}.{:02}{unit}", hundredths / 100, hundredths % 100);
        }
    }
    format!("{count}B")
}

/// Seconds with as many digits as a log line has before its text.
pub(crate) fn log_time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match time.as_secs() {
        0..10 => format!("{seconds:.3}"),
        10..100 => format!("{seconds:.2}"),
        _ => format!("{seconds:.1}"),
    }
}

/// Seconds with one digit.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// Adds one line to a text.
pub(crate) fn line(out: &mut String, line: std::fmt::Arguments<'_>) {
    out.write_fmt(line).expect("a String takes every text");
    out.push('\n');
}

/// Cuts a stream of bytes into lines, long ones into pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes and gives each line that they end to `each`.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LINE_BYTES_MAX) {
                let body = part.strip_suffix(b"\n");
                if self.partial.len() + part.len() > LINE_BYTES_MAX {
                    each(&std::mem::take(&mut self.partial));
                }
                self.partial.extend_from_slice(body.unwrap_or(part));
                if body.is_some() {
                    each(&std::mem::take(&mut self.partial));
                }
            }
        }
    }

    /// Whether no line has begun.
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    /// Takes the line that has no end, if there is one.
    pub(crate) fn rest(&mut self) -> Option<Vec<u8>> {
        (!self.partial.is_empty()).then(|| std::mem::take(&mut self.partial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_taken_out() {
        for (text, want) in [
            ("plain", "plain"),
            ("\x1b[1;31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b]0;never ends", "^[]0;never ends"),
            ("\x1b[31", "^[[31"),
            ("\u{9b}31mred", "red"),
            ("\x1b(Bx", "x"),
            ("\x1b7x\x1b8", "x"),
            ("\x1b", "^["),
            ("a\tb", "a       b"),
            ("bell\x07", "bell^G"),
            ("nul\0", "nul^@"),
            ("\u{202e}live", "\u{fffd}live"),
            ("two\nlines", "two lines"),
        ] {
            assert_eq!(printable(text), want, "{text:?}");
        }
        assert_eq!(printable_line(b"10%\r20%\r100%\r"), "100%");
        assert_eq!(printable_line(b"bad \xff utf"), "bad \u{fffd} utf");
    }

    #[test]
    fn bytes_are_rounded_down() {
        for (count, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (3_419_999, "3.41MB"),
            (u64::MAX, "18.44EB"),
        ] {
            assert_eq!(bytes(count), want);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_control_character_is_left(bytes: Vec<u8>, tail in "[\u{0}-\u{a0}]*") {
            for text in [printable_line(&bytes), printable(&tail)] {
                proptest::prop_assert!(!text.chars().any(char::is_control), "{text:?}");
            }
        }

        #[test]
        fn lines_do_not_depend_on_the_cuts(bytes: Vec<u8>, cut in 0_usize..64) {
            let lines = |parts: &[&[u8]]| {
                let (mut lines, mut out) = (Lines::default(), Vec::new());
                for part in parts {
                    lines.feed(part, |line| out.push(line.to_vec()));
                }
                out.extend(lines.rest());
                out
            };
            let (left, right) = bytes.split_at(cut.min(bytes.len()));
            proptest::prop_assert_eq!(lines(&[&bytes]), lines(&[left, right]));
        }
    }
}

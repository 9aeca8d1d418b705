//! The values of `--progress`.

use std::fmt;
use std::str::FromStr;

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// A live frame on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// A live frame.
    Tty,
    /// Plain lines.
    Plain,
    /// The result and nothing else.
    Quiet,
    /// One JSON object a line.
    RawJson,
    /// Nothing at all.
    None,
}

/// Says why a text is no mode.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not a kind of progress (auto, tty, plain, quiet, rawjson or none)")]
pub struct ParseModeError {
    /// The text, made printable and cut at 100 characters.
    pub text: String,
}

impl Mode {
    const ALL: [Mode; 6] =
        [Mode::Auto, Mode::Tty, Mode::Plain, Mode::Quiet, Mode::RawJson, Mode::None];

    /// The word that stands for it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Auto => "auto",
            Mode::Tty => "tty",
            Mode::Plain => "plain",
            Mode::Quiet => "quiet",
            Mode::RawJson => "rawjson",
            Mode::None => "none",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Mode, ParseModeError> {
        let invalid =
            || ParseModeError { text: crate::text::printable(text).chars().take(100).collect() };
        Mode::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!(
            "fancy".parse::<Mode>().unwrap_err().to_string(),
            "'fancy' is not a kind of progress (auto, tty, plain, quiet, rawjson or none)"
        );
    }
}

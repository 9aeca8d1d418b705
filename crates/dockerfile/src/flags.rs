//! The `--flags` between a keyword and its arguments.

use crate::ast::Span;
use crate::error::{ParseError, ParseErrorKind};
use crate::suggest;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagKind {
    Bool,
    Text,
    /// Text, as often as one likes.
    Texts,
}

/// The flags that an instruction knows.
pub(crate) type Known = &'static [(&'static str, FlagKind)];

/// The flags that were given, checked against those known.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    given: Vec<(&'static str, String)>,
}

impl Flags {
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| value.clone())
    }

    /// Returns the text unless it is empty, which stands for the flag's absence.
    pub(crate) fn filled(&self, name: &str) -> Option<String> {
        self.text(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let named = self.given.iter().filter(|(given, _)| *given == name);
        named.map(|(_, value)| value.clone()).collect()
    }

    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value == "true")
    }
}

/// Takes the flags off the front of an instruction's arguments; quotes and escapes in them are undone.
pub(crate) fn take(text: &str) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (flag, after) = take_word(rest);
        if flag == "--" {
            return (flags, after);
        }
        if !flag.is_empty() {
            flags.push(flag);
        }
        rest = after.trim_start();
    }
    (flags, rest)
}

fn take_word(text: &str) -> (String, &str) {
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    loop {
        let before = chars.as_str();
        let Some(ch) = chars.next() else { return (word, "") };
        match (ch, quote) {
            (ch, None) if ch.is_whitespace() => return (word, before),
            ('\'' | '"', None) => quote = Some(ch),
            (ch, Some(open)) if ch == open => quote = None,
            ('\\', _) => word.extend(chars.next()),
            (ch, _) => word.push(ch),
        }
    }
}

/// Checks the given flags against those known.
pub(crate) fn parse(given: &[String], known: Known, span: Span) -> Result<Flags, ParseError> {
    let mut flags = Flags::default();
    for flag in given {
        let (name, value) = match flag.strip_prefix("--").unwrap_or(flag).split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag.strip_prefix("--").unwrap_or(flag), None),
        };
        let Some((name, kind)) = known.iter().find(|(known, _)| *known == name).copied() else {
            return Err(unknown(name, known, span));
        };
        let refuse = |kind| ParseError::at(span, kind);
        if kind != FlagKind::Texts && flags.given.iter().any(|(given, _)| *given == name) {
            return Err(refuse(ParseErrorKind::DuplicateFlag(name)));
        }
        let value = match (kind, value) {
            (FlagKind::Bool, None) => "true".to_owned(),
            (FlagKind::Bool, Some("")) | (_, None) => {
                return Err(refuse(ParseErrorKind::MissingFlagValue(name)));
            }
            (FlagKind::Bool, Some(value)) => match value.to_lowercase() {
                lower if lower == "true" || lower == "false" => lower,
                _ => {
                    let value = value.to_owned();
                    return Err(refuse(ParseErrorKind::FlagNotBoolean { flag: name, value }));
                }
            },
            (FlagKind::Text | FlagKind::Texts, Some(value)) => value.to_owned(),
        };
        flags.given.push((name, value));
    }
    Ok(flags)
}

fn unknown(name: &str, known: Known, span: Span) -> ParseError {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    ParseError {
        kind: ParseErrorKind::UnknownFlag(name.to_owned()),
        span: Some(span),
        suggestion: suggest::nearest(name, &names).map(str::to_owned),
        meant: None,
    }
}

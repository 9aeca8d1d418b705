//! The directives that may open a Dockerfile: `# syntax=`, `# escape=` and `# check=`.

use crate::ast::{Escape, Span};
use crate::error::{ParseError, ParseErrorKind};

/// What the directives said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directives {
    pub syntax: Option<String>,
    pub escape: Escape,
    pub check: Option<CheckDirective>,
}

/// Which checks are wanted, and whether their findings are errors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckDirective {
    pub skip: SkippedChecks,
    pub experimental: SkippedChecks,
    pub error: bool,
}

/// A set of checks by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SkippedChecks {
    All,
    Named(Vec<String>),
}

impl Default for SkippedChecks {
    fn default() -> SkippedChecks {
        SkippedChecks::Named(Vec::new())
    }
}

impl SkippedChecks {
    /// Tells whether a check is in the set.
    pub fn holds(&self, name: &str) -> bool {
        match self {
            SkippedChecks::All => true,
            SkippedChecks::Named(names) => names.iter().any(|known| known == name),
        }
    }
}

impl CheckDirective {
    /// Reads the text after `# check=`, which a build argument may hold too.
    pub fn parse(text: &str) -> Result<CheckDirective, ParseErrorKind> {
        if text.trim().is_empty() { Ok(CheckDirective::default()) } else { parse_check(text) }
    }
}

const NAMES: [&str; 3] = ["syntax", "escape", "check"];

/// Reads lines until the first that is no directive.
#[derive(Default)]
pub(crate) struct DirectiveReader {
    pub(crate) directives: Directives,
    seen: Vec<&'static str>,
    done: bool,
}

impl DirectiveReader {
    /// Takes a line and tells whether it is a directive.
    pub(crate) fn read(&mut self, line: &str, number: u32) -> Result<bool, ParseError> {
        if self.done {
            return Ok(false);
        }
        let found = split(line).and_then(|(name, value)| {
            Some((NAMES.into_iter().find(|known| *known == name)?, value))
        });
        let Some((name, value)) = found else {
            self.done = true;
            return Ok(false);
        };
        let refuse = |kind| ParseError::at(Span::line(number), kind);
        if self.seen.contains(&name) {
            return Err(refuse(ParseErrorKind::RepeatedDirective(name)));
        }
        self.seen.push(name);
        match name {
            "escape" => self.directives.escape = parse_escape(value).map_err(refuse)?,
            "check" => self.directives.check = Some(parse_check(value).map_err(refuse)?),
            _ => self.directives.syntax = Some(value.to_owned()),
        }
        Ok(true)
    }
}

/// Splits `# name = value`; the name comes in lower case.
fn split(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = name.starts_with(|ch: char| ch.is_ascii_alphabetic())
        && name.chars().all(|ch| ch.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

fn parse_escape(value: &str) -> Result<Escape, ParseErrorKind> {
    match value {
        "\\" => Ok(Escape::Backslash),
        "`" => Ok(Escape::Backtick),
        other => Err(ParseErrorKind::EscapeToken(other.to_owned())),
    }
}

fn parse_check(value: &str) -> Result<CheckDirective, ParseErrorKind> {
    let mut check = CheckDirective::default();
    for option in value.split(';') {
        let (key, value) = option
            .split_once('=')
            .ok_or_else(|| ParseErrorKind::CheckOption(option.trim().to_owned()))?;
        let value = value.trim();
        match key.trim() {
            "skip" => check.skip = parse_names(value),
            "experimental" => check.experimental = parse_names(value),
            "error" => {
                check.error = crate::words::parse_bool(value)
                    .ok_or_else(|| ParseErrorKind::CheckValue(option.to_owned()))?;
            }
            other => return Err(ParseErrorKind::CheckOption(other.to_owned())),
        }
    }
    Ok(check)
}

fn parse_names(value: &str) -> SkippedChecks {
    if value == "all" {
        return SkippedChecks::All;
    }
    SkippedChecks::Named(value.split(',').map(|name| name.trim().to_owned()).collect())
}

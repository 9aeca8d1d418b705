//! Shell patterns in substitutions: `?`, `*` and escapes, brackets being literal.

use regex::{Captures, Regex, RegexBuilder};
use thiserror::Error;

use crate::limits::EXPANSION_BYTES_MAX;

/// How much memory a compiled pattern may take.
const COMPILED_BYTES_MAX: usize = 8 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greed {
    Shortest,
    Longest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replace {
    First,
    All,
}

/// Why a pattern could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    #[error("invalid escape '\\{0}'")]
    Escape(char),
    #[error("pattern is too large")]
    TooLarge,
    #[error("outcome is longer than {EXPANSION_BYTES_MAX} bytes")]
    TooLong,
}

/// Takes what the pattern matches away from one end; an error shows the pattern as it was tried.
pub(crate) fn trim(
    pattern: &str,
    value: &str,
    anchor: Anchor,
    greed: Greed,
) -> Result<String, (String, PatternError)> {
    match anchor {
        Anchor::Start => {
            trim_start(pattern, value, greed).map_err(|reason| (pattern.to_owned(), reason))
        }
        Anchor::End => {
            let pattern = reversed_pattern(pattern);
            match trim_start(&pattern, &reversed(value), greed) {
                Ok(rest) => Ok(reversed(&rest)),
                Err(reason) => Err((pattern, reason)),
            }
        }
    }
}

fn trim_start(pattern: &str, value: &str, greed: Greed) -> Result<String, PatternError> {
    let expression = compile(pattern, greed, "^")?;
    let end = expression.find(value).map_or(0, |found| found.end());
    Ok(value.get(end..).unwrap_or_default().to_owned())
}

/// Replaces what the pattern matches; `$1` in the replacement of all names a group, and so yields nothing.
pub(crate) fn replace(
    pattern: &str,
    value: &str,
    replacement: &str,
    which: Replace,
) -> Result<String, PatternError> {
    let expression = compile(pattern, Greed::Longest, "")?;
    let mut out = String::new();
    let mut copied = 0;
    for captures in expression.captures_iter(value) {
        let Some(found) = captures.get(0) else { continue };
        out.push_str(value.get(copied..found.start()).unwrap_or_default());
        push_replacement(&mut out, &captures, replacement, which);
        copied = found.end();
        if out.len() > EXPANSION_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        if which == Replace::First {
            break;
        }
    }
    out.push_str(value.get(copied..).unwrap_or_default());
    Ok(out)
}

fn push_replacement(out: &mut String, captures: &Captures<'_>, replacement: &str, which: Replace) {
    match which {
        Replace::First => out.push_str(replacement),
        Replace::All => captures.expand(replacement, out),
    }
}

fn compile(pattern: &str, greed: Greed, prefix: &str) -> Result<Regex, PatternError> {
    let star = match greed {
        Greed::Longest => ".*",
        Greed::Shortest => ".*?",
    };
    let mut expression = prefix.to_owned();
    let mut chars = pattern.chars().peekable();
    while let Some(ch) = chars.next() {
        match ch {
            '*' => expression.push_str(star),
            '?' => expression.push('.'),
            '\\' => match chars.peek().copied() {
                // An escaped end of the substitution: the escape is no part of the pattern.
                Some('}' | '/') => {}
                Some(escaped @ ('*' | '?' | '\\')) => {
                    chars.next();
                    push_literal(&mut expression, escaped);
                }
                other => {
                    return Err(PatternError::Escape(other.unwrap_or(char::REPLACEMENT_CHARACTER)));
                }
            },
            literal => push_literal(&mut expression, literal),
        }
    }
    RegexBuilder::new(&expression)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|_| PatternError::TooLarge)
}

fn push_literal(expression: &mut String, literal: char) {
    expression.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4])));
}

fn reversed(text: &str) -> String {
    text.chars().rev().collect()
}

/// Turns a pattern round while each escape stays in front of what it escapes.
fn reversed_pattern(pattern: &str) -> String {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars();
    while let Some(ch) = chars.next() {
        match (ch, ch == '\\') {
            (escape, true) => tokens.push((escape, chars.next())),
            (plain, false) => tokens.push((plain, None)),
        }
    }
    tokens.into_iter().rev().flat_map(|(ch, escaped)| [Some(ch), escaped]).flatten().collect()
}

//! Splits the text after a keyword into words, as each kind of instruction wants it.

use crate::ast::{Escape, Pair, PairSeparator, Word};
use crate::error::ParseErrorKind;

/// The space that separates words where quotes mean nothing.
pub(crate) fn is_blank(ch: char) -> bool {
    matches!(ch, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Cuts at the first run of blanks.
pub(crate) fn cut_blank(text: &str) -> Option<(&str, &str)> {
    let at = text.find(is_blank)?;
    Some((text.get(..at)?, text.get(at..)?.trim_start_matches(is_blank)))
}

/// Splits at blanks, without regard to quotes.
pub(crate) fn split_blank(text: &str) -> Vec<String> {
    text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Splits at space outside quotes; the quotes and escapes stay in the words.
pub(crate) fn split_quoted(text: &str, escape: Escape) -> Vec<String> {
    let escape = escape.as_char();
    let mut words = Vec::new();
    let mut chars = text.chars();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    while let Some(ch) = chars.next() {
        if quote.is_none() && ch.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        if ch == escape && quote != Some('\'') {
            // An escape at the very end is dropped.
            if let Some(escaped) = chars.next() {
                word.push(ch);
                word.push(escaped);
            }
            continue;
        }
        match quote {
            Some(open) if ch == open => quote = None,
            None if ch == '\'' || ch == '"' => quote = Some(ch),
            _ => {}
        }
        word.push(ch);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Reads `key=value ...`, or the old `key value`.
pub(crate) fn parse_pairs(
    text: &str,
    keyword: &'static str,
    escape: Escape,
) -> Result<Vec<Pair>, ParseErrorKind> {
    let words = split_quoted(text, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let (key, value) = cut_blank(text).ok_or(ParseErrorKind::TwoArguments(keyword))?;
        return Ok(vec![Pair {
            key: key.into(),
            value: value.into(),
            separator: PairSeparator::Space,
        }]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => {
                Ok(Pair { key: key.into(), value: value.into(), separator: PairSeparator::Equals })
            }
            None => Err(ParseErrorKind::NoEquals(word)),
        })
        .collect()
}

/// Reads a JSON array of strings; nothing where the text is no JSON array.
pub(crate) fn parse_json(text: &str) -> Result<Option<Vec<String>>, ParseErrorKind> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text.trim()) else {
        return Ok(None);
    };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(ParseErrorKind::NotStrings),
    });
    strings.collect::<Result<Vec<_>, _>>().map(Some)
}

/// Reads the words for true and false that Go knows.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Turns texts into words.
pub(crate) fn to_words(texts: Vec<String>) -> Vec<Word> {
    texts.into_iter().map(Word).collect()
}

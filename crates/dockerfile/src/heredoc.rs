//! Heredocs: which a line opens, and how their bodies are read.

use crate::ast::{Escape, Expansion, Span};
use crate::error::{ParseError, ParseErrorKind};
use crate::expand::{EscapeMode, ExpandOptions, QuoteMode, UnsetMode, expand, words_leniently};

/// A text that stands below the instruction that uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    /// The number in front of `<<`, zero where there is none.
    pub file_descriptor: u32,
    pub expansion: Expansion,
    pub tabs: LeadingTabs,
    /// The lines as written, their ends included.
    pub content: String,
}

/// Whether the tabs at the start of each line count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeadingTabs {
    Keep,
    /// They are taken away, as `<<-` asks.
    Strip,
}

impl Heredoc {
    /// Returns the content with the tabs taken away where `<<-` asks for it.
    pub fn chomped(&self) -> String {
        match self.tabs {
            LeadingTabs::Keep => self.content.clone(),
            LeadingTabs::Strip => self
                .content
                .split_inclusive('\n')
                .map(|line| line.trim_start_matches('\t'))
                .collect(),
        }
    }

    /// Tells whether a line, without its end, closes the heredoc.
    pub(crate) fn ends_at(&self, line: &str) -> bool {
        let line = line.trim_end_matches(['\r', '\n']);
        let line = match self.tabs {
            LeadingTabs::Keep => line,
            LeadingTabs::Strip => line.trim_start_matches('\t'),
        };
        line == self.name
    }
}

/// Finds the heredocs that a line opens, in order.
pub(crate) fn opened_by(line: &str, span: Span) -> Result<Vec<Heredoc>, ParseError> {
    let options = ExpandOptions {
        escape: Escape::Backslash,
        quotes: QuoteMode::Keep,
        escapes: EscapeMode::Keep,
        unset: UnsetMode::Keep,
    };
    let mut found = Vec::new();
    for word in words_leniently(line, options) {
        let heredoc = parse_word(&word)
            .map_err(|name| ParseError::at(span, ParseErrorKind::HeredocName(name)))?;
        found.extend(heredoc);
    }
    Ok(found)
}

/// Reads a word as the opening of a heredoc, or as nothing of the kind.
pub(crate) fn parse_word(word: &str) -> Result<Option<Heredoc>, String> {
    let after_digits = word.trim_start_matches(|ch: char| ch.is_ascii_digit());
    let Some(rest) = after_digits.strip_prefix("<<") else { return Ok(None) };
    let (tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (LeadingTabs::Strip, rest),
        None => (LeadingTabs::Keep, rest),
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let words = |quotes| {
        let options = ExpandOptions { quotes, unset: UnsetMode::Keep, ..ExpandOptions::default() };
        expand(rest, &|_| None, options).map(|found| found.words).map_err(|_| rest.to_owned())
    };
    let (bare, kept) = (words(QuoteMode::Strip)?, words(QuoteMode::Keep)?);
    let ([name], [raw]) = (bare.as_slice(), kept.as_slice()) else { return Ok(None) };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expansion =
        if quotes(name) == quotes(raw) { Expansion::Expand } else { Expansion::Literal };
    let digits = word.len() - after_digits.len();
    let file_descriptor = word.get(..digits).and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Some(Heredoc {
        name: name.clone(),
        file_descriptor,
        expansion,
        tabs,
        content: String::new(),
    }))
}

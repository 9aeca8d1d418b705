//! Expands a word as a shell would: quotes, escapes, variables and their modifiers.
//!
//! The dialect is `BuildKit`'s, down to its corners: `$$` and `$1` name parameters that are never
//! set, brackets in patterns are literal, and what a variable yields is split but never rescanned.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::ast::Escape;
use crate::limits::{EXPANSION_BYTES_MAX, EXPANSION_DEPTH_MAX};
use crate::pattern::{self, Anchor, PatternError, Replace};

/// Answers what a variable holds, or nothing where it is not set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What happens to quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuoteMode {
    /// They group and go away.
    #[default]
    Strip,
    /// They group and stay.
    Keep,
    /// They are characters like any other, as in heredoc bodies.
    Plain,
}

/// What happens to the escape character in front of what it escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapeMode {
    #[default]
    Strip,
    Keep,
}

/// What a variable that is not set becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnsetMode {
    #[default]
    Empty,
    /// The reference stays as written.
    Keep,
}

/// How a word is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpandOptions {
    pub escape: Escape,
    pub quotes: QuoteMode,
    pub escapes: EscapeMode,
    pub unset: UnsetMode,
}

impl ExpandOptions {
    /// Reads words in the usual way with the file's escape character.
    pub fn with_escape(escape: Escape) -> ExpandOptions {
        ExpandOptions { escape, ..ExpandOptions::default() }
    }

    /// Reads the body of a heredoc, where quotes mean nothing.
    pub fn heredoc_body(escape: Escape) -> ExpandOptions {
        ExpandOptions { escape, quotes: QuoteMode::Plain, ..ExpandOptions::default() }
    }
}

/// What a word became, and which names it asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The whole as one text.
    pub text: String,
    /// The same split at unquoted space.
    pub words: Vec<String>,
    /// Names that were set.
    pub matched: BTreeSet<String>,
    /// Names that were not set.
    pub unmatched: BTreeSet<String>,
}

/// A word that could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("failed to process {word:?}: {kind}")]
pub struct ExpandError {
    pub word: String,
    pub kind: ExpandErrorKind,
}

/// Why a word could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExpandErrorKind {
    #[error("unexpected end of statement while looking for matching single-quote")]
    SingleQuote,
    #[error("unexpected end of statement while looking for matching double-quote")]
    DoubleQuote,
    #[error("unexpected end of statement while looking for matching {0}")]
    Unclosed(char),
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    #[error("{name}: {message}")]
    Required { name: String, message: String },
    #[error("invalid pattern ({pattern}) in substitution: {reason}")]
    Pattern { pattern: String, reason: PatternError },
    #[error("expansion is longer than {EXPANSION_BYTES_MAX} bytes")]
    TooLong,
    #[error("substitutions are nested deeper than {EXPANSION_DEPTH_MAX}")]
    TooDeep,
}

type Step<T> = Result<T, ExpandErrorKind>;

/// Expands a word to one text.
pub fn expand_word(word: &str, env: Lookup<'_>, escape: Escape) -> Result<String, ExpandError> {
    expand(word, env, ExpandOptions::with_escape(escape)).map(|expanded| expanded.text)
}

/// Expands a word and splits the outcome at unquoted space.
pub fn expand_words(
    word: &str,
    env: Lookup<'_>,
    escape: Escape,
) -> Result<Vec<String>, ExpandError> {
    expand(word, env, ExpandOptions::with_escape(escape)).map(|expanded| expanded.words)
}

/// Expands a word and tells all that is known of the outcome.
pub fn expand(
    word: &str,
    env: Lookup<'_>,
    options: ExpandOptions,
) -> Result<Expanded, ExpandError> {
    let mut reader = Reader::new(word, env, options);
    match reader.read_until(None, options.escapes) {
        Ok((text, words)) => {
            Ok(Expanded { text, words, matched: reader.matched, unmatched: reader.unmatched })
        }
        Err(kind) => Err(ExpandError { word: word.to_owned(), kind }),
    }
}

/// Reads the words of a line as far as they go, and drops what follows a mistake.
pub(crate) fn words_leniently(line: &str, options: ExpandOptions) -> Vec<String> {
    let unset = |_: &str| None;
    let mut reader = Reader::new(line, &unset, options);
    reader.read_until(None, options.escapes).map(|(_, words)| words).unwrap_or_default()
}

#[derive(Default)]
struct Words {
    current: String,
    done: Vec<String>,
    in_word: bool,
}

impl Words {
    fn split_char(&mut self, ch: char) {
        if !ch.is_whitespace() {
            self.raw_char(ch);
        } else if self.in_word && !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
            self.in_word = false;
        }
    }

    fn raw_char(&mut self, ch: char) {
        self.current.push(ch);
        self.in_word = true;
    }

    fn raw(&mut self, text: &str) {
        self.current.push_str(text);
        self.in_word = true;
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

struct Reader<'a> {
    rest: &'a str,
    env: Lookup<'a>,
    options: ExpandOptions,
    escapes: EscapeMode,
    depth: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(word: &'a str, env: Lookup<'a>, options: ExpandOptions) -> Reader<'a> {
        Reader {
            rest: word,
            env,
            options,
            escapes: options.escapes,
            depth: 0,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let ch = chars.next();
        self.rest = chars.as_str();
        ch
    }

    /// Reads up to the stop character, which is consumed, or to the end where there is none.
    fn read_until(
        &mut self,
        stop: Option<char>,
        escapes: EscapeMode,
    ) -> Step<(String, Vec<String>)> {
        if self.depth >= EXPANSION_DEPTH_MAX {
            return Err(ExpandErrorKind::TooDeep);
        }
        let outer = std::mem::replace(&mut self.escapes, escapes);
        self.depth += 1;
        let outcome = self.read_pieces(stop);
        self.depth -= 1;
        self.escapes = outer;
        outcome
    }

    fn read_pieces(&mut self, stop: Option<char>) -> Step<(String, Vec<String>)> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(ch) = self.peek() {
            if Some(ch) == stop {
                self.next();
                return Ok((text, words.finish()));
            }
            let quotes = self.options.quotes != QuoteMode::Plain;
            match ch {
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|ch| words.split_char(ch));
                    text.push_str(&value);
                }
                '\'' | '"' | '<' if quotes => {
                    let piece = match ch {
                        '\'' => self.single_quote()?,
                        '"' => self.double_quote()?,
                        _ => self.angle(),
                    };
                    words.raw(&piece);
                    text.push_str(&piece);
                }
                _ => self.plain_char(&mut text, &mut words),
            }
            check_length(text.len())?;
        }
        match stop {
            Some(stop) => Err(ExpandErrorKind::Unclosed(stop)),
            None => Ok((text, words.finish())),
        }
    }

    fn plain_char(&mut self, text: &mut String, words: &mut Words) {
        let Some(ch) = self.next() else { return };
        if ch != self.options.escape.as_char() {
            words.split_char(ch);
            text.push(ch);
            return;
        }
        if self.escapes == EscapeMode::Keep {
            words.raw_char(ch);
            text.push(ch);
        }
        if let Some(escaped) = self.next() {
            words.raw_char(escaped);
            text.push(escaped);
        }
    }

    /// Takes `<<` together with the space after it, so that a heredoc's name stays with it.
    fn angle(&mut self) -> String {
        let mut piece = String::new();
        piece.extend(self.next());
        if self.peek() == Some('<') {
            piece.extend(self.next());
            while self.peek().is_some_and(char::is_whitespace) {
                piece.extend(self.next());
            }
        }
        piece
    }

    fn single_quote(&mut self) -> Step<String> {
        let mut piece = String::new();
        self.keep_quote(&mut piece);
        loop {
            match self.peek() {
                None => return Err(ExpandErrorKind::SingleQuote),
                Some('\'') => {
                    self.keep_quote(&mut piece);
                    return Ok(piece);
                }
                Some(ch) => {
                    self.next();
                    piece.push(ch);
                }
            }
        }
    }

    fn keep_quote(&mut self, piece: &mut String) {
        let quote = self.next();
        if self.options.quotes == QuoteMode::Keep {
            piece.extend(quote);
        }
    }

    fn double_quote(&mut self) -> Step<String> {
        let escape = self.options.escape.as_char();
        let mut piece = String::new();
        self.keep_quote(&mut piece);
        loop {
            match self.peek() {
                None => return Err(ExpandErrorKind::DoubleQuote),
                Some('"') => {
                    self.keep_quote(&mut piece);
                    return Ok(piece);
                }
                Some('$') => piece.push_str(&self.dollar()?),
                Some(ch) => {
                    self.next();
                    if ch == escape {
                        self.quoted_escape(&mut piece);
                    } else {
                        piece.push(ch);
                    }
                }
            }
            check_length(piece.len())?;
        }
    }

    fn quoted_escape(&mut self, piece: &mut String) {
        let escape = self.options.escape.as_char();
        if self.escapes == EscapeMode::Keep {
            piece.push(escape);
        }
        match self.peek() {
            None => {}
            Some(ch) if ch == '"' || ch == '$' || ch == escape => {
                self.next();
                piece.push(ch);
            }
            Some(_) => piece.push(escape),
        }
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.env)(name);
        let names = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        names.insert(name.to_owned());
        value
    }

    fn dollar(&mut self) -> Step<String> {
        self.next();
        if self.peek() == Some('{') {
            self.next();
            return self.braces();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        let value = self.value(&name);
        Ok(self.or_unset(value, || format!("${name}")))
    }

    fn or_unset(&self, value: Option<String>, written: impl FnOnce() -> String) -> String {
        match (value, self.options.unset) {
            (Some(value), _) => value,
            (None, UnsetMode::Empty) => String::new(),
            (None, UnsetMode::Keep) => written(),
        }
    }

    fn braces(&mut self) -> Step<String> {
        match self.peek() {
            None => return Err(ExpandErrorKind::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandErrorKind::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => {
                let value = self.value(&name);
                Ok(self.or_unset(value, || format!("${{{name}}}")))
            }
            Some(':') => {
                let modifier = self.next();
                self.modified(&name, modifier, Colon::Present)
            }
            Some(ch @ ('+' | '-' | '?' | '#' | '%')) => {
                self.modified(&name, Some(ch), Colon::Absent)
            }
            Some('/') => self.replaced(&name),
            other => Err(ExpandErrorKind::Modifier(
                other.unwrap_or(char::REPLACEMENT_CHARACTER).to_string(),
            )),
        }
    }

    /// Reads up to the stop and blames a missing end on what should have closed.
    fn read_part(
        &mut self,
        stop: char,
        escapes: EscapeMode,
        missing: ExpandErrorKind,
    ) -> Step<String> {
        match self.read_until(Some(stop), escapes) {
            Ok((text, _)) => Ok(text),
            Err(kind @ (ExpandErrorKind::TooDeep | ExpandErrorKind::TooLong)) => Err(kind),
            Err(_) if self.rest.is_empty() => Err(missing),
            Err(kind) => Err(kind),
        }
    }

    fn modified(&mut self, name: &str, modifier: Option<char>, colon: Colon) -> Step<String> {
        let escapes = match modifier {
            Some('#' | '%') => EscapeMode::Keep,
            _ => EscapeMode::Strip,
        };
        let word = self.read_part('}', escapes, ExpandErrorKind::MissingBrace)?;
        let written = || {
            let colon = if colon == Colon::Present { ":" } else { "" };
            format!("{colon}{}", modifier.unwrap_or(char::REPLACEMENT_CHARACTER))
        };
        let value = self.value(name);
        if value.is_none() && self.options.unset == UnsetMode::Keep {
            return Ok(format!("${{{name}{}{word}}}", written()));
        }
        let empty_counts = colon == Colon::Absent;
        let present = value.clone().filter(|value| empty_counts || !value.is_empty());
        match modifier {
            Some('-') => Ok(present.unwrap_or(word)),
            Some('+') => Ok(present.map(|_| word).unwrap_or_default()),
            Some('?') => present.ok_or_else(|| required(name, word, value.is_some())),
            Some('#') => trimmed(&word, '#', Anchor::Start, &value.unwrap_or_default()),
            Some('%') => trimmed(&word, '%', Anchor::End, &value.unwrap_or_default()),
            _ => Err(ExpandErrorKind::Modifier(written())),
        }
    }

    fn replaced(&mut self, name: &str) -> Step<String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.read_part('/', EscapeMode::Keep, ExpandErrorKind::MissingSlash)?;
        let replacement = self.read_part('}', EscapeMode::Keep, ExpandErrorKind::MissingBrace)?;
        let value = self.value(name);
        if value.is_none() && self.options.unset == UnsetMode::Keep {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let which = if all { Replace::All } else { Replace::First };
        pattern::replace(&pattern, &value.unwrap_or_default(), &replacement, which)
            .map_err(|reason| pattern_error(&pattern, reason))
    }

    /// Reads a name, a number or one special parameter; empty where there is none.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(ch) = self.peek() {
            if ch.is_ascii_digit() {
                while let Some(digit) = self.peek().filter(char::is_ascii_digit) {
                    self.next();
                    name.push(digit);
                }
                return name;
            }
            if matches!(ch, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                self.next();
                return ch.to_string();
            }
        }
        while let Some(ch) = self.peek().filter(|ch| ch.is_alphanumeric() || *ch == '_') {
            self.next();
            name.push(ch);
        }
        name
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colon {
    Present,
    Absent,
}

fn check_length(bytes: usize) -> Step<()> {
    if bytes > EXPANSION_BYTES_MAX { Err(ExpandErrorKind::TooLong) } else { Ok(()) }
}

fn required(name: &str, message: String, set: bool) -> ExpandErrorKind {
    let message = match (message.is_empty(), set) {
        (false, _) => message,
        (true, true) => "is not allowed to be empty".to_owned(),
        (true, false) => "is not allowed to be unset".to_owned(),
    };
    ExpandErrorKind::Required { name: name.to_owned(), message }
}

fn trimmed(word: &str, modifier: char, anchor: Anchor, value: &str) -> Step<String> {
    let (word, greed) = match word.strip_prefix(modifier) {
        Some(rest) => (rest, pattern::Greed::Longest),
        None => (word, pattern::Greed::Shortest),
    };
    pattern::trim(word, value, anchor, greed)
        .map_err(|(shown, reason)| pattern_error(&shown, reason))
}

fn pattern_error(pattern: &str, reason: PatternError) -> ExpandErrorKind {
    match reason {
        PatternError::TooLong => ExpandErrorKind::TooLong,
        reason => ExpandErrorKind::Pattern { pattern: pattern.to_owned(), reason },
    }
}

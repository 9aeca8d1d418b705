//! Why a Dockerfile was refused, and where.

use std::fmt;

use thiserror::Error;

use crate::ast::Span;
use crate::limits::{FILE_BYTES_MAX, INSTRUCTIONS_MAX, LINE_BYTES_MAX, STAGES_MAX};
use crate::mount::MountError;

/// A refusal with its place and, where one is near, the word that may have been meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    pub kind: ParseErrorKind,
    pub span: Option<Span>,
    /// The known word that comes closest to the one written.
    pub suggestion: Option<String>,
    /// What was probably meant, where a word is not enough to say it.
    pub meant: Option<String>,
}

impl ParseError {
    /// Refuses what stands at a place.
    pub fn at(span: Span, kind: ParseErrorKind) -> ParseError {
        ParseError { kind, span: Some(span), suggestion: None, meant: None }
    }

    /// Refuses the file as a whole.
    pub fn whole(kind: ParseErrorKind) -> ParseError {
        ParseError { kind, span: None, suggestion: None, meant: None }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match &self.kind {
            ParseErrorKind::Utf16 => {
                "convert it: iconv -f UTF-16 -t UTF-8 Dockerfile > Dockerfile.utf8; in PowerShell, Out-File -Encoding utf8 writes it right"
            }
            ParseErrorKind::LineTooLong => {
                "break the line with a backslash at its end, or keep the text in a file: COPY it, or give it with --build-arg or --label"
            }
            _ => return self.meant.clone(),
        };
        Some(hint.to_owned())
    }

    /// The same, with what was probably meant.
    #[must_use]
    pub(crate) fn meant(self, meant: Option<String>) -> ParseError {
        ParseError { meant, ..self }
    }

    /// Returns the line that is to blame.
    pub fn line(&self) -> Option<u32> {
        self.span.map(|span| span.start_line)
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line() {
            Some(line) => write!(f, "dockerfile parse error on line {line}: {}", self.kind)?,
            None => write!(f, "dockerfile parse error: {}", self.kind)?,
        }
        match &self.suggestion {
            Some(word) => write!(f, " (did you mean {word}?)"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ParseError {}

/// What was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseErrorKind {
    #[error("the Dockerfile cannot be empty")]
    Empty,
    #[error("the file is in UTF-16, and a Dockerfile is in UTF-8")]
    Utf16,
    #[error("file with no instructions")]
    NoInstructions,
    #[error("dockerfile contains no stages to build")]
    NoStages,
    #[error("no build stage in current context")]
    BeforeFrom,
    #[error("dockerfile greater than max allowed size of {FILE_BYTES_MAX}")]
    FileTooLong,
    #[error("dockerfile line greater than max allowed size of {LINE_BYTES_MAX}")]
    LineTooLong,
    #[error("dockerfile has more than {STAGES_MAX} stages")]
    TooManyStages,
    #[error("dockerfile has more than {INSTRUCTIONS_MAX} instructions")]
    TooManyInstructions,
    #[error("invalid escape token '{0}' does not match ` or \\")]
    EscapeToken(String),
    #[error("only one {0} parser directive can be used")]
    RepeatedDirective(&'static str),
    #[error("failed to parse check options: invalid check option {0:?}")]
    CheckOption(String),
    #[error("failed to parse check options: invalid value for {0:?}")]
    CheckValue(String),
    #[error("unterminated heredoc")]
    UnterminatedHeredoc,
    #[error("invalid heredoc name {0:?}")]
    HeredocName(String),
    #[error("unknown instruction: {0}")]
    UnknownInstruction(String),
    #[error("{0} must have two arguments")]
    TwoArguments(&'static str),
    #[error("Syntax error - can't find = in {0:?}. Must be of the form: name=value")]
    NoEquals(String),
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    NotStrings,
    #[error("unknown flag: --{0}")]
    UnknownFlag(String),
    #[error("duplicate flag specified: --{0}")]
    DuplicateFlag(&'static str),
    #[error("missing a value on flag: --{0}")]
    MissingFlagValue(&'static str),
    #[error("expecting boolean value for flag --{flag}, not: {value}")]
    FlagNotBoolean { flag: &'static str, value: String },
    #[error("{0} requires at least one argument")]
    AtLeastOne(&'static str),
    #[error("{0} requires exactly one argument")]
    ExactlyOne(&'static str),
    #[error(
        "{0} requires at least two arguments, but only one was provided. \
         Destination could not be determined"
    )]
    NoDestination(&'static str),
    #[error("{0} cannot accept a heredoc as a destination")]
    HeredocDestination(&'static str),
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    #[error("FROM requires either one or three arguments")]
    FromArguments,
    #[error(
        "invalid name for build stage: {0:?}, name can't start with a number or contain symbols"
    )]
    StageName(String),
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnbuildTrigger(String),
    #[error("onbuild trigger should be a single expression")]
    OnbuildExpression,
    #[error("{0} requires the arguments to be in JSON form")]
    NotJson(&'static str),
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthcheckNone,
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthcheckCommand,
    #[error("Unknown type {0:?} in HEALTHCHECK (try CMD)")]
    HealthcheckType(String),
    #[error("time: invalid duration {0:?}")]
    Duration(String),
    #[error("time: missing unit in duration {0:?}")]
    DurationUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    DurationUnknownUnit { unit: String, text: String },
    #[error("Interval {0:?} cannot be less than 1ms")]
    IntervalTooSmall(&'static str),
    #[error("invalid number of retries {0:?}")]
    Retries(String),
    #[error("--retries cannot be negative ({0})")]
    NegativeRetries(i32),
    #[error("invalid network mode {0:?}")]
    Network(String),
    #[error("security {0:?} is not valid")]
    Security(String),
    #[error(transparent)]
    Mount(#[from] MountError),
}

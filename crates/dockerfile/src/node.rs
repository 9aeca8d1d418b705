//! One instruction as keyword, flags and arguments, before its meaning is checked.

use crate::ast::{Escape, Pair, Span};
use crate::error::{ParseError, ParseErrorKind};
use crate::flags;
use crate::heredoc::Heredoc;
use crate::words::{is_blank, parse_json, parse_pairs, split_blank, split_quoted};

#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The first word as written.
    pub(crate) word: String,
    pub(crate) keyword: Option<Keyword>,
    pub(crate) flags: Vec<String>,
    pub(crate) args: Args,
    /// The line as joined.
    pub(crate) line: String,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) span: Span,
    /// The comments directly above.
    pub(crate) comments: Vec<String>,
}

/// The arguments, split as the keyword wants it.
#[derive(Debug, Clone)]
pub(crate) enum Args {
    Words(Vec<String>),
    Json(Vec<String>),
    Pairs(Vec<Pair>),
    /// A first word, in upper case, and what follows it.
    Health {
        kind: String,
        command: Box<Args>,
    },
    Trigger(Box<Node>),
}

macro_rules! keywords {
    ($($variant:ident $name:literal,)*) => {
        /// The instructions that there are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Keyword { $($variant,)* }

        impl Keyword {
            /// Every keyword in upper case, in order of the alphabet.
            pub(crate) const NAMES: &[&str] = &[$($name,)*];
            const ALL: &[Keyword] = &[$(Keyword::$variant,)*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Keyword::$variant => $name,)* }
            }
        }
    };
}

keywords! {
    Add "ADD",
    Arg "ARG",
    Cmd "CMD",
    Copy "COPY",
    Entrypoint "ENTRYPOINT",
    Env "ENV",
    Expose "EXPOSE",
    From "FROM",
    Healthcheck "HEALTHCHECK",
    Label "LABEL",
    Maintainer "MAINTAINER",
    Onbuild "ONBUILD",
    Run "RUN",
    Shell "SHELL",
    Stopsignal "STOPSIGNAL",
    User "USER",
    Volume "VOLUME",
    Workdir "WORKDIR",
}

impl Keyword {
    fn find(word: &str) -> Option<Keyword> {
        Keyword::ALL.iter().copied().find(|keyword| keyword.name().eq_ignore_ascii_case(word))
    }
}

impl Node {
    /// Splits a joined line.
    pub(crate) fn from_line(line: &str, escape: Escape, span: Span) -> Result<Node, ParseError> {
        Node::nested(line, escape, span, Nesting::Outer)
    }

    fn nested(
        line: &str,
        escape: Escape,
        span: Span,
        nesting: Nesting,
    ) -> Result<Node, ParseError> {
        let trimmed = line.trim();
        let end = trimmed.find(is_blank).unwrap_or(trimmed.len());
        let (word, rest) = trimmed.split_at_checked(end).unwrap_or((trimmed, ""));
        let keyword = Keyword::find(word);
        let (flags, rest) = flags::take(rest);
        let text = rest.trim();
        let refuse = |kind| ParseError::at(span, kind);
        let args = match (keyword, nesting) {
            (Some(Keyword::Onbuild), Nesting::Outer) if !text.is_empty() => {
                Args::Trigger(Box::new(Node::nested(text, escape, span, Nesting::Inner)?))
            }
            (Some(keyword), _) => split_args(keyword, text, escape).map_err(refuse)?,
            (None, _) => Args::Words(Vec::new()),
        };
        Ok(Node {
            word: word.to_owned(),
            keyword,
            flags,
            args,
            line: line.to_owned(),
            heredocs: Vec::new(),
            span,
            comments: Vec::new(),
        })
    }

    pub(crate) fn may_open_heredocs(&self) -> bool {
        if let (Some(Keyword::Onbuild), Args::Trigger(trigger)) = (self.keyword, &self.args) {
            return trigger.keyword != Some(Keyword::Onbuild) && trigger.may_open_heredocs();
        }
        matches!(self.keyword, Some(Keyword::Add | Keyword::Copy | Keyword::Run))
            && !matches!(self.args, Args::Json(_))
    }
}

/// Whether a line stands for itself or behind ONBUILD, where another ONBUILD is refused later.
#[derive(Clone, Copy)]
enum Nesting {
    Outer,
    Inner,
}

fn split_args(keyword: Keyword, text: &str, escape: Escape) -> Result<Args, ParseErrorKind> {
    let or = |words: Vec<String>| {
        Ok(match parse_json(text)? {
            Some(strings) => Args::Json(strings),
            None => Args::Words(words),
        })
    };
    let whole = || if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
    match keyword {
        Keyword::Add | Keyword::Copy | Keyword::Volume => or(split_blank(text)),
        Keyword::Cmd | Keyword::Entrypoint | Keyword::Run | Keyword::Shell => or(whole()),
        Keyword::Env | Keyword::Label => parse_pairs(text, keyword.name(), escape).map(Args::Pairs),
        Keyword::Arg => Ok(Args::Words(split_quoted(text, escape))),
        Keyword::Expose | Keyword::From => Ok(Args::Words(split_blank(text))),
        Keyword::Healthcheck => split_health(text),
        Keyword::Maintainer
        | Keyword::Onbuild
        | Keyword::Stopsignal
        | Keyword::User
        | Keyword::Workdir => Ok(Args::Words(whole())),
    }
}

fn split_health(text: &str) -> Result<Args, ParseErrorKind> {
    if text.is_empty() {
        return Ok(Args::Words(Vec::new()));
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (kind, command) = text.split_at_checked(end).unwrap_or((text, ""));
    let command = split_args(Keyword::Cmd, command.trim(), Escape::Backslash)?;
    Ok(Args::Health { kind: kind.to_uppercase(), command: Box::new(command) })
}

//! Joins the lines of a file into instructions and gathers their heredocs.

use crate::ast::{Escape, Span};
use crate::directives::{DirectiveReader, Directives};
use crate::error::{ParseError, ParseErrorKind};
use crate::limits::{INSTRUCTIONS_MAX, LINE_BYTES_MAX};
use crate::node::Node;
use crate::{heredoc, hint};

const BOM: char = '\u{feff}';

/// What a file holds before its instructions are checked.
pub(crate) struct Lines {
    pub(crate) directives: Directives,
    pub(crate) nodes: Vec<Node>,
    pub(crate) empty_continuations: Vec<Span>,
}

struct Reader<'a> {
    lines: std::str::SplitInclusive<'a, char>,
    /// How many lines were read.
    number: u32,
    directives: DirectiveReader,
}

/// Reads the whole text; a mistake in the form of any line comes before all that instructions check.
pub(crate) fn read(text: &str) -> Result<Lines, ParseError> {
    let text = text.strip_prefix(BOM).unwrap_or(text);
    let mut reader = Reader {
        lines: text.split_inclusive('\n'),
        number: 0,
        directives: DirectiveReader::default(),
    };
    let mut nodes = Vec::new();
    let mut empty_continuations = Vec::new();
    while let Some(joined) = reader.next_joined()? {
        if nodes.len() >= INSTRUCTIONS_MAX {
            let span = Span::line(joined.start_line);
            return Err(ParseError::at(span, ParseErrorKind::TooManyInstructions));
        }
        let end_line = reader.number;
        let node = reader.node(&joined)?;
        if joined.has_empty_line {
            empty_continuations.push(Span::line(end_line));
        }
        nodes.push(node);
    }
    if nodes.is_empty() {
        let kind = ParseErrorKind::NoInstructions;
        return Err(ParseError::at(Span::line(reader.number), kind));
    }
    Ok(Lines { directives: reader.directives.directives, nodes, empty_continuations })
}

struct Joined {
    text: String,
    start_line: u32,
    has_empty_line: bool,
    comments: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Takes the next line with its end.
    fn next_line(&mut self) -> Result<Option<&'a str>, ParseError> {
        let Some(line) = self.lines.next() else { return Ok(None) };
        self.number = self.number.saturating_add(1);
        if line.trim_end_matches('\n').len() > LINE_BYTES_MAX {
            let span = Span::line(self.number);
            return Err(ParseError::at(span, ParseErrorKind::LineTooLong));
        }
        Ok(Some(line))
    }

    fn next_joined(&mut self) -> Result<Option<Joined>, ParseError> {
        let mut comments = Vec::new();
        while let Some(line) = self.next_line()? {
            let line = without_end(line).trim_start();
            let is_directive = self.directives.read(line, self.number)?;
            if line.is_empty() || line.starts_with('#') {
                match line.strip_prefix('#').map(str::trim) {
                    // An empty line or comment parts what stands above from what follows.
                    None | Some("") => comments.clear(),
                    Some(_) if is_directive => {}
                    Some(comment) => comments.push(comment.to_owned()),
                }
                continue;
            }
            let start_line = self.number;
            let mut joined =
                Joined { text: String::new(), start_line, has_empty_line: false, comments };
            if self.push(&mut joined, line) {
                self.continue_into(&mut joined)?;
            }
            return Ok(Some(joined));
        }
        Ok(None)
    }

    fn continue_into(&mut self, joined: &mut Joined) -> Result<(), ParseError> {
        while let Some(line) = self.next_line()? {
            let line = without_end(line);
            let trimmed = line.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                joined.has_empty_line = true;
                continue;
            }
            if !self.push(joined, line) {
                break;
            }
        }
        Ok(())
    }

    /// Adds a line without its continuation mark, and tells whether there was one.
    fn push(&self, joined: &mut Joined, line: &str) -> bool {
        let body = continued(line, self.escape());
        joined.text.push_str(body.unwrap_or(line));
        body.is_some()
    }

    fn escape(&self) -> Escape {
        self.directives.directives.escape
    }

    fn node(&mut self, joined: &Joined) -> Result<Node, ParseError> {
        let mut span = Span { start_line: joined.start_line, end_line: self.number };
        let mut node = Node::from_line(&joined.text, self.escape(), span)?;
        node.comments.clone_from(&joined.comments);
        if node.may_open_heredocs() && joined.text.contains("<<") {
            for mut heredoc in heredoc::opened_by(&joined.text, span)? {
                let first = self.number.saturating_add(1);
                loop {
                    let Some(line) = self.next_line()? else {
                        span.end_line = self.number;
                        let hint = hint::of_heredoc(&heredoc, first);
                        let error = ParseError::at(span, ParseErrorKind::UnterminatedHeredoc);
                        return Err(error.meant(Some(hint)));
                    };
                    if heredoc.ends_at(line) {
                        break;
                    }
                    heredoc.content.push_str(line);
                }
                node.heredocs.push(heredoc);
            }
        }
        node.span.end_line = self.number;
        Ok(node)
    }
}

fn without_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// Returns the line without the escape character that continues it; a doubled one does not.
fn continued(line: &str, escape: Escape) -> Option<&str> {
    let escape = escape.as_char();
    let body = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!body.ends_with(escape)).then_some(body)
}

//! The doors of the crate: a whole file, or one trigger from an image's config.

use crate::ast::{Dockerfile, Instruction, InstructionKind, Span};
use crate::directives::Directives;
use crate::error::{ParseError, ParseErrorKind};
use crate::instruction::{self, Statement};
use crate::limits::{FILE_BYTES_MAX, STAGES_MAX};
use crate::node::Node;
use crate::{hint, lines};

/// A file as far as it could be read, and what stopped the reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partly {
    pub dockerfile: Dockerfile,
    pub error: Option<ParseError>,
}

/// Parses a Dockerfile; bytes that are no UTF-8 become replacement characters.
pub fn parse(text: &[u8]) -> Result<Dockerfile, ParseError> {
    let Partly { dockerfile, error } = parse_partly(text);
    match error {
        Some(error) => Err(error),
        None => Ok(dockerfile),
    }
}

/// Parses a Dockerfile up to its first mistake, so that what stands above can be spoken of.
pub fn parse_partly(text: &[u8]) -> Partly {
    let mut dockerfile = Dockerfile {
        directives: Directives::default(),
        global_args: Vec::new(),
        stages: Vec::new(),
        empty_continuations: Vec::new(),
    };
    let error = read(text, &mut dockerfile).err();
    Partly { dockerfile, error }
}

fn read(text: &[u8], dockerfile: &mut Dockerfile) -> Result<(), ParseError> {
    if text.is_empty() {
        return Err(ParseError::whole(ParseErrorKind::Empty));
    }
    if text.len() > FILE_BYTES_MAX {
        return Err(ParseError::whole(ParseErrorKind::FileTooLong));
    }
    if is_utf16(text) {
        return Err(ParseError::whole(ParseErrorKind::Utf16));
    }
    let lines = lines::read(&String::from_utf8_lossy(text))?;
    dockerfile.directives = lines.directives;
    dockerfile.empty_continuations = lines.empty_continuations;
    for node in lines.nodes {
        add(dockerfile, node).map_err(|error| of_later(error, &dockerfile.directives))?;
    }
    if dockerfile.stages.is_empty() {
        return Err(ParseError::whole(ParseErrorKind::NoStages));
    }
    Ok(())
}

/// Says of a word that is not known that a later version of the language may have it, where the file asks for one.
fn of_later(error: ParseError, directives: &Directives) -> ParseError {
    let is_word = matches!(
        error.kind,
        ParseErrorKind::UnknownInstruction(_)
            | ParseErrorKind::UnknownFlag(_)
            | ParseErrorKind::Network(_)
            | ParseErrorKind::Security(_)
            | ParseErrorKind::Mount(_)
    );
    if !is_word || error.suggestion.is_some() || error.meant.is_some() {
        return error;
    }
    let meant = directives.syntax.as_deref().and_then(hint::of_version);
    error.meant(meant)
}

/// Whether a file is in UTF-16: by its mark, also one that was read as UTF-8 before, or by the NULs beside its letters.
fn is_utf16(text: &[u8]) -> bool {
    const LOST_MARK: &[u8] = "\u{fffd}\u{fffd}".as_bytes();
    let rest = text
        .strip_prefix(b"\xff\xfe")
        .or_else(|| text.strip_prefix(b"\xfe\xff"))
        .or_else(|| text.strip_prefix(LOST_MARK))
        .unwrap_or(text);
    matches!(rest, [0, letter, 0, _, ..] | [letter, 0, _, 0, ..] if *letter != 0)
}

fn add(dockerfile: &mut Dockerfile, node: Node) -> Result<(), ParseError> {
    let span = node.span;
    match (instruction::parse(node)?, dockerfile.stages.last_mut()) {
        (Statement::Stage(stage), _) => {
            if dockerfile.stages.len() >= STAGES_MAX {
                return Err(ParseError::at(span, ParseErrorKind::TooManyStages));
            }
            dockerfile.stages.push(stage);
        }
        (Statement::Instruction(instruction), Some(stage)) => stage.instructions.push(instruction),
        (Statement::Instruction(instruction), None) => match instruction.kind {
            InstructionKind::Arg(arg) => dockerfile.global_args.push(arg),
            _ => return Err(ParseError::at(span, ParseErrorKind::BeforeFrom)),
        },
    }
    Ok(())
}

/// Parses the text of one ONBUILD trigger; its lines are counted within that text.
pub fn parse_trigger(text: &str) -> Result<Instruction, ParseError> {
    let lines = lines::read(text)?;
    let [node] = <[_; 1]>::try_from(lines.nodes)
        .map_err(|_| ParseError::whole(ParseErrorKind::OnbuildExpression))?;
    match instruction::parse(node)? {
        Statement::Instruction(instruction) => Ok(instruction),
        Statement::Stage(stage) => Err(refused_trigger(stage.span)),
    }
}

fn refused_trigger(span: Span) -> ParseError {
    ParseError::at(span, ParseErrorKind::OnbuildTrigger("FROM".to_owned()))
}

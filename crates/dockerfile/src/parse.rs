//! The doors of the crate: a whole file, or one trigger from an image's config.

use crate::ast::{Dockerfile, Instruction, Span, Stage};
use crate::error::{ParseError, ParseErrorKind};
use crate::instruction::{self, Statement};
use crate::limits::{FILE_BYTES_MAX, STAGES_MAX};
use crate::lines;

/// Parses a Dockerfile; bytes that are no UTF-8 become replacement characters.
pub fn parse(text: &[u8]) -> Result<Dockerfile, ParseError> {
    if text.is_empty() {
        return Err(ParseError::whole(ParseErrorKind::Empty));
    }
    if text.len() > FILE_BYTES_MAX {
        return Err(ParseError::whole(ParseErrorKind::FileTooLong));
    }
    let lines = lines::read(&String::from_utf8_lossy(text))?;
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for node in lines.nodes {
        let span = node.span;
        match (instruction::parse(node)?, stages.last_mut()) {
            (Statement::Stage(stage), _) => {
                if stages.len() >= STAGES_MAX {
                    return Err(ParseError::at(span, ParseErrorKind::TooManyStages));
                }
                stages.push(stage);
            }
            (Statement::Instruction(instruction), Some(stage)) => {
                stage.instructions.push(instruction);
            }
            (Statement::Instruction(instruction), None) => match instruction.kind {
                crate::ast::InstructionKind::Arg(arg) => global_args.push(arg),
                _ => return Err(ParseError::at(span, ParseErrorKind::BeforeFrom)),
            },
        }
    }
    if stages.is_empty() {
        return Err(ParseError::whole(ParseErrorKind::NoStages));
    }
    Ok(Dockerfile {
        directives: lines.directives,
        global_args,
        stages,
        empty_continuations: lines.empty_continuations,
    })
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

//! Checks of the text alone: casing, names of stages, comments that mean to describe.

use std::collections::BTreeSet;

use dcbuild_dockerfile::{ArgInstruction, Dockerfile, InstructionKind, Stage};

use super::{Findings, Rule};
use crate::stage::lines;

/// Names of stages that mean something else already.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// What the lines say, as far as the file could be read.
pub(crate) fn of_lines(dockerfile: &Dockerfile, findings: &mut Findings) {
    for span in &dockerfile.empty_continuations {
        findings.add(Rule::NoEmptyContinuation, lines(*span), "Empty continuation line");
    }
    for arg in &dockerfile.global_args {
        of_comments_of_arg(arg, findings);
    }
    for stage in &dockerfile.stages {
        of_from(stage, findings);
        for instruction in &stage.instructions {
            if matches!(instruction.kind, InstructionKind::Maintainer(_)) {
                let detail = "Maintainer instruction is deprecated in favor of using label";
                findings.add(Rule::MaintainerDeprecated, lines(instruction.span), detail);
            }
            if let InstructionKind::Arg(arg) = &instruction.kind {
                of_comments_of_arg(arg, findings);
            }
        }
    }
}

/// What the whole file says.
pub(crate) fn of_whole(dockerfile: &Dockerfile, findings: &mut Findings) {
    of_stage_names(dockerfile, findings);
    of_casing(dockerfile, findings);
}

fn of_from(stage: &Stage, findings: &mut Findings) {
    let at = lines(stage.span);
    let keyword = &stage.spelling.keyword;
    if let Some((word, name)) = &stage.spelling.named {
        if *name != name.to_lowercase() {
            let detail = format!("Stage name '{name}' should be lowercase");
            findings.add(Rule::StageNameCasing, at, detail);
        }
        let differs =
            (is_lower(keyword) && !is_lower(word)) || (is_upper(keyword) && !is_upper(word));
        if differs {
            let detail = format!("'{word}' and '{keyword}' keywords' casing do not match");
            findings.add(Rule::FromAsCasing, at, detail);
        }
    }
    if let Some(name) = &stage.name {
        of_comments("FROM", &[name.as_str()], &stage.comments, at, findings);
    }
}

fn of_comments_of_arg(arg: &ArgInstruction, findings: &mut Findings) {
    let names: Vec<&str> = arg.declarations.iter().map(|it| it.name.as_str()).collect();
    of_comments("ARG", &names, &arg.comments, lines(arg.span), findings);
}

/// The last comment above a definition should describe one of its names.
fn of_comments(
    keyword: &str,
    names: &[&str],
    comments: &[String],
    at: (u32, u32),
    findings: &mut Findings,
) {
    let Some(last) = comments.last() else { return };
    let word = last.split(' ').next().unwrap_or_default();
    let example = match names {
        [] => return,
        names if names.contains(&word) => return,
        [name] => name,
        _ => "<arg_key>",
    };
    let detail =
        format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    findings.add(Rule::InvalidDefinitionDescription, at, detail);
}

fn of_stage_names(dockerfile: &Dockerfile, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for stage in &dockerfile.stages {
        let Some(name) = stage.name.as_deref() else { continue };
        if RESERVED.contains(&name) {
            let detail =
                format!("Stage name should not use the same name as reserved stage \"{name}\"");
            findings.add(Rule::ReservedStageName, lines(stage.span), detail);
        }
        if !seen.insert(name) {
            let detail = format!("Duplicate stage name \"{name}\", stage names should be unique");
            findings.add(Rule::DuplicateStageName, lines(stage.span), detail);
        }
    }
}

/// Keywords should be in the case that most of them are in; of a draw, upper case wins.
fn of_casing(dockerfile: &Dockerfile, findings: &mut Findings) {
    let keywords: Vec<(&str, (u32, u32))> = dockerfile
        .stages
        .iter()
        .flat_map(|stage| {
            let from = (stage.spelling.keyword.as_str(), lines(stage.span));
            let others = stage.instructions.iter().map(|it| (it.keyword.as_str(), lines(it.span)));
            std::iter::once(from).chain(others)
        })
        .collect();
    let lower = keywords.iter().filter(|(word, _)| is_lower(word)).count();
    let upper = keywords.iter().filter(|(word, _)| is_upper(word)).count();
    let (is_right, wanted): (fn(&str) -> bool, _) =
        if lower > upper { (is_lower, "lowercase") } else { (is_upper, "uppercase") };
    for (word, at) in keywords.into_iter().filter(|(word, _)| !is_right(word)) {
        let detail =
            format!("Command '{word}' should match the case of the command majority ({wanted})");
        findings.add(Rule::ConsistentInstructionCasing, at, detail);
    }
}

fn is_lower(word: &str) -> bool {
    word == word.to_lowercase()
}

fn is_upper(word: &str) -> bool {
    word == word.to_uppercase()
}

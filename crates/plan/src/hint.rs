//! What mistakes may have meant that show when a Dockerfile is planned or carried out.

mod program;

pub use program::{of_interpreter, of_run};

use dcbuild_dockerfile::expand::{ExpandOptions, expand};
use dcbuild_dockerfile::hint::{Whence, odd_space, of_case, of_sources};
use dcbuild_model::{Selection, SelectionForm, TreePath};

use crate::op::{CopyOp, CopySource};
use crate::plan::PlanError;
use crate::stage::{Draft, lines};

/// What the base of a stage may lack that is no name of an image.
pub(crate) fn of_base(draft: &Draft<'_>, at: (u32, u32)) -> Option<String> {
    let dockerfile = draft.dockerfile;
    let stage = dockerfile.stages.iter().find(|stage| lines(stage.span) == at)?;
    let lookup = |name: &str| draft.globals.get(name).map(str::to_owned);
    let options = ExpandOptions::with_escape(dockerfile.escape());
    let expanded = expand(stage.base.as_str(), &lookup, options).ok()?;
    let is_empty = |name: &&String| draft.globals.get(name).is_none_or(str::is_empty);
    match expanded.unmatched.iter().chain(&expanded.matched).find(is_empty) {
        Some(name) => Some(format!(
            "{name} has no value here: declare it above the first FROM, with a default (ARG {name}=...) or with --build-arg {name}=... beside it"
        )),
        None => odd_space(stage.base.as_str()),
    }
}

/// What was probably meant by sources of a context of which one is not there.
pub(crate) fn of_selection(selection: &Selection, reason: &str) -> Option<String> {
    if selection.form != SelectionForm::Copy {
        return None;
    }
    if reason.ends_with(".dockerignore leaves it out") {
        return Some("a line such as !NAME in .dockerignore takes it in again".to_owned());
    }
    of_missing(&selection.sources, reason, Whence::Context)
}

/// What was probably meant by the sources of a COPY or ADD that failed.
pub fn of_copy(op: &CopyOp, reason: &str) -> Option<String> {
    let paths = op.sources.iter().filter_map(|source| match source {
        CopySource::Paths { patterns, .. } => Some(patterns),
        CopySource::Inline(_) => None,
    });
    let sources: Vec<String> = paths.flatten().cloned().collect();
    if reason.starts_with("cannot copy to non-directory") {
        let folder = op.dest.ends_with('/');
        let several = op.sources.len() > 1 || sources.len() > 1;
        return (several && !folder).then(|| {
            format!(
                "with several sources the destination is a folder: write a slash at its end ({}/)",
                op.dest
            )
        });
    }
    of_missing(&sources, reason, Whence::Stage)
}

fn of_missing(sources: &[String], reason: &str, whence: Whence) -> Option<String> {
    if !reason.contains("not found") {
        return None;
    }
    if let Some((_, there)) = reason.split_once("not found: there is \"/") {
        return Some(of_case(there.trim_end_matches('"')));
    }
    let is_missing = |source: &str| {
        let mut path = TreePath::clean(source.as_bytes()).ok();
        while let Some(at) = path {
            if !at.is_root() && reason.contains(&format!("\"{at}\"")) {
                return true;
            }
            path = at.parent();
        }
        false
    };
    of_sources(sources, &is_missing, whence)
}

/// Names with spaces have a form of their own, and a quote in a name stands for itself behind a backslash.
pub(crate) fn of_quotes(error: PlanError) -> PlanError {
    let message = error.to_string();
    let quotes = error.hint().is_none() && message.contains("looking for matching");
    let begins = ["process \"\\\"", "process \"'"].iter().any(|begin| message.contains(begin));
    match error {
        PlanError::Instruction { message, lines, hint: _ } if quotes => {
            let hint = if begins {
                "for names with spaces there is the JSON form: [\"a name\", \"/to/\"]"
            } else {
                "a quote that belongs to a name has a backslash before it: it\\'s, or [\"it\\\\'s\", \"/to/\"]"
            };
            PlanError::Instruction { message, lines, hint: Some(hint.to_owned()) }
        }
        PlanError::Instruction { .. }
        | PlanError::Unreachable { .. }
        | PlanError::Parse(_)
        | PlanError::Request { .. } => error,
    }
}

//! COPY and ADD: what is copied, and where to.

use dcbuild_dockerfile::{
    AddInstruction, CopyInstruction, ExpandOptions, Expansion, Instruction, Paths, Word, expand,
};
use dcbuild_model::{Selection, SelectionForm};

use super::{Stage, Walk, join};
use crate::op::{Bytes, CopyOp, CopySource, InlineFile, Op};
use crate::plan::{HistoryLine, PlanError};
use crate::stage::{Command, expansion};

/// What COPY and ADD have in common, expanded.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the Dockerfile")]
struct Copied {
    keyword: &'static str,
    patterns: Vec<String>,
    inline: Vec<InlineFile>,
    dest: String,
    chown: Option<String>,
    chmod: Option<String>,
    exclude: Vec<String>,
    parents: bool,
    link: bool,
    unpack: bool,
}

impl Walk<'_> {
    pub(super) fn add(
        &mut self,
        stage: &mut Stage,
        add: &AddInstruction,
        instruction: &Instruction,
    ) -> Result<(), PlanError> {
        let (patterns, inline) = self.sources(stage, &add.paths)?;
        if let Some(remote) = patterns.iter().find(|source| is_remote(source)) {
            let message =
                format!("ADD of {remote} is not supported yet: only files of the context");
            let hint = "fetch it in a RUN step, or put the file into the context".to_owned();
            return Err(PlanError::Instruction { message, lines: stage.at, hint: Some(hint) });
        }
        if add.checksum.is_some() {
            return Err(PlanError::at(stage.at, "checksum requires HTTP(S) or Git sources"));
        }
        let copied = Copied {
            keyword: "ADD",
            patterns,
            inline,
            dest: self.word(stage, add.paths.dest.as_str())?,
            chown: self.optional(stage, add.chown.as_ref())?,
            chmod: self.optional(stage, add.chmod.as_ref())?,
            exclude: as_written(&add.exclude),
            parents: false,
            link: add.link,
            unpack: add.unpack.unwrap_or(true),
        };
        self.copied(stage, copied, instruction, None)
    }

    pub(super) fn copy(
        &mut self,
        stage: &mut Stage,
        copy: &CopyInstruction,
        command: &Command,
    ) -> Result<(), PlanError> {
        let (patterns, inline) = self.sources(stage, &copy.paths)?;
        let copied = Copied {
            keyword: "COPY",
            patterns,
            inline,
            dest: self.word(stage, copy.paths.dest.as_str())?,
            chown: self.optional(stage, copy.chown.as_ref())?,
            chmod: self.optional(stage, copy.chmod.as_ref())?,
            exclude: as_written(&copy.exclude),
            parents: copy.parents,
            link: copy.link,
            unpack: false,
        };
        let from = command.reads.first().copied().flatten();
        let from = from.map(|stage| (stage, copy.from.clone().unwrap_or_default()));
        self.copied(stage, copied, &command.instruction, from)
    }

    fn copied(
        &mut self,
        stage: &mut Stage,
        copied: Copied,
        instruction: &Instruction,
        from: Option<(usize, String)>,
    ) -> Result<(), PlanError> {
        let created_by = history(&copied);
        let Copied {
            keyword: _,
            patterns,
            inline,
            dest,
            chown,
            chmod,
            exclude,
            parents,
            link,
            unpack,
        } = copied;
        let mut inputs = Vec::new();
        let mut sources = Vec::new();
        let keep_owners = from.is_some();
        if !patterns.is_empty() {
            let selection = Selection {
                form: SelectionForm::Copy,
                sources: patterns.clone(),
                exclude: exclude.clone(),
                parents,
            };
            match from {
                Some((other, from)) => {
                    inputs.push(self.stage_input(stage, other, &from, selection)?);
                }
                None => match self.context_input(stage, "context", selection)? {
                    Some(input) => inputs.push(input),
                    None => return Ok(()),
                },
            }
            sources.push(CopySource::Paths { input: 0, patterns });
        }
        sources.extend(inline.into_iter().map(CopySource::Inline));
        let dest = destination(stage, &dest);
        let label = self.title(stage, &instruction.source);
        let op = Op::Copy(CopyOp {
            sources,
            dest,
            chown,
            chmod,
            exclude,
            parents,
            link,
            unpack,
            keep_owners,
        });
        let step = self.step(stage, label, op, inputs);
        stage.history.push(HistoryLine { created_by, step: Some(step) });
        Ok(())
    }

    fn sources(
        &self,
        stage: &Stage,
        paths: &Paths,
    ) -> Result<(Vec<String>, Vec<InlineFile>), PlanError> {
        let patterns = self.words(stage, &paths.sources)?;
        let lookup = |name: &str| stage.env.get(name).map(str::to_owned);
        let inline = |file: &dcbuild_dockerfile::InlineFile| {
            let content = match file.expansion {
                Expansion::Literal => file.content.clone(),
                // A heredoc's body is read with the backslash, whatever escapes in the file around it.
                Expansion::Expand => {
                    let options =
                        ExpandOptions::heredoc_body(dcbuild_dockerfile::Escape::Backslash);
                    expand(&file.content, &lookup, options).map_err(expansion(stage.at))?.text
                }
            };
            Ok(InlineFile { name: file.name.clone(), content: Bytes(content.into_bytes()) })
        };
        Ok((patterns, paths.inline.iter().map(inline).collect::<Result<_, PlanError>>()?))
    }

    fn words(&self, stage: &Stage, words: &[Word]) -> Result<Vec<String>, PlanError> {
        words.iter().map(|word| self.word(stage, word.as_str())).collect()
    }

    fn optional(&self, stage: &Stage, word: Option<&Word>) -> Result<Option<String>, PlanError> {
        let word = word.map(|word| self.word(stage, word.as_str())).transpose()?;
        Ok(word.filter(|word| !word.is_empty()))
    }
}

/// Patterns of `--exclude`: variables are not expanded in them.
fn as_written(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.as_str().to_owned()).collect()
}

fn is_remote(source: &str) -> bool {
    let scheme = ["http://", "https://", "git://", "ssh://", "git@"]
        .iter()
        .any(|scheme| source.starts_with(scheme));
    scheme || source.starts_with("github.com/")
}

/// The destination from the root; a slash at its end, or a dot, says that it is a folder.
fn destination(stage: &Stage, dest: &str) -> String {
    let mut full = join(stage.cwd(), dest);
    let folder = dest.is_empty() || dest == "." || dest.ends_with('/') || dest.ends_with("/.");
    if folder && !full.ends_with('/') {
        full.push('/');
    }
    full
}

fn history(copied: &Copied) -> String {
    let mut text = copied.keyword.to_owned();
    if copied.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("--chown", &copied.chown), ("--chmod", &copied.chmod)] {
        if let Some(value) = value {
            text.push_str(&format!(" {flag}={value}"));
        }
    }
    for source in &copied.patterns {
        text.push(' ');
        text.push_str(source);
    }
    for file in &copied.inline {
        text.push_str(" <<");
        text.push_str(&file.name);
    }
    text.push(' ');
    text.push_str(&copied.dest);
    text.push_str(" # buildkit");
    text
}

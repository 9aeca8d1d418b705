//! COPY and ADD: what is copied, and where to.

use dcbuild_dockerfile::{
    AddInstruction, CopyInstruction, ExpandOptions, Expansion, Instruction, Paths, Word, expand,
};
use dcbuild_model::remote::file_name;
use dcbuild_model::{Added, Digest, Named, Remote, Selection, SelectionForm, TreePath};

use super::{Stage, Walk, join};
use crate::hint;
use crate::op::{Bytes, CopyOp, CopySource, InlineFile, Op};
use crate::plan::{HistoryLine, PlanError};
use crate::policy::{Judged, Known};
use crate::stage::{Command, expansion, refused};

/// What COPY and ADD have in common, expanded.
struct Copied {
    keyword: &'static str,
    groups: Vec<Group>,
    inline: Vec<InlineFile>,
    dest: String,
    chown: Option<String>,
    chmod: Option<String>,
    exclude: Vec<String>,
    parents: bool,
    link: bool,
}

/// Sources that are taken from one place.
struct Group {
    from: From,
    /// The sources as the Dockerfile has them, expanded.
    written: Vec<String>,
    unpack: bool,
}

/// Whence sources are taken.
enum From {
    Context,
    Stage(usize, String),
    Fetched(Box<Added>),
}

impl Walk<'_> {
    pub(super) fn add(
        &mut self,
        stage: &mut Stage,
        add: &AddInstruction,
        instruction: &Instruction,
    ) -> Result<(), PlanError> {
        let (words, inline) = self.sources(stage, &add.paths)?;
        let checksum = self.optional(stage, add.checksum.as_ref())?;
        if checksum.is_some() && (words.len() != 1 || !inline.is_empty()) {
            let message = "checksum can't be specified for multiple sources";
            return Err(PlanError::at(stage.at, message));
        }
        let (mut groups, mut lacks): (Vec<Group>, bool) = (Vec::new(), false);
        for word in words {
            let remote = Remote::parse(&word, Named::ByDockerfile)
                .map_err(|error| PlanError::at(stage.at, error.to_string()))?;
            let Some(remote) = remote else {
                if checksum.is_some() {
                    let message = "checksum requires HTTP(S) or Git sources";
                    return Err(PlanError::at(stage.at, message));
                }
                let unpack = add.unpack.unwrap_or(true);
                match groups.last_mut() {
                    Some(Group { from: From::Context, written, .. }) => written.push(word),
                    _ => groups.push(Group { from: From::Context, written: vec![word], unpack }),
                }
                continue;
            };
            let added = fetched(stage, remote, checksum.as_deref(), add.keep_git_dir)?;
            let known = Known { platform: None, sources: self.draft.sources };
            let judged = self.draft.policy.added(&added, known).map_err(refused(stage.at))?;
            let added = match judged {
                Judged::Taken(added) => added,
                Judged::Lacks(need) => {
                    self.needs.insert(need);
                    lacks = true;
                    continue;
                }
            };
            groups.push(Group {
                unpack: matches!(added.remote, Remote::Http(_)) && add.unpack.unwrap_or(false),
                from: From::Fetched(Box::new(added)),
                written: vec![word],
            });
        }
        if lacks {
            return Ok(());
        }
        let copied = Copied {
            keyword: "ADD",
            groups,
            inline,
            dest: self.word(stage, add.paths.dest.as_str()).map_err(hint::of_quotes)?,
            chown: self.optional(stage, add.chown.as_ref())?,
            chmod: self.optional(stage, add.chmod.as_ref())?,
            exclude: as_written(&add.exclude),
            parents: false,
            link: add.link,
        };
        self.copied(stage, copied, instruction)
    }

    pub(super) fn copy(
        &mut self,
        stage: &mut Stage,
        copy: &CopyInstruction,
        command: &Command,
    ) -> Result<(), PlanError> {
        let (written, inline) = self.sources(stage, &copy.paths)?;
        let from = match command.reads.first().copied().flatten() {
            Some(other) => From::Stage(other, copy.from.clone().unwrap_or_default()),
            None => From::Context,
        };
        if let (From::Context, Some(word)) = (&from, written.iter().find(|word| is_remote(word))) {
            let message = format!("source can't be a URL for COPY: {word}");
            let hint = Some("ADD takes URLs and git repositories".to_owned());
            return Err(PlanError::Instruction { message, lines: stage.at, hint });
        }
        let group = Group { from, written, unpack: false };
        let copied = Copied {
            keyword: "COPY",
            groups: if group.written.is_empty() { Vec::new() } else { vec![group] },
            inline,
            dest: self.word(stage, copy.paths.dest.as_str()).map_err(hint::of_quotes)?,
            chown: self.optional(stage, copy.chown.as_ref())?,
            chmod: self.optional(stage, copy.chmod.as_ref())?,
            exclude: as_written(&copy.exclude),
            parents: copy.parents,
            link: copy.link,
        };
        self.copied(stage, copied, &command.instruction)
    }

    fn copied(
        &mut self,
        stage: &mut Stage,
        copied: Copied,
        instruction: &Instruction,
    ) -> Result<(), PlanError> {
        let created_by = history(&copied);
        let Copied { keyword: _, groups, inline, dest, chown, chmod, exclude, parents, link } =
            copied;
        let keep_owners = groups.iter().any(|group| matches!(group.from, From::Stage(..)));
        let (mut inputs, mut sources, mut lacks) = (Vec::new(), Vec::new(), false);
        for Group { from, written, unpack } in groups {
            let patterns = match &from {
                From::Context | From::Stage(..) => written,
                From::Fetched(added) => vec![pattern_of(&added.remote)],
            };
            let selection = Selection {
                form: SelectionForm::Copy,
                sources: patterns.clone(),
                exclude: exclude.clone(),
                parents,
            };
            let input = match from {
                From::Stage(other, name) => Some(self.stage_input(stage, other, &name, selection)?),
                From::Context => self.context_input(stage, "context", selection)?,
                From::Fetched(added) => self.context_input(stage, &added.context(), selection)?,
            };
            lacks |= input.is_none();
            sources.push(CopySource::Paths { input: inputs.len(), patterns, unpack });
            inputs.extend(input);
        }
        if lacks {
            return Ok(());
        }
        sources.extend(inline.into_iter().map(CopySource::Inline));
        let dest = destination(stage, &dest);
        let label = self.title(stage, &instruction.source);
        let op =
            Op::Copy(CopyOp { sources, dest, chown, chmod, exclude, parents, link, keep_owners });
        let step = self.step(stage, label, op, inputs);
        stage.history.push(HistoryLine { created_by, step: Some(step) });
        Ok(())
    }

    fn sources(
        &self,
        stage: &Stage,
        paths: &Paths,
    ) -> Result<(Vec<String>, Vec<InlineFile>), PlanError> {
        let patterns = self.words(stage, &paths.sources).map_err(hint::of_quotes)?;
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
            let name = file_of_heredoc(&file.name).map_err(|why| PlanError::at(stage.at, why))?;
            Ok(InlineFile { name, content: Bytes(content.into_bytes()) })
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

/// The file that a heredoc is, below a folder that holds nothing else: its name, cleaned as a path of that folder.
fn file_of_heredoc(name: &str) -> Result<String, String> {
    let path = TreePath::clean(name.as_bytes()).map_err(|error| error.to_string())?;
    let mut names = path.names();
    match (names.next(), names.next()) {
        (Some(file), None) => Ok(String::from_utf8_lossy(file).into_owned()),
        (None, _) => Err(format!("the heredoc <<{name} names no file")),
        (Some(_), Some(_)) => Err(format!(
            "the heredoc <<{name} names a file in a folder: name the file alone, and the folder with the destination"
        )),
    }
}

/// Patterns of `--exclude`: variables are not expanded in them.
fn as_written(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.as_str().to_owned()).collect()
}

/// Whether COPY should rather be ADD: a web address, which is never a path.
fn is_remote(source: &str) -> bool {
    source.contains("://")
        && matches!(Remote::parse(source, Named::ByDockerfile), Ok(Some(_)) | Err(_))
}

/// What is fetched for one source of an ADD, with its flags.
fn fetched(
    stage: &Stage,
    remote: Remote,
    checksum: Option<&str>,
    keep_git_dir: Option<bool>,
) -> Result<Added, PlanError> {
    let differ = |what: &str| {
        PlanError::at(stage.at, format!("the flag and the git URL disagree about {what}"))
    };
    match remote {
        Remote::Http(url) => {
            let digest = |text: &str| {
                text.parse::<Digest>().map_err(|error| {
                    PlanError::at(stage.at, format!("invalid checksum \"{text}\": {error}"))
                })
            };
            let checksum = checksum.map(digest).transpose()?;
            Ok(Added { remote: Remote::Http(url), checksum })
        }
        Remote::Git(mut git) => {
            if let Some(commit) = checksum {
                if !commit.chars().all(|ch| ch.is_ascii_hexdigit()) {
                    let message = format!("invalid checksum \"{commit}\": no name of a commit");
                    return Err(PlanError::at(stage.at, message));
                }
                if !git.commit.is_empty() && git.commit != commit {
                    return Err(differ("the checksum"));
                }
                commit.clone_into(&mut git.commit);
            }
            if git.keep_git_dir.is_some()
                && keep_git_dir.is_some()
                && git.keep_git_dir != keep_git_dir
            {
                return Err(differ("keep-git-dir"));
            }
            git.keep_git_dir = git.keep_git_dir.or(keep_git_dir);
            Ok(Added { remote: Remote::Git(git), checksum: None })
        }
    }
}

/// What is copied of something that was fetched: all of a repository, or the one file, whose name is no pattern.
fn pattern_of(remote: &Remote) -> String {
    let Remote::Http(url) = remote else { return "/".into() };
    literally(&file_name(url))
}

/// A source that means the file of this name alone. Where nothing in it is a pattern, a backslash is one, too.
fn literally(name: &str) -> String {
    if !name.contains(['*', '?', '[']) {
        return name.to_owned();
    }
    let mut source = String::new();
    for ch in name.chars() {
        match ch {
            '*' | '?' | '[' => source.extend(['[', ch, ']']),
            '\\' => source.push_str("\\\\"),
            ch => source.push(ch),
        }
    }
    source
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
    for source in copied.groups.iter().flat_map(|group| &group.written) {
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

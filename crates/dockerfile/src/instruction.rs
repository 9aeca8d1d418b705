//! Gives a split line its meaning, and refuses what the instruction does not allow.

mod files;
mod health;
mod run;

use crate::ast::{
    ArgDeclaration, ArgInstruction, CommandForm, Instruction, InstructionKind, Onbuild, Pair,
    Stage, StageSpelling, Word,
};
use crate::error::{ParseError, ParseErrorKind};
use crate::flags::{self, FlagKind, Flags, Known};
use crate::hint;
use crate::node::{Args, Keyword, Node};
use crate::suggest;
use crate::words::to_words;

/// What a line turned out to be.
pub(crate) enum Statement {
    Stage(Stage),
    Instruction(Instruction),
}

type Parsed<T> = Result<T, ParseError>;

pub(crate) fn parse(node: Node) -> Parsed<Statement> {
    let Some(keyword) = node.keyword else { return Err(unknown(&node)) };
    if keyword == Keyword::From {
        return from(&node).map(Statement::Stage);
    }
    let kind = match keyword {
        Keyword::Add => files::add(&node).map(InstructionKind::Add),
        Keyword::Arg => arg(&node).map(InstructionKind::Arg),
        Keyword::Cmd => command(&node).map(InstructionKind::Cmd),
        Keyword::Copy => files::copy(&node).map(InstructionKind::Copy),
        Keyword::Entrypoint => command(&node).map(InstructionKind::Entrypoint),
        Keyword::Env => pairs(&node, keyword).map(InstructionKind::Env),
        Keyword::Expose => expose(&node).map(InstructionKind::Expose),
        Keyword::Healthcheck => health::parse(&node).map(InstructionKind::Healthcheck),
        Keyword::Label => pairs(&node, keyword).map(InstructionKind::Label),
        Keyword::Maintainer => single(&node, keyword).map(InstructionKind::Maintainer),
        Keyword::Onbuild => onbuild(&node).map(InstructionKind::Onbuild),
        Keyword::Run => run::parse(&node).map(InstructionKind::Run),
        Keyword::Shell => shell(&node).map(InstructionKind::Shell),
        Keyword::Stopsignal => one_word(&node, keyword).map(InstructionKind::Stopsignal),
        Keyword::User => single(&node, keyword).map(InstructionKind::User),
        Keyword::Volume => volume(&node).map(InstructionKind::Volume),
        Keyword::Workdir => single(&node, keyword).map(InstructionKind::Workdir),
        Keyword::From => return from(&node).map(Statement::Stage),
    }?;
    Ok(Statement::Instruction(Instruction {
        kind,
        span: node.span,
        source: node.line.trim().to_owned(),
        keyword: node.word,
        heredocs: node.heredocs,
    }))
}

impl Node {
    fn refuse(&self, kind: ParseErrorKind) -> ParseError {
        ParseError::at(self.span, kind)
    }

    fn checked_flags(&self, known: Known) -> Parsed<Flags> {
        flags::parse(&self.flags, known, self.span)
    }

    /// Returns the arguments as plain words, however they were written.
    fn words(&self) -> &[String] {
        match &self.args {
            Args::Words(words) | Args::Json(words) => words,
            Args::Pairs(_) | Args::Health { .. } | Args::Trigger(_) => &[],
        }
    }
}

fn unknown(node: &Node) -> ParseError {
    ParseError {
        kind: ParseErrorKind::UnknownInstruction(node.word.clone()),
        span: Some(node.span),
        suggestion: suggest::nearest_in_any_case(&node.word, Keyword::NAMES),
        meant: hint::of_keyword(&node.word),
    }
}

fn from(node: &Node) -> Parsed<Stage> {
    let mut named = None;
    let (base, name) = match node.words() {
        [base] => (base, None),
        [base, as_word, name] if as_word.eq_ignore_ascii_case("as") => {
            let lower = name.to_lowercase();
            if !is_stage_name(&lower) {
                return Err(node.refuse(ParseErrorKind::StageName(name.clone())));
            }
            named = Some((as_word.clone(), name.clone()));
            (base, Some(lower))
        }
        words => {
            let error = node.refuse(ParseErrorKind::FromArguments);
            return Err(error.meant(hint::of_from(words)));
        }
    };
    let flags = node.checked_flags(&[("platform", FlagKind::Text)])?;
    Ok(Stage {
        name,
        base: base.clone().into(),
        platform: flags.filled("platform").map(Word),
        instructions: Vec::new(),
        span: node.span,
        source: node.line.trim().to_owned(),
        spelling: StageSpelling { keyword: node.word.clone(), named },
        comments: node.comments.clone(),
    })
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|ch: char| ch.is_ascii_lowercase())
        && name.chars().all(|ch| {
            ch.is_ascii_lowercase() || ch.is_ascii_digit() || matches!(ch, '-' | '_' | '.')
        })
}

/// Flags of ARG are let through unread, as ever.
fn arg(node: &Node) -> Parsed<ArgInstruction> {
    if node.words().is_empty() {
        return Err(node.refuse(ParseErrorKind::AtLeastOne("ARG")));
    }
    let declare = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(node.refuse(ParseErrorKind::BlankName("ARG"))),
        Some((name, default)) => {
            Ok(ArgDeclaration { name: name.into(), default: Some(default.into()) })
        }
        None => Ok(ArgDeclaration { name: word.clone().into(), default: None }),
    };
    Ok(ArgInstruction {
        declarations: node.words().iter().map(declare).collect::<Result<_, _>>()?,
        span: node.span,
        source: node.line.trim().to_owned(),
        comments: node.comments.clone(),
    })
}

fn command(node: &Node) -> Parsed<CommandForm> {
    node.checked_flags(&[])?;
    Ok(form(&node.args))
}

fn form(args: &Args) -> CommandForm {
    match args {
        Args::Json(strings) => CommandForm::Exec(strings.clone()),
        Args::Words(words) => CommandForm::Shell(words.join(" ")),
        Args::Pairs(_) | Args::Health { .. } | Args::Trigger(_) => {
            CommandForm::Shell(String::new())
        }
    }
}

fn pairs(node: &Node, keyword: Keyword) -> Parsed<Vec<Pair>> {
    node.checked_flags(&[])?;
    let Args::Pairs(pairs) = &node.args else {
        return Err(node.refuse(ParseErrorKind::AtLeastOne(keyword.name())));
    };
    if pairs.is_empty() {
        return Err(node.refuse(ParseErrorKind::AtLeastOne(keyword.name())));
    }
    if pairs.iter().any(|pair| pair.key.0.is_empty()) {
        return Err(node.refuse(ParseErrorKind::BlankName(keyword.name())));
    }
    Ok(pairs.clone())
}

/// Takes the rest of the line as one word; flags are let through unread.
fn one_word(node: &Node, keyword: Keyword) -> Parsed<Word> {
    match node.words() {
        [word] => Ok(word.clone().into()),
        _ => Err(node.refuse(ParseErrorKind::ExactlyOne(keyword.name()))),
    }
}

fn single(node: &Node, keyword: Keyword) -> Parsed<Word> {
    let word = one_word(node, keyword)?;
    node.checked_flags(&[])?;
    Ok(word)
}

fn expose(node: &Node) -> Parsed<Vec<Word>> {
    if node.words().is_empty() {
        return Err(node.refuse(ParseErrorKind::AtLeastOne("EXPOSE")));
    }
    node.checked_flags(&[])?;
    let mut ports = to_words(node.words().to_vec());
    ports.sort();
    Ok(ports)
}

fn volume(node: &Node) -> Parsed<Vec<Word>> {
    if node.words().is_empty() {
        return Err(node.refuse(ParseErrorKind::AtLeastOne("VOLUME")));
    }
    node.checked_flags(&[])?;
    let paths: Vec<Word> = node.words().iter().map(|path| path.trim().into()).collect();
    if paths.iter().any(|path| path.0.is_empty()) {
        return Err(node.refuse(ParseErrorKind::EmptyVolume));
    }
    Ok(paths)
}

fn shell(node: &Node) -> Parsed<Vec<String>> {
    node.checked_flags(&[])?;
    if node.words().is_empty() {
        return Err(node.refuse(ParseErrorKind::AtLeastOne("SHELL")));
    }
    match &node.args {
        Args::Json(words) => Ok(words.clone()),
        _ => Err(node.refuse(ParseErrorKind::NotJson("SHELL"))),
    }
}

fn onbuild(node: &Node) -> Parsed<Onbuild> {
    let Args::Trigger(trigger) = &node.args else {
        return Err(node.refuse(ParseErrorKind::AtLeastOne("ONBUILD")));
    };
    node.checked_flags(&[])?;
    match trigger.keyword {
        Some(Keyword::Onbuild) => return Err(node.refuse(ParseErrorKind::OnbuildChain)),
        Some(refused @ (Keyword::Maintainer | Keyword::From)) => {
            let name = refused.name().to_owned();
            return Err(node.refuse(ParseErrorKind::OnbuildTrigger(name)));
        }
        _ => {}
    }
    let line = node.line.trim_start();
    let mut expression = line.get("ONBUILD".len()..).unwrap_or_default().trim_start().to_owned();
    for heredoc in &node.heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.content);
        expression.push_str(&heredoc.name);
    }
    Ok(Onbuild { expression })
}

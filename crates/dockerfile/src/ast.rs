//! What a Dockerfile says, as typed instructions whose words are not yet expanded.

use std::fmt;

use crate::directives::Directives;
use crate::error::ParseError;
use crate::heredoc::Heredoc;
use crate::mount::MountFlag;

/// The lines of the source that something came from, counted from one, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    pub start_line: u32,
    pub end_line: u32,
}

impl Span {
    /// Spans a single line.
    pub fn line(line: u32) -> Span {
        Span { start_line: line, end_line: line }
    }

    /// Tells whether a line lies inside the span.
    pub fn contains(self, line: u32) -> bool {
        (self.start_line..=self.end_line).contains(&line)
    }
}

/// A word as written, with its quotes, escapes and variables still in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Word(pub String);

impl Word {
    /// Returns the text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Word {
        Word(text.to_owned())
    }
}

impl From<String> for Word {
    fn from(text: String) -> Word {
        Word(text)
    }
}

/// The character that escapes, in words and at the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Escape {
    #[default]
    Backslash,
    Backtick,
}

impl Escape {
    /// Returns the character itself.
    pub fn as_char(self) -> char {
        match self {
            Escape::Backslash => '\\',
            Escape::Backtick => '`',
        }
    }
}

/// A parsed Dockerfile: at least one stage, and what stood before the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub directives: Directives,
    pub global_args: Vec<ArgInstruction>,
    pub stages: Vec<Stage>,
    /// Instructions whose continuation holds an empty line, which is tolerated.
    pub empty_continuations: Vec<Span>,
}

impl Dockerfile {
    /// Returns the character that escapes in this file.
    pub fn escape(&self) -> Escape {
        self.directives.escape
    }
}

/// One FROM and the instructions up to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The name after AS, in lower case.
    pub name: Option<String>,
    pub base: Word,
    pub platform: Option<Word>,
    pub instructions: Vec<Instruction>,
    /// The lines of the FROM alone.
    pub span: Span,
    /// The FROM as one line.
    pub source: String,
    pub spelling: StageSpelling,
    /// The comments directly above, without their marks.
    pub comments: Vec<String>,
}

/// How the words of a FROM were written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StageSpelling {
    pub keyword: String,
    /// The AS and the name after it.
    pub named: Option<(String, String)>,
}

impl Stage {
    /// Returns what a comment above says of the stage: `# NAME WORDS`.
    pub fn description(&self) -> Option<&str> {
        described(&self.comments, self.name.as_deref()?)
    }
}

/// What comments say of a name; the first that begins with it counts.
fn described<'a>(comments: &'a [String], name: &str) -> Option<&'a str> {
    comments.iter().find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '))
}

/// One instruction with its place and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    pub kind: InstructionKind,
    pub span: Span,
    /// The instruction joined to one line, without heredoc bodies, as a history shows it.
    pub source: String,
    /// The keyword as written.
    pub keyword: String,
    pub heredocs: Vec<Heredoc>,
}

/// Every instruction that a stage may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionKind {
    Add(AddInstruction),
    Arg(ArgInstruction),
    Cmd(CommandForm),
    Copy(CopyInstruction),
    Entrypoint(CommandForm),
    Env(Vec<Pair>),
    /// The port words, in sorted order.
    Expose(Vec<Word>),
    Healthcheck(Healthcheck),
    Label(Vec<Pair>),
    Maintainer(Word),
    Onbuild(Onbuild),
    Run(RunInstruction),
    Shell(Vec<String>),
    Stopsignal(Word),
    User(Word),
    Volume(Vec<Word>),
    Workdir(Word),
}

impl InstructionKind {
    /// Returns the keyword in upper case.
    pub fn keyword(&self) -> &'static str {
        match self {
            InstructionKind::Add(_) => "ADD",
            InstructionKind::Arg(_) => "ARG",
            InstructionKind::Cmd(_) => "CMD",
            InstructionKind::Copy(_) => "COPY",
            InstructionKind::Entrypoint(_) => "ENTRYPOINT",
            InstructionKind::Env(_) => "ENV",
            InstructionKind::Expose(_) => "EXPOSE",
            InstructionKind::Healthcheck(_) => "HEALTHCHECK",
            InstructionKind::Label(_) => "LABEL",
            InstructionKind::Maintainer(_) => "MAINTAINER",
            InstructionKind::Onbuild(_) => "ONBUILD",
            InstructionKind::Run(_) => "RUN",
            InstructionKind::Shell(_) => "SHELL",
            InstructionKind::Stopsignal(_) => "STOPSIGNAL",
            InstructionKind::User(_) => "USER",
            InstructionKind::Volume(_) => "VOLUME",
            InstructionKind::Workdir(_) => "WORKDIR",
        }
    }
}

/// A command, either for a shell to read or as finished arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandForm {
    /// The text for the shell; empty where nothing was written.
    Shell(String),
    Exec(Vec<String>),
}

/// One `ARG`, which may declare several names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgInstruction {
    pub declarations: Vec<ArgDeclaration>,
    pub span: Span,
    /// The instruction joined to one line.
    pub source: String,
    /// The comments directly above, without their marks.
    pub comments: Vec<String>,
}

impl ArgInstruction {
    /// Returns what a comment above says of one of its names: `# NAME WORDS`.
    pub fn description(&self, name: &str) -> Option<&str> {
        described(&self.comments, name)
    }
}

/// A declared build argument and its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    pub name: Word,
    pub default: Option<Word>,
}

/// A key and a value of ENV or LABEL; both are expanded later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub key: Word,
    pub value: Word,
    pub separator: PairSeparator,
}

/// What stands between a key and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairSeparator {
    Equals,
    /// The old form, which takes the rest of the line as one value.
    Space,
}

/// What is copied and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    pub sources: Vec<Word>,
    pub inline: Vec<InlineFile>,
    pub dest: Word,
}

/// A file whose content stands in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    pub name: String,
    pub content: String,
    pub expansion: Expansion,
}

/// Whether variables in a heredoc body are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expansion {
    Expand,
    Literal,
}

/// `COPY` with its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyInstruction {
    pub paths: Paths,
    /// Taken as written: variables are not expanded here.
    pub from: Option<String>,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub exclude: Vec<Word>,
    pub link: bool,
    pub parents: bool,
}

/// `ADD` with its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddInstruction {
    pub paths: Paths,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub checksum: Option<Word>,
    pub exclude: Vec<Word>,
    pub link: bool,
    pub keep_git_dir: Option<bool>,
    pub unpack: Option<bool>,
}

/// `RUN` with its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInstruction {
    pub form: CommandForm,
    pub heredocs: Vec<Heredoc>,
    pub mounts: Vec<MountFlag>,
    pub network: NetworkMode,
    pub security: SecurityMode,
    pub devices: Vec<Word>,
}

/// The network that a RUN sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NetworkMode {
    #[default]
    Default,
    None,
    Host,
}

/// The rights that a RUN has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SecurityMode {
    #[default]
    Sandbox,
    Insecure,
}

/// `HEALTHCHECK NONE` or a command with its timing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    None,
    Cmd { command: CommandForm, timing: HealthTiming },
}

/// When a healthcheck runs; zero stands for the engine's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HealthTiming {
    pub interval_nanos: u64,
    pub timeout_nanos: u64,
    pub start_period_nanos: u64,
    pub start_interval_nanos: u64,
    pub retries: u32,
}

/// An instruction kept as text for the stages and images built on this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The text as an image's config stores it, heredoc bodies included.
    pub expression: String,
}

impl Onbuild {
    /// Parses the kept text; a mistake in it only shows where it runs.
    pub fn trigger(&self) -> Result<Instruction, ParseError> {
        crate::parse_trigger(&self.expression)
    }
}

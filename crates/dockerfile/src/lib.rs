//! Turns the text of a Dockerfile into typed instructions that know their lines.
//!
//! The dialect is that of `docker/dockerfile:1.20`. Words stay as written: whoever plans a build
//! expands them with [`expand`], once it knows the variables. The crate reads no files, knows no
//! images and imports nothing of the project. Start at [`parse`], then [`ast::Dockerfile`].

pub mod ast;
pub mod directives;
mod duration;
pub mod error;
mod excerpt;
pub mod expand;
mod flags;
pub mod heredoc;
pub mod hint;
mod instruction;
pub mod limits;
mod lines;
pub mod mount;
mod node;
mod parse;
mod pattern;
pub mod suggest;
mod words;

pub use ast::{
    AddInstruction, ArgDeclaration, ArgInstruction, CommandForm, CopyInstruction, Dockerfile,
    Escape, Expansion, HealthTiming, Healthcheck, InlineFile, Instruction, InstructionKind,
    NetworkMode, Onbuild, Pair, PairSeparator, Paths, RunInstruction, SecurityMode, Span, Stage,
    StageSpelling, Word,
};
pub use directives::{CheckDirective, Directives, SkippedChecks};
pub use error::{ParseError, ParseErrorKind};
pub use excerpt::excerpt;
pub use expand::{
    EscapeMode, ExpandError, ExpandErrorKind, ExpandOptions, Expanded, Lookup, QuoteMode,
    UnsetMode, expand, expand_word, expand_words,
};
pub use heredoc::{Heredoc, LeadingTabs};
pub use mount::{
    BindMount, CacheMount, CacheSharing, FileAccess, Mount, MountError, MountField, MountFlag,
    MountResolveError, SecretMount, SshMount, TmpfsMount,
};
pub use parse::{Partly, parse, parse_partly, parse_trigger};

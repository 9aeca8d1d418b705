//! Turns a Dockerfile, a build's options and its resolved sources into steps with keys; decides which records to take.
//!
//! Everything here is a function over values. [`plan`](fn@plan) is called again and again: it returns a plan, or the
//! sources that it still lacks. Start with [`Request`] for what a build asks, [`Plan`] for what comes out, and
//! [`choose`](fn@choose) for which of the records found are taken.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod choose;
mod env;
mod epoch;
mod expose;
mod globals;
pub mod hint;
mod history;
pub mod key;
pub mod lint;
pub mod op;
pub mod plan;
pub mod policy;
pub mod report;
pub mod request;
pub mod show;
pub mod sources;
mod stage;
mod walk;

pub use choose::{Choice, choose};
pub use lint::{Finding, Leftover, Rule};
pub use op::{
    Bytes, CacheSharing, CopyOp, CopySource, HOST_GATEWAY, ImageLayer, ImageOp, ImageSource,
    InlineFile, Input, InputSource, MountKind, Op, RunMount, RunNetwork, RunOp, RunSecurity,
    SecretMount, Ulimit, WorkdirOp,
};
pub use plan::{
    BaseImage, HistoryLine, ImageTemplate, Plan, PlanError, Planned, PlannedImage, PlannedStage,
    Step, plan,
};
pub use policy::{PolicyError, SourcePolicy};
pub use report::{Call, Called, Report, call};
pub use request::{ContextSource, NoCache, PullPolicy, Request, Scan};
pub use sources::{ImageAnswer, Need, ResolvedImage, Sources, Unresolved};

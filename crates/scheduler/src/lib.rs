//! Decides which worker runs which steps of which build, and what happens when one of them fails or is lost.
//!
//! [`Scheduler::apply`] takes one entry of the log and returns what is to be done. It has no clock, draws nothing, does
//! no I/O and iterates over ordered maps alone, so that every node that applies the same log decides the same. It
//! refuses to know what a step does: graphs, digests and ids are all it sees. Start with [`event`] and [`action`].

#![warn(clippy::wildcard_enum_match_arm)]

pub mod action;
pub mod event;
pub mod graph;

mod advance;
mod build;
mod job;
mod lifecycle;
mod queue;
mod report;
mod result;
mod shape;
mod state;
mod subscribe;
mod worker;

#[cfg(test)]
mod tests;

pub use action::{Action, CancelledBy, Failure, How, Lease, Note, Outcome, Part, Refusal, Stop};
pub use event::{
    Event, Fence, InfraFault, Presence, Return, StepFault, Submission, Work, WorkerFacts,
};
pub use graph::{
    CacheMount, Freshness, Graph, InvalidGraph, Made, OutputIndex, OutputNode, Requests, Sees,
    Share, StepKind, StepNode,
};
pub use lifecycle::{BUILDS_MAX, ENDED_MAX};
pub use state::{Counts, Scheduler};
pub use worker::Duty;

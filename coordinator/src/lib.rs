//! The coordinator: plans builds, keeps the log that the scheduler lives by, hands jobs to workers, tells clients.
//!
//! It moves no files and runs no step: bytes of layers pass through it only where it serves a folder store. Start with
//! [`Coordinator::start`]; [`book`] holds what is known of builds and workers, `core` is the loop that alone changes it,
//! `driver` takes one build from its submission to a graph.

pub mod config;
pub mod log;

mod access;
mod account;
mod book;
mod borrow;
mod build;
mod cache;
mod carry;
mod company;
mod coordinator;
mod core;
mod damage;
mod driver;
pub mod explain;
mod graph;
mod images;
mod journal;
mod keeping;
mod lease;
mod lend;
mod memory;
mod metrics;
mod names;
mod planned;
mod provenance;
mod questions;
mod records;
mod remotes;
mod rpc;
mod sweeper;
mod sweeps;

pub use cache::{View, cache};
pub use carry::{CarryError, Exported, export, import};
pub use config::{CoordinatorConfig, Granting, Holds, Met, MetCounts, Parts, Stores};
pub use coordinator::{Coordinator, ServeError, StartError};
pub use explain::{Asked, ExplainError, explain};
pub use memory::{Incoming, MemoryConnector, in_memory};
pub use metrics::{Page, Readers};

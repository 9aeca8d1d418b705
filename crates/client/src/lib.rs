//! The client of a build: reads flags, hands a build over, answers what it asks, shows how it goes, fetches what it made.
//!
//! It decides nothing about steps and caches, and runs nothing. Start with [`Wanted`] for what a command line asks,
//! [`prepare`](fn@prepare) for what that needs of the disk, and [`Client::build`] for the rest.

mod answer;
mod archive;
pub mod args;
pub mod attest;
pub mod caches;
pub mod call;
pub mod client;
mod csv;
mod dated;
pub mod deliver;
mod ending;
pub mod explained;
pub mod flag_error;
pub mod gather;
pub mod legacy;
mod metadata;
pub mod output;
pub mod parse;
pub mod policy;
pub mod prepare;
pub mod rpc;
pub mod show;
pub mod unpack;
pub mod variables;
mod vcs;
pub mod wanted;

pub use args::BuildFlags;
pub use caches::{Asking, CacheFlags, Caches, Reach, place_of};
pub use call::{Method, describe};
pub use client::{BuildRequest, Client, ClientConfig, ClientError, Ended};
pub use deliver::DeliverError;
pub use flag_error::FlagError;
pub use gather::{GatherError, Gathered, environment, gather};
pub use output::{ClientOutput, Dest, Output};
pub use parse::{NamedContext, SecretSource};
pub use policy::{PolicyFlags, PolicyRefusal, RegoReach};
pub use prepare::{Found, Place, PrepareError, Prepared, prepare};
pub use rpc::{ListedBuild, ListedImage, ListedWorker, RpcError};
pub use show::{Console, Screen};
pub use unpack::{UnpackError, unpack};
pub use variables::docker_logins;
pub use wanted::{DockerfilePlace, Handover, MainContext, Purpose, Wanted};

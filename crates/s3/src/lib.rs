//! A bucket of S3, or of a server that speaks as S3 does, as a store of blobs and objects.
//!
//! Conditional writes are never relied on, since servers disagree about them: blobs are named by their content, and the
//! last write of an object counts. Bytes are hashed on their way in and, when a blob is read whole, on their way out.
//! Start with [`S3Config`] and [`S3Store`]; `wire` has one function for each request that is made.

mod blobs;
pub mod check;
pub mod config;
mod connect;
mod download;
pub mod failure;
mod grants;
mod keys;
mod objects;
pub mod store;
mod sweep;
mod upload;
mod wire;

pub use check::{CheckStep, Checked};
pub use config::{AddressStyle, InvalidS3Url, S3Config};
pub use failure::{Failure, FailureKind};
pub use store::{AccessKey, S3Counts, S3Store};

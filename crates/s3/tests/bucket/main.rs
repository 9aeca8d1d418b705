//! A store in a bucket, on a server of S3 that the tests start and that fails as told.
#![expect(clippy::unwrap_used, reason = "test")]

mod check;
mod common;
mod contract;
mod faults;
mod listings;

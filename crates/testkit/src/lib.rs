//! Fakes and contract suites: what tests of several crates lean on. Only ever a dev-dependency.
//!
//! A fake obeys the same contract as the real thing: see [`contract`] and the tests that run it on both.

pub mod blobs;
pub mod contract;
pub mod counting;
pub mod keys;
pub mod layers;
pub mod objects;
pub mod redis;
pub mod tls;

pub use blobs::{BlobCall, FaultyBlobs, MemoryBlobs};
pub use counting::{Counted, CountingBlobs};
pub use layers::MemoryLayers;
pub use objects::MemoryObjects;

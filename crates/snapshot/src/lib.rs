//! Layers as folders that an overlay mount can stand on: unpacked, made by a RUN, found again, removed.
//!
//! Linux only, and it wants to be root of its user namespace. Every path comes from an untrusted layer, so each access
//! goes through a file descriptor below the snapshots' folder and follows no link. The overlay mount itself is not made
//! here. Start with [`Snapshots`].

mod beneath;
pub mod caches;
pub mod commit;
pub mod contents;
mod entries;
pub mod fault;
mod marker;
pub mod materialise;
mod reap;
mod scan;
pub mod snapshots;
pub mod spool;
pub mod upper;
pub mod usage;

pub use caches::{CacheFolders, CacheUsage};
pub use commit::{CommitError, CommitForm, Committed};
pub use contents::SnapshotContents;
pub use fault::At;
pub use materialise::{MaterialiseError, write_tree};
pub use snapshots::{Lowers, OpenSnapshotsError, Snapshot, SnapshotError, Snapshots};
pub use spool::UnpackError;
pub use upper::Upper;
pub use usage::{Removal, Usage};

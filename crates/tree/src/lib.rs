//! File trees without contents: what a stage looks like, what a layer changes, and what COPY, ADD and WORKDIR do to it.
//!
//! Everything here is a function over values: no clock, no disk. A file's bytes are named by digest, and [`Origin`] says
//! where they lie. Start with [`Tree`] for a state and [`Changes`] for a layer.

pub mod change_digest;
pub mod changes;
pub mod entry;
pub mod ignore;
pub mod pattern;
pub mod select;
pub mod source;
pub mod toc;
pub mod tree;

pub use change_digest::{TimeForm, change_digest};
pub use changes::{Change, Changes};
pub use entry::{Entry, FileBody, Kind, LinkGroup, Meta, Origin, Xattrs};
pub use ignore::{Ignore, IgnoreError};
pub use pattern::{BadPattern, Pattern};
pub use select::{SelectError, select, selected_files};
pub use source::{Filter, Match, SourceError};
pub use tree::{InsertError, LastLink, ResolveError, Tree};

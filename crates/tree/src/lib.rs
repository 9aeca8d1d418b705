//! File trees without contents: what a stage looks like, what a layer changes, and what COPY, ADD and WORKDIR do to it.
//!
//! Everything here is a function over values: no clock, no disk. A file's bytes are named by digest, and [`Origin`] says
//! where they lie. Start with [`Tree`] for a state and [`Changes`] for a layer.

pub mod archive;
pub mod change_digest;
pub mod changes;
pub mod chmod;
pub mod copy;
pub mod entry;
pub mod ignore;
pub mod owner;
pub mod pattern;
pub mod select;
pub mod source;
pub mod stubs;
#[cfg(test)]
mod testing;
pub mod toc;
pub mod tree;
pub mod whiteout;

pub use archive::{Archive, Member};
pub use change_digest::{TimeForm, change_digest};
pub use changes::{Change, Changes, Overlap};
pub use chmod::{Chmod, ChmodError};
pub use copy::{
    CopyError, CopyRequest, CopySource, SourceOwners, copy, destination, unpacked, workdir,
};
pub use entry::{Entry, FileBody, Kind, LinkGroup, Meta, Origin, Xattrs};
pub use ignore::{Ignore, IgnoreError};
pub use owner::{Accounts, OwnerError, resolve_owner};
pub use pattern::{BadPattern, Pattern};
pub use select::{SelectError, Selected, SelectedFile, select};
pub use source::{Filter, Match, SourceError};
pub use stubs::without_stubs;
pub use tree::{InsertError, LastLink, ResolveError, Tree};
pub use whiteout::with_whiteout_names;

//! Where blobs, records and names are kept: small traits, and the folder that implements them on one machine.
//!
//! A store never decides what counts: it says what it has. It refuses bytes that are not what their name says, and it
//! treats what it cannot read as absent. Start with [`BlobStore`] and [`StepIndex`]; [`FolderStore`] is the backend that
//! any number of processes of one machine use at once.

mod attempts;
pub mod behind;
pub mod blob;
pub mod both;
pub mod caches;
pub mod catalog;
pub mod embedded;
pub mod error;
pub mod folder;
pub mod grants;
pub mod guard;
pub mod index;
pub mod indexed;
pub mod keys;
pub mod locks;
mod manifest;
pub mod near;
pub mod notes;
pub mod objects;
mod remembered;
pub mod sweep;
pub mod uses;
pub mod verified;

pub use behind::{Backlog, Behind, Far, Policy};
pub use blob::{BlobStore, BlobStream, ByteRange, read_bytes, stream_of};
pub use both::{Both, Told};
pub use caches::{CacheVersion, CacheVersions, inherited};
pub use catalog::{
    Catalog, CatalogCounts, CatalogMark, CatalogParts, InvalidSealKey, Now, Seal, Unseen,
};
pub use embedded::EmbeddedIndex;
pub use error::{StoreError, says_full};
pub use folder::prune::{EntryKind, PruneReport, PruneRequest, StoreEntry, victims};
pub use folder::records::Confirmed;
pub use folder::writer::BlobWriter;
pub use folder::{FolderStore, InUse, StoreCounts};
pub use grants::{Grant, GrantMethod, Grants, WriteGrant, Written};
pub use guard::{
    CallError, Guard, GuardCounts, GuardLimits, Hedge, Judged, Patience, Progress, Verdict,
};
pub use index::{
    HashedBase, ImageNames, LayerIndex, NamedImage, StepIndex, StoredBlob, base_of, form_of,
    forms_of,
};
pub use indexed::Indexed;
pub use keys::{ENTRY_BYTES_MAX, Fill, IndexEntry, IndexKey, KeyIndex, KeyUse, Looked};
pub use locks::{KeyLock, KeyLocks, LockError, LockMode};
pub use near::Near;
pub use notes::{NoteKind, Notes, evictions, put_eviction};
pub use objects::{InvalidObjectName, ListedObject, ObjectName, ObjectPage, Objects};
pub use remembered::RememberedNames;
pub use sweep::{Ceilings, Leftovers, PutOff, SweepMode, SweepReport, Swept, sweep, trim_notes};
pub use uses::{FolderMark, UseMark, Using};
pub use verified::Verified;

//! Carries records to other places and back: as an OCI artifact in a registry, a folder or a bucket, or inside an image.
//!
//! It believes nothing that it finds: a record counts where it carries a seal that its reader can check, a blob where its
//! bytes hash to its name, and what is not there is a miss. Start with [`pack`](fn@pack) for what goes out,
//! [`look`](fn@look) for what is found, [`Place`] for where, and [`Lent`] for how a build reads it piece by piece.

pub mod artifact;
pub mod documents;
pub mod inline;
pub mod lent;
pub mod look;
pub mod pack;
pub mod place;
pub mod send;
pub mod take;

pub use artifact::{Artifact, PartLimits, Seen, recognise};
pub use documents::{Documents, InvalidDocuments};
pub use inline::INLINE_FIELD;
pub use lent::{Borrower, Lender, Lent, Loan, NotLent};
pub use look::{Borrowed, Found, look, why_unopened};
pub use pack::{NoPacks, Packed, Packs, Shelf, Wish, pack};
pub use place::bucket::{BucketPlace, BucketSettings};
pub use place::folder::FolderPlace;
pub use place::registry::RegistryPlace;
pub use place::{Place, PlaceError};
pub use send::{SendError, Sent, send, send_in_parts};
pub use take::{Carried, TakeError, take};

//! Attestations: what is said of an image beside it, how it was built and what it holds, in the words of in-toto.
//!
//! Everything here is a function over values; nobody signs anything. A [`Provenance`] is what is known of a build before
//! its end; [`Provenance::predicate`] writes it as SLSA does, with the fields that BuildKit adds. A [`Statement`] says it of
//! a subject, and [`Stored`] are the blobs that an index names beside an image. Start with [`Provenance`].

pub mod facts;
mod predicate;
pub mod purl;
pub mod spec;
pub mod statement;
pub mod stored;

pub use facts::{Detail, Finish, Material, Named, Provenance, Request, Source, Step, StepLayers};
pub use purl::{PackageKind, package_url};
pub use spec::{Mode, ProvenanceSpec, SlsaVersion, Storage};
pub use statement::{InvalidSbom, Sbom, Statement, Subject};
pub use stored::{Stored, StoredStatement, store};

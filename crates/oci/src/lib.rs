//! The formats of images: references, configs, manifests, indexes, layouts and docker archives, parsed and printed.
//!
//! This crate does no I/O and fetches nothing. A value of one of its types has passed every check that its text alone
//! allows: limits, digests, sizes, counts. Start with [`reference`] for names and [`manifest`] for what they point at.

pub mod config;
pub mod json;
pub mod layout;
pub mod manifest;
pub mod platform;
pub mod reference;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, InvalidConfig};
pub use layout::{ArchiveItem, InvalidLayout, LayoutRef, Repositories, Tags};
pub use manifest::{
    CountMismatch, Descriptor, Index, InvalidManifest, Manifest, ManifestOrIndex, OciPlatform,
    check_counts, media_type,
};
pub use platform::{NESTED_INDEXES_MAX, is_attestation, select_platform};
pub use reference::{ImageRef, ParseReferenceError, Repository};

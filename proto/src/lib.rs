//! What dcbuild's processes say to each other: the messages, the documents inside them, and their conversions.
//!
//! `pb` is generated from `v1.proto` and committed. Documents stand in [`document`]; conversions between messages and the
//! project's own types stand beside, each inwards conversion with its own error. This crate opens no connection.

pub mod cache;
pub mod document;
pub mod progress;

/// Names the scope that a client asks for, in the metadata of any request of the client plane.
pub const SCOPE_HEADER: &str = "dcbuild-scope";

/// The name of the failure in which what a client brought has to be brought again.
pub const BASE_LOST: &str = "BASE_LOST";

/// The messages and services, as generated.
#[expect(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    reason = "generated code"
)]
pub mod pb {
    include!("generated/dcbuild.v1.rs");
}

//! End-to-end tests: what they need to build real Dockerfiles with the real binary, against real registries.
//!
//! Nothing here knows how dcbuild works inside; the tests see what a user could see. Start with [`home::Home`], which
//! runs the binary, and [`image::Image`], which reads what it made.
#![expect(clippy::unwrap_used, reason = "test")]

pub mod base;
pub mod bucket;
pub mod cluster;
pub mod disk;
pub mod docker;
pub mod files;
pub mod golden;
pub mod home;
pub mod http;
pub mod image;
pub mod layout;
pub mod merged;
pub mod progress;
pub mod projects;
pub mod redis;
pub mod reference;
pub mod registry;
pub mod running;
pub mod s3;
pub mod story;
pub mod wait;
pub mod web;

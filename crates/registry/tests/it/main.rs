//! The registry crate against a faulty fake, against the real registry of the distribution project, and on disk.
#![expect(clippy::unwrap_used, reason = "test")]

mod fake;
mod faults;
mod files;
mod image;
mod real;
mod server;
mod tls;

//! A coordinator with workers and clients in one process, joined in memory; the clock is paused.

#![expect(clippy::unwrap_used, reason = "test")]

mod builds;
mod ends;
mod harness;
mod held;
mod makers;
mod restart;
mod sharing;
mod store;
mod unheard;

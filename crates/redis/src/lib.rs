//! Redis as an index over a store: fast, and never believed further than a miss.
//!
//! [`RedisIndex`] implements `KeyIndex` over one server, or over the primary that sentinels name. Everything in Redis may
//! be flushed, evicted, rolled back by a failover or written by somebody else at any time; the scripts below `lua/` notice
//! and take the mark of completeness away. No state that must not be lost is kept here. Start with [`RedisConfig`] and
//! [`RedisIndex`]; `link.rs` keeps the connection, and `fault.rs` says what may be wrong with it.

mod check;
mod config;
mod fault;
mod index;
mod link;
mod open;
mod room;
mod script;

pub use check::{RedisFinding, RedisHealth};
pub use config::{Credentials, InvalidRedisUrl, RedisAddress, RedisConfig, Servers, Transport};
pub use fault::RedisFault;
pub use index::RedisIndex;

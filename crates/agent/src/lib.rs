//! ssh agents: what a step may ask of one, keys that are one, and the sockets at either end.
//!
//! Of the agent's protocol two messages pass, that which lists identities and that which signs; all others are answered
//! with a failure on the spot. Nothing here adds, removes or writes a key. Start with [`Agent`], which answers on the side
//! that has the keys, and [`serve`](fn@serve), which asks on the side that has the step.

mod agent;
mod key;
mod message;
mod mpint;
mod pem;
mod serve;
mod wire;

pub use agent::{Agent, AgentError, OpenAgentError};
pub use key::{Key, KeyError};
pub use message::{FAILURE, MESSAGE_BYTES_MAX, Request};
pub use serve::{Ask, Served, bind, serve};

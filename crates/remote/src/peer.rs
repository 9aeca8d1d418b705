//! What workers take from each other: layers that were made and are still on their way to the store.
//!
//! The coordinator says who made a layer, and gives a ticket that opens this one layer at this one worker. Whoever takes
//! it hashes every byte before it is used, and does without where the other is dead, slow or lies. In a cluster with TLS both
//! show their certificates, and the coordinator says which one the other is to have.

mod ask;
mod serve;
mod spool;
mod ticket;
mod trust;

#[cfg(test)]
mod tests;

pub use ask::{Maker, Peer, PeerBytes, PeerError, Peers, Wanted};
pub use serve::{Held, PeerService};
pub use ticket::{InvalidPeerKey, PeerKey};

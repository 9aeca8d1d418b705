//! A store on the other side of a connection: both ends of the `Store` service.
//!
//! [`RemoteStore`] is a blob store and layer index for those who cannot open the store's folder; it believes no byte
//! that it did not hash, and takes up a read that was cut where it was cut. Where the other side grants it, bytes go straight
//! between here and the store behind it. [`StoreService`] answers it from any store. [`Peers`] and [`PeerService`] are
//! both ends of what workers take from each other before the store has it.
//! [`incoming`] and [`encrypted`] are how connections come in, [`plain_channel`] and [`secure_channel`] are how they go out. None of
//! them decides what is kept or who may ask.

mod answer;
mod away;
mod certificates;
mod door;
mod encrypted;
mod granted;
mod incoming;
pub mod peer;
mod proof;
mod pruned;
mod reach;
mod secure;
mod send;
mod service;
mod store;
mod transfer;

pub use answer::{Answer, status_of, told};
pub use certificates::{CertificateDigest, InvalidCertificateDigest};
pub use dcbuild_trust::TlsSetupError;
pub use door::{Door, caller_names};
pub use encrypted::{
    EncryptedIncoming, EncryptedStream, ServerCertificates, ServerTls, Speech, encrypted,
};
pub use incoming::incoming;
pub use peer::{Maker, Peer, PeerBytes, PeerKey, PeerService, Peers};
pub use reach::{Unreached, plain_channel};
pub use secure::{ClientCertificates, Distrust, HandshakeError, Trust, knock, secure_channel};
pub use send::{SendError, Sender, Sent};
pub use service::{StoreService, guarded};
pub use store::RemoteStore;

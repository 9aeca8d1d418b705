//! How a part of a client's folder travels to workers: as a parcel, which is a tree and a list of packs.
//!
//! A pack is a layer whose files are named by their content, so that its id is known before a byte of it is read, and so
//! that whoever has the same contents has the same pack. What the tree looks like, names, modes and times, travels in
//! pieces beside it. Everything here is a function over values; who stores packs and pieces, and who fetches them, is
//! decided elsewhere. Start with [`wrap`] on the client's side and [`Parcel::open`] on the worker's.

mod chunks;
pub mod cut;
pub mod pack;
mod table;
pub mod wrap;

pub use cut::cut;
pub use pack::{Pack, PackedFile};
pub use wrap::{InvalidParcel, Opened, Parcel, Piece, Wrapped, wrap};

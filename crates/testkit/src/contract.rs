//! What every backend of a store must do; each function panics where it does not.

mod blobs;
mod grants;
mod names;
mod notes;
mod objects;
mod steps;

pub use blobs::{blobs, large_blobs};
pub use grants::{Sent, grants};
pub use names::{caches, images};
pub use notes::notes;
pub use objects::objects;
pub use steps::{record, steps, with_layer};

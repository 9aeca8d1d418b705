//! Layers as bytes: a canonical tar from the changes of a layer, its compressed blob with an index, and the way back
//! from the layers and archives of others.
//!
//! Everything blocks and uses threads of its own; nothing here touches a file system. A blob is a pure function of the
//! changes and its form. What comes from outside is hashed, bounded and refused with a typed error, never trusted.
//! Start with [`write_blob`] and [`read_layer`].

pub mod archive;
pub mod collect;
pub mod compress;
pub mod content;
mod cut;
mod frame;
mod hash;
mod header;
pub mod index;
pub mod input;
mod members;
mod parse;
pub mod read;
mod recompress;
mod sparse;
pub mod twin;
pub mod write;

pub use archive::{ArchiveKind, ReadArchiveError, SmallInline, as_tar, detect, read_archive};
pub use collect::{InvalidEntry, missing_parents};
pub use compress::{BlobForm, InvalidLevel};
pub use content::{InlineContents, ReadContent};
pub use index::{BlobIndex, DecodeIndexError, Extent, Stretch, open_extent, read_extent};
pub use input::{Ratio, UnknownMediaType, compression_of_media_type};
pub use read::{LayerForm, LayerSink, NoSink, ReadLayer, ReadLayerError, read_layer};
pub use recompress::{Recompressed, recompress};
pub use twin::TwinHash;
pub use write::{WriteBlobError, WrittenBlob, write_blob};

//! Reads a layer that somebody else made: once, hashing all of it, and believing none of it.

use std::io::{self, Read};

use dcbuild_model::{Compression, ContentDigest, DiffId, LayerDigest, LayerId, TreePath};
use dcbuild_tree::{Changes, Origin};

use crate::collect::InvalidEntry;
use crate::input::Ratio;

/// How a layer's bytes are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerForm {
    /// How it is compressed; by its first bytes where absent.
    pub compression: Option<Compression>,
    /// Whether it may grow without bounds.
    pub ratio: Ratio,
}

/// Takes the contents of a layer's files while they stream by.
pub trait LayerSink {
    /// A file begins. The same path may come twice; paths say nothing of where it is safe to write.
    fn begin(&mut self, path: &TreePath, size: u64) -> io::Result<()>;
    /// The next bytes of the file.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// The file ends; answers where its bytes are now, if anywhere but in the layer.
    fn end(&mut self, content: &ContentDigest) -> io::Result<Option<Origin>>;
}

/// Takes nothing: for reading a layer's entries alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSink;

impl LayerSink for NoSink {
    fn begin(&mut self, _: &TreePath, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: &ContentDigest) -> io::Result<Option<Origin>> {
        Ok(None)
    }
}

/// What a layer turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadLayer {
    /// What it changes; each file's origin is what the sink said, else this layer.
    pub changes: Changes,
    /// The layer, by the table of contents of its changes.
    pub layer: LayerId,
    /// That table.
    pub toc: Vec<u8>,
    /// The digest of its tar, as hashed here.
    pub diff_id: DiffId,
    /// The digest of the blob, as hashed here.
    pub digest: LayerDigest,
    /// The blob's size.
    pub size: u64,
    /// How it was compressed.
    pub compression: Compression,
}

/// Says why a layer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadLayerError {
    /// The bytes could not be read or decompressed.
    #[error("could not read the layer's bytes")]
    Read(#[source] io::Error),
    /// The layer grows beyond measure.
    #[error("the layer grows to more than {max} times its size")]
    GrowsTooMuch {
        /// How much it may grow.
        max: u64,
    },
    /// The bytes are no tar.
    #[error("the layer is not a tar archive")]
    NotATar,
    /// The bytes end inside an entry.
    #[error("the layer ends too early, at byte {offset} of its tar")]
    Truncated {
        /// How much of the tar there is.
        offset: u64,
    },
    /// A header is not as tar has it.
    #[error("the header at byte {offset} of the layer's tar is malformed: {reason}")]
    Header {
        /// Where it begins.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There are more entries than a layer may have.
    #[error("the layer has more than {max} entries")]
    TooManyEntries {
        /// How many it may have.
        max: u64,
    },
    /// An entry is one that no layer may have.
    #[error(transparent)]
    Entry(#[from] InvalidEntry),
    /// The sink did not take a file.
    #[error("could not keep the content of '{path}'")]
    Sink {
        /// The file.
        path: TreePath,
        /// Why not.
        source: io::Error,
    },
}

/// Reads a layer once, giving its files' bytes to the sink; the caller compares the digests.
pub fn read_layer(
    input: impl Read + Send,
    form: LayerForm,
    sink: &mut dyn LayerSink,
) -> Result<ReadLayer, ReadLayerError> {
    todo!()
}

//! Writes a layer's blob: tar, hashes, compression and index in one pass over all cores.

use std::io::{self, Write};
use std::thread;

use dcbuild_model::{Compression, Digest, LayerBlob, LayerDigest, TreePath};
use dcbuild_tree::Changes;
use sha2::{Digest as _, Sha256};

use crate::compress::{BlobForm, Compressor, InvalidLevel};
use crate::content::ReadContent;
use crate::cut::Cutter;
use crate::desk::Desk;
use crate::frame::{Hand, Packed};
use crate::index::{BlobIndex, Frame};

/// A blob that was written, and where its files are in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrittenBlob {
    /// The blob's names and size.
    pub blob: LayerBlob,
    /// Where its files are.
    pub index: BlobIndex,
}

/// Says why a blob could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteBlobError {
    /// The form cannot be.
    #[error(transparent)]
    Level(#[from] InvalidLevel),
    /// A tar cannot hold the entry.
    #[error("'{path}' cannot be in a layer: {reason}")]
    Unrepresentable {
        /// The entry.
        path: TreePath,
        /// Why not.
        reason: &'static str,
    },
    /// A file could not be read.
    #[error("could not read '{path}'")]
    Content {
        /// The file.
        path: TreePath,
        /// Why not.
        source: io::Error,
    },
    /// A file has other bytes than its digest says.
    #[error("the content of '{path}' changed while it was used")]
    ContentChanged {
        /// The file.
        path: TreePath,
    },
    /// A frame could not be compressed.
    #[error("could not compress the layer")]
    Compress(#[source] io::Error),
    /// The blob could not be written.
    #[error("could not write the layer's blob")]
    Write(#[source] io::Error),
}

/// Writes the blob of a layer; its bytes depend on the changes, the compression and the level alone.
///
/// Threads take what is to be done from one desk: the tar is cut into frames, each is filled and compressed by the
/// thread that has it, and by one thread at a time all are hashed and written in order. This thread is one of them.
/// Memory is that of the frames under way, and is used again.
pub fn write_blob(
    changes: &Changes,
    contents: &dyn ReadContent,
    form: &BlobForm,
    out: impl Write + Send,
) -> Result<WrittenBlob, WriteBlobError> {
    let threads = form.threads.max(1);
    let mut compressors =
        (0..threads).map(|_| Compressor::new(form)).collect::<Result<Vec<_>, _>>()?;
    let own = compressors.pop();
    let cutter = Cutter::new(changes, contents, form.compression);
    let desk = Desk::new(cutter, BlobWriter::new(out, form.compression), 2 * threads + 2);
    thread::scope(|scope| {
        let begin = |compressor| scope.spawn(|| Hand::new(&desk, contents, compressor).run());
        let others: Vec<_> = compressors.into_iter().map(begin).collect();
        let own = own.map(|compressor| Hand::new(&desk, contents, compressor).run());
        own.into_iter().chain(others.into_iter().map(join)).collect::<Result<(), _>>()
    })?;
    let (cutter, tar, writer) = desk.finish().expect("all threads have given back what they took");
    let diff_id = tar.finish();
    let (files, tar_size) = cutter.finish();
    let Written { hash, size, frames } = writer.finish()?;
    let digest = LayerDigest(hash.unwrap_or(diff_id.0));
    let blob = LayerBlob { digest, diff_id, size, compression: form.compression };
    let index = BlobIndex::new(form.compression, (tar_size, size), frames, files);
    Ok(WrittenBlob { blob, index })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Writes frames in order; a plain tar is not hashed a second time.
pub(crate) struct BlobWriter<W> {
    out: W,
    hash: Option<Sha256>,
    size: u64,
    frames: Vec<Frame>,
}

struct Written {
    hash: Option<Digest>,
    size: u64,
    frames: Vec<Frame>,
}

impl<W: Write> BlobWriter<W> {
    fn new(out: W, compression: Compression) -> BlobWriter<W> {
        let hash = (compression != Compression::None).then(Sha256::new);
        BlobWriter { out, hash, size: 0, frames: Vec::new() }
    }

    /// Writes the next frame.
    pub(crate) fn write(&mut self, packed: &Packed<'_>) -> Result<(), WriteBlobError> {
        let bytes = packed.bytes();
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.out.write_all(bytes).map_err(WriteBlobError::Write)?;
        self.frames.push(Frame { tar: packed.tar, blob: self.size });
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn finish(mut self) -> Result<Written, WriteBlobError> {
        self.out.flush().map_err(WriteBlobError::Write)?;
        let hash = self.hash.map(|hash| Digest(hash.finalize().into()));
        Ok(Written { hash, size: self.size, frames: self.frames })
    }
}

//! Writes a layer's blob: tar, hashes, compression and index in one pass over all cores.

use std::io::{self, Write};
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use dcbuild_model::{Compression, Digest, LayerBlob, LayerDigest, TreePath};
use dcbuild_tree::Changes;
use sha2::{Digest as _, Sha256};

use crate::compress::{BlobForm, Compressor, InvalidLevel};
use crate::content::ReadContent;
use crate::cut::{Cutter, Lanes};
use crate::frame::{self, Done, Spare, len_of};
use crate::hash;
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
    /// The blob's writer gave up first; its own error is the one that is returned.
    #[error("the layer is no longer wanted")]
    Stopped,
    /// The blob could not be written.
    #[error("could not write the layer's blob")]
    Write(#[source] io::Error),
}

/// Writes the blob of a layer; its bytes depend on the changes, the compression and the level alone.
///
/// One thread lays the tar out and cuts it into frames, several fill and compress a frame each, one hashes the tar and
/// the files in it, and this one hashes and writes what is compressed. Memory is that of the frames under way, and is
/// used again.
pub fn write_blob(
    changes: &Changes,
    contents: &dyn ReadContent,
    form: &BlobForm,
    out: impl Write,
) -> Result<WrittenBlob, WriteBlobError> {
    let threads = form.threads.max(1);
    let compressors = (0..threads).map(|_| Compressor::new(form)).collect::<Result<Vec<_>, _>>()?;
    let under_way = 2 * threads + 2;
    let (to_fill, jobs) = bounded(threads);
    let (to_hash, tar) = bounded(threads + 2);
    let (in_order, compressed) = bounded(under_way);
    let (plain, packed) = (&Spare::new(under_way), &Spare::new(under_way));
    thread::scope(|scope| {
        for mut compressor in compressors {
            let jobs = jobs.clone();
            scope.spawn(move || frame::work(&mut compressor, contents, &jobs, (plain, packed)));
        }
        drop(jobs);
        let hasher = scope.spawn(move || hash::hash_tar(&tar, plain));
        let lanes = Lanes { to_fill, to_hash, in_order };
        let cutter = scope.spawn(move || {
            let cutter = Cutter::new(lanes, form.compression, plain);
            cutter.run(changes, contents)
        });
        let written = write_frames(out, form.compression, compressed, (plain, packed));
        let outcome = join(cutter);
        let diff_id = join(hasher);
        // Whoever only stopped because another had failed comes last.
        let written = written?;
        let diff_id = diff_id?;
        let (files, tar_size) = outcome?;
        let digest = written.hash.map_or(diff_id.0, |hash| Digest(hash.finalize().into()));
        let blob = LayerBlob {
            digest: LayerDigest(digest),
            diff_id,
            size: written.size,
            compression: form.compression,
        };
        let sizes = (tar_size, written.size);
        let index = BlobIndex::new(form.compression, sizes, written.frames, files);
        Ok(WrittenBlob { blob, index })
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A frame on its way: where it begins in the tar, and where its compressed bytes will arrive.
pub(crate) struct Ordered {
    pub(crate) tar: u64,
    pub(crate) done: Receiver<Done>,
}

struct Written {
    hash: Option<Sha256>,
    size: u64,
    frames: Vec<Frame>,
}

/// Takes the frames in order; a plain tar is not hashed a second time.
fn write_frames(
    mut out: impl Write,
    compression: Compression,
    frames: Receiver<Ordered>,
    (plain, packed): (&Spare, &Spare),
) -> Result<Written, WriteBlobError> {
    let hash = (compression != Compression::None).then(Sha256::new);
    let mut written = Written { hash, size: 0, frames: Vec::new() };
    for frame in frames {
        let Ok(done) = frame.done.recv() else { continue };
        let done = done?;
        let bytes = done.bytes();
        if let Some(hash) = &mut written.hash {
            hash.update(bytes);
        }
        out.write_all(bytes).map_err(WriteBlobError::Write)?;
        written.frames.push(Frame { tar: frame.tar, blob: written.size });
        written.size += len_of(bytes);
        match done {
            frame::Packed::Plain(bytes) => plain.keep_last(bytes),
            frame::Packed::Compressed(bytes) => packed.keep(bytes),
        }
    }
    out.flush().map_err(WriteBlobError::Write)?;
    Ok(written)
}

//! Writes a pack from files as they are now.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek as _};

use dcbuild_layer::{BlobForm, ReadContent, WriteBlobError, write_blob};
use dcbuild_model::{Compression, LayerBlob, TreePath};
use dcbuild_parcel::cut::PACK_BYTES_MAX;
use dcbuild_parcel::{Pack, PackedFile};
use dcbuild_store::{BlobStream, StoreError, stream_of};
use dcbuild_tree::{FileBody, Origin};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{Files, SendError};

const READ_BYTES: usize = 1 << 20;

/// A pack, ready to be stored.
pub(super) struct Written {
    pub(super) blob: LayerBlob,
    pub(super) index: Vec<u8>,
    pub(super) content: BlobStream,
}

/// Reads, hashes and compresses the files of a pack: in memory, or a large one on the disk.
pub(super) fn write(pack: &Pack, files: &Files) -> Result<Written, SendError> {
    let path_of = |file: &PackedFile| files.paths.get(&file.content).cloned().unwrap_or_default();
    let changes = pack.changes(|file| Origin::Context { context: 0, path: path_of(file) });
    let failed = |error| {
        failed(error, |path| {
            pack.files()
                .iter()
                .find(|file| file.path() == *path)
                .map_or_else(|| path.clone(), path_of)
        })
    };
    let large = pack.bytes() > PACK_BYTES_MAX;
    // Small ones are many, and share the cores among them.
    let threads =
        if large { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    let form = BlobForm { compression: Compression::Zstd, level: None, threads };
    if !large {
        let mut bytes = Vec::new();
        let written = write_blob(&changes, files, &form, &mut bytes).map_err(failed)?;
        let (blob, index) = (written.blob, written.index.encode());
        return Ok(Written { blob, index, content: stream_of(bytes) });
    }
    let mut file = tempfile::tempfile().map_err(SendError::Spool)?;
    let written = write_blob(&changes, files, &form, BufWriter::new(&mut file)).map_err(failed)?;
    file.rewind().map_err(SendError::Spool)?;
    let (blob, index) = (written.blob, written.index.encode());
    Ok(Written { blob, index, content: stream_of_file(file) })
}

/// Says it of the file in the folder, not of the one in the pack.
fn failed(error: WriteBlobError, real: impl Fn(&TreePath) -> TreePath) -> SendError {
    match error {
        WriteBlobError::ContentChanged { path } => SendError::Changed { path: real(&path) },
        WriteBlobError::Content { path, source } if dcbuild_context::is_gone(&source) => {
            SendError::Changed { path: real(&path) }
        }
        WriteBlobError::Content { path, source } => SendError::Read { path: real(&path), source },
        error => SendError::Write(error),
    }
}

fn stream_of_file(file: File) -> BlobStream {
    let file = tokio::fs::File::from_std(file);
    let pieces = tokio_util::io::ReaderStream::with_capacity(file, READ_BYTES);
    pieces.map_err(|source| StoreError::Content { source: source.into() }).boxed()
}

impl ReadContent for Files {
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        match &body.origin {
            Origin::Context { path, .. } => Ok(Box::new(self.reader.open(path)?)),
            Origin::Inline(_) | Origin::Layer { .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

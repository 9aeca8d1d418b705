//! That a blob is a pack of a context, found out here: for those whose word of a layer is not taken.
//!
//! A pack's files are named by their digests, so no layer that a step made and no layer of a base image has its id. And
//! all that is said of its blob is true, so that nobody else who needs these files finds others, or none.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use dcbuild_layer::{
    BlobIndex, Extent, LayerForm, NoSink, Ratio, ReadLayerError, open_extent, read_layer,
};
use dcbuild_model::{BlobDigest, Compression, ContentDigest, Digest, LayerBlob, LayerId, limits};
use dcbuild_store::{BlobStore, ByteRange, StoreError, StoredBlob, read_bytes};
use dcbuild_tree::{Change, Entry, Kind};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tempfile::SpooledTempFile;
use tonic::Status;

use crate::answer::status_of;

/// The index of a pack, which has at most some hundred files.
const INDEX_BYTES_MAX: u64 = 1 << 20;
/// Packs up to this size are not written to the disk. All but those of one large file are smaller.
const MEMORY_BYTES_MAX: usize = 4 << 20;

/// Says why a blob is not taken for a pack.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unproven {
    /// It could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no room to look at it.
    #[error("could not look at the pack")]
    Spool(#[source] io::Error),
    /// The task that looks has ended.
    #[error("could not look at the pack")]
    Stopped(#[from] tokio::task::JoinError),
    /// Its tar cannot be read.
    #[error("it is no pack of a context")]
    Layer(#[from] ReadLayerError),
    /// It is none, or is not what was said.
    #[error("it is no pack of a context: {0}")]
    No(&'static str),
}

impl Unproven {
    /// Says it to whoever was refused for another reason before.
    pub(crate) fn status(&self, refusal: &Status) -> Status {
        let why = match self {
            Unproven::Store(error) => return status_of(error),
            Unproven::Spool(source) => return Status::internal(format!("{self}: {source}")),
            Unproven::Stopped(source) => return Status::internal(format!("{self}: {source}")),
            Unproven::Layer(source) => format!("{self}: {source}"),
            Unproven::No(_) => self.to_string(),
        };
        Status::permission_denied(format!("{} ({why})", refusal.message()))
    }
}

/// Finds out that a layer is a pack, that the blob holds it, and that each of its files is found by the index.
pub(crate) async fn prove(
    blobs: &dyn BlobStore,
    layer: LayerId,
    stored: &StoredBlob,
) -> Result<(), Unproven> {
    let index = read_bytes(blobs, &stored.index, INDEX_BYTES_MAX).await?;
    let blob = stored.blob.clone();
    // A whole read ends with an error where the bytes are not those of the digest.
    let mut content = blobs.get(&BlobDigest(blob.digest.0), ByteRange::ALL).await?;
    let mut file = SpooledTempFile::new(MEMORY_BYTES_MAX);
    while let Some(piece) = content.next().await {
        let piece = piece?;
        file = tokio::task::spawn_blocking(move || file.write_all(&piece).map(|()| file))
            .await?
            .map_err(Unproven::Spool)?;
    }
    tokio::task::spawn_blocking(move || is_pack(file, &index, layer, &blob)).await?
}

fn is_pack(
    mut file: SpooledTempFile,
    index: &[u8],
    layer: LayerId,
    said: &LayerBlob,
) -> Result<(), Unproven> {
    let index = BlobIndex::decode(index).map_err(|_| Unproven::No("its index is malformed"))?;
    if said.compression != Compression::Zstd || index.compression() != Compression::Zstd {
        return Err(Unproven::No("it is not compressed with zstd"));
    }
    let size = file.stream_position().map_err(Unproven::Spool)?;
    file.rewind().map_err(Unproven::Spool)?;
    let tar = zstd::stream::read::Decoder::new(&mut file);
    let tar = tar.map_err(Unproven::Spool)?.take(limits::FETCH_BYTES_MAX);
    // How much comes out is bounded above.
    let form = LayerForm { compression: Some(Compression::None), ratio: Ratio::Free };
    let read = read_layer(tar, form, &mut NoSink)?;
    if (read.layer, read.diff_id, size) != (layer, said.diff_id, said.size) {
        return Err(Unproven::No("it is not what was said of it"));
    }
    // What is read with others around it is found by its frames.
    if !index.frames_are_true(&mut file).unwrap_or(false) {
        return Err(Unproven::No("its frames are not what its index says"));
    }
    for (path, change) in &read.changes.0 {
        let Change::Put(Entry { kind: Kind::File(body), .. }) = change else {
            return Err(Unproven::No("it has more than files"));
        };
        if path.as_bytes() != body.content.0.hex().as_bytes() {
            return Err(Unproven::No("its files are not named by their digests"));
        }
        let found = index.locate(path).filter(|extent| extent.blob.end <= size);
        let found = found.map(|extent| content_at(&mut file, &extent));
        // What the frames say need not be so.
        if found.is_none_or(|found| found.ok() != Some(body.content)) {
            return Err(Unproven::No("its index does not lead to its files"));
        }
    }
    Ok(())
}

fn content_at(file: &mut SpooledTempFile, extent: &Extent) -> io::Result<ContentDigest> {
    file.seek(SeekFrom::Start(extent.blob.start))?;
    let fetched = file.take(extent.blob.end.saturating_sub(extent.blob.start));
    let mut content = open_extent(fetched, extent, Compression::Zstd)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match content.read(&mut piece)? {
            0 => return Ok(ContentDigest(Digest(hash.finalize().into()))),
            count => hash.update(piece.get(..count).unwrap_or_default()),
        }
    }
}

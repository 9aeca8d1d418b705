//! Sends a part of a folder to the store, for workers elsewhere: as a parcel, less what the store has already.

mod packs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use dcbuild_context::{ContextReader, LocalContext, LocalError};
use dcbuild_layer::WriteBlobError;
use dcbuild_model::{BlobDigest, Compression, ContentDigest, Digest, LayerId, Selection, TreePath};
use dcbuild_parcel::cut::PACK_BYTES_MAX;
use dcbuild_parcel::{Pack, Wrapped, wrap};
use dcbuild_store::{BlobStore, LayerIndex, StoreError, StoredBlob, stream_of};
use dcbuild_tree::{Change, Changes, Kind, SelectError};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::task::{JoinError, spawn_blocking};

use crate::pruned::pruned;

/// Packs that are written and sent at a time; each is in memory while it is.
const PACKS_AT_ONCE: usize = 16;
/// Large files that are compressed and sent at a time; each is on the disk meanwhile.
const LARGE_AT_ONCE: usize = 2;

/// Says why a part of a folder could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It could not be read.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// It holds nothing that was asked for.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// A file is not what it was when it was hashed.
    #[error("context changed during the build: {path}")]
    Changed {
        /// The file.
        path: TreePath,
    },
    /// A file could not be read.
    #[error("could not read '{path}' of the context")]
    Read {
        /// The file.
        path: TreePath,
        /// What the system said.
        source: io::Error,
    },
    /// A pack could not be written.
    #[error("could not pack the context")]
    Write(#[source] WriteBlobError),
    /// The store failed.
    #[error("could not store the context")]
    Store(#[from] StoreError),
    /// The disk failed.
    #[error("could not write a temporary file")]
    Spool(#[source] io::Error),
    /// The process is going down.
    #[error("sending the context was stopped")]
    Stopped(#[source] JoinError),
}

/// A parcel that is in the store with all that it names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The parcel.
    pub parcel: BlobDigest,
    /// Its packs.
    pub packs: Vec<LayerId>,
    /// The pieces of its tree.
    pub pieces: Vec<BlobDigest>,
    /// The bytes that went to the store.
    pub uploaded_bytes: u64,
    /// The bytes of files that were there already.
    pub found_bytes: u64,
}

/// Where parcels go.
pub struct Sender {
    /// The store.
    pub blobs: Arc<dyn BlobStore>,
    /// What it knows of packs.
    pub layers: Arc<dyn LayerIndex>,
}

/// Where the contents of packs are read.
struct Files {
    reader: ContextReader,
    /// One name of each content.
    paths: HashMap<ContentDigest, TreePath>,
}

impl Files {
    fn of(tree: &Changes, reader: ContextReader) -> Files {
        let paths = tree.0.iter().filter_map(|(path, change)| match change {
            Change::Put(entry) | Change::Replace(entry) => match &entry.kind {
                Kind::File(body) => Some((body.content, path.clone())),
                _ => None,
            },
            Change::Remove => None,
        });
        Files { paths: paths.collect(), reader }
    }
}

impl Sender {
    /// Puts what a selection reads into the store, as far as it is not there.
    pub async fn send(
        &self,
        context: Arc<LocalContext>,
        selection: Selection,
    ) -> Result<Sent, SendError> {
        let (wrapped, files) = blocking(move || {
            let tree = pruned(&*context.tree(&selection)?, &selection)?.as_changes();
            Ok((wrap(&tree), Files::of(&tree, context.reader())))
        })
        .await?;
        let document = wrapped.parcel.encode();
        let parcel = BlobDigest(Digest::of(&document));
        let missing = self.missing(&wrapped, parcel).await?;
        let files = Arc::new(files);
        let all_packs = wrapped.parcel.packs.clone();
        let all_pieces = wrapped.pieces.iter().map(|(blob, _)| *blob).collect();
        let Wrapped { packs, pieces, parcel: named } = wrapped;
        let (mut small, mut large, mut found_bytes) = (Vec::new(), Vec::new(), 0);
        for (pack, layer) in packs.into_iter().zip(named.packs) {
            match pack.bytes() {
                bytes if !missing.packs.contains(&layer) => found_bytes += bytes,
                bytes if bytes > PACK_BYTES_MAX => large.push((pack, layer)),
                _ => small.push((pack, layer)),
            }
        }
        let (small, large) = tokio::try_join!(
            self.put_all(small, &files, PACKS_AT_ONCE),
            self.put_all(large, &files, LARGE_AT_ONCE),
        )?;
        let pieces = pieces.into_iter().filter(|(blob, _)| missing.blobs.contains(blob));
        let puts = pieces.map(|(blob, bytes)| async move { self.put(&blob, bytes).await });
        let pieces: u64 = futures::stream::iter(puts)
            .buffer_unordered(PACKS_AT_ONCE)
            .try_fold(0, |all, bytes| async move { Ok(all + bytes) })
            .await?;
        let mut uploaded_bytes = small + large + pieces;
        // Whoever finds the parcel finds all that it names.
        if missing.blobs.contains(&parcel) {
            uploaded_bytes += self.put(&parcel, document).await?;
        }
        Ok(Sent { parcel, packs: all_packs, pieces: all_pieces, uploaded_bytes, found_bytes })
    }

    /// What the store lacks, in two questions.
    async fn missing(&self, wrapped: &Wrapped, parcel: BlobDigest) -> Result<Missing, SendError> {
        let layers = &wrapped.parcel.packs;
        let forms =
            if layers.is_empty() { Vec::new() } else { self.layers.find_forms(layers).await? };
        let mut forms: HashMap<LayerId, StoredBlob> = layers
            .iter()
            .zip(forms)
            .filter_map(|(layer, forms)| {
                // Files are found in it by range.
                let form = forms.into_iter().find(|it| it.blob.compression == Compression::Zstd);
                Some((*layer, form?))
            })
            .collect();
        let mut asked: BTreeSet<BlobDigest> = forms.values().flat_map(blobs_of).collect();
        asked.extend(wrapped.pieces.iter().map(|(blob, _)| *blob));
        asked.insert(parcel);
        let asked: Vec<BlobDigest> = asked.into_iter().collect();
        let blobs: BTreeSet<BlobDigest> =
            self.blobs.find_missing(&asked).await?.into_iter().collect();
        forms.retain(|_, stored| blobs_of(stored).iter().all(|blob| !blobs.contains(blob)));
        let packs = layers.iter().filter(|layer| !forms.contains_key(layer)).copied().collect();
        Ok(Missing { packs, blobs })
    }

    async fn put_all(
        &self,
        packs: Vec<(Pack, LayerId)>,
        files: &Arc<Files>,
        at_once: usize,
    ) -> Result<u64, SendError> {
        let puts = packs.into_iter().map(|(pack, layer)| self.put_pack(pack, layer, files.clone()));
        futures::stream::iter(puts)
            .buffer_unordered(at_once)
            .try_fold(0, |all, bytes| async move { Ok(all + bytes) })
            .await
    }

    async fn put_pack(
        &self,
        pack: Pack,
        layer: LayerId,
        files: Arc<Files>,
    ) -> Result<u64, SendError> {
        let written = blocking(move || packs::write(&pack, &files)).await?;
        let mut bytes = written.blob.size;
        self.blobs.put(&BlobDigest(written.blob.digest.0), written.content).await?;
        let index = BlobDigest(Digest::of(&written.index));
        bytes += self.put(&index, written.index).await?;
        self.layers.put_form(&layer, &StoredBlob { blob: written.blob, index }).await?;
        Ok(bytes)
    }

    async fn put(&self, blob: &BlobDigest, bytes: Vec<u8>) -> Result<u64, SendError> {
        Ok(self.blobs.put(blob, stream_of(bytes)).await?)
    }
}

struct Missing {
    packs: BTreeSet<LayerId>,
    blobs: BTreeSet<BlobDigest>,
}

fn blobs_of(stored: &StoredBlob) -> [BlobDigest; 2] {
    [BlobDigest(stored.blob.digest.0), stored.index]
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SendError> + Send + 'static,
) -> Result<T, SendError> {
    spawn_blocking(work).await.map_err(SendError::Stopped)?
}

//! Opens a parcel: the tree of a part of a client's folder, whose bytes are read through packs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::BlobDigest;
use dcbuild_parcel::wrap::PARCEL_BYTES_MAX;
use dcbuild_parcel::{InvalidParcel, Opened, Parcel};
use dcbuild_store::{StoreError, read_bytes};
use dcbuild_tree::Tree;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::contexts::{ContextTree, Finds};
use crate::error::Failed;
use crate::layers::Layers;
use crate::packs::Packs;

/// A larger piece of a tree is not one of ours.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// Pieces that are fetched at a time.
const PIECES_AT_ONCE: usize = 16;

/// Fetches a parcel with its tree, and finds its packs; `tmp` is where what is fetched of them lies. Blocks.
pub(crate) fn open(
    layers: &Arc<Layers>,
    parcel: &BlobDigest,
    tmp: PathBuf,
) -> Result<ContextTree, Failed> {
    let refused = |error: InvalidParcel| Failed::refused(&error);
    let blobs = layers.blobs.as_ref();
    let document = layers.handle.block_on(read_bytes(blobs, parcel, PARCEL_BYTES_MAX));
    let document = document.map_err(Failed::of_context)?;
    let document = Parcel::decode(&document).map_err(refused)?;
    let pieces = layers.handle.block_on(pieces(layers, &document)).map_err(Failed::of_context)?;
    let Opened { tree: changes, packs } = document.open(&pieces).map_err(refused)?;
    let mut tree = Tree::scratch();
    tree.apply(&changes);
    let packs = Packs::find(layers.clone(), packs, tmp)?;
    let (tree, contents) = (Arc::new(tree), Arc::new(packs));
    Ok(ContextTree { tree, contents, finds: Finds::ByContent })
}

async fn pieces(
    layers: &Layers,
    parcel: &Parcel,
) -> Result<HashMap<BlobDigest, Bytes>, StoreError> {
    let fetch = |blob: BlobDigest| async move {
        Ok((blob, read_bytes(layers.blobs.as_ref(), &blob, PIECE_BYTES_MAX).await?))
    };
    let fetches = parcel.blobs().map(fetch);
    futures::stream::iter(fetches).buffer_unordered(PIECES_AT_ONCE).try_collect().await
}

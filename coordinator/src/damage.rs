//! Whether a layer that is gone was damaged: whoever reads a corrupt blob has it put aside before he gives up.

use dcbuild_model::{BlobDigest, LayerId, UnixTime};
use dcbuild_store::{StoreError, StoredBlob};

use crate::config::Stores;

/// When a blob of a layer was put aside last; none if none was, or somebody has removed it since.
pub(crate) async fn damaged(
    stores: &Stores,
    layer: LayerId,
) -> Result<Option<UnixTime>, StoreError> {
    let forms = stores.layers.find_forms(&[layer]).await?;
    let of_form = |stored: StoredBlob| [BlobDigest(stored.blob.digest.0), stored.index];
    let blobs = forms.into_iter().flatten().flat_map(of_form);
    let blobs: Vec<BlobDigest> = std::iter::once(BlobDigest(layer.0)).chain(blobs).collect();
    Ok(stores.swept.put_aside(&blobs).await?.into_iter().flatten().max())
}

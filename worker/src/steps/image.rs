//! FROM an image: its layers, each read once, hashed and indexed; later builds need the table of contents only.

use std::sync::Arc;

use dcbuild_layer::{LayerForm, NoSink, Ratio, ReadLayer, read_layer};
use dcbuild_model::{BaseLayer, BlobDigest, LayerRef};
use dcbuild_plan::op::{ImageLayer, ImageOp, ImageSource};
use dcbuild_snapshot::UnpackError;
use dcbuild_store::HashedBase;
use dcbuild_store::base_of;
use dcbuild_tree::{TimeForm, change_digest};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::Made;
use crate::attempt::{Attempt, Task};
use crate::base::Base;
use crate::blobs::{self, Blocking};
use crate::error::{Failed, blocking};
use crate::layers;
use crate::publish::Publish;

/// How many layers are fetched at once.
const FETCHED_AT_ONCE: usize = 3;

pub(crate) async fn make(
    attempt: &Arc<Attempt>,
    task: &Arc<Task>,
    op: &ImageOp,
) -> Result<Made, Failed> {
    let repository = match &op.source {
        ImageSource::Registry { repository } => repository.as_str(),
        ImageSource::Layout { .. } | ImageSource::Store {} => "",
    };
    let takes: Vec<BoxFuture<'_, _>> =
        op.layers.iter().map(|claim| take(attempt, task, op, claim, repository).boxed()).collect();
    let layers: Vec<LayerRef> =
        futures::stream::iter(takes).buffered(FETCHED_AT_ONCE).try_collect().await?;
    attempt.shared.layers.learn(&layers, &attempt.registry);
    Ok(Made { layers, publish: Publish::Nothing, taint: None })
}

async fn take(
    attempt: &Arc<Attempt>,
    task: &Task,
    op: &ImageOp,
    claim: &ImageLayer,
    repository: &str,
) -> Result<LayerRef, Failed> {
    let layers = &attempt.shared.layers;
    let base = BaseLayer {
        digest: claim.digest,
        diff_id: claim.diff_id,
        size: claim.size,
        media_type: claim.media_type.clone(),
        repository: repository.to_owned(),
    };
    let hashed = match base_of(layers.index.as_ref(), &claim.digest).await? {
        Some(hashed)
            if layers.blobs.find_missing(&[BlobDigest(hashed.layer.0)]).await?.is_empty() =>
        {
            hashed
        }
        Some(_) | None => fetch(attempt, task, base.clone()).await?,
    };
    if hashed.diff_id != claim.diff_id {
        return Err(Failed::rejected(format!(
            "layer {} of {} holds {} where the image's config says {}",
            claim.digest, op.name, hashed.diff_id, claim.diff_id
        )));
    }
    let HashedBase { layer, diff_id: _, change, entries, bytes } = hashed;
    Ok(LayerRef { layer, change, entries, bytes, base: Some(base) })
}

/// Streams a layer once: hashes and indexes it, and unpacks it if a RUN stands on it.
async fn fetch(
    attempt: &Arc<Attempt>,
    task: &Task,
    layer: BaseLayer,
) -> Result<HashedBase, Failed> {
    let digest = layer.digest;
    let base = Base { layer, client: attempt.registry.clone() };
    let pieces = base.open(&attempt.shared.layers).await?;
    let line = task.progress.begin(digest.to_string(), Some(base.layer.size));
    let pieces = blobs::watched(pieces, line);
    let layers = attempt.shared.layers.clone();
    let unpack = task.runs && crate::shared::can_snapshot();
    let read = blocking(move || {
        let form = LayerForm { compression: base.compression()?, ratio: Ratio::Limited };
        let reader = Blocking::new(layers.handle.clone(), pieces);
        if !unpack {
            return Ok(read_layer(reader, form, &mut NoSink)?);
        }
        let unpacked = layers.snapshots.unpack(reader, form, |read| read.digest == digest);
        match unpacked {
            Ok((_, read)) => Ok(read),
            Err(UnpackError::Refused) => Err(wrong(&base.layer)),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    if read.digest != digest {
        return Err(Failed::rejected(format!("layer {digest} came as {}", read.digest)));
    }
    keep(attempt, read).await
}

fn wrong(layer: &BaseLayer) -> Failed {
    Failed::rejected(format!("layer {} came with other bytes than its digest says", layer.digest))
}

async fn keep(attempt: &Attempt, read: ReadLayer) -> Result<HashedBase, Failed> {
    let layers = &attempt.shared.layers;
    let (entries, bytes) = layers::measure(&read.changes);
    let change = change_digest(&read.changes, TimeForm::Exact);
    let hashed = HashedBase { layer: read.layer, diff_id: read.diff_id, change, entries, bytes };
    layers.put_table(read.layer, read.toc).await?;
    layers.index.put_base(&read.digest, &hashed).await?;
    Ok(hashed)
}

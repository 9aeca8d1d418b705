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
use crate::layers::{self, Layers};
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
    let work: Vec<BoxFuture<'_, _>> =
        op.layers.iter().map(|claim| take(attempt, task, op, claim, repository).boxed()).collect();
    let taken: Vec<(LayerRef, Option<HashedBase>)> =
        futures::stream::iter(work).buffered(FETCHED_AT_ONCE).try_collect().await?;
    let (mut layers, mut learned) = (Vec::with_capacity(taken.len()), Vec::new());
    for ((layer, hashed), claim) in taken.into_iter().zip(&op.layers) {
        layers.push(layer);
        learned.extend(hashed.map(|hashed| (claim.digest, hashed)));
    }
    attempt.shared.layers.learn(&layers, &attempt.registry);
    Ok(Made { layers, publish: Publish::Bases(learned), taint: None })
}

/// Takes a layer as it is known, or learns it.
async fn take(
    attempt: &Arc<Attempt>,
    task: &Task,
    op: &ImageOp,
    claim: &ImageLayer,
    repository: &str,
) -> Result<(LayerRef, Option<HashedBase>), Failed> {
    let layers = &attempt.shared.layers;
    let base = BaseLayer {
        digest: claim.digest,
        diff_id: claim.diff_id,
        size: claim.size,
        media_type: claim.media_type.clone(),
        repository: repository.to_owned(),
    };
    let (hashed, learned) = if let Some(hashed) = known(layers, claim).await? {
        (hashed, None)
    } else {
        let hashed = fetch(attempt, task, base.clone()).await?;
        (hashed.clone(), Some(hashed))
    };
    if hashed.diff_id != claim.diff_id {
        return Err(Failed::rejected(format!(
            "layer {} of {} holds {} where the image's config says {}",
            claim.digest, op.name, hashed.diff_id, claim.diff_id
        )));
    }
    let HashedBase { layer, diff_id: _, change, entries, bytes } = hashed;
    Ok((LayerRef { layer, change, entries, bytes, base: Some(base) }, learned))
}

/// What is known of a layer, if its table is still to be had.
async fn known(layers: &Layers, claim: &ImageLayer) -> Result<Option<HashedBase>, Failed> {
    let Some(hashed) = base_of(layers.index.as_ref(), &claim.digest).await? else {
        return Ok(None);
    };
    if layers.is_doubted(&hashed.layer) {
        return Ok(None);
    }
    let missing = layers.blobs.find_missing(&[BlobDigest(hashed.layer.0)]).await?;
    Ok(missing.is_empty().then_some(hashed))
}

/// Streams a layer once: hashes and indexes it, and unpacks it if a RUN stands on it.
async fn fetch(
    attempt: &Arc<Attempt>,
    task: &Task,
    layer: BaseLayer,
) -> Result<HashedBase, Failed> {
    let digest = layer.digest;
    let base = Base { layer, client: attempt.registry.heard_by(task.progress.ear()) };
    let progress = task.progress.clone();
    let layers = attempt.shared.layers.clone();
    let unpack = task.runs && crate::shared::can_snapshot();
    let read = blocking(move || {
        let form = LayerForm { compression: base.compression()?, ratio: Ratio::Limited };
        base.read(&layers, |pieces| {
            let line = progress.begin(digest.to_string(), Some(base.layer.size));
            let reader = Blocking::new(layers.handle.clone(), blobs::watched(pieces, line));
            if !unpack {
                let read = read_layer(reader, form, &mut NoSink)?;
                return if read.digest == digest { Ok(read) } else { Err(wrong(&base.layer)) };
            }
            match layers.snapshots.unpack(reader, form, |read| read.digest == digest) {
                Ok((_, read)) => Ok(read),
                Err(UnpackError::Refused) => Err(wrong(&base.layer)),
                Err(error) => Err(error.into()),
            }
        })
    })
    .await?;
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
    Ok(hashed)
}

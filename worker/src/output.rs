//! Outputs: blobs of all layers, config and manifest, names; or the files alone.

use std::sync::Arc;

use dcbuild_layer::{BlobForm, compression_of_media_type};
use dcbuild_model::{
    BlobDigest, Compression, ConfigDigest, Digest, LayerRef, ManifestDigest, StepIndex, UnixTime,
};
use dcbuild_plan::ImageTemplate;
use dcbuild_proto::document::{
    Chain, LayerCompression, OutputKind, OutputLayer, OutputResult, OutputSpec,
};
use dcbuild_store::NamedImage;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use crate::assemble::{Assembled, assemble, layer_media_type};
use crate::attempt::Attempt;
use crate::base::Base;
use crate::blobs;
use crate::contents::Contents;
use crate::error::{Failed, blocking};
use crate::publish::{clamped_blob, layer_blob, write};
use crate::push;
use crate::report::Progress;

/// An output that is to be made.
pub(crate) struct Job {
    pub(crate) output: u32,
    pub(crate) spec: OutputSpec,
    pub(crate) image: ImageTemplate,
    pub(crate) state: Chain,
    pub(crate) created: Vec<(StepIndex, UnixTime)>,
}

/// The vertex that an output's progress belongs to.
pub(crate) fn vertex(output: u32) -> String {
    Digest::of(format!("output {output}").as_bytes()).to_string()
}

pub(crate) async fn make(attempt: &Arc<Attempt>, job: &Job) -> Result<OutputResult, Failed> {
    attempt.shared.layers.learn(&job.state, &attempt.registry);
    let progress = Progress::new(
        attempt.fence.attempt,
        vertex(job.output),
        attempt.reporter.clone(),
        attempt.shared.parts.clock.clone(),
    );
    match &job.spec.kind {
        OutputKind::Files {} => files(attempt, job, &progress).await,
        OutputKind::Image { names, push, push_by_digest, keep } => {
            let image = image(attempt, job, &progress).await?;
            if !*push || *keep {
                base_blobs(attempt, job, &progress).await?;
            }
            if *push {
                push::push(attempt, job, &image, *push_by_digest, &progress).await?;
            }
            if *keep {
                keep_names(attempt, names, image.manifest).await?;
            }
            Ok(image.into_result(names.clone()))
        }
    }
}

/// An image whose manifest and config are in the store.
pub(crate) struct Image {
    pub(crate) manifest: ManifestDigest,
    pub(crate) assembled: Assembled,
    pub(crate) layers: Vec<OutputLayer>,
}

impl Image {
    fn into_result(self, names: Vec<String>) -> OutputResult {
        OutputResult::Image {
            manifest: self.manifest,
            manifest_size: u64::try_from(self.assembled.manifest.len()).unwrap_or(u64::MAX),
            media_type: self.assembled.media_type,
            config: ConfigDigest(Digest::of(&self.assembled.config)),
            layers: self.layers,
            names,
        }
    }
}

async fn image(attempt: &Arc<Attempt>, job: &Job, progress: &Progress) -> Result<Image, Failed> {
    let line = progress.begin("exporting layers", None);
    let made: Vec<BoxFuture<'_, _>> =
        job.state.iter().map(|layer| output_layer(attempt, layer, job).boxed()).collect();
    let at_once = attempt.shared.cores.max(1);
    let layers: Vec<OutputLayer> =
        futures::stream::iter(made).buffered(at_once).try_collect().await?;
    line.done();
    let now = attempt.shared.parts.clock.now();
    let assembled = assemble(&job.image, &layers, &job.created, &job.spec, now)
        .map_err(|error| Failed::internal(crate::error::story(&error)))?;
    let manifest = ManifestDigest(Digest::of(&assembled.manifest));
    for (what, bytes) in [("config", &assembled.config), ("manifest", &assembled.manifest)] {
        let digest = BlobDigest(Digest::of(bytes));
        let line = progress.begin(format!("exporting {what} {digest}"), None);
        put_bytes(attempt, digest, bytes.clone()).await?;
        line.done();
    }
    Ok(Image { manifest, assembled, layers })
}

async fn put_bytes(attempt: &Attempt, digest: BlobDigest, bytes: Vec<u8>) -> Result<(), Failed> {
    let store = &attempt.shared.parts.blobs;
    if !store.find_missing(&[digest]).await?.is_empty() {
        store.put(&digest, dcbuild_store::stream_of(bytes)).await?;
    }
    Ok(())
}

async fn output_layer(
    attempt: &Arc<Attempt>,
    layer: &LayerRef,
    Job { spec, image, .. }: &Job,
) -> Result<OutputLayer, Failed> {
    let LayerCompression { compression, level, force } = spec.layers;
    if let Some(base) = &layer.base {
        let own = compression_of_media_type(&base.media_type).ok();
        if !force || own == Some(compression) {
            let media_type = own.map(|own| layer_media_type(own, spec.oci_media_types).to_owned());
            return Ok(OutputLayer {
                digest: base.digest,
                diff_id: base.diff_id,
                size: base.size,
                media_type: media_type.unwrap_or_else(|| base.media_type.clone()),
            });
        }
    }
    let form = BlobForm { compression, level, threads: attempt.shared.cores };
    let latest = image.epoch.filter(|_| spec.rewrite_timestamp && layer.base.is_none());
    let blob = match latest {
        Some(secs) => clamped_blob(&attempt.shared, layer.layer, form, at(secs)).await?,
        None => layer_blob(&attempt.shared, layer.layer, form).await?,
    };
    Ok(OutputLayer {
        digest: blob.digest,
        diff_id: blob.diff_id,
        size: blob.size,
        media_type: layer_media_type(compression, spec.oci_media_types).to_owned(),
    })
}

fn at(secs: i64) -> UnixTime {
    UnixTime { secs, nanos: 0 }
}

/// Brings the blobs of base layers to the store, for whoever takes the image from there.
async fn base_blobs(attempt: &Arc<Attempt>, job: &Job, progress: &Progress) -> Result<(), Failed> {
    let compression = job.spec.layers.compression;
    for layer in &job.state {
        let Some(base) = &layer.base else { continue };
        let own = compression_of_media_type(&base.media_type).ok();
        if job.spec.layers.force && own != Some(compression) {
            continue;
        }
        let store = &attempt.shared.parts.blobs;
        let digest = BlobDigest(base.digest.0);
        if store.find_missing(&[digest]).await?.is_empty() {
            continue;
        }
        let base = Base { layer: base.clone(), client: attempt.registry.clone() };
        let pieces = base.open(&attempt.shared.layers).await?;
        let line = progress.begin(base.layer.digest.to_string(), Some(base.layer.size));
        let pieces = blobs::watched(pieces, line).map(|piece| {
            piece.map_err(|source| dcbuild_store::StoreError::Content { source: Box::new(source) })
        });
        store.put(&digest, pieces.boxed()).await?;
    }
    Ok(())
}

async fn keep_names(
    attempt: &Attempt,
    names: &[String],
    manifest: ManifestDigest,
) -> Result<(), Failed> {
    // Without it, the coordinator gives the names.
    let Some(images) = &attempt.shared.parts.images else { return Ok(()) };
    let tagged = attempt.shared.parts.clock.now();
    for name in names {
        let image = NamedImage { name: name.clone(), manifest, tagged };
        images.put(&attempt.scope, &image).await?;
    }
    Ok(())
}

async fn files(
    attempt: &Arc<Attempt>,
    job: &Job,
    progress: &Progress,
) -> Result<OutputResult, Failed> {
    let line = progress.begin("exporting files", None);
    let (layers, state) = (attempt.shared.layers.clone(), job.state.clone());
    let (tmp, threads) = (attempt.shared.tmp(), attempt.shared.cores);
    let epoch = job.image.epoch.map(at);
    let written = blocking(move || {
        let mut changes = layers.tree(&state)?.as_changes();
        changes.0.retain(|_, change| !is_socket(change));
        if let Some(epoch) = epoch {
            // As BuildKit: files that leave the image have this time, all of them.
            changes.set_times(|_| epoch);
        }
        let form = BlobForm { compression: Compression::None, level: None, threads };
        write(&layers, &changes, &Contents::new(layers.clone()), &form, &tmp)
    })
    .await?;
    line.done();
    Ok(OutputResult::Files { tar: written.blob.digest, size: written.blob.size })
}

fn is_socket(change: &dcbuild_tree::Change) -> bool {
    use dcbuild_tree::{Change, Kind};
    matches!(change, Change::Put(entry) | Change::Replace(entry) if entry.kind == Kind::Socket)
}

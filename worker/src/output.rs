//! Outputs: blobs of all layers, config and manifest of each platform, an index of several, names; or the files alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcbuild_layer::{BlobForm, compression_of_media_type};
use dcbuild_model::{
    BlobDigest, Compression, ConfigDigest, Digest, LayerDigest, LayerRef, ManifestDigest, Platform,
    UnixTime,
};
use dcbuild_plan::ImageTemplate;
use dcbuild_proto::document::{
    AnnotationPlace, Chain, IndexedImage, LayerCompression, LeasedImage, OutputKind, OutputLayer,
    OutputResult, OutputSpec, StepErrorKind,
};
use dcbuild_store::NamedImage;
use dcbuild_tree::{Changes, Overlap};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use crate::assemble::{Assembled, Made, WrittenIndex, assemble, layer_media_type, write_index};
use crate::attempt::Attempt;
use crate::attest::{self, Attested};
use crate::base::Base;
use crate::blobs;
use crate::contents::Contents;
use crate::error::{Failed, blocking};
use crate::layers::Layers;
use crate::publish::{base_blob, clamped_blob, layer_blob, write};
use crate::push;
use crate::report::Progress;

/// How much of an instruction an error repeats.
const INSTRUCTION_CHARS_MAX: usize = 200;

/// An output that is to be made.
pub(crate) struct Job {
    pub(crate) output: u32,
    pub(crate) spec: OutputSpec,
    /// What it is made of, for each platform.
    pub(crate) images: Vec<LeasedImage>,
    /// Whether the images are put together in an index.
    pub(crate) index: bool,
}

/// The vertex that an output's progress belongs to.
pub(crate) fn vertex(output: u32) -> String {
    Digest::of(format!("output {output}").as_bytes()).to_string()
}

pub(crate) async fn make(attempt: &Arc<Attempt>, job: &Job) -> Result<OutputResult, Failed> {
    for image in &job.images {
        attempt.shared.layers.learn(&image.state, &attempt.registry);
    }
    let progress = Progress::new(
        attempt.fence.attempt,
        vertex(job.output),
        attempt.reporter.clone(),
        attempt.shared.parts.clock.clone(),
    );
    match &job.spec.kind {
        OutputKind::Files { split } => files(attempt, job, *split, &progress).await,
        OutputKind::Image { names, push, push_by_digest, keep } => {
            let made = images(attempt, job, &progress).await?;
            if !*push || *keep {
                for (leased, image) in job.images.iter().zip(made.all()) {
                    base_blobs(attempt, (job, leased), &progress).await?;
                    own_blobs(attempt, leased, image).await?;
                }
            }
            if *push {
                push::push(attempt, job, &made, *push_by_digest, &progress).await?;
            }
            if *keep {
                keep_names(attempt, names, (made.root(), &progress)).await?;
            }
            Ok(made.into_result(names.clone()))
        }
    }
}

/// An image whose manifest and config are in the store.
pub(crate) struct Image {
    pub(crate) platform: Platform,
    pub(crate) manifest: ManifestDigest,
    pub(crate) assembled: Assembled,
    pub(crate) layers: Vec<OutputLayer>,
    /// What is attested of it.
    pub(crate) attested: Option<Attested>,
}

/// What an output of images comes to.
#[expect(clippy::large_enum_variant, reason = "few are alive at a time")]
pub(crate) enum MadeImages {
    /// One image.
    One(Image),
    /// An index of images, which is in the store as well.
    Index {
        digest: ManifestDigest,
        written: WrittenIndex,
        images: Vec<Image>,
        annotations: BTreeMap<String, String>,
    },
}

impl MadeImages {
    /// The images.
    pub(crate) fn all(&self) -> &[Image] {
        match self {
            MadeImages::One(image) => std::slice::from_ref(image),
            MadeImages::Index { images, .. } => images,
        }
    }

    /// What a name stands for.
    pub(crate) fn root(&self) -> ManifestDigest {
        match self {
            MadeImages::One(image) => image.manifest,
            MadeImages::Index { digest, .. } => *digest,
        }
    }

    fn into_result(self, names: Vec<String>) -> OutputResult {
        match self {
            MadeImages::One(image) => OutputResult::Image {
                manifest: image.manifest,
                manifest_size: u64::try_from(image.assembled.manifest.len()).unwrap_or(u64::MAX),
                media_type: image.assembled.media_type,
                config: ConfigDigest(Digest::of(&image.assembled.config)),
                layers: image.layers,
                names,
            },
            MadeImages::Index { digest, written, images, annotations } => OutputResult::Index {
                index: digest,
                index_size: u64::try_from(written.bytes.len()).unwrap_or(u64::MAX),
                media_type: written.media_type,
                images: images.into_iter().map(Image::into_indexed).collect(),
                names,
                annotations,
            },
        }
    }
}

impl Image {
    fn into_indexed(self) -> IndexedImage {
        IndexedImage {
            platform: self.platform,
            manifest: self.manifest,
            config: ConfigDigest(Digest::of(&self.assembled.config)),
            layers: self.layers,
            attestation: self.attested.map(|it| it.blobs()).unwrap_or_default(),
        }
    }
}

async fn images(
    attempt: &Arc<Attempt>,
    job: &Job,
    progress: &Progress,
) -> Result<MadeImages, Failed> {
    let mut images = Vec::with_capacity(job.images.len());
    for (at, leased) in (0..).zip(&job.images) {
        images.push(image(attempt, (job, leased, at), progress).await?);
    }
    // All of it is done at one time, which provenance tells.
    let finished = attempt.shared.parts.clock.now();
    for (image, leased) in images.iter_mut().zip(&job.images) {
        image.attested = attest::image(attempt, (job, leased), image, finished).await?;
        let Some(attested) = &image.attested else { continue };
        let digest = BlobDigest(attested.stored.entry.digest);
        let line = progress.begin(format!("exporting attestation manifest {digest}"), None);
        for (digest, bytes) in attested.parts() {
            put_bytes(attempt, digest, bytes.to_vec(), &job.spec).await?;
        }
        line.done();
    }
    if !job.index {
        let only = images.pop();
        let only = only.ok_or_else(|| Failed::internal("an output has no image".to_owned()))?;
        return Ok(MadeImages::One(only));
    }
    let manifests = images.iter().map(|image| (&image.platform, &image.assembled));
    let attested = images.iter().filter_map(|image| image.attested.as_ref());
    let attested = attested.map(|attested| attested.stored.entry.clone());
    let written = write_index(manifests, attested, &job.spec);
    let digest = ManifestDigest(Digest::of(&written.bytes));
    let line = progress.begin(format!("exporting manifest list {digest}"), None);
    put_bytes(attempt, BlobDigest(digest.0), written.bytes.clone(), &job.spec).await?;
    line.done();
    let annotations = job.spec.annotations_of(AnnotationPlace::IndexDescriptor, None);
    Ok(MadeImages::Index { digest, written, images, annotations })
}

async fn image(
    attempt: &Arc<Attempt>,
    (job, leased, at): (&Job, &LeasedImage, u32),
    progress: &Progress,
) -> Result<Image, Failed> {
    let LeasedImage { template, state, created, provenance: _, sbom: _ } = leased;
    let line = progress.begin("exporting layers", None);
    let of_layer = |(at, layer)| {
        let above = state.len() - at - 1;
        let made = output_layer(attempt, layer, (job, template));
        made.map(move |made| made.map_err(|error| of_step(error, template, above))).boxed()
    };
    let made: Vec<BoxFuture<'_, _>> = state.iter().enumerate().map(of_layer).collect();
    let at_once = attempt.shared.cores.max(1);
    let layers: Vec<OutputLayer> =
        futures::stream::iter(made).buffered(at_once).try_collect().await?;
    line.done();
    let now = attempt.shared.parts.clock.now();
    let inline = if job.spec.inline_cache {
        let line = progress.begin("preparing layers for inline cache", None);
        let inline = inline_records(attempt, state, &layers, at).await?;
        line.done();
        inline
    } else {
        None
    };
    let made = Made { layers: &layers, created, inline: inline.as_deref(), now };
    let assembled = assemble(template, &made, &job.spec)
        .map_err(|error| Failed::internal(crate::error::story(&error)))?;
    let manifest = ManifestDigest(Digest::of(&assembled.manifest));
    for (what, bytes) in [("config", &assembled.config), ("manifest", &assembled.manifest)] {
        let digest = BlobDigest(Digest::of(bytes));
        let line = progress.begin(format!("exporting {what} {digest}"), None);
        put_bytes(attempt, digest, bytes.clone(), &job.spec).await?;
        line.done();
    }
    let platform = template.platform.clone();
    Ok(Image { platform, manifest, assembled, layers, attested: None })
}

/// Names the instruction that made a layer which cannot be written; so many others made layers after it.
fn of_step(error: Failed, template: &ImageTemplate, above: usize) -> Failed {
    let made = template.history.iter().rev().filter(|line| line.step.is_some()).nth(above);
    match (error, made) {
        (Failed::Step(mut error), Some(line)) if error.kind == (StepErrorKind::Rejected {}) => {
            let words = line.created_by.trim_end_matches(" # buildkit");
            let words = words.lines().next().unwrap_or_default();
            let words: String = words.chars().take(INSTRUCTION_CHARS_MAX).collect();
            error.message = format!("{} (made by {words})", error.message);
            Failed::Step(error)
        }
        (error, _) => error,
    }
}

/// The records of an image's steps, for its config; their tables go to the store first.
async fn inline_records(
    attempt: &Attempt,
    state: &Chain,
    layers: &[OutputLayer],
    image: u32,
) -> Result<Option<String>, Failed> {
    for layer in state {
        attempt.shared.layers.send_table(layer.layer).await?;
    }
    let layers: Vec<LayerDigest> = layers.iter().map(|layer| layer.digest).collect();
    Ok(attempt.ask.inline(attempt.fence, image, &layers).await)
}

/// Puts a part of an image into the store. For one that is kept by name the store's word is not enough that it is there.
async fn put_bytes(
    attempt: &Attempt,
    digest: BlobDigest,
    bytes: Vec<u8>,
    spec: &OutputSpec,
) -> Result<(), Failed> {
    let store = &attempt.shared.parts.blobs;
    let is_kept = matches!(spec.kind, OutputKind::Image { keep: true, .. });
    let known = store.find_missing(&[digest]).await?.is_empty();
    if !known || (is_kept && !blobs::is_readable(store.as_ref(), &digest).await?) {
        store.put(&digest, dcbuild_store::stream_of(bytes)).await?;
    }
    Ok(())
}

async fn output_layer(
    attempt: &Arc<Attempt>,
    layer: &LayerRef,
    (Job { spec, .. }, image): (&Job, &ImageTemplate),
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
    let latest = image.epoch.filter(|_| spec.rewrite_timestamp);
    let blob = match (&layer.base, latest) {
        (Some(base), _) => {
            let base = Base { layer: base.clone(), client: attempt.registry.clone() };
            base_blob(&attempt.shared, &base, form).await?
        }
        (None, Some(secs)) => clamped_blob(&attempt.shared, layer.layer, form, at(secs)).await?,
        (None, None) => layer_blob(&attempt.shared, layer.layer, form).await?,
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
async fn base_blobs(
    attempt: &Arc<Attempt>,
    (job, image): (&Job, &LeasedImage),
    progress: &Progress,
) -> Result<(), Failed> {
    let compression = job.spec.layers.compression;
    for layer in &image.state {
        let Some(base) = &layer.base else { continue };
        let own = compression_of_media_type(&base.media_type).ok();
        if job.spec.layers.force && own != Some(compression) {
            continue;
        }
        let store = &attempt.shared.parts.blobs;
        let digest = BlobDigest(base.digest.0);
        let known = store.find_missing(&[digest]).await?.is_empty();
        if known && blobs::is_readable(store.as_ref(), &digest).await? {
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

/// Makes sure that the store gives the blobs of the other layers.
async fn own_blobs(attempt: &Attempt, leased: &LeasedImage, image: &Image) -> Result<(), Failed> {
    let store = attempt.shared.parts.blobs.as_ref();
    let layers = leased.state.iter().zip(&image.layers);
    for (state, layer) in layers.filter(|(state, _)| state.base.is_none()) {
        if !blobs::is_readable(store, &BlobDigest(layer.digest.0)).await? {
            return Err(Failed::Lost { layer: state.layer });
        }
    }
    Ok(())
}

async fn keep_names(
    attempt: &Attempt,
    names: &[String],
    (manifest, progress): (ManifestDigest, &Progress),
) -> Result<(), Failed> {
    let tagged = attempt.shared.parts.clock.now();
    for name in names {
        let line = progress.begin(format!("naming to {name}"), None);
        // Without it, the coordinator gives the names.
        if let Some(images) = &attempt.shared.parts.images {
            let image = NamedImage { name: name.clone(), manifest, tagged };
            images.put(&attempt.scope, &image).await?;
        }
        line.done();
    }
    Ok(())
}

async fn files(
    attempt: &Arc<Attempt>,
    job: &Job,
    split: bool,
    progress: &Progress,
) -> Result<OutputResult, Failed> {
    let line = progress.begin("exporting files", None);
    let layers = attempt.shared.layers.clone();
    let of = |image: &LeasedImage| (image.template.platform.clone(), image.state.clone());
    let states: Vec<(Platform, Chain)> = job.images.iter().map(of).collect();
    let (tmp, threads) = (attempt.shared.tmp(), attempt.shared.cores);
    let epoch = job.images.iter().find_map(|image| image.template.epoch).map(at);
    let attesting = attest::Files::new(job, split, attempt.shared.parts.clock.now());
    let written = blocking(move || {
        let mut changes = beside_each_other(&layers, &states, split)?;
        attesting.add(&layers, &states, &mut changes)?;
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

/// The files of all platforms as one tree: each in a folder of its own, or all together.
fn beside_each_other(
    layers: &Layers,
    states: &[(Platform, Chain)],
    split: bool,
) -> Result<Changes, Failed> {
    let mut all = Changes::default();
    for (at, (platform, state)) in states.iter().enumerate() {
        let mut changes = layers.tree(state)?.as_changes();
        changes.0.retain(|_, change| !change.is_socket());
        if split {
            changes = changes.below(folder_of(platform).as_bytes());
        }
        if let Err(Overlap { path }) = all.join(changes) {
            let mut other = platform;
            for (before, state) in &states[..at] {
                if layers.tree(state)?.get(&path).is_some() {
                    other = before;
                }
            }
            return Err(Failed::rejected(format!(
                "cannot overwrite {path} from {other} with {platform} when split option is disabled"
            )));
        }
    }
    // The folder that they are unpacked in is not theirs: as with BuildKit, nothing is said of it.
    all.0.retain(|path, _| !path.is_root());
    Ok(all)
}

/// The name of a platform as a folder has it.
pub(crate) fn folder_of(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

//! An image's config and manifest from its template and what only the result knows (pure).

use std::collections::BTreeMap;

use dcbuild_model::{Compression, Digest, StepIndex, UnixTime};
use dcbuild_oci::manifest::media_type;
use dcbuild_oci::{Descriptor, History, ImageConfig, InvalidConfig, Manifest};
use dcbuild_plan::ImageTemplate;
use dcbuild_proto::document::{OutputLayer, OutputSpec};

const COMMENT: &str = "buildkit.dockerfile.v0";

/// A manifest and the config that it names.
pub(crate) struct Assembled {
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: String,
}

/// The media type of a layer, in the dialect of the image.
pub(crate) fn layer_media_type(compression: Compression, oci: bool) -> &'static str {
    match (compression, oci) {
        (Compression::None, true) => media_type::LAYER,
        (Compression::Gzip, true) => media_type::LAYER_GZIP,
        (Compression::Zstd, true) => media_type::LAYER_ZSTD,
        (Compression::None, false) => media_type::DOCKER_LAYER,
        (Compression::Gzip, false) => media_type::DOCKER_LAYER_GZIP,
        (Compression::Zstd, false) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
}

/// Writes config and manifest; `now` counts only where neither a step nor the base says a time.
pub(crate) fn assemble(
    template: &ImageTemplate,
    layers: &[OutputLayer],
    created: &[(StepIndex, UnixTime)],
    spec: &OutputSpec,
    now: UnixTime,
) -> Result<Assembled, InvalidConfig> {
    let config = config(template, layers, created, now)?.to_json();
    let (manifest_type, config_type) = if spec.oci_media_types {
        (media_type::MANIFEST, media_type::CONFIG)
    } else {
        (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG)
    };
    let size = u64::try_from(config.len()).unwrap_or(u64::MAX);
    let described = Descriptor::new(config_type, Digest::of(&config), size);
    let layers = layers
        .iter()
        .map(|layer| Descriptor::new(&layer.media_type, layer.digest.0, layer.size))
        .collect();
    let mut manifest = Manifest::new(described, layers);
    manifest.media_type = manifest_type.into();
    manifest.annotations.clone_from(&spec.annotations);
    let manifest = manifest.to_json();
    Ok(Assembled { config, manifest, media_type: manifest_type.into() })
}

fn config(
    template: &ImageTemplate,
    layers: &[OutputLayer],
    created: &[(StepIndex, UnixTime)],
    now: UnixTime,
) -> Result<ImageConfig, InvalidConfig> {
    let mut config = ImageConfig::parse(template.config.as_bytes())?;
    config.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    let created: BTreeMap<StepIndex, UnixTime> = created.iter().copied().collect();
    let epoch = template.epoch.map(|secs| UnixTime { secs, nanos: 0 }.rfc3339());
    let base = config.history.iter().rev().find_map(|line| line.created.clone());
    // Lines before the first step have its time, so that a build of hits alone is the same image again.
    let first = template.history.iter().find_map(|line| created.get(&line.step?));
    let mut time = match (&epoch, first) {
        (Some(epoch), _) => epoch.clone(),
        (None, Some(first)) => first.rfc3339(),
        (None, None) => base.unwrap_or_else(|| now.rfc3339()),
    };
    for line in &template.history {
        if epoch.is_none()
            && let Some(step) = line.step.and_then(|step| created.get(&step))
        {
            time = step.rfc3339();
        }
        config.history.push(History {
            created: Some(time.clone()),
            created_by: line.created_by.clone(),
            comment: COMMENT.into(),
            empty_layer: line.step.is_none(),
            ..History::default()
        });
    }
    config.created = Some(time);
    Ok(config)
}

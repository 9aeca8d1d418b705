//! An image's config and manifest from its template and what only the result knows, and the index of several (pure).

use std::collections::BTreeMap;

use dcbuild_model::{Compression, Digest, Platform, StepIndex, UnixTime};
use dcbuild_oci::manifest::media_type;
use dcbuild_oci::{Descriptor, History, ImageConfig, Index, InvalidConfig, Manifest};
use dcbuild_plan::ImageTemplate;
use dcbuild_proto::document::{AnnotationPlace, OutputLayer, OutputSpec};

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
    manifest.annotations = spec.annotations_of(AnnotationPlace::Manifest, Some(&template.platform));
    let manifest = manifest.to_json();
    Ok(Assembled { config, manifest, media_type: manifest_type.into() })
}

/// An index, as it is written.
pub(crate) struct WrittenIndex {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: String,
}

/// What points at an image's manifest.
pub(crate) fn described(image: &Assembled) -> Descriptor {
    let size = u64::try_from(image.manifest.len()).unwrap_or(u64::MAX);
    Descriptor::new(&image.media_type, Digest::of(&image.manifest), size)
}

/// Writes the index of images, each with its platform, and behind them what is attested of them.
pub(crate) fn write_index<'a>(
    images: impl Iterator<Item = (&'a Platform, &'a Assembled)>,
    attestations: impl Iterator<Item = Descriptor>,
    spec: &OutputSpec,
) -> WrittenIndex {
    let entry = |(platform, image): (&Platform, &Assembled)| {
        let annotations = spec.annotations_of(AnnotationPlace::ManifestDescriptor, Some(platform));
        Descriptor { platform: Some(platform.into()), annotations, ..described(image) }
    };
    let kind = if spec.oci_media_types { media_type::INDEX } else { media_type::DOCKER_INDEX };
    let index = Index {
        media_type: kind.into(),
        manifests: images.map(entry).chain(attestations).collect(),
        annotations: spec.annotations_of(AnnotationPlace::Index, None),
        ..Index::default()
    };
    WrittenIndex { bytes: index.to_json(), media_type: kind.into() }
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

#[cfg(test)]
mod tests {
    use dcbuild_proto::document::{Annotation, Attests, LayerCompression, OutputKind};
    use expect_test::expect;

    use super::*;

    fn spec(oci_media_types: bool, annotations: Vec<Annotation>) -> OutputSpec {
        OutputSpec {
            kind: OutputKind::Files { split: false },
            layers: LayerCompression { compression: Compression::Gzip, level: None, force: false },
            oci_media_types,
            annotations,
            rewrite_timestamp: false,
            attest: Attests::default(),
        }
    }

    fn written(spec: &OutputSpec) -> String {
        let images = ["linux/amd64", "linux/arm/v7"].map(|text| {
            let platform: Platform = text.parse().unwrap();
            let manifest = text.as_bytes().to_vec();
            let media_type = media_type::MANIFEST.to_owned();
            (platform, Assembled { config: Vec::new(), manifest, media_type })
        });
        let images = images.iter().map(|(platform, image)| (platform, image));
        let index = write_index(images, std::iter::empty(), spec);
        let text = String::from_utf8(index.bytes).unwrap();
        assert!(text.contains(&format!("\"mediaType\":\"{}\"", index.media_type)), "{text}");
        text.replace("},", "},\n") + "\n"
    }

    #[test]
    fn an_index_names_each_image_with_its_platform() {
        let note = |place, platform: Option<&str>, name: &str| Annotation {
            place,
            platform: platform.map(|text| text.parse().unwrap()),
            name: name.into(),
            value: "x".into(),
        };
        let annotations = vec![
            note(AnnotationPlace::Index, None, "index"),
            note(AnnotationPlace::ManifestDescriptor, Some("linux/amd64"), "one"),
            note(AnnotationPlace::ManifestDescriptor, None, "all"),
            note(AnnotationPlace::Manifest, None, "manifest"),
        ];
        expect![[r#"
            {"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:baf0239e48ff4c47ebac3ba02b5cf1506b69cd5a0c0d0c825a53ba65976fb942","size":11,"annotations":{"all":"x","one":"x"},
            "platform":{"architecture":"amd64","os":"linux"}},
            {"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:35df9beb9b1c4fe630707bc51e4360b94b506b4e6d5372d5d0d52a385350621b","size":12,"annotations":{"all":"x"},
            "platform":{"architecture":"arm","os":"linux","variant":"v7"}}],"annotations":{"index":"x"}}
        "#]].assert_eq(&written(&spec(true, annotations)));
        assert!(written(&spec(false, Vec::new())).contains(media_type::DOCKER_INDEX));
    }
}

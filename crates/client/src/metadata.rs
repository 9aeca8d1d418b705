//! What `--metadata-file`, `--iidfile` and `--quiet` tell of a build: docker's words for it.

use std::collections::BTreeMap;

use dcbuild_model::{BuildId, ConfigDigest, ManifestDigest};
use dcbuild_progress::Warning;
use dcbuild_progress::rawjson::warning_json;
use dcbuild_proto::document::{OutputResult, ToldProvenance};
use serde_json::{Map, Value, json};

use crate::client::BuildRequest;

/// The image's id: the digest of its config, or of the index of several images; none if no image was made.
pub(crate) fn image_id(outputs: &[OutputResult]) -> Option<String> {
    outputs.iter().find_map(|output| match output {
        OutputResult::Image { config, .. } => Some(config.to_string()),
        OutputResult::Index { index, .. } => Some(index.to_string()),
        OutputResult::Files { .. } => None,
    })
}

/// What is told of an image, or of an index of images.
struct Told<'a> {
    digest: &'a ManifestDigest,
    size: u64,
    media_type: &'a str,
    config: Option<&'a ConfigDigest>,
    names: &'a [String],
    annotations: Option<&'a BTreeMap<String, String>>,
}

fn told(output: &OutputResult) -> Option<Told<'_>> {
    match output {
        OutputResult::Image { manifest, manifest_size, media_type, config, names, .. } => {
            let config = Some(config);
            let (digest, size) = (manifest, *manifest_size);
            Some(Told { digest, size, media_type, config, names, annotations: None })
        }
        OutputResult::Index { index, index_size, media_type, names, images: _, annotations } => {
            let annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
            let (digest, size) = (index, *index_size);
            Some(Told { digest, size, media_type, config: None, names, annotations })
        }
        OutputResult::Files { .. } => None,
    }
}

/// The metadata file: of the first image, keys in order.
pub(crate) fn metadata(
    request: &BuildRequest,
    outputs: &[OutputResult],
    (provenance, warned): (&[ToldProvenance], &[Warning]),
) -> String {
    let asked = &request.submission.request;
    let warning = |it| warning_json(it, &asked.filename, &asked.dockerfile);
    let warnings: Vec<Value> = warned.iter().map(warning).collect();
    let mut fields = fields(request.id, outputs, provenance);
    if !warnings.is_empty() {
        fields.insert("buildx.build.warnings".into(), warnings.into());
    }
    // In the order of their names, as buildx writes them.
    fields.sort_keys();
    format!("{:#}\n", Value::Object(fields))
}

fn fields(
    build: BuildId,
    outputs: &[OutputResult],
    provenance: &[ToldProvenance],
) -> Map<String, Value> {
    let mut fields = Map::new();
    for told in provenance {
        let name = match provenance {
            [_] => "buildx.build.provenance".to_owned(),
            _ => format!("buildx.build.provenance/{}", told.platform),
        };
        let predicate = serde_json::from_str(&told.predicate);
        fields.insert(name, predicate.unwrap_or_else(|_| Value::Object(Map::new())));
    }
    fields.insert("buildx.build.ref".into(), json!(format!("dcbuild/dcbuild/{build}")));
    if let Some(told) = outputs.iter().find_map(told) {
        let Told { digest, size, media_type, config, names, annotations } = told;
        let digest = digest.to_string();
        let mut descriptor = json!({"mediaType": media_type, "digest": digest, "size": size});
        if let (Some(annotations), Value::Object(descriptor)) = (annotations, &mut descriptor) {
            descriptor.insert("annotations".into(), json!(annotations));
        }
        if let Some(config) = config {
            fields.insert("containerimage.config.digest".into(), json!(config.to_string()));
        }
        fields.insert("containerimage.descriptor".into(), descriptor);
        fields.insert("containerimage.digest".into(), json!(digest));
        if !names.is_empty() {
            fields.insert("image.name".into(), json!(names.join(",")));
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use dcbuild_model::{Digest, LayerDigest};
    use expect_test::expect;

    use super::*;

    fn shown(outputs: &[OutputResult], provenance: &[ToldProvenance]) -> String {
        format!("{:#}\n", Value::Object(fields(BuildId::from_bits(1), outputs, provenance)))
    }

    #[test]
    fn an_image_is_told_as_buildx_tells_it() {
        let digest = Digest([7; 32]);
        let files = OutputResult::Files { tar: LayerDigest(digest), size: 1 };
        let image = OutputResult::Image {
            manifest: ManifestDigest(digest),
            manifest_size: 527,
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            config: ConfigDigest(Digest([8; 32])),
            layers: Vec::new(),
            names: vec!["docker.io/library/a:1".into(), "ghcr.io/b:2".into()],
        };
        let outputs = [files.clone(), image];
        expect![[r#"
            {
              "buildx.build.ref": "dcbuild/dcbuild/00000000000000000000000001",
              "containerimage.config.digest": "sha256:0808080808080808080808080808080808080808080808080808080808080808",
              "containerimage.descriptor": {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": "sha256:0707070707070707070707070707070707070707070707070707070707070707",
                "size": 527
              },
              "containerimage.digest": "sha256:0707070707070707070707070707070707070707070707070707070707070707",
              "image.name": "docker.io/library/a:1,ghcr.io/b:2"
            }
        "#]]
        .assert_eq(&shown(&outputs, &[]));
        assert_eq!(image_id(&outputs), Some(Digest([8; 32]).to_string()));
        assert_eq!(image_id(&[files]), None);
    }

    #[test]
    fn an_index_has_no_config() {
        let index = OutputResult::Index {
            index: ManifestDigest(Digest([9; 32])),
            index_size: 700,
            media_type: "application/vnd.oci.image.index.v1+json".into(),
            images: Vec::new(),
            names: Vec::new(),
            annotations: [("a".to_owned(), "b".to_owned())].into(),
        };
        let outputs = [index];
        let told = |platform: &str| ToldProvenance {
            platform: platform.parse().unwrap(),
            predicate: r#"{"z":1,"a":2}"#.into(),
        };
        let provenance = [told("linux/amd64"), told("linux/arm64")];
        expect![[r#"
            {
              "buildx.build.provenance/linux/amd64": {
                "z": 1,
                "a": 2
              },
              "buildx.build.provenance/linux/arm64": {
                "z": 1,
                "a": 2
              },
              "buildx.build.ref": "dcbuild/dcbuild/00000000000000000000000001",
              "containerimage.descriptor": {
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "digest": "sha256:0909090909090909090909090909090909090909090909090909090909090909",
                "size": 700,
                "annotations": {
                  "a": "b"
                }
              },
              "containerimage.digest": "sha256:0909090909090909090909090909090909090909090909090909090909090909"
            }
        "#]]
        .assert_eq(&shown(&outputs, &provenance));
        assert_eq!(image_id(&outputs), Some(Digest([9; 32]).to_string()));
    }
}

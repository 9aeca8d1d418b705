//! What `--metadata-file`, `--iidfile` and `--quiet` tell of a build: docker's words for it.

use dcbuild_model::BuildId;
use dcbuild_proto::document::OutputResult;
use serde_json::{Map, Value, json};

/// The image's id: the digest of its config; none if no image was made.
pub(crate) fn image_id(outputs: &[OutputResult]) -> Option<String> {
    outputs.iter().find_map(|output| match output {
        OutputResult::Image { config, .. } => Some(config.to_string()),
        OutputResult::Files { .. } => None,
    })
}

/// The metadata file: of the first image, keys in order.
pub(crate) fn metadata(build: BuildId, outputs: &[OutputResult]) -> String {
    let mut fields = Map::new();
    fields.insert("buildx.build.ref".into(), json!(format!("dcbuild/dcbuild/{build}")));
    let image = outputs.iter().find_map(|output| match output {
        OutputResult::Image { manifest, manifest_size, media_type, config, names, .. } => {
            Some((manifest, manifest_size, media_type, config, names))
        }
        OutputResult::Files { .. } => None,
    });
    if let Some((manifest, size, media_type, config, names)) = image {
        let digest = manifest.to_string();
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": size});
        fields.insert("containerimage.config.digest".into(), json!(config.to_string()));
        fields.insert("containerimage.descriptor".into(), descriptor);
        fields.insert("containerimage.digest".into(), json!(digest));
        if !names.is_empty() {
            fields.insert("image.name".into(), json!(names.join(",")));
        }
    }
    format!("{:#}\n", Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use dcbuild_model::{ConfigDigest, Digest, LayerDigest, ManifestDigest};
    use expect_test::expect;

    use super::*;

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
        .assert_eq(&metadata(BuildId::from_bits(1), &outputs));
        assert_eq!(image_id(&outputs), Some(Digest([8; 32]).to_string()));
        assert_eq!(image_id(&[files]), None);
    }
}

//! Manifests and indexes of OCI and of docker's schema 2, checked as they are read.

use std::collections::BTreeMap;

use dcbuild_model::limits::{CONFIG_BYTES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX};
use dcbuild_model::{Digest, ManifestDigest, ParseDigestError, Platform};
use serde::{Deserialize, Serialize};

use crate::config::{ImageConfig, or_default};
use crate::json::{Fields, InvalidJson, to_go_json};

/// The media types that images are made of.
pub mod media_type {
    /// An OCI manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A plain layer.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A gzipped layer.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer in zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's plain layer.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's gzipped layer.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's old manifest, which names layers by other digests and is refused.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// Whether the type is that of an index.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_INDEX)
    }

    /// Whether the type is that of a manifest.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }
}

const INDEX_ENTRIES_MAX: usize = 10_000;
const URLS_MAX: usize = 100;

/// Says why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum InvalidManifest {
    /// The manifest is too large.
    #[error("manifest of {bytes} bytes is larger than {MANIFEST_BYTES_MAX} bytes")]
    Size {
        /// Its size.
        bytes: usize,
    },
    /// The JSON has another shape.
    #[error("manifest is malformed")]
    Json(#[from] InvalidJson),
    /// The manifest's version is not 2.
    #[error("manifest has schema version {version}, not 2")]
    Version {
        /// The version.
        version: i64,
    },
    /// The media type is one that nobody knows.
    #[error("media type '{media_type}' is no image manifest or index")]
    MediaType {
        /// The type, cut at 100 characters.
        media_type: String,
    },
    /// The media type inside contradicts the one it came under.
    #[error("manifest says that it is '{inside}' but came as '{outside}'")]
    Contradiction {
        /// What the manifest says.
        inside: String,
        /// What it came under.
        outside: String,
    },
    /// It has both layers and manifests, and so could pass for either.
    #[error("manifest has both layers and manifests")]
    Ambiguous,
    /// A manifest without a config, or an index without manifests.
    #[error("manifest has no '{field}'")]
    Missing {
        /// What it lacks.
        field: &'static str,
    },
    /// A descriptor names no digest.
    #[error("{place} has a wrong digest")]
    Digest {
        /// Where the descriptor stands.
        place: String,
        /// What is wrong.
        source: ParseDigestError,
    },
    /// A descriptor's size is negative or beyond the limit.
    #[error("{place} has an impossible size of {size} bytes")]
    DescriptorSize {
        /// Where the descriptor stands.
        place: String,
        /// The size.
        size: i64,
    },
    /// There are too many entries.
    #[error("manifest lists {count} {field}, more than {max}")]
    Count {
        /// What there is too much of.
        field: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
}

/// Layers and diff ids do not match.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CountMismatch {
    /// The numbers differ.
    #[error("manifest has {layers} layers but its config has {diff_ids}")]
    Layers {
        /// Layers of the manifest.
        layers: usize,
        /// Diff ids of the config.
        diff_ids: usize,
    },
}

/// A platform as an index names it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OciPlatform {
    /// The architecture.
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// The operating system.
    #[serde(deserialize_with = "or_default")]
    pub os: String,
    /// The operating system's version.
    #[serde(rename = "os.version", deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// What the operating system must be able to do.
    #[serde(rename = "os.features", deserialize_with = "or_default")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The architecture's variant.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl OciPlatform {
    /// The platform, normalised; none if its words are no platform.
    pub fn to_model(&self) -> Option<Platform> {
        let text = format!("{}/{}", self.os, self.architecture);
        let text = if self.variant.is_empty() { text } else { format!("{text}/{}", self.variant) };
        if self.os.is_empty() || self.architecture.is_empty() {
            return None;
        }
        text.parse().ok()
    }
}

impl From<&Platform> for OciPlatform {
    fn from(platform: &Platform) -> OciPlatform {
        OciPlatform {
            architecture: platform.arch.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..OciPlatform::default()
        }
    }
}

/// What points at a blob or a manifest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of bytes it points at.
    pub media_type: String,
    /// The digest of those bytes.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
    /// How many they are.
    pub size: u64,
    /// Where a foreign layer would be found; kept, and never fetched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Remarks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform that it is for, in an index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<OciPlatform>,
    /// The kind of an artifact.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
}

impl Descriptor {
    /// A descriptor without remarks.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: String::new(),
        }
    }

    /// Whether it is a foreign layer, whose bytes its registry need not have.
    pub fn is_foreign(&self) -> bool {
        !self.urls.is_empty()
            || self.media_type.contains("nondistributable")
            || self.media_type.contains("diff.tar.foreign")
            || self.media_type.contains("foreign.diff.tar")
    }
}

/// The manifest of one image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// OCI's or docker's.
    pub media_type: String,
    /// The kind of an artifact.
    pub artifact_type: String,
    /// The image's config.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What it speaks of, if it is a remark on another manifest.
    pub subject: Option<Descriptor>,
    /// Remarks.
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    /// OCI's or docker's.
    pub media_type: String,
    /// The kind of an artifact.
    pub artifact_type: String,
    /// What it lists.
    pub manifests: Vec<Descriptor>,
    /// What it speaks of, if it is a remark on another manifest.
    pub subject: Option<Descriptor>,
    /// Remarks.
    pub annotations: BTreeMap<String, String>,
}

impl Default for Index {
    fn default() -> Index {
        Index {
            media_type: media_type::INDEX.into(),
            artifact_type: String::new(),
            manifests: Vec::new(),
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// What a reference may point at.
#[expect(clippy::large_enum_variant, reason = "few are alive at a time")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManifestOrIndex {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

impl ManifestOrIndex {
    /// Reads a manifest or index; `outside` is the media type it came under, where one is known.
    pub fn parse(bytes: &[u8], outside: Option<&str>) -> Result<ManifestOrIndex, InvalidManifest> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(InvalidManifest::Size { bytes: bytes.len() });
        }
        let mut fields = Fields::parse(bytes, "manifest")?;
        let kind = media_type_of(&mut fields, outside)?;
        let version: i64 = fields.take("schemaVersion")?.unwrap_or_default();
        let layers: Option<Vec<DescriptorText>> = fields.take("layers")?;
        let manifests: Option<Vec<DescriptorText>> = fields.take("manifests")?;
        let config: Option<DescriptorText> = fields.take("config")?;
        if version != 2 {
            return Err(InvalidManifest::Version { version });
        }
        let subject: Option<DescriptorText> = fields.take("subject")?;
        let subject = subject.map(|text| text.check("field 'subject'".into())).transpose()?;
        let artifact_type = fields.take("artifactType")?.unwrap_or_default();
        let annotations: BTreeMap<String, Option<String>> =
            fields.take("annotations")?.unwrap_or_default();
        let annotations =
            annotations.into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect();
        let is_index = match kind.as_deref() {
            Some(kind) => media_type::is_index(kind),
            None => manifests.is_some(),
        };
        if manifests.is_some() && (layers.is_some() || config.is_some()) {
            return Err(InvalidManifest::Ambiguous);
        }
        if is_index {
            let manifests = manifests.ok_or(InvalidManifest::Missing { field: "manifests" })?;
            let manifests = check_all(manifests, "manifests", INDEX_ENTRIES_MAX)?;
            let media_type = kind.unwrap_or_else(|| media_type::INDEX.into());
            let index = Index { media_type, artifact_type, manifests, subject, annotations };
            return Ok(ManifestOrIndex::Index(index));
        }
        let config = config.ok_or(InvalidManifest::Missing { field: "config" })?;
        let config = config.check("field 'config'".into())?;
        if config.size > u64::try_from(CONFIG_BYTES_MAX).unwrap_or(u64::MAX) {
            let size = i64::try_from(config.size).unwrap_or(i64::MAX);
            return Err(InvalidManifest::DescriptorSize { place: "field 'config'".into(), size });
        }
        let layers = layers.ok_or(InvalidManifest::Missing { field: "layers" })?;
        let layers = check_all(layers, "layers", LAYERS_MAX)?;
        let media_type = kind.unwrap_or_else(|| media_type::MANIFEST.into());
        let manifest = Manifest { media_type, artifact_type, config, layers, subject, annotations };
        Ok(ManifestOrIndex::Manifest(manifest))
    }
}

/// Checks that the manifest's layers are as many as its config says.
pub fn check_counts(manifest: &Manifest, config: &ImageConfig) -> Result<(), CountMismatch> {
    let (layers, diff_ids) = (manifest.layers.len(), config.diff_ids.len());
    if layers == diff_ids { Ok(()) } else { Err(CountMismatch::Layers { layers, diff_ids }) }
}

impl Manifest {
    /// An OCI manifest.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
        Manifest {
            media_type: media_type::MANIFEST.into(),
            artifact_type: String::new(),
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Writes the manifest compactly, its fields in the order of the specification.
    pub fn to_json(&self) -> Vec<u8> {
        to_go_json(&Written {
            schema_version: 2,
            media_type: &self.media_type,
            artifact_type: &self.artifact_type,
            config: Some(&self.config),
            layers: Some(&self.layers),
            manifests: None,
            subject: self.subject.as_ref(),
            annotations: &self.annotations,
        })
        .into_bytes()
    }

    /// The digest of the manifest as it is written.
    pub fn digest(&self) -> ManifestDigest {
        ManifestDigest(Digest::of(&self.to_json()))
    }
}

impl Index {
    /// Writes the index compactly, its fields in the order of the specification.
    pub fn to_json(&self) -> Vec<u8> {
        to_go_json(&Written {
            schema_version: 2,
            media_type: &self.media_type,
            artifact_type: &self.artifact_type,
            config: None,
            layers: None,
            manifests: Some(&self.manifests),
            subject: self.subject.as_ref(),
            annotations: &self.annotations,
        })
        .into_bytes()
    }

    /// The digest of the index as it is written.
    pub fn digest(&self) -> ManifestDigest {
        ManifestDigest(Digest::of(&self.to_json()))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    schema_version: u8,
    media_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    artifact_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<&'a Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<&'a [Descriptor]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifests: Option<&'a [Descriptor]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// The media type, by what the document says of itself and by what it came under.
fn media_type_of(
    fields: &mut Fields,
    outside: Option<&str>,
) -> Result<Option<String>, InvalidManifest> {
    let clip = |text: &str| text.chars().take(100).collect::<String>();
    let known = |text: &str| media_type::is_index(text) || media_type::is_manifest(text);
    let inside: Option<String> = fields.take("mediaType")?;
    let inside = inside.filter(|text| !text.is_empty());
    let outside = outside.map(|text| text.split(';').next().unwrap_or_default().trim());
    // Registries and layouts that do not know better send a general type.
    let outside = outside.filter(|text| !matches!(*text, "" | "application/json" | "text/plain"));
    match (inside, outside) {
        (Some(inside), _) if !known(&inside) => {
            Err(InvalidManifest::MediaType { media_type: clip(&inside) })
        }
        (Some(inside), Some(outside)) if inside != outside => {
            Err(InvalidManifest::Contradiction { inside: clip(&inside), outside: clip(outside) })
        }
        (Some(inside), _) => Ok(Some(inside)),
        (None, Some(outside)) if known(outside) => Ok(Some(outside.to_owned())),
        (None, Some(outside)) => Err(InvalidManifest::MediaType { media_type: clip(outside) }),
        (None, None) => Ok(None),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct DescriptorText {
    #[serde(deserialize_with = "or_default")]
    media_type: String,
    #[serde(deserialize_with = "or_default")]
    digest: String,
    #[serde(deserialize_with = "or_default")]
    size: i64,
    #[serde(deserialize_with = "or_default")]
    urls: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    annotations: BTreeMap<String, Option<String>>,
    platform: Option<OciPlatform>,
    #[serde(deserialize_with = "or_default")]
    artifact_type: String,
}

impl DescriptorText {
    fn check(self, place: String) -> Result<Descriptor, InvalidManifest> {
        let digest = match self.digest.parse() {
            Ok(digest) => digest,
            Err(source) => return Err(InvalidManifest::Digest { place, source }),
        };
        let Ok(size) = u64::try_from(self.size) else {
            return Err(InvalidManifest::DescriptorSize { place, size: self.size });
        };
        if self.urls.len() > URLS_MAX {
            let count = self.urls.len();
            return Err(InvalidManifest::Count { field: "urls", count, max: URLS_MAX });
        }
        let annotations = self.annotations.into_iter();
        Ok(Descriptor {
            media_type: self.media_type,
            digest,
            size,
            urls: self.urls,
            annotations: annotations.map(|(k, v)| (k, v.unwrap_or_default())).collect(),
            platform: self.platform,
            artifact_type: self.artifact_type,
        })
    }
}

fn check_all(
    texts: Vec<DescriptorText>,
    field: &'static str,
    max: usize,
) -> Result<Vec<Descriptor>, InvalidManifest> {
    if texts.len() > max {
        return Err(InvalidManifest::Count { field, count: texts.len(), max });
    }
    let numbered = texts.into_iter().enumerate();
    numbered.map(|(at, text)| text.check(format!("entry {at} of '{field}'"))).collect()
}

fn as_text<S: serde::Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

#[cfg(test)]
mod tests;

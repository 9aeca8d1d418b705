//! The manifest of a cache, and what a manifest that is found somewhere is (pure).

use std::collections::BTreeMap;

use bytes::Bytes;
use dcbuild_model::limits::MANIFEST_BYTES_MAX;
use dcbuild_model::{BlobDigest, Digest};
use dcbuild_oci::manifest::media_type;
use dcbuild_oci::{Descriptor, Index};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::documents::Documents;
use crate::pack::Packed;

/// What our manifests say that they are.
pub const ARTIFACT_TYPE: &str = "application/vnd.dcbuild.cache.v2";
const ARTIFACT_FAMILY: &str = "application/vnd.dcbuild.cache.";
const CONFIG_TYPE: &str = "application/vnd.dcbuild.cache.records.v2+json";
const BLOB_TYPE: &str = "application/vnd.dcbuild.cache.blob.v1";
/// The config of a cache of BuildKit.
const BUILDKIT_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Where BuildKit's inline caches stand in an image's config.
pub const BUILDKIT_INLINE: &str = "moby.buildkit.cache.v0";
/// What an entry of an index carries that is no image, but says something of one.
const ATTESTS: &str = "vnd.docker.reference.type";
/// A manifest with more layers is none of ours.
const BLOBS_MAX: usize = 100_000;
/// What one part of a cache that is too large for one manifest has at most: a descriptor takes 150 bytes, and registries take
/// manifests of 4 MiB.
const PART_BLOBS: usize = 20_000;
const PART_DOCUMENT_BYTES: usize = 64 << 20;
/// Parts that an index of ours lists at most.
pub(crate) const PARTS_MAX: usize = 256;
/// Whose the documents of a cache are: the name of the key that sealed them.
const KEY: &str = "dcbuild.cache.key";
/// Caches of other keys that may stand in one manifest beside one's own.
pub const OTHERS_MAX: usize = 7;

/// A blob, and how many bytes it has.
pub type Measured = (BlobDigest, u64);

/// A cache, ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Artifact {
    /// The name of the key that sealed the documents; none where that is not known.
    pub key: Option<String>,
    /// The manifest.
    pub manifest: Bytes,
    /// The documents, as the manifest's config.
    pub config: Bytes,
    /// The blobs that the documents speak of.
    pub blobs: Vec<Measured>,
}

#[derive(Serialize)]
struct Written {
    #[serde(rename = "schemaVersion")]
    schema: u32,
    #[serde(rename = "mediaType")]
    media_type: &'static str,
    #[serde(rename = "artifactType")]
    artifact_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// What one key's documents and blobs are in a manifest in which several keys have theirs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// The key's name.
    pub key: String,
    /// The documents.
    pub config: Measured,
    /// The blobs that they speak of.
    pub blobs: Vec<Measured>,
}

/// How large the parts of a cache may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartLimits {
    /// How many blobs one may have.
    pub blobs: usize,
    /// How many bytes its documents may have, about.
    pub document_bytes: usize,
}

impl Default for PartLimits {
    fn default() -> PartLimits {
        PartLimits { blobs: PART_BLOBS, document_bytes: PART_DOCUMENT_BYTES }
    }
}

/// A manifest that an index lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Child {
    /// The key that sealed its documents.
    pub(crate) key: Option<String>,
    pub(crate) manifest: Measured,
}

/// The index of a cache in several parts.
pub(crate) fn index_of(children: &[Child]) -> Bytes {
    let entry = |child: &Child| {
        let (manifest, size) = child.manifest;
        let mut entry = Descriptor::new(media_type::MANIFEST, manifest.0, size);
        entry.artifact_type = ARTIFACT_TYPE.into();
        entry.annotations = child.key.as_deref().map(named).unwrap_or_default();
        entry
    };
    let manifests = children.iter().map(entry).collect();
    Index { manifests, ..Index::default() }.to_json().into()
}

impl Artifact {
    /// Its parts, if it is too large for one manifest: what the documents of one speak of may be in another.
    pub(crate) fn parts(&self, limits: PartLimits) -> Vec<Artifact> {
        if self.is_small(limits) {
            return vec![self.clone()];
        }
        let is_large = self.config.len() > limits.document_bytes;
        let documents = match is_large.then(|| Documents::parse(&self.config)) {
            Some(Ok(documents)) => {
                let lists = documents.split(limits.document_bytes);
                lists.iter().map(|list| Bytes::from(list.to_json())).collect()
            }
            Some(Err(_)) | None => vec![self.config.clone()],
        };
        let (mut documents, mut blobs) = (documents.into_iter(), self.blobs.chunks(limits.blobs));
        let none = Bytes::from(Documents::default().to_json());
        let mut parts = Vec::new();
        while documents.len() > 0 || blobs.len() > 0 {
            let config = documents.next().unwrap_or_else(|| none.clone());
            let blobs = blobs.next().unwrap_or_default().to_vec();
            parts.push(Artifact::of(self.key.clone(), config, blobs));
        }
        parts
    }

    fn of(key: Option<String>, config: Bytes, blobs: Vec<Measured>) -> Artifact {
        let mut artifact = Artifact { key, manifest: Bytes::new(), config, blobs };
        artifact.manifest = artifact.written(&[]);
        artifact
    }

    /// It as a part of a cache, with the manifest that it has there.
    pub(crate) fn child(&self, manifest: &Bytes) -> Child {
        let size = u64::try_from(manifest.len()).unwrap_or(u64::MAX);
        Child { key: self.key.clone(), manifest: (BlobDigest(Digest::of(manifest)), size) }
    }

    /// Whether one manifest is enough for it.
    fn is_small(&self, limits: PartLimits) -> bool {
        self.blobs.len() <= limits.blobs && self.config.len() <= limits.document_bytes
    }
}

fn named(key: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(KEY.to_owned(), key.to_owned())])
}

impl Artifact {
    /// Writes the manifest of what was packed.
    pub fn new(packed: &Packed) -> Artifact {
        let config = Bytes::from(packed.documents.to_json());
        let blobs: Vec<Measured> = packed.blobs.iter().map(|(blob, size)| (*blob, *size)).collect();
        Artifact::of(Some(packed.key.clone()), config, blobs)
    }

    /// A manifest in which the caches of others stand behind this one, and how many of them: those that came last, as
    /// far as there is room.
    pub fn beside(&self, others: &[Section]) -> (Bytes, usize) {
        let counts = (0..=others.len().min(OTHERS_MAX)).rev();
        let fits = |others: &[Section], manifest: &Bytes| {
            let blobs: usize = others.iter().map(|it| it.blobs.len() + 1).sum();
            manifest.len() <= MANIFEST_BYTES_MAX && blobs + self.blobs.len() <= BLOBS_MAX
        };
        let with = |count: usize| {
            let some = others.get(..count)?;
            let manifest = self.written(some);
            fits(some, &manifest).then_some((manifest, count))
        };
        counts.filter(|count| *count > 0).find_map(with).unwrap_or((self.manifest.clone(), 0))
    }

    /// Each of the others is a layer with its documents, and then its blobs.
    fn written(&self, others: &[Section]) -> Bytes {
        let size = u64::try_from(self.config.len()).unwrap_or(u64::MAX);
        let blob = |(blob, size): &Measured| Descriptor::new(BLOB_TYPE, blob.0, *size);
        let section = |section: &Section| {
            let (config, size) = section.config;
            let mut first = Descriptor::new(CONFIG_TYPE, config.0, size);
            first.annotations = named(&section.key);
            std::iter::once(first).chain(section.blobs.iter().map(blob)).collect::<Vec<_>>()
        };
        let written = Written {
            schema: 2,
            media_type: media_type::MANIFEST,
            artifact_type: ARTIFACT_TYPE,
            config: Descriptor::new(CONFIG_TYPE, Digest::of(&self.config), size),
            layers: self.blobs.iter().map(blob).chain(others.iter().flat_map(section)).collect(),
            annotations: self.key.as_deref().map(named).unwrap_or_default(),
        };
        serde_json::to_vec(&written).expect("a manifest has string keys").into()
    }
}

/// Takes the layers of a cache of ours apart: its own blobs, and the caches of other keys.
fn sections(layers: &[Pointed]) -> (Vec<Measured>, Vec<Section>) {
    let (mut own, mut others) = (Vec::new(), Vec::<Section>::new());
    for layer in layers {
        if layer.media_type == CONFIG_TYPE
            && let Some(key) = layer.annotations.get(KEY)
        {
            let (key, config) = (key.clone(), layer.measured());
            others.push(Section { key, config, blobs: Vec::new() });
        } else {
            let of = others.last_mut().map_or(&mut own, |section| &mut section.blobs);
            of.push(layer.measured());
        }
    }
    // More than are ever written need not be fetched.
    others.truncate(OTHERS_MAX);
    (own, others)
}

/// What a manifest is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// A cache of ours.
    Records {
        /// The name of the key that sealed the documents, where it is said.
        key: Option<String>,
        /// The documents.
        config: Measured,
        /// The blobs that they may speak of.
        blobs: Vec<Measured>,
        /// What other keys have beside them.
        others: Vec<Section>,
    },
    /// An image, whose config may hold documents.
    Image {
        /// The config.
        config: Measured,
        /// The layers.
        layers: Vec<Measured>,
    },
    /// An index, with its manifests.
    Index(Vec<Measured>),
    /// A cache of BuildKit.
    BuildKit,
    /// Something else, in words.
    Other(String),
}

#[derive(Deserialize)]
struct Pointed {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: BlobDigest,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Pointed {
    fn measured(&self) -> Measured {
        (self.digest, self.size)
    }
}

fn list(document: &Value, key: &str) -> Option<Vec<Pointed>> {
    let items = document.get(key)?.as_array()?.iter().take(BLOBS_MAX + 1);
    items.map(|item| Pointed::deserialize(item).ok()).collect()
}

/// Says what a manifest is; whatever its bytes are, there is an answer.
pub fn recognise(manifest: &[u8]) -> Seen {
    let Ok(document) = serde_json::from_slice::<Value>(manifest) else {
        return Seen::Other("no manifest".into());
    };
    let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
    // As BuildKit keeps it in a bucket: no manifest at all.
    if document.get("records").is_some_and(Value::is_array) && text("mediaType").is_empty() {
        return Seen::BuildKit;
    }
    if document.get("manifests").is_some() {
        let Some(manifests) = list(&document, "manifests") else {
            return Seen::Other("a malformed index".into());
        };
        if manifests.iter().any(|it| it.media_type == BUILDKIT_CONFIG) {
            return Seen::BuildKit;
        }
        let images = manifests.iter().filter(|it| !it.annotations.contains_key(ATTESTS));
        return Seen::Index(images.map(Pointed::measured).collect());
    }
    let config = document.get("config").and_then(|config| Pointed::deserialize(config).ok());
    let (Some(config), Some(layers)) = (config, list(&document, "layers")) else {
        return Seen::Other("a malformed manifest".into());
    };
    let blobs: Vec<Measured> = layers.iter().map(Pointed::measured).collect();
    match (text("artifactType"), config.media_type.as_str()) {
        _ if blobs.len() > BLOBS_MAX => Seen::Other("a manifest of too many layers".into()),
        (_, BUILDKIT_CONFIG) => Seen::BuildKit,
        (ARTIFACT_TYPE, _) | ("", CONFIG_TYPE) => {
            let (blobs, others) = sections(&layers);
            let key = document.get("annotations").and_then(|it| it.get(KEY)?.as_str());
            Seen::Records { key: key.map(str::to_owned), config: config.measured(), blobs, others }
        }
        (kind, _) if kind.starts_with(ARTIFACT_FAMILY) => {
            Seen::Other("a cache of another version of dcbuild".into())
        }
        (_, media_type::CONFIG | media_type::DOCKER_CONFIG) => {
            Seen::Image { config: config.measured(), layers: blobs }
        }
        (kind, other) => {
            let kind = if kind.is_empty() { other } else { kind };
            Seen::Other(format!("'{}'", kind.chars().take(100).collect::<String>()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn pointed(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{HEX}","size":7}}"#)
    }

    fn manifest(artifact: &str, config: &str) -> Seen {
        let config = pointed(config);
        let text = format!(
            r#"{{"schemaVersion":2,"artifactType":"{artifact}","config":{config},"layers":[{}]}}"#,
            pointed("x")
        );
        recognise(text.as_bytes())
    }

    #[test]
    fn caches_of_other_keys_stand_behind_as_many_as_there_is_room_for() {
        let sized = |number: u8, size| (BlobDigest(Digest::of(&[number])), size);
        let section = |number: u8, blobs: u64| {
            let blobs = (0..blobs).map(|at| sized(number, at)).collect();
            Section { key: format!("key-{number}"), config: sized(number, 1), blobs }
        };
        let (config, blobs) = (Bytes::from("{}"), vec![sized(200, 7)]);
        let key = Some("own".to_owned());
        let mut artifact = Artifact { key: key.clone(), manifest: Bytes::new(), config, blobs };
        artifact.manifest = artifact.written(&[]);
        let config = (BlobDigest(Digest::of(b"{}")), 2);
        let records = |others: &[Section]| {
            let (key, blobs) = (key.clone(), artifact.blobs.clone());
            Seen::Records { key, config, blobs, others: others.to_vec() }
        };
        let others: Vec<Section> = (0..9).map(|number| section(number, 2)).collect();
        for count in [0, 1, OTHERS_MAX, OTHERS_MAX + 2] {
            let (manifest, kept) = artifact.beside(&others[..count]);
            assert_eq!(kept, count.min(OTHERS_MAX));
            assert_eq!(recognise(&manifest), records(&others[..kept]));
        }
        // One that is too large for any registry is left out, and so is what came before it.
        let others = [section(1, 2), section(2, 40_000), section(3, 2)];
        let (manifest, kept) = artifact.beside(&others);
        assert_eq!((kept, recognise(&manifest)), (1, records(&others[..1])));
    }

    #[test]
    fn what_lies_at_a_place_is_told_apart() {
        let sized = (BlobDigest(Digest::from_hex(HEX).unwrap()), 7);
        let (key, others) = (None, Vec::new());
        let records = Seen::Records { key, config: sized, blobs: vec![sized], others };
        assert_eq!(manifest(ARTIFACT_TYPE, CONFIG_TYPE), records);
        // Tools that copy images may drop the artifact's type.
        assert_eq!(manifest("", CONFIG_TYPE), records);
        assert_eq!(manifest("", BUILDKIT_CONFIG), Seen::BuildKit);
        let image = Seen::Image { config: sized, layers: vec![sized] };
        assert_eq!(manifest("", media_type::CONFIG), image);
        assert_eq!(manifest("", media_type::DOCKER_CONFIG), image);
        let old = manifest("application/vnd.dcbuild.cache.v1", "x");
        assert_eq!(old, Seen::Other("a cache of another version of dcbuild".into()));
        assert_eq!(manifest("a/b", "x"), Seen::Other("'a/b'".into()));
        let index =
            |kind: &str| recognise(format!(r#"{{"manifests":[{}]}}"#, pointed(kind)).as_bytes());
        assert_eq!(index(BUILDKIT_CONFIG), Seen::BuildKit);
        assert_eq!(index(media_type::MANIFEST), Seen::Index(vec![sized]));
        assert_eq!(recognise(br#"{"layers":[],"records":[]}"#), Seen::BuildKit);
        for garbage in ["", "{}", "[]", "7", r#"{"manifests":7}"#, r#"{"config":{},"layers":[]}"#] {
            assert!(matches!(recognise(garbage.as_bytes()), Seen::Other(_)), "{garbage}");
        }
    }
}

//! OCI layouts and docker archives: what their small files say.

use std::collections::BTreeMap;

use dcbuild_model::limits::MANIFEST_BYTES_MAX;
use dcbuild_model::{Digest, ManifestDigest, ParseDigestError};
use serde::{Deserialize, Serialize};

use crate::config::or_default;
use crate::json::{Fields, InvalidJson, check_depth, to_go_json};
use crate::manifest::{Descriptor, Index, InvalidManifest, ManifestOrIndex, media_type};

/// The file that marks a folder as a layout.
pub const LAYOUT_FILE: &str = "oci-layout";
/// The file that lists what a layout holds.
pub const INDEX_FILE: &str = "index.json";
/// The content of the file that marks a folder as a layout.
pub const LAYOUT_JSON: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The annotation that names an entry of a layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that gives an entry its full image name.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// Says why a folder or archive is no layout.
#[derive(Debug, thiserror::Error)]
pub enum InvalidLayout {
    /// The layout has a version that nobody knows.
    #[error("layout has version '{version}', not 1.0.0")]
    Version {
        /// The version, cut at 100 characters.
        version: String,
    },
    /// A small file has another shape.
    #[error("file '{file}' is malformed")]
    Json {
        /// Which file.
        file: &'static str,
        /// What is wrong.
        source: InvalidJson,
    },
    /// The index is wrong.
    #[error("file '{INDEX_FILE}' is no index")]
    Index(#[source] InvalidManifest),
    /// The index is a manifest.
    #[error("file '{INDEX_FILE}' is a manifest, not an index")]
    NotAnIndex,
    /// The layout has no such entry.
    #[error("layout has no image '{wanted}'{tags}")]
    NoEntry {
        /// The tag or digest.
        wanted: String,
        /// Those that it has.
        tags: Tags,
    },
    /// The layout has several images, and none was named.
    #[error("layout has {count} images and none was named{tags}")]
    Several {
        /// How many there are.
        count: usize,
        /// What they are called.
        tags: Tags,
    },
    /// The text after the folder is no tag or digest.
    #[error("'{text}' names no layout (DIR, DIR:TAG, DIR@DIGEST or DIR:TAG@DIGEST)")]
    Reference {
        /// The text.
        text: String,
    },
    /// The digest is wrong.
    #[error("layout reference has a wrong digest")]
    Digest(#[source] ParseDigestError),
}

/// What the images of a layout are called, as somebody is told who did not know.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tags(Vec<String>);

/// How many of them are told.
const TAGS_TOLD_MAX: usize = 10;

impl Tags {
    fn of(index: &Index) -> Tags {
        let tag = |entry: &Descriptor| {
            let full = || {
                let (_, tag) = entry.annotations.get(IMAGE_NAME)?.rsplit_once(':')?;
                Some(tag.to_owned()).filter(|tag| !tag.contains('/'))
            };
            entry.annotations.get(REF_NAME).cloned().or_else(full)
        };
        let mut tags = Vec::new();
        for tag in index.manifests.iter().filter_map(tag) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Tags(tags)
    }
}

impl std::fmt::Display for Tags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (told, more) = self.0.split_at(self.0.len().min(TAGS_TOLD_MAX));
        if told.is_empty() {
            return Ok(());
        }
        let told: Vec<String> = told.iter().map(|tag| tag.escape_default().to_string()).collect();
        write!(f, " (it has {}", told.join(", "))?;
        match more.len() {
            0 => f.write_str(")"),
            more => write!(f, " and {more} more)"),
        }
    }
}

/// Where an image lies in a layout: `oci-layout://DIR[:TAG][@DIGEST]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayoutRef {
    /// The folder.
    pub folder: String,
    /// The tag, if one is named.
    pub tag: Option<String>,
    /// The digest, which decides where there is one.
    pub digest: Option<ManifestDigest>,
}

impl std::str::FromStr for LayoutRef {
    type Err = InvalidLayout;

    fn from_str(text: &str) -> Result<LayoutRef, InvalidLayout> {
        let rest = text.strip_prefix("oci-layout://").unwrap_or(text);
        let (rest, digest) = match rest.rsplit_once('@') {
            Some((rest, digest)) if digest.contains(':') && !digest.contains('/') => {
                (rest, Some(digest.parse().map_err(InvalidLayout::Digest)?))
            }
            _ => (rest, None),
        };
        let (folder, tag) = match rest.rsplit_once(':') {
            Some((folder, tag)) if !tag.contains(['/', '\\']) => (folder, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if folder.is_empty() || tag.as_ref().is_some_and(String::is_empty) {
            return Err(InvalidLayout::Reference { text: text.into() });
        }
        Ok(LayoutRef { folder: folder.into(), tag, digest })
    }
}

impl std::fmt::Display for LayoutRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "oci-layout://{}", self.folder)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Checks the file that marks a folder as a layout.
pub fn check_layout_file(bytes: &[u8]) -> Result<(), InvalidLayout> {
    let json = |source| InvalidLayout::Json { file: LAYOUT_FILE, source };
    let mut fields = Fields::parse(bytes, "layout").map_err(json)?;
    let version: String = fields.take("imageLayoutVersion").map_err(json)?.unwrap_or_default();
    if version == "1.0.0" {
        return Ok(());
    }
    Err(InvalidLayout::Version { version: version.chars().take(100).collect() })
}

/// Reads the list of what a layout holds.
pub fn parse_index_file(bytes: &[u8]) -> Result<Index, InvalidLayout> {
    match ManifestOrIndex::parse(bytes, Some(media_type::INDEX)).map_err(InvalidLayout::Index)? {
        ManifestOrIndex::Index(index) => Ok(index),
        ManifestOrIndex::Manifest(_) => Err(InvalidLayout::NotAnIndex),
    }
}

/// Adds entries to the list of what a layout holds: each takes the place of one that has its names, and one without a
/// name that of itself.
pub fn add_entries(index: &mut Index, entries: Vec<Descriptor>) {
    let labels_of = |entry: &Descriptor| {
        [IMAGE_NAME, REF_NAME].map(|name| entry.annotations.get(name).cloned().unwrap_or_default())
    };
    for entry in entries {
        let own = labels_of(&entry);
        let is_nameless = own.iter().all(String::is_empty);
        let stays = |known: &Descriptor| {
            labels_of(known) != own || (is_nameless && known.digest != entry.digest)
        };
        index.manifests.retain(stays);
        index.manifests.push(entry);
    }
}

/// Finds the entry that a reference means: by digest, by tag, or the only one.
///
/// A digest that the list does not have may still be that of a manifest further down, so it is no error here.
pub fn find_entry<'a>(
    index: &'a Index,
    wanted: &LayoutRef,
) -> Result<Option<&'a Descriptor>, InvalidLayout> {
    if let Some(digest) = wanted.digest {
        return Ok(index.manifests.iter().find(|entry| entry.digest == digest.0));
    }
    let named = |tag: &str| {
        index.manifests.iter().find(|entry| {
            let short = entry.annotations.get(REF_NAME).is_some_and(|name| name == tag);
            let full = entry.annotations.get(IMAGE_NAME);
            short || full.is_some_and(|name| name.ends_with(&format!(":{tag}")))
        })
    };
    match (&wanted.tag, index.manifests.as_slice()) {
        (Some(tag), _) => match named(tag) {
            Some(entry) => Ok(Some(entry)),
            None => Err(InvalidLayout::NoEntry { wanted: tag.clone(), tags: Tags::of(index) }),
        },
        (None, [only]) => Ok(Some(only)),
        (None, several) => match named("latest") {
            Some(entry) => Ok(Some(entry)),
            None => Err(InvalidLayout::Several { count: several.len(), tags: Tags::of(index) }),
        },
    }
}

/// One image of a docker archive, as its `manifest.json` lists it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArchiveItem {
    /// The path of its config.
    #[serde(rename = "Config")]
    pub config: String,
    /// Its names.
    #[serde(rename = "RepoTags", default, deserialize_with = "or_default")]
    pub repo_tags: Vec<String>,
    /// The paths of its layers, lowest first.
    #[serde(rename = "Layers", default, deserialize_with = "or_default")]
    pub layers: Vec<String>,
}

impl ArchiveItem {
    /// Writes the `manifest.json` of an archive.
    pub fn list_to_json(items: &[ArchiveItem]) -> Vec<u8> {
        to_go_json(&items).into_bytes()
    }

    /// Reads the `manifest.json` of an archive.
    pub fn parse_list(bytes: &[u8]) -> Result<Vec<ArchiveItem>, InvalidLayout> {
        parse_file(bytes, "manifest.json")
    }
}

/// The `repositories` file of a docker archive: the top layer's id by repository and tag.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Repositories(pub BTreeMap<String, BTreeMap<String, String>>);

impl Repositories {
    /// Writes the file.
    pub fn to_json(&self) -> Vec<u8> {
        to_go_json(self).into_bytes()
    }

    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<Repositories, InvalidLayout> {
        parse_file(bytes, "repositories")
    }
}

/// The path of a blob in a layout.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn parse_file<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    file: &'static str,
) -> Result<T, InvalidLayout> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(InvalidLayout::Index(InvalidManifest::Size { bytes: bytes.len() }));
    }
    check_depth(bytes).map_err(|source| InvalidLayout::Json { file, source })?;
    serde_json::from_slice(bytes).map_err(|source| InvalidLayout::Json {
        file,
        source: InvalidJson::Shape { part: "document".into(), source },
    })
}

#[cfg(test)]
mod tests;

//! What a step leaves behind: layers, in whichever forms they have.

use crate::{ChangeDigest, DiffId, LayerDigest, LayerId, StateDigest, UnixTime};

/// How a layer's tar is compressed.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A plain tar.
    None,
    /// Independent gzip members.
    Gzip,
    /// Independent zstd frames.
    Zstd,
}

impl Compression {
    /// The name that flags and stored files use.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "uncompressed",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// A layer of a base image: a blob that a registry already has.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseLayer {
    /// The blob, as the registry names it.
    pub digest: LayerDigest,
    /// Its tar, as we hashed it.
    pub diff_id: DiffId,
    /// The blob's size in bytes.
    pub size: u64,
    /// The media type in the base's manifest.
    pub media_type: String,
    /// The repository that it was read from, `HOST/NAME`, for a cross-repository mount; empty for a local layout.
    pub repository: String,
}

/// A layer of a step's result, by its table of contents.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRef {
    /// The digest of the stored TOC.
    pub layer: LayerId,
    /// What it changes, times normalised.
    pub change: ChangeDigest,
    /// How many entries it has.
    pub entries: u64,
    /// The bytes of all its files together.
    pub bytes: u64,
    /// Whence it came, if it is a base image's.
    pub base: Option<BaseLayer>,
}

/// The blob form of a layer.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerBlob {
    /// The blob.
    pub digest: LayerDigest,
    /// The tar inside it.
    pub diff_id: DiffId,
    /// The blob's size in bytes.
    pub size: u64,
    /// How it is compressed.
    pub compression: Compression,
}

/// What a step made: no layer, one, or all layers of a base image.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepResult {
    /// The layers, lowest first.
    pub layers: Vec<LayerRef>,
    /// When the step ended; goes into the image's config and history.
    pub created: UnixTime,
}

impl StepResult {
    /// The state of the stage after this step.
    pub fn state_after(&self, parent: StateDigest) -> StateDigest {
        self.layers.iter().fold(parent, |state, layer| state.then(&layer.change))
    }
}

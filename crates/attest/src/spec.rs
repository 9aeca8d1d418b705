//! What is asked: `--provenance` and its like, understood.

use serde::{Deserialize, Serialize};

/// How much of a build is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Materials, times and the frontend's options, less build arguments, labels, secrets and agents.
    Min,
    /// All of it, with the Dockerfile and its steps.
    #[default]
    Max,
}

/// The form of the predicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum SlsaVersion {
    /// SLSA provenance 0.2.
    #[serde(rename = "v0.2")]
    V02,
    /// SLSA provenance 1.
    #[default]
    #[serde(rename = "v1")]
    V1,
}

/// What is asked of provenance.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenanceSpec {
    /// How much is told.
    pub mode: Mode,
    /// In which form.
    pub version: SlsaVersion,
    /// Who vouches for the builder; dcbuild itself, if nobody is named.
    pub builder_id: Option<String>,
    /// Whether its author says that the build makes the same bytes again.
    pub reproducible: bool,
    /// The name of the file where files are the output.
    pub file: Option<String>,
}

impl ProvenanceSpec {
    /// The name of the file where files are the output.
    pub fn file_name(&self) -> &str {
        self.file.as_deref().unwrap_or("provenance.json")
    }
}

/// How an attestation lies in an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// As an artifact of OCI 1.1, which names its subject.
    #[default]
    Artifact,
    /// As an image for no platform, which registries took before.
    Image,
}

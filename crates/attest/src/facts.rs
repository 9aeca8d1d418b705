//! What is known of how an image was built; what its end adds is in [`Finish`].

use std::collections::BTreeMap;

use dcbuild_model::UnixTime;
use dcbuild_oci::Descriptor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::spec::ProvenanceSpec;

/// Something from outside that a build read, and what it was.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Material {
    /// Its address: a package URL, a URL, a repository with its reference.
    pub uri: String,
    /// Its digests, by algorithm.
    pub digest: BTreeMap<String, String>,
}

impl Material {
    /// A material with one digest.
    pub fn new(uri: impl Into<String>, algorithm: &str, digest: impl Into<String>) -> Material {
        let digest = BTreeMap::from([(algorithm.to_owned(), digest.into())]);
        Material { uri: uri.into(), digest }
    }

    /// A part of a git repository, at a commit.
    pub fn of_commit(uri: impl Into<String>, commit: &str) -> Material {
        let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
        Material::new(uri, algorithm, commit)
    }
}

/// A secret or an agent that a step names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Whether the step does without.
    pub optional: bool,
}

/// What a build was asked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The options of the frontend, by BuildKit's names: `build-arg:A`, `label:b`, `target`.
    pub args: BTreeMap<String, String>,
    /// Secrets that its steps name.
    pub secrets: Vec<Named>,
    /// Agents that its steps name.
    pub ssh: Vec<Named>,
    /// Folders of the client that it read, by name.
    pub locals: Vec<String>,
}

/// Whence the Dockerfile is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The context that it lies in, where that came from elsewhere.
    pub context: Option<Material>,
    /// Its name.
    pub path: String,
}

/// A step, for those who want to see all of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it does, in the words of BuildKit's LLB.
    pub op: Value,
    /// The steps that it reads, the one below it first.
    pub inputs: Vec<usize>,
    /// The lines of the Dockerfile that say so, first and last.
    pub lines: Option<(u32, u32)>,
    /// Its key.
    pub key: Option<String>,
}

/// How many of the image's layers are there after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepLayers {
    /// The step.
    pub step: usize,
    /// The layers.
    pub count: usize,
}

/// What is told where everything is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detail {
    /// The Dockerfile's text.
    pub text: String,
    /// The steps; the last one is what the image is made of.
    pub steps: Vec<Step>,
    /// Which layers are there after which step.
    pub layers: Vec<StepLayers>,
}

/// What is known of a build before its end, for one platform.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// What is to be told, and in which form.
    pub spec: ProvenanceSpec,
    /// Whence the Dockerfile is.
    pub source: Source,
    /// What was asked.
    pub request: Request,
    /// What was read from outside.
    pub materials: Vec<Material>,
    /// The platform that built.
    pub builder_platform: String,
    /// Whether a step could reach a network.
    pub network: bool,
    /// The build's id.
    pub invocation: String,
    /// When it was submitted.
    pub started: UnixTime,
    /// What its client says of the repository that its folder belongs to; nobody checked it.
    pub vcs: BTreeMap<String, String>,
    /// Steps and text, where everything is told.
    pub detail: Option<Detail>,
}

/// What only the end of a build knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finish {
    /// When it was.
    pub at: UnixTime,
    /// The image's layers, lowest first; none where no image was made.
    pub layers: Vec<Descriptor>,
}

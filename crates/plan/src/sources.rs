//! What a plan must know of the world: image configs, and what selections of the client's folders look like.

use std::collections::BTreeMap;

use dcbuild_model::{
    Added, ConfigDigest, Fault, ManifestDigest, Platform, Selection, SelectionDigest,
};
use dcbuild_oci::ImageConfig;

use crate::op::{ImageLayer, ImageSource};
use crate::policy::{Facts, PolicyAsk, Verdict};

/// A source that a plan still lacks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Need {
    /// An image's manifest and config.
    Image {
        /// The canonical reference, or `layout:NAME` for the layout of a named context.
        reference: String,
        /// For this platform.
        platform: Platform,
    },
    /// What a selection of a client's folder looks like.
    Selection {
        /// The context's name; `context` is the build's own.
        context: String,
        /// What is read.
        selection: Selection,
    },
    /// What the client's policies say of a source.
    Verdict(Box<PolicyAsk>),
    /// What there is to know of something that is fetched, for a policy.
    Remote(Box<Added>),
}

/// An image that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedImage {
    /// The manifest for the platform.
    pub manifest: ManifestDigest,
    /// The digest that stands behind the name in messages: the index's, if there is one.
    pub named: ManifestDigest,
    /// The config's digest.
    pub config_digest: ConfigDigest,
    /// The config.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// Whence the blobs are read.
    pub source: ImageSource,
}

/// Why nothing was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unresolved {
    /// The reason.
    pub reason: String,
    /// What the user could do.
    pub hint: Option<String>,
    /// Who can mend it.
    pub fault: Fault,
}

impl From<String> for Unresolved {
    fn from(reason: String) -> Unresolved {
        Unresolved { reason, hint: None, fault: Fault::Request }
    }
}

impl From<&str> for Unresolved {
    fn from(reason: &str) -> Unresolved {
        reason.to_owned().into()
    }
}

/// What was found for a reference: the image, or the reason why not.
pub type ImageAnswer = Result<ResolvedImage, Unresolved>;

/// Everything that is known so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    /// Images, by reference and platform.
    pub images: BTreeMap<(String, Platform), ImageAnswer>,
    /// Digests of selections, by context; or the reason why there is none, such as a missing file.
    pub selections: BTreeMap<(String, Selection), Result<SelectionDigest, Unresolved>>,
    /// What the client's policies say.
    pub verdicts: BTreeMap<PolicyAsk, Verdict>,
    /// What was found of things that are fetched, or the reason why nothing was.
    pub remotes: BTreeMap<Added, Result<Facts, Unresolved>>,
}

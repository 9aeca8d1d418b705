//! What is asked of a build's client about each source: it has policies that nobody else can evaluate, and is asked like
//! it is asked for its folders. What it must know to answer is found first, if it says so.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{Added, Platform};
use serde::{Deserialize, Serialize};

use super::source::{GIT_CHECKSUM, HTTP_CHECKSUM, IMAGE};
use super::{CONVERSIONS_MAX, Engine, PolicyError, Source};
use crate::sources::{Need, Sources};

/// A question about one source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyAsk {
    /// The source, as `docker-image://docker.io/library/alpine:3.20`.
    pub identifier: String,
    /// Its attributes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attrs: BTreeMap<String, String>,
    /// The platform of an image, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The policies that are not asked again: they have pinned it themselves.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pinned_by: BTreeSet<String>,
    /// What was found of it; none if nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
}

/// What is known of a source only after somebody has looked at it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum Facts {
    /// Of an image.
    Image {
        /// The digest that its name stands for.
        digest: String,
        /// When it was made.
        created: Option<String>,
        /// Variables.
        env: Vec<String>,
        /// Labels.
        labels: BTreeMap<String, String>,
        /// The user.
        user: String,
        /// Volumes.
        volumes: Vec<String>,
        /// The working folder.
        working_dir: String,
    },
    /// Of a file behind a URL.
    File {
        /// Its digest.
        digest: String,
    },
    /// Of a git repository.
    Git(GitFacts),
}

/// What a reference of a git repository stands for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitFacts {
    /// Its whole name, such as `refs/tags/v1`; the commit, where that was named.
    pub reference: String,
    /// What the server says that it stands for: a commit, or the object of an annotated tag.
    pub checksum: String,
    /// The commit.
    pub commit: String,
    /// The commit's text, as git keeps it.
    pub commit_object: String,
    /// The text of the annotated tag, if it is one.
    pub tag_object: Option<String>,
}

/// What the client's policies say of a source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "say")]
pub enum Verdict {
    /// It may be taken.
    Allowed {},
    /// It may not.
    Denied {
        /// The policy's file.
        policy: String,
        /// What it says of it.
        messages: Vec<String>,
    },
    /// An image may be taken with this digest.
    Pinned {
        /// The policy's file.
        policy: String,
        /// The digest.
        digest: String,
    },
    /// That depends on what is not known yet.
    Open {},
    /// A policy cannot be evaluated.
    Failed {
        /// Why.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// Something that may be taken, or what must be known before that is said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judged<T> {
    /// It may be taken, perhaps as something else.
    Taken(T),
    /// This must be known first.
    Lacks(Need),
}

impl<T> Judged<T> {
    pub(crate) fn map<U>(
        self,
        change: impl FnOnce(T) -> Result<U, PolicyError>,
    ) -> Result<Judged<U>, PolicyError> {
        Ok(match self {
            Judged::Taken(it) => Judged::Taken(change(it)?),
            Judged::Lacks(need) => Judged::Lacks(need),
        })
    }
}

/// For whom a source is judged, and by what is known.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The platform of an image.
    pub platform: Option<&'a Platform>,
    /// What is known.
    pub sources: &'a Sources,
}

/// How a source is looked at.
type Look<'a> = &'a dyn Fn(&Source) -> Result<Judged<Facts>, PolicyError>;

impl Engine {
    /// Asks the files, then the client, and both again about what came of it.
    pub(super) fn judge(
        &self,
        mut source: Source,
        known: Known<'_>,
        look: Look<'_>,
    ) -> Result<Judged<Source>, PolicyError> {
        let mut pinned_by = BTreeSet::new();
        for _ in 0..CONVERSIONS_MAX {
            source = self.evaluate(source)?;
            if !self.asks {
                return Ok(Judged::Taken(source));
            }
            let (verdict, facts) = match asked((&source, &pinned_by), known, look)? {
                Judged::Taken(said) => said,
                Judged::Lacks(need) => return Ok(Judged::Lacks(need)),
            };
            match verdict {
                Verdict::Allowed {} => {
                    hold(&mut source, facts);
                    return Ok(Judged::Taken(source));
                }
                // The others may have something to say of what one has pinned.
                Verdict::Pinned { policy, digest } => {
                    source = pinned(&source, &digest)?;
                    pinned_by.insert(policy);
                }
                Verdict::Denied { policy, messages } => {
                    let identifier = source.identifier;
                    return Err(PolicyError::NotAllowed { identifier, policy, messages });
                }
                Verdict::Open {} => {
                    let problem = "the client does not say what it must know".to_owned();
                    let identifier = source.identifier;
                    return Err(PolicyError::Unevaluated { identifier, problem, hint: None });
                }
                Verdict::Failed { message: problem, hint } => {
                    let identifier = source.identifier;
                    return Err(PolicyError::Unevaluated { identifier, problem, hint });
                }
            }
        }
        Err(PolicyError::Circle { seen: vec![source.identifier] })
    }
}

/// What was looked at is what is taken, though it may be fetched again for that.
fn hold(source: &mut Source, facts: Option<Facts>) {
    let (name, value) = match facts {
        Some(Facts::File { digest }) => (HTTP_CHECKSUM, digest),
        Some(Facts::Git(git)) => (GIT_CHECKSUM, git.commit),
        Some(Facts::Image { .. }) | None => return,
    };
    source.attrs.insert(name.to_owned(), value);
}

/// An image with the digest that a policy names, whatever digest it had.
fn pinned(source: &Source, digest: &str) -> Result<Source, PolicyError> {
    let name = source.identifier.split('@').next().unwrap_or_default();
    let identifier = format!("{name}@{digest}");
    let is_image = identifier
        .strip_prefix(IMAGE)
        .is_some_and(|name| name.parse::<dcbuild_oci::ImageRef>().is_ok());
    if !is_image {
        let (from, to) = (source.identifier.clone(), identifier);
        return Err(PolicyError::Kind { from, to, wanted: "image of a registry" });
    }
    Ok(Source { identifier, attrs: source.attrs.clone() })
}

/// What was found of something that is fetched.
pub(super) fn found_of(
    added: &Added,
    identifier: &str,
    sources: &Sources,
) -> Result<Judged<Facts>, PolicyError> {
    match sources.remotes.get(added) {
        None => Ok(Judged::Lacks(Need::Remote(Box::new(added.clone())))),
        Some(Ok(facts)) => Ok(Judged::Taken(facts.clone())),
        Some(Err(unresolved)) => Err(PolicyError::Unseen {
            identifier: identifier.to_owned(),
            problem: unresolved.reason.clone(),
            hint: unresolved.hint.clone(),
        }),
    }
}

/// What the client says, and what it was told to say that.
fn asked(
    (source, pinned_by): (&Source, &BTreeSet<String>),
    known: Known<'_>,
    look: Look<'_>,
) -> Result<Judged<(Verdict, Option<Facts>)>, PolicyError> {
    let mut ask = PolicyAsk {
        identifier: source.identifier.clone(),
        attrs: source.attrs.clone(),
        platform: known.platform.map(ToString::to_string),
        pinned_by: pinned_by.clone(),
        facts: None,
    };
    let said = |ask: &PolicyAsk| known.sources.verdicts.get(ask).cloned();
    match said(&ask) {
        None => return Ok(Judged::Lacks(Need::Verdict(Box::new(ask)))),
        Some(Verdict::Open {}) => {}
        Some(verdict) => return Ok(Judged::Taken((verdict, None))),
    }
    ask.facts = match look(source)? {
        Judged::Taken(facts) => Some(facts),
        Judged::Lacks(need) => return Ok(Judged::Lacks(need)),
    };
    Ok(match said(&ask) {
        None => Judged::Lacks(Need::Verdict(Box::new(ask))),
        Some(verdict) => Judged::Taken((verdict, ask.facts)),
    })
}

//! What became of the steps of one build: written when it ends, read by whoever wants to know why.

use std::collections::BTreeSet;

use dcbuild_model::{BuildId, Component, LayerId, ManifestDigest, StepIndex, StepKey, UnixTime};
use serde::{Deserialize, Serialize};

/// The only form of an account that is understood.
const VERSION: u32 = 1;

/// The account of one build.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The form.
    pub version: u32,
    /// The build.
    pub build: BuildId,
    /// Its name, for people.
    pub title: String,
    /// When it was submitted.
    pub submitted: UnixTime,
    /// The names of the build arguments that were given.
    pub arguments: BTreeSet<String>,
    /// Its steps, in the order of the plan.
    pub steps: Vec<AccountStep>,
}

/// Whether a step was to take records from before the build.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// It was.
    Usual,
    /// `--no-cache` was given.
    NoCache,
    /// `--no-cache-filter` named its stage.
    NoCacheFilter,
}

/// Why a record that was found was passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Passed {
    /// One of its layers is not to be had any more.
    LayerGone {
        /// The layer.
        layer: LayerId,
    },
    /// One of its layers was damaged in the store.
    LayerDamaged {
        /// The layer.
        layer: LayerId,
        /// When it was put aside.
        at: UnixTime,
    },
    /// It was made from other results than those that this build took.
    OtherResults {},
    /// The store could not be asked for it, or for its layers.
    Unreachable {},
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "how")]
pub enum StepEnd {
    /// A record was taken, by the key that was known before anything ran.
    Hit {},
    /// A record was taken by what the steps before it had made.
    HitByResult {},
    /// It ran.
    Ran {
        /// For so long, in milliseconds.
        took_ms: u64,
    },
    /// Another build ran it at the same time.
    Shared {},
    /// It ran and failed.
    Failed {},
    /// Nothing that was needed reads it.
    Unneeded {},
    /// The build ended before it, or goes on.
    Open {},
}

impl StepEnd {
    /// Whether the build had a result of the step.
    pub fn has_result(self) -> bool {
        match self {
            StepEnd::Hit {}
            | StepEnd::HitByResult {}
            | StepEnd::Ran { .. }
            | StepEnd::Shared {} => true,
            StepEnd::Failed {} | StepEnd::Unneeded {} | StepEnd::Open {} => false,
        }
    }
}

/// Whence a step's input comes; in the order in which its key counts inputs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "of")]
pub enum AccountInput {
    /// The state after a step.
    Step {
        /// The step.
        step: StepIndex,
    },
    /// Nothing.
    Scratch {},
    /// A folder of the client.
    Context {
        /// Its name; `context` is the build's own.
        name: String,
    },
}

/// The image that a step takes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountImage {
    /// The reference, for people.
    pub name: String,
    /// What it was resolved to.
    pub manifest: ManifestDigest,
}

/// What became of one step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountStep {
    /// What people read, such as `[build 2/5] RUN make`.
    pub name: String,
    /// The name of its stage.
    pub stage: String,
    /// The lines of the Dockerfile, first and last, from 1.
    pub lines: (u32, u32),
    /// Its key in recipe form.
    pub recipe: StepKey,
    /// What that key was made of.
    pub components: Vec<Component>,
    /// The step that it stands on.
    pub parent: Option<StepIndex>,
    /// What it reads besides.
    pub inputs: Vec<AccountInput>,
    /// The image, where it takes one.
    pub image: Option<AccountImage>,
    /// Whether it was to take a record.
    pub asked: Asked,
    /// Why a record that was there was not taken.
    pub passed: Option<Passed>,
    /// How it ended.
    pub end: StepEnd,
    /// The layer that it has, however it came by it; none if that is empty, an image's, or not there.
    pub layer: Option<LayerId>,
    /// Whether its result was made and left to its worker, as the build asked.
    #[serde(default)]
    pub held: bool,
}

/// Says why bytes are no account.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAccount {
    /// They cannot be read.
    #[error("the account of a build could not be understood")]
    Document(#[from] serde_json::Error),
    /// They have another form.
    #[error("the account of a build has the form {found}, and this version knows form {VERSION}")]
    Version {
        /// The form.
        found: u32,
    },
}

impl Account {
    /// An account without steps yet.
    pub fn new(build: BuildId, title: String, submitted: UnixTime) -> Account {
        let (arguments, steps) = (BTreeSet::new(), Vec::new());
        Account { version: VERSION, build, title, submitted, arguments, steps }
    }

    /// The account as it is stored.
    pub fn to_bytes(&self) -> Result<Vec<u8>, InvalidAccount> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Reads a stored account.
    pub fn from_bytes(bytes: &[u8]) -> Result<Account, InvalidAccount> {
        let account: Account = serde_json::from_slice(bytes)?;
        match account.version {
            VERSION => Ok(account),
            found => Err(InvalidAccount::Version { found }),
        }
    }

    /// What the build is of: its title without a tag, so that two versions of one image are the same project.
    pub(crate) fn project(&self) -> &str {
        let (folder, name) = self.title.rsplit_once('/').map_or(("", &self.title[..]), |it| it);
        match name.split_once([':', '@']) {
            Some((bare, _)) if folder.is_empty() => bare,
            Some((bare, _)) => &self.title[..folder.len() + 1 + bare.len()],
            None => &self.title,
        }
    }
}

impl AccountStep {
    /// The value of a component.
    pub(crate) fn component(&self, name: &str) -> Option<&str> {
        self.components.iter().find(|it| it.name == name).map(|it| it.value.as_str())
    }

    /// The instruction alone: the name without `[stage 2/5]`.
    pub(crate) fn instruction(&self) -> &str {
        self.name.strip_prefix('[').and_then(|it| it.split_once("] ")).map_or(&self.name, |it| it.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_a_title_without_its_tag() {
        for (title, project) in [
            ("app", "app"),
            ("app:1", "app"),
            ("localhost:5000/team/app:1.2", "localhost:5000/team/app"),
            ("localhost:5000/app", "localhost:5000/app"),
            ("app@sha256:00", "app"),
            ("a folder", "a folder"),
        ] {
            let build = BuildId::from_bits(1);
            let account = Account::new(build, title.into(), UnixTime::default());
            assert_eq!(account.project(), project);
        }
    }

    #[test]
    fn an_account_survives_its_bytes_and_another_form_is_refused() {
        let account = Account::new(BuildId::from_bits(1), "app".into(), UnixTime::default());
        let bytes = account.to_bytes().unwrap();
        assert_eq!(Account::from_bytes(&bytes).unwrap(), account);
        let newer = Account { version: 2, ..account };
        let refused = Account::from_bytes(&newer.to_bytes().unwrap()).unwrap_err();
        assert!(matches!(refused, InvalidAccount::Version { found: 2 }));
    }
}

//! What is kept under a step key: the result, where it came from, and what its key was made of.

use crate::{AttemptId, SelectionDigest, StateDigest, StepKey, StepResult, WorkerId};

/// Names the very results that a step was made from; a key alone does not say which execution is meant.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The state below the step; none where the step has no parent (`COPY --link`, a base image).
    pub parent: Option<StateDigest>,
    /// For each input stage or image of the step, in the order of the operation: the state that was read.
    pub inputs: Vec<StateDigest>,
    /// For each input, what the step saw of it.
    pub selections: Vec<SelectionDigest>,
}

/// One named part of a key, kept so that two keys can be compared and a miss explained.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// What the part is, such as `arg VERSION` or `file src/main.c`.
    pub name: String,
    /// Its value, or the digest of a value that is long.
    pub value: String,
}

/// The immutable result of a step, stored under its keys.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The key in recipe form.
    pub recipe: StepKey,
    /// The key in result form, where it is known.
    pub outcome: Option<StepKey>,
    /// The execution that made it.
    pub attempt: AttemptId,
    /// The worker that made it.
    pub worker: WorkerId,
    /// What it made.
    pub result: StepResult,
    /// What it was made from.
    pub lineage: Lineage,
    /// What the recipe key was made of.
    pub components: Vec<Component>,
    /// How long the step took, in milliseconds.
    pub took_ms: u64,
}

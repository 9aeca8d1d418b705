//! The plan of a build: its steps in an order in which each stands behind what it waits for, and the image they make.

use std::collections::BTreeSet;

use dcbuild_dockerfile::ParseError;
use dcbuild_model::{Component, Fault, ManifestDigest, Platform, StageIndex, StepIndex, StepKey};
use serde::{Deserialize, Serialize};

use crate::lint::Finding;
use crate::op::{Input, Op};
use crate::request::Request;
use crate::sources::{Need, Sources, Unresolved};
use crate::stage;

/// One step of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The stage that it belongs to.
    pub stage: StageIndex,
    /// What people read, such as `[build 2/5] RUN make`.
    pub name: String,
    /// The lines of the Dockerfile, first and last, from 1.
    pub lines: (u32, u32),
    /// The platform that it runs for.
    pub platform: Platform,
    /// The step whose state it builds upon; none upon an empty tree.
    pub parent: Option<StepIndex>,
    /// The trees that it reads besides, in the order in which the operation counts them.
    pub inputs: Vec<Input>,
    /// What it does.
    pub op: Op,
    /// Its key in recipe form.
    pub recipe: StepKey,
    /// What that key was made of.
    pub components: Vec<Component>,
    /// Whether it takes no record from before the build.
    pub fresh: bool,
}

/// A stage that the target needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStage {
    /// Its place in the Dockerfile; beyond the last for images that `--from` names, and behind all those for further
    /// platforms.
    pub index: StageIndex,
    /// Its name, or `stage-N`.
    pub name: String,
    /// Its base, as resolved.
    pub base: String,
    /// The platform that its steps run for.
    pub platform: Platform,
    /// Its state when it is done; none if it is empty.
    pub state: Option<StepIndex>,
}

/// A line of an image's history that this build adds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryLine {
    /// The instruction, as BuildKit writes it.
    pub created_by: String,
    /// The step that made a layer; none for a change of the config alone.
    pub step: Option<StepIndex>,
}

/// The image that the target makes, but for what only the result knows: layers and times.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTemplate {
    /// The config as JSON: platform, author, how containers run, the base's history; no layers, no time.
    pub config: String,
    /// The lines that this build adds.
    pub history: Vec<HistoryLine>,
    /// `SOURCE_DATE_EPOCH`, in seconds.
    pub epoch: Option<i64>,
    /// The platform that it is for.
    pub platform: Platform,
}

/// What the target comes to for one platform.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedImage {
    /// The state of the target; none if it is empty.
    pub state: Option<StepIndex>,
    /// The image that it makes.
    pub template: ImageTemplate,
    /// The images that it was made of or reads, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<BaseImage>,
    /// The step that lists what it holds, where that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<StepIndex>,
}

/// An image that a build reads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseImage {
    /// Its canonical name, as it was asked for; of a layout the name of its context.
    pub name: String,
    /// The digest that stood behind the name.
    pub digest: ManifestDigest,
    /// The platform that was taken; none where that says nothing of the result.
    pub platform: Option<Platform>,
    /// Whether it came from a layout of the client.
    pub layout: bool,
}

/// A plan.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The stages that the target needs, in the order of the Dockerfile; those of further platforms follow, unless they
    /// come to the same.
    pub stages: Vec<PlannedStage>,
    /// The steps, each once whoever needs it; each stands behind those that it waits for.
    pub steps: Vec<Step>,
    /// What the target comes to, for each platform in the order of the request.
    pub images: Vec<PlannedImage>,
    /// Whether the images are put together in an index.
    pub index: bool,
    /// What is questionable in the Dockerfile.
    pub findings: Vec<Finding>,
    /// What else the author should know.
    pub notes: Vec<String>,
}

/// What is planned for one platform.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) stages: Vec<PlannedStage>,
    pub(crate) image: PlannedImage,
    pub(crate) notes: Vec<String>,
}

/// What planning comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Planned {
    /// The plan.
    Ready(Box<Plan>),
    /// The sources that are still lacking; call again when they are there.
    Lacks(Vec<Need>),
}

/// Says why a Dockerfile could not be planned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// It does not parse.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// An instruction cannot be carried out.
    #[error("{message}")]
    Instruction {
        /// What is wrong.
        message: String,
        /// The lines of the Dockerfile, first and last, from 1.
        lines: (u32, u32),
        /// What to do about it.
        hint: Option<String>,
    },
    /// Something that it names could not be had, for want of whoever has it: another try may do.
    #[error("{message}")]
    Unreachable {
        /// What is wrong.
        message: String,
        /// The lines of the Dockerfile, first and last, from 1.
        lines: (u32, u32),
        /// What to do about it.
        hint: Option<String>,
    },
    /// The request itself is wrong: a target or a context that is not there.
    #[error("{message}")]
    Request {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

impl PlanError {
    /// The lines of the Dockerfile that the error is about.
    pub fn lines(&self) -> Option<(u32, u32)> {
        match self {
            PlanError::Parse(error) => error.span.map(|span| (span.start_line, span.end_line)),
            PlanError::Instruction { lines, .. } | PlanError::Unreachable { lines, .. } => {
                Some(*lines)
            }
            PlanError::Request { .. } => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            PlanError::Parse(error) => error.hint(),
            PlanError::Instruction { hint, .. }
            | PlanError::Unreachable { hint, .. }
            | PlanError::Request { hint, .. } => hint.clone(),
        }
    }

    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            PlanError::Unreachable { .. } => Fault::Cluster,
            PlanError::Parse(_) | PlanError::Instruction { .. } | PlanError::Request { .. } => {
                Fault::Request
            }
        }
    }

    /// What is said of an instruction that names something which was not found.
    pub(crate) fn unresolved(lines: (u32, u32), message: String, found: &Unresolved) -> PlanError {
        let hint = found.hint.clone();
        match found.fault {
            Fault::Cluster => PlanError::Unreachable { message, lines, hint },
            Fault::Request | Fault::Step | Fault::Bug => {
                PlanError::Instruction { message, lines, hint }
            }
        }
    }

    pub(crate) fn at(lines: (u32, u32), message: impl Into<String>) -> PlanError {
        PlanError::Instruction { message: message.into(), lines, hint: None }
    }

    /// Findings that the Dockerfile calls errors.
    pub(crate) fn violation(message: String) -> PlanError {
        let hint = "--check shows each of them; # check=skip=RULE leaves one out";
        PlanError::Request { message, hint: Some(hint.into()) }
    }

    pub(crate) fn request(message: impl Into<String>) -> PlanError {
        PlanError::Request { message: message.into(), hint: None }
    }
}

/// Plans a build, or says which sources it still lacks.
pub fn plan(request: &Request, sources: &Sources) -> Result<Planned, PlanError> {
    stage::plan(request, sources)
}

impl Plan {
    /// Adds what was planned for a platform.
    pub(crate) fn add(&mut self, part: Part) {
        let Part { stages, image, notes } = part;
        self.stages.extend(stages);
        self.images.push(image);
        let new: Vec<String> =
            notes.into_iter().filter(|note| !self.notes.contains(note)).collect();
        self.notes.extend(new);
    }

    /// The states of the target, those that are not empty, each once.
    pub fn states(&self) -> Vec<StepIndex> {
        let states: BTreeSet<StepIndex> =
            self.images.iter().filter_map(|image| image.state).collect();
        states.into_iter().collect()
    }

    /// The states of the target, and what is made to say of them what they hold; each once.
    pub fn wanted(&self) -> Vec<StepIndex> {
        let wanted: BTreeSet<StepIndex> = self
            .images
            .iter()
            .flat_map(|image| image.state.into_iter().chain(image.sbom))
            .collect();
        wanted.into_iter().collect()
    }

    /// The steps that some steps need, themselves included.
    pub fn needed(&self, by: impl IntoIterator<Item = StepIndex>) -> BTreeSet<StepIndex> {
        let mut open: Vec<StepIndex> = by.into_iter().collect();
        let mut needed = BTreeSet::new();
        while let Some(at) = open.pop() {
            if needed.insert(at) {
                let step = self.step(at);
                open.extend(step.parent);
                open.extend(step.inputs.iter().filter_map(Input::step));
            }
        }
        needed
    }

    /// The step at an index of this plan.
    pub fn step(&self, index: StepIndex) -> &Step {
        &self.steps[index.index()]
    }

    /// The steps of a state, from the lowest to the one named.
    pub fn chain(&self, state: Option<StepIndex>) -> Vec<StepIndex> {
        let mut chain = Vec::new();
        let mut at = state;
        while let Some(step) = at {
            chain.push(step);
            at = self.step(step).parent;
        }
        chain.reverse();
        chain
    }
}

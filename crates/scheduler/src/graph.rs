//! A build as the scheduler sees it: steps, what they wait for, and what is wanted of them.

use dcbuild_model::{BlobDigest, Digest, Platform, StageIndex, StateDigest, StepIndex, StepKey};

/// What a finished step made, as far as the scheduler cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// The state of the stage after the step; two executions made the same if these are equal.
    pub state: StateDigest,
    /// The stored record of the result.
    pub record: BlobDigest,
}

/// Who else may take the result of a running step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// Every build that may read the scope.
    Anyone,
    /// Builds that bring the same secret values: equal HMACs.
    SameValues(Digest),
    /// Nobody.
    Nobody,
}

/// What a step can see while it runs; decides whether its failure is another build's failure too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sees {
    /// Nothing but what its key covers.
    KeyOnly,
    /// A network, a secret, a cache mount or another thing that its key does not cover.
    More,
}

/// Where a step does its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepKind {
    /// On trees: needs no mounted snapshot.
    Files,
    /// In a container over its parent's snapshot.
    Run,
}

/// Whether a step may take what was made before its build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// It may.
    Any,
    /// It joins no attempt begun before the build and takes no record from before it.
    Fresh,
}

/// Names a cache mount, scope included; attempts that share it run best where it lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CacheMount(pub Digest);

/// What a job asks of a worker besides a slot; zero asks nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Requests {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Thousandths of a processor.
    pub cpu_millis: u64,
}

impl Requests {
    /// Returns the larger of both in each respect.
    #[must_use]
    pub fn max(self, other: Requests) -> Requests {
        Requests {
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            cpu_millis: self.cpu_millis.max(other.cpu_millis),
        }
    }
}

/// One step of a build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepNode {
    /// The stage that it belongs to.
    pub stage: StageIndex,
    /// Its recipe key.
    pub key: StepKey,
    /// The step whose state it builds upon; none upon an empty tree.
    pub parent: Option<StepIndex>,
    /// The steps whose results it reads besides.
    pub inputs: Vec<StepIndex>,
    /// Those of them of which it reads a part only: little is brought for them.
    pub parts: Vec<StepIndex>,
    /// The platform that it runs for.
    pub platform: Platform,
    /// Where it works.
    pub kind: StepKind,
    /// Who may share it.
    pub share: Share,
    /// What it sees.
    pub sees: Sees,
    /// Whether it may take what was there before.
    pub freshness: Freshness,
    /// Its cache mounts.
    pub caches: Vec<CacheMount>,
    /// Those of them that one step of the cluster has at a time.
    pub locked: Vec<CacheMount>,
    /// What it asks of a worker.
    pub requests: Requests,
    /// The record that was taken for it before the build was submitted.
    pub taken: Option<Made>,
}

/// An output, by its place in the build's request, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OutputIndex(pub u32);

impl OutputIndex {
    /// The output's place as an index into the graph's outputs.
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("usize has 32 bits or more")
    }
}

/// One job that runs when its steps are done: assemble and push, or export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutputNode {
    /// The steps that it needs.
    pub needs: Vec<StepIndex>,
    /// The platform of a worker that can do it; none for any worker.
    pub platform: Option<Platform>,
    /// What it asks of a worker.
    pub requests: Requests,
}

/// The compact graph of a build.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Graph {
    /// The steps; each stands behind those that it waits for.
    pub steps: Vec<StepNode>,
    /// Steps that are wanted for their own sake (`--check`-like targets without an output, cache warming).
    pub wanted: Vec<StepIndex>,
    /// The outputs.
    pub outputs: Vec<OutputNode>,
}

/// Says why a graph is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidGraph {
    /// A step waits for itself or for one behind it.
    #[error("step {} waits for step {}, which does not stand before it", step.0, on.0)]
    Order {
        /// The step.
        step: StepIndex,
        /// What it waits for.
        on: StepIndex,
    },
    /// An output needs, or the request wants, a step that is not there.
    #[error("step {} is wanted but not in the graph", .0.0)]
    Unknown(StepIndex),
    /// More steps than a build may have.
    #[error("{steps} steps and outputs are more than {max}")]
    TooMany {
        /// How many.
        steps: usize,
        /// The limit.
        max: usize,
    },
}

impl StepNode {
    /// The steps that it waits for, the parent first.
    pub fn needs(&self) -> impl Iterator<Item = StepIndex> + '_ {
        self.parent.into_iter().chain(self.inputs.iter().copied())
    }
}

impl Graph {
    /// Checks that all indices hold and that no step waits for one behind it.
    pub fn check(&self) -> Result<(), InvalidGraph> {
        let steps = self.steps.len().saturating_add(self.outputs.len());
        let max = dcbuild_model::limits::INSTRUCTIONS_MAX;
        if steps > max {
            return Err(InvalidGraph::TooMany { steps, max });
        }
        for (step, node) in self.numbered() {
            if let Some(on) = node.needs().find(|on| *on >= step) {
                return Err(InvalidGraph::Order { step, on });
            }
        }
        let needs = self.outputs.iter().flat_map(|output| &output.needs);
        match self.wanted.iter().chain(needs).find(|step| step.index() >= self.steps.len()) {
            Some(step) => Err(InvalidGraph::Unknown(*step)),
            None => Ok(()),
        }
    }

    /// The steps with their indices.
    pub fn numbered(&self) -> impl Iterator<Item = (StepIndex, &StepNode)> {
        (0..).map(StepIndex).zip(&self.steps)
    }
}

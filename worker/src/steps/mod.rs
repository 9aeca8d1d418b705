//! What steps do, one file for each operation, and the trees that they read.

mod agent;
pub(crate) mod cache;
pub(crate) mod copy;
mod endings;
pub(crate) mod image;
pub(crate) mod mounts;
pub(crate) mod run;
pub(crate) mod workdir;

use std::collections::HashMap;
use std::sync::Arc;

use dcbuild_model::{LayerRef, SelectionDigest, StateDigest, StepIndex};
use dcbuild_plan::key::Seen;
use dcbuild_plan::op::{Input, InputSource};
use dcbuild_plan::plan::Step;
use dcbuild_proto::document::{Chain, ContextPlace, LeasedContext, StepErrorKind};
use dcbuild_tree::{Accounts, Changes, TimeForm, Tree, resolve_owner, toc};

use crate::attempt::{Attempt, Task, state_of};
use crate::contexts::ContextTree;
use crate::error::{Failed, blocking};
use crate::layers::{self, Layers, Recipe};
use crate::parcel;
use crate::publish::{Publish, find_sources};
use crate::spool::Sources;

/// What a step made.
pub(crate) struct Made {
    pub(crate) layers: Vec<LayerRef>,
    pub(crate) publish: Publish,
    /// What went wrong that did not fail the step; its result is then not kept for later builds.
    pub(crate) taint: Option<String>,
}

/// Where an input's bytes lie.
pub(crate) enum Place {
    /// Nowhere: it is empty.
    Nowhere,
    /// In the layers of a step's state.
    Chain(Chain),
    /// In a folder of the client, or in packs that it sent.
    Folder(ContextTree),
}

/// One input: what it looks like and where its bytes are.
pub(crate) struct Seeing {
    pub(crate) tree: Arc<Tree>,
    pub(crate) place: Place,
    seen: Seen,
}

/// All inputs of a step, in its order.
pub(crate) struct Inputs(pub(crate) Vec<Seeing>);

impl Inputs {
    /// Loads the trees of a step's inputs; blocks.
    pub(crate) fn load(
        attempt: &Attempt,
        step: &Step,
        states: &HashMap<StepIndex, Chain>,
        contexts: &[LeasedContext],
    ) -> Result<Inputs, Failed> {
        let load = |input: &Input| match &input.source {
            InputSource::Scratch {} => Ok(Seeing {
                tree: Arc::new(Tree::scratch()),
                place: Place::Nowhere,
                seen: Seen::Nothing,
            }),
            InputSource::Step { step } => {
                let chain = states.get(step).cloned().ok_or_else(|| {
                    Failed::internal(format!("the lease lacks the state of step {}", step.0))
                })?;
                let tree = attempt.shared.layers.tree(&chain)?;
                let seen = dcbuild_tree::select(&tree, &input.selection)
                    .map_err(|error| Failed::refused(&error))?;
                let (tree, place) = (Arc::new(tree), Place::Chain(chain));
                Ok(Seeing { tree, place, seen: Seen::Content(seen) })
            }
            InputSource::Context { name, digest } => {
                let (tree, place) = open_context(attempt, input, name, contexts)?;
                Ok(Seeing { tree, place, seen: Seen::Content(*digest) })
            }
        };
        step.inputs.iter().map(load).collect::<Result<_, _>>().map(Inputs)
    }

    /// What the step sees of each input, for its key.
    pub(crate) fn seen<'s>(&self, step: &'s Step) -> Vec<(&'s Input, Seen)> {
        step.inputs.iter().zip(&self.0).map(|(input, seeing)| (input, seeing.seen)).collect()
    }

    /// The states of the inputs that are steps.
    pub(crate) fn states(&self) -> Vec<StateDigest> {
        let state = |seeing: &Seeing| match &seeing.place {
            Place::Chain(chain) => Some(state_of(chain)),
            Place::Nowhere | Place::Folder(_) => None,
        };
        self.0.iter().filter_map(state).collect()
    }

    /// What is seen of the inputs that have something to see.
    pub(crate) fn selections(&self) -> Vec<SelectionDigest> {
        let selection = |seeing: &Seeing| match seeing.seen {
            Seen::Content(digest) => Some(digest),
            Seen::Nothing | Seen::Recipe(_) => None,
        };
        self.0.iter().filter_map(selection).collect()
    }

    pub(crate) fn get(&self, place: usize) -> Result<&Seeing, Failed> {
        let lacks = || Failed::internal(format!("the step has no input {place}"));
        self.0.get(place).ok_or_else(lacks)
    }
}

fn open_context(
    attempt: &Attempt,
    input: &Input,
    name: &str,
    contexts: &[LeasedContext],
) -> Result<(Arc<Tree>, Place), Failed> {
    let leased = contexts
        .iter()
        .find(|leased| leased.name == name && leased.selection == input.selection)
        .ok_or_else(|| Failed::internal(format!("the lease lacks the context '{name}'")))?;
    let opened = match leased.place {
        ContextPlace::InPlace {} => {
            let contexts = &attempt.shared.parts.contexts;
            let opened = contexts.open(attempt.build, name, &input.selection);
            opened.map_err(|error| Failed::refused(&error))?
        }
        ContextPlace::Packed { parcel } => {
            let opened = parcel::open(&attempt.shared.layers, &parcel, attempt.shared.tmp());
            let opened = opened.map_err(|error| match error {
                Failed::Lost { .. } => Failed::ContextLost,
                error => error,
            })?;
            let seen = dcbuild_tree::select(&opened.tree, &input.selection).ok();
            if !matches!(&input.source, InputSource::Context { digest, .. } if seen == Some(*digest))
            {
                let message =
                    format!("context changed during the build: '{name}' is not what was planned");
                return Err(Failed::new(StepErrorKind::ContextChanged {}, message));
            }
            opened
        }
    };
    Ok((opened.tree.clone(), Place::Folder(opened)))
}

/// Keeps a layer that was computed on trees: its table in the store, its bytes as a recipe.
pub(crate) async fn keep_recipe(
    layers: &Arc<Layers>,
    changes: Changes,
    sources: Sources,
) -> Result<Made, Failed> {
    let table = toc::encode(&changes);
    let layer = toc::layer_id(&table);
    let made = layers::layer_ref(layer, &changes, TimeForm::Ignored);
    layers.put_table(layer, table).await?;
    let recipe = Recipe::new(layer, changes, Arc::new(sources));
    let doubted = recipe.reads.iter().any(|read| layers.is_doubted(read));
    layers.add_recipe(layer, recipe);
    if doubted {
        // Others would believe that the layer is there.
        let layers = layers.clone();
        blocking(move || find_sources(&layers, layer)).await?;
    }
    Ok(Made { layers: vec![made], publish: Publish::Recipe(layer), taint: None })
}

/// The numbers of an owner, looked up in the state below; blocks.
pub(crate) fn owner(
    layers: &Arc<Layers>,
    task: &Task,
    tree: &Tree,
    spec: &str,
    alone: bool,
) -> Result<(u32, u32), Failed> {
    use dcbuild_model::limits::PASSWD_BYTES_MAX;
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    let needs_files = !(numeric(user) && (group.is_empty() || numeric(group)));
    let resolved = if alone {
        resolve_owner(spec, Accounts::Linked)
    } else if task.below.is_empty() || !needs_files {
        resolve_owner(spec, Accounts::Scratch)
    } else {
        let passwd = layers.read_file(tree, "etc/passwd", PASSWD_BYTES_MAX)?;
        let group = layers.read_file(tree, "etc/group", PASSWD_BYTES_MAX)?;
        let (passwd, group) = (passwd.as_deref(), group.as_deref());
        resolve_owner(spec, Accounts::Files { passwd, group })
    };
    resolved.map_err(|error| Failed::refused(&error))
}

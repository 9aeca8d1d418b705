//! How the key of a step differs from the key of an earlier one.

use dcbuild_model::StepIndex;
use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{Account, AccountInput, AccountStep, StepEnd};

/// One difference between two keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "what")]
pub enum Change {
    /// The instruction itself is another.
    Instruction {
        /// As it was.
        before: String,
        /// As it is.
        after: String,
    },
    /// A variable that the step sees.
    Variable {
        /// Its name.
        name: String,
        /// Whether it was given with `--build-arg`.
        given: bool,
        /// What it was; none if there was none.
        before: Option<String>,
        /// What it is; none if there is none any more.
        after: Option<String>,
    },
    /// The base image is another.
    Base {
        /// As the Dockerfile names it now.
        name: String,
        /// What was taken before.
        before: String,
        /// What is taken now.
        after: String,
    },
    /// Files that the step reads.
    Files {
        /// Whence they are read, such as `context src`.
        input: String,
        /// Those that differ, as they lie in the image; none where nobody could tell which.
        files: Vec<FileChange>,
        /// How many more there are.
        more: u64,
    },
    /// It stands on another state: the step that made that is named.
    Parent {
        /// The step, from 1.
        step: u32,
        /// Its name.
        name: String,
    },
    /// It reads of a stage or image what another step has made.
    Stage {
        /// What is read, such as `stage /out`.
        input: String,
        /// The step, from 1.
        step: u32,
        /// Its name.
        name: String,
    },
    /// Another part of the key, in the words of the flag that it comes from.
    Part {
        /// Its name.
        name: String,
        /// What it was; none if there was none.
        before: Option<String>,
        /// What it is; none if there is none any more.
        after: Option<String>,
    },
}

/// A file that differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileChange {
    /// Its path in the image.
    pub path: String,
    /// How, such as `content`, `new` or `mode 0644, now 0755`.
    pub how: String,
}

/// What the components of a key are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum About<'a> {
    Variable(&'a str),
    Input(usize),
    Layers,
    Parent,
    /// What the Dockerfile's own words decide.
    Instruction,
    Other,
}

fn about(name: &str) -> About<'_> {
    if let Some(variable) = name.strip_prefix("env ") {
        return About::Variable(variable);
    }
    if let Some(rest) = name.strip_prefix("input ")
        && let Some((place, _)) = rest.split_once(": ")
        && let Ok(place) = place.parse()
    {
        return About::Input(place);
    }
    let word = name.split(' ').next().unwrap_or_default();
    match word {
        "parent" => About::Parent,
        "layers" => About::Layers,
        "command" | "script" | "inline" | "mount" | "sources" | "destination" | "chown"
        | "chmod" | "exclude" | "parents" | "link" | "unpack" | "path" => About::Instruction,
        _ => About::Other,
    }
}

/// Whether two steps are one instruction, whatever it stands on, reads, and finds in its environment.
pub(crate) fn is_same_instruction(one: &AccountStep, other: &AccountStep) -> bool {
    let words = |step: &AccountStep| -> Vec<(String, String)> {
        let own = step.components.iter().filter(|it| about(&it.name) == About::Instruction);
        own.map(|it| (it.name.clone(), it.value.clone())).collect()
    };
    let image = |step: &AccountStep| step.image.as_ref().map(|image| image.name.clone());
    words(one) == words(other) && image(one) == image(other)
}

/// In how many components two keys differ.
pub(crate) fn distance(one: &AccountStep, other: &AccountStep) -> usize {
    let lacks = |here: &AccountStep, there: &AccountStep| {
        here.components.iter().filter(|it| there.component(&it.name) != Some(&it.value)).count()
    };
    lacks(one, other).max(lacks(other, one))
}

/// All differences between the key of a step and that of an earlier one, those that a person can act on first.
pub(crate) fn changes(account: &Account, now: &AccountStep, before: &AccountStep) -> Vec<Change> {
    let mut names: Vec<&str> = now.components.iter().map(|it| it.name.as_str()).collect();
    let old = before.components.iter().map(|it| it.name.as_str());
    let gone: Vec<&str> = old.filter(|name| now.component(name).is_none()).collect();
    names.extend(gone);
    let mut changes = Vec::new();
    for name in names {
        let (then, value) = (before.component(name), now.component(name));
        if then == value {
            continue;
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let change = match about(name) {
            About::Variable(variable) => Change::Variable {
                name: variable.to_owned(),
                given: account.arguments.contains(variable),
                before: owned(then),
                after: owned(value),
            },
            // An input that came or went, or is read otherwise, is the instruction's doing.
            About::Input(_) if then.is_none() || value.is_none() => continue,
            About::Input(place) => input(account, now, (name, place)),
            About::Layers => base(now, before),
            About::Parent => parent(account, now, (name, then, value)),
            About::Instruction if now.instruction() != before.instruction() => {
                Change::Instruction {
                    before: before.instruction().to_owned(),
                    after: now.instruction().to_owned(),
                }
            }
            About::Instruction | About::Other => part(name, then, value),
        };
        if !changes.contains(&change) {
            changes.push(change);
        }
    }
    // What an image holds is in its key, and not in what is told of that.
    let manifest = |step: &AccountStep| step.image.as_ref().map(|image| image.manifest);
    let images = (manifest(now), manifest(before));
    if let (Some(now_is), Some(was)) = images
        && now_is != was
        && !changes.iter().any(|it| matches!(it, Change::Base { .. }))
    {
        changes.push(base(now, before));
    }
    if changes.is_empty() && now.components != before.components {
        changes.push(order(now, before));
    }
    changes.sort_by_key(weight);
    // A step that came to the same result is no cause, where there is another.
    let is_cause = |change: &Change| match change {
        Change::Parent { step, .. } | Change::Stage { step, .. } => {
            let at = usize::try_from(step.saturating_sub(1)).unwrap_or(usize::MAX);
            account.steps.get(at).is_none_or(|step| step.end != StepEnd::HitByResult {})
        }
        Change::Instruction { .. }
        | Change::Variable { .. }
        | Change::Base { .. }
        | Change::Files { .. }
        | Change::Part { .. } => true,
    };
    if changes.iter().any(is_cause) {
        changes.retain(is_cause);
    }
    changes
}

/// What differs where each part of the key is there as it was, and stands elsewhere.
fn order(now: &AccountStep, before: &AccountStep) -> Change {
    if now.instruction() != before.instruction() {
        let (before, after) = (before.instruction().to_owned(), now.instruction().to_owned());
        return Change::Instruction { before, after };
    }
    let variables = |step: &AccountStep| {
        let names = step.components.iter().filter_map(|it| it.name.strip_prefix("env "));
        Some(names.collect::<Vec<_>>().join(", "))
    };
    let name = "the order of the variables".to_owned();
    Change::Part { name, before: variables(before), after: variables(now) }
}

/// What differs where the earlier step is another platform's: the base and all that stands on it is another for that alone.
pub(crate) fn changes_across_platforms(
    account: &Account,
    now: &AccountStep,
    before: &AccountStep,
) -> Vec<Change> {
    let mut changes = changes(account, now, before);
    changes.retain(|change| {
        !matches!(change, Change::Base { .. } | Change::Parent { .. } | Change::Stage { .. })
    });
    changes
        .sort_by_key(|change| !matches!(change, Change::Part { name, .. } if name == "platform"));
    changes
}

/// What others made stands behind what was written or given.
fn weight(change: &Change) -> u8 {
    match change {
        Change::Instruction { .. } => 0,
        Change::Base { .. } => 1,
        Change::Variable { .. } => 2,
        Change::Files { .. } => 3,
        Change::Part { .. } => 4,
        Change::Stage { .. } => 5,
        Change::Parent { .. } => 6,
    }
}

/// The step that made a state another: what was linked upon it and is as it was has no part in that.
fn made_another(account: &Account, mut step: StepIndex) -> StepIndex {
    while let Some(linked) = account.steps.get(step.index())
        && linked.component("link") == Some("true")
        && matches!(linked.end, StepEnd::Hit {} | StepEnd::HitByResult {})
        && let Some(below) = linked.parent
    {
        step = below;
    }
    step
}

fn numbered(account: &Account, step: StepIndex) -> (u32, String) {
    let name = account.steps.get(step.index()).map_or("a step", |step| step.name.as_str());
    (step.0.saturating_add(1), name.to_owned())
}

fn input(account: &Account, now: &AccountStep, (name, place): (&str, usize)) -> Change {
    let input = name.split_once(": ").map_or(name, |it| it.1).to_owned();
    match now.inputs.get(place) {
        Some(AccountInput::Step { step }) => {
            let (step, name) = numbered(account, made_another(account, *step));
            Change::Stage { input, step, name }
        }
        Some(AccountInput::Context { .. } | AccountInput::Scratch {}) | None => {
            Change::Files { input, files: Vec::new(), more: 0 }
        }
    }
}

fn base(now: &AccountStep, before: &AccountStep) -> Change {
    // The digest stands beside the name, which may have it too.
    let of = |step: &AccountStep| {
        let image = step.image.as_ref();
        let bare = |name: &str| name.split('@').next().unwrap_or_default().to_owned();
        image.map(|it| (bare(&it.name), it.manifest.to_string())).unwrap_or_default()
    };
    let ((name, after), (former, was)) = (of(now), of(before));
    // Another tag is as telling as another digest.
    let before = if former == name { was } else { format!("{was}, {former}") };
    Change::Base { name, before, after }
}

fn parent(
    account: &Account,
    now: &AccountStep,
    (name, before, after): (&str, Option<&str>, Option<&str>),
) -> Change {
    if let Some(parent) = now.parent {
        let (step, name) = numbered(account, made_another(account, parent));
        return Change::Parent { step, name };
    }
    part(name, before, after)
}

fn part(name: &str, before: Option<&str>, after: Option<&str>) -> Change {
    let told = |value: Option<&str>| value.and_then(|value| words(name, value));
    Change::Part { name: name.to_owned(), before: told(before), after: told(after) }
}

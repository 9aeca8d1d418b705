//! The nearest earlier step: the one that a miss is best compared with.

use crate::change::{distance, is_same_instruction};
use crate::{Account, AccountStep};

/// Which earlier steps are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Platforms {
    /// Those of the same platform.
    Same,
    /// Those of others.
    Others,
}

/// Finds the earlier step, with a result, whose key differs least; of two that are as near, the later one.
///
/// A step of the same stage of the same project comes first. Of another project only the very same instruction counts, and
/// an instruction that this build still has elsewhere in the stage is not taken for an older form of this one.
pub(crate) fn nearest<'a>(
    account: &Account,
    step: &AccountStep,
    earlier: &'a [Account],
    platforms: Platforms,
) -> Option<(&'a Account, &'a AccountStep)> {
    let place = place_of(account, step);
    let is_elsewhere = |other: &AccountStep| {
        let others = account.steps.iter().filter(|it| it.stage == step.stage && *it != step);
        others.clone().any(|it| is_same_instruction(it, other))
    };
    let mut best: Option<(_, &Account, &AccountStep)> = None;
    for (age, before) in earlier.iter().enumerate() {
        if before.build == account.build {
            continue;
        }
        let foreign = before.project() != account.project();
        for other in &before.steps {
            let alike = is_same_instruction(step, other);
            let comparable = other.end.has_result()
                && other.stage == step.stage
                && other.component("operation") == step.component("operation")
                && (other.component("platform") == step.component("platform"))
                    == (platforms == Platforms::Same);
            if !comparable || (!alike && (foreign || is_elsewhere(other))) {
                continue;
            }
            let moved = place.abs_diff(place_of(before, other));
            let rank = (foreign, !alike, distance(step, other), moved, age);
            if best.as_ref().is_none_or(|(known, ..)| rank < *known) {
                best = Some((rank, before, other));
            }
        }
    }
    best.map(|(_, account, step)| (account, step))
}

/// The place of a step among those of its stage.
fn place_of(account: &Account, step: &AccountStep) -> usize {
    account.steps.iter().filter(|it| it.stage == step.stage).position(|it| it == step).unwrap_or(0)
}

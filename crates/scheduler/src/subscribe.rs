//! Sharing: a step that already runs somewhere, or whose result a running build has, does not run again.

use dcbuild_model::{BuildId, Scope, StateDigest, StepIndex};

use crate::action::{Action, How};
use crate::build::{Build, Source, StepState};
use crate::graph::{Freshness, Made, Share, StepNode};
use crate::job::Job;
use crate::result::ResultId;
use crate::state::{At, Scheduler};

/// Something that a step can share.
pub(crate) enum Shared {
    /// A result that is there.
    Result(ResultId, Made),
    /// A step that is queued or runs.
    Step(At),
}

/// What is shared, as its owner gives it.
struct Offer<'a> {
    scope: &'a Scope,
    share: Share,
    /// When its attempt began; none if it is still queued.
    begun: Option<u64>,
}

fn may_take(build: &Build, node: &StepNode, offer: &Offer<'_>) -> bool {
    let own = build.scope.as_str();
    let reads = own
        .strip_prefix(offer.scope.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let shares = match (node.share, offer.share) {
        (Share::Anyone, Share::Anyone) => true,
        (Share::SameValues(mine), Share::SameValues(theirs)) => mine == theirs,
        (Share::Nobody | Share::Anyone | Share::SameValues(_), _) => false,
    };
    let fresh = match node.freshness {
        Freshness::Any => true,
        Freshness::Fresh => offer.begun.is_none_or(|begun| begun > build.submitted),
    };
    reads && shares && fresh
}

impl Scheduler {
    /// Finds what an idle step can share; what it builds upon must be what the other builds upon.
    pub(crate) fn find_shared(&self, at: At) -> Option<Shared> {
        let build = self.builds.get(&at.0)?;
        let node = build.graph.steps.get(at.1.index())?;
        if let Some(lineage) = build.lineage(at.1) {
            let ids = self.results_by_key.get(&node.key).into_iter().flatten();
            for id in ids {
                let Some(pooled) = self.results.get(id) else { continue };
                let begun = Some(pooled.begun);
                let offer = Offer { scope: &pooled.scope, share: pooled.share, begun };
                if pooled.lineage == lineage && may_take(build, node, &offer) {
                    return Some(Shared::Result(*id, pooled.made));
                }
            }
        }
        let others = self.in_flight.get(&node.key).into_iter().flatten();
        others
            .copied()
            .find(|other| *other != at && self.may_join(build, at, *other))
            .map(Shared::Step)
    }

    fn may_join(&self, build: &Build, at: At, other: At) -> bool {
        let (Some(node), Some(owner)) =
            (build.graph.steps.get(at.1.index()), self.builds.get(&other.0))
        else {
            return false;
        };
        let Some(theirs) = owner.graph.steps.get(other.1.index()) else { return false };
        let Some(StepState::InJob(job)) = self.step(other).map(|step| step.state) else {
            return false;
        };
        let begun = self.jobs.get(&job).and_then(Job::tenure).map(|tenure| tenure.begun);
        let offer = Offer { scope: &owner.scope, share: theirs.share, begun };
        let same_count = node.needs().count() == theirs.needs().count();
        let same = |(mine, theirs): (StepIndex, StepIndex)| {
            let (mine, theirs) = ((at.0, mine), (other.0, theirs));
            let joined = self.step(mine).map(|step| step.state);
            mine == theirs
                || joined == Some(StepState::Subscribed(theirs))
                || (joined.is_some_and(|it| matches!(it, StepState::Done(_)))
                    && self.state_of(mine) == self.state_of(theirs))
        };
        may_take(build, node, &offer) && same_count && node.needs().zip(theirs.needs()).all(same)
    }

    /// The state that a step of a build made; for one whose result was withdrawn, the state that it had.
    pub fn state_of(&self, at: (BuildId, StepIndex)) -> Option<StateDigest> {
        let step = self.step(at)?;
        match step.state {
            StepState::Done(source) => Some(source.made().state),
            StepState::Idle | StepState::InJob(_) | StepState::Subscribed(_) => step.former,
        }
    }

    /// Takes what was found for a step.
    pub(crate) fn take_shared(&mut self, at: At, shared: Shared) {
        let owner = match shared {
            Shared::Result(id, made) => {
                let how = How::Shared { attempt: id.0 };
                return self.finish(at, Source::Pool(id, made), how);
            }
            Shared::Step(owner) => owner,
        };
        if let Some(step) = self.step_mut(at) {
            step.state = StepState::Subscribed(owner);
        }
        let priority = self.builds.get(&at.0).map_or(0, |build| build.priority);
        let Some(step) = self.step_mut(owner) else { return };
        step.subscribers.push(at);
        if let StepState::InJob(job) = step.state {
            self.hasten(job, priority);
        }
        let (build, step) = at;
        let (owner, owner_step) = owner;
        self.act(Action::Subscribed { build, step, owner, owner_step });
    }

    /// A step shares no longer; the attempt goes on as far as others want it.
    pub(crate) fn unsubscribe(&mut self, at: At) {
        let Some(step) = self.step_mut(at) else { return };
        let StepState::Subscribed(owner) = step.state else { return };
        step.state = StepState::Idle;
        self.touch(at.0);
        let Some(step) = self.step_mut(owner) else { return };
        step.subscribers.retain(|subscriber| *subscriber != at);
        if let StepState::InJob(job) = step.state {
            self.trim(job);
        }
    }
}

//! A build's next move: what is needed and ready is shared or queued, and what is complete ends.

use dcbuild_model::{BuildId, JobId, StepIndex};

use crate::action::{Outcome, Stop};
use crate::build::{Build, OutputState, Source, StepState};
use crate::event::Work;
use crate::graph::{OutputIndex, StepNode};
use crate::state::Scheduler;

fn flag(flags: &[bool], step: StepIndex) -> bool {
    flags.get(step.index()).copied().unwrap_or(false)
}

impl Scheduler {
    /// Looks a build over after something in it changed.
    pub(crate) fn advance(&mut self, id: BuildId) {
        let Some(build) = self.builds.get(&id).filter(|build| build.runs()) else { return };
        let needed = build.needed();
        let mut solid = Vec::with_capacity(needed.len());
        for (step, needed_here) in (0..).map(StepIndex).zip(&needed) {
            match self.step((id, step)).map(|it| it.state) {
                Some(StepState::Idle) if *needed_here => self.start(id, step, &needed, &solid),
                Some(StepState::InJob(job)) => self.take_back(job, id, step, &solid),
                Some(StepState::Idle | StepState::Subscribed(_) | StepState::Done(_)) | None => {}
            }
            let build = self.builds.get(&id);
            solid.push(build.is_some_and(|build| build.is_solid(step, &solid)));
        }
        self.advance_outputs(id, &solid);
        self.end_if_complete(id, &solid);
    }

    fn start(&mut self, id: BuildId, step: StepIndex, needed: &[bool], solid: &[bool]) {
        if let Some(shared) = self.find_shared((id, step)) {
            return self.take_shared((id, step), shared);
        }
        let Some(build) = self.builds.get(&id) else { return };
        let Some(node) = build.graph.steps.get(step.index()) else { return };
        if node.needs().all(|on| flag(solid, on)) {
            let steps = self.within_reach(build, segment(build, step, needed, solid));
            self.add_job(id, Work::Steps(steps));
        }
    }

    /// Takes a job out of the queue if what one of its steps reads was lost meanwhile; its build is looked at again.
    fn take_back(&mut self, job_id: JobId, id: BuildId, step: StepIndex, solid: &[bool]) {
        let Some(job) = self.jobs.get(&job_id).filter(|job| job.tenure().is_none()) else { return };
        let node = self.builds.get(&id).and_then(|build| build.graph.steps.get(step.index()));
        let there = |on: StepIndex| flag(solid, on) || job.open().contains(&on);
        if node.is_some_and(|node| !node.needs().all(there)) {
            self.drop_job(job_id);
        }
    }

    fn advance_outputs(&mut self, id: BuildId, solid: &[bool]) {
        let Some(build) = self.builds.get(&id) else { return };
        let outputs = (0..).map(OutputIndex).zip(build.graph.outputs.iter().zip(&build.outputs));
        let mut ready = Vec::new();
        let mut stop = Vec::new();
        for (index, (node, output)) in outputs {
            let whole = node.needs.iter().all(|on| flag(solid, *on));
            match output.state {
                OutputState::Idle if whole => ready.push(index),
                // What it is made of may turn out to be another.
                OutputState::InJob(job) if !whole => stop.push(job),
                OutputState::Idle
                | OutputState::InJob(_)
                | OutputState::Done(_)
                | OutputState::Failed(_) => {}
            }
        }
        for job in stop {
            self.stop_job(job, Stop::InputChanged);
        }
        for output in ready {
            self.add_job(id, Work::Output(output));
        }
    }

    fn end_if_complete(&mut self, id: BuildId, solid: &[bool]) {
        let Some(build) = self.builds.get(&id) else { return };
        let over = build.outputs.iter().all(|it| it.state.is_over());
        if !over || !build.graph.wanted.iter().all(|step| flag(solid, *step)) {
            return;
        }
        let failed = build.outputs.iter().find_map(|it| match it.state {
            OutputState::Failed(failure) => Some(failure),
            OutputState::Idle | OutputState::InJob(_) | OutputState::Done(_) => None,
        });
        self.end_build(id, failed.map_or(Outcome::Done, Outcome::Failed));
    }
}

/// The run of steps that begins here and waits for nothing in its middle.
fn segment(build: &Build, first: StepIndex, needed: &[bool], solid: &[bool]) -> Vec<StepIndex> {
    let mut steps = vec![first];
    let Some(start) = build.graph.steps.get(first.index()) else { return steps };
    let mut last = first;
    for (step, node) in build.graph.numbered().skip(first.index() + 1) {
        if node.parent != Some(last) || node.stage != start.stage {
            continue;
        }
        let idle = build.steps.get(step.index()).is_some_and(|it| it.state == StepState::Idle);
        let fits = node.platform == start.platform;
        if !(idle && fits && flag(needed, step) && inputs_there(build, node, &steps, solid)) {
            break;
        }
        steps.push(step);
        last = step;
    }
    steps
}

/// Says whether a step's inputs are made, before the segment or in it.
fn inputs_there(build: &Build, node: &StepNode, steps: &[StepIndex], solid: &[bool]) -> bool {
    node.inputs.iter().all(|input| {
        // Steps behind the segment's first have no verdict yet; a record needs none.
        let record = || build.done(*input).is_some_and(|it| matches!(it, Source::Record(_)));
        let later = || record() && !build.lies_on_withdrawn(*input);
        steps.contains(input) || flag(solid, *input) || later()
    })
}

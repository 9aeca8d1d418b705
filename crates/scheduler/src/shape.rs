//! What a job asks of a worker, and where one is cut that no worker suits: what works on trees alone does not wait with a
//! RUN for a worker of another platform, and neither do other builds that share it.

use dcbuild_model::{JobId, StepIndex};

use crate::build::{Build, Shape};
use crate::event::Work;
use crate::graph::{Requests, StepKind, StepNode};
use crate::state::Scheduler;

impl Shape {
    /// What steps ask together.
    pub(crate) fn of(build: &Build, steps: &[StepIndex]) -> Shape {
        let mut shape = Shape { platform: None, requests: Requests::default() };
        for node in steps.iter().filter_map(|step| build.graph.steps.get(step.index())) {
            // What works on trees does so anywhere: only a process needs its own kind of machine.
            if node.kind == StepKind::Run {
                shape.platform = Some(node.platform.clone());
            }
            shape.requests = shape.requests.max(node.requests);
        }
        shape
    }
}

impl Scheduler {
    /// What of a segment is queued now: all of it, unless no worker suits it and one suits what comes before its first RUN.
    pub(crate) fn within_reach(&self, build: &Build, mut steps: Vec<StepIndex>) -> Vec<StepIndex> {
        if let Some(before) = self.out_of_reach(build, &steps) {
            steps.truncate(before);
        }
        steps
    }

    /// How many steps of a segment a worker suits where none suits all of them.
    fn out_of_reach(&self, build: &Build, steps: &[StepIndex]) -> Option<usize> {
        let is_run = |step: &StepIndex| {
            build
                .graph
                .steps
                .get(step.index())
                .is_some_and(|node: &StepNode| node.kind == StepKind::Run)
        };
        let before = steps.iter().position(is_run).filter(|before| *before > 0)?;
        let suits = |steps: &[StepIndex]| {
            let shape = Shape::of(build, steps);
            self.workers.values().any(|worker| worker.suits(&shape))
        };
        (!suits(steps) && suits(steps.get(..before)?)).then_some(before)
    }

    /// Takes out of the queue what can be cut now that other workers are there; its builds are looked at again.
    pub(crate) fn cut_anew(&mut self) {
        let of_processes = self.tenants.values().flat_map(|tenant| &tenant.queued);
        let of_processes = of_processes.filter(|(shape, _)| shape.platform.is_some());
        let queued = of_processes.flat_map(|(_, places)| places.values());
        let cut: Vec<JobId> = queued.copied().filter(|job| self.can_be_cut(*job)).collect();
        for job in cut {
            // What is left of it has waited as long.
            self.put_ahead(job);
            self.drop_job(job);
        }
    }

    fn can_be_cut(&self, id: JobId) -> bool {
        let Some(job) = self.jobs.get(&id) else { return false };
        let (Some(build), Work::Steps(_)) = (self.builds.get(&job.build), &job.work) else {
            return false;
        };
        self.out_of_reach(build, job.open()).is_some()
    }
}

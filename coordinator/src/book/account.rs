//! The account of a build, from what the book knows of it.

use std::collections::BTreeMap;

use dcbuild_explain::{Account, StepEnd};
use dcbuild_model::{BuildId, StepIndex};
use dcbuild_scheduler::How;

use super::{Active, Book, Piece, Settling};
use crate::account;

impl Book {
    /// What became of the steps of a build so far; none if it has no plan, or has let go of it.
    pub(crate) fn account(&self, build: BuildId) -> Option<Account> {
        self.builds.get(&build)?.account()
    }
}

impl Active {
    fn account(&self) -> Option<Account> {
        let planned = self.planned.as_deref()?;
        let taken: BTreeMap<_, _> = planned.taken.iter().cloned().collect();
        let run = crate::planned::to_run(&planned.plan, &taken, &planned.plan.wanted());
        let end = |step: StepIndex| match self.results.get(&step) {
            Some(settled) => {
                let end = match settled.how {
                    Settling::Taken => StepEnd::Hit {},
                    Settling::By(How::Hit) => StepEnd::HitByResult {},
                    Settling::By(How::Shared { .. }) => StepEnd::Shared {},
                    Settling::By(How::Ran { .. }) => {
                        StepEnd::Ran { took_ms: settled.record.took_ms }
                    }
                };
                (end, account::layer_of(planned.plan.step(step), &settled.record))
            }
            None if self.errors.contains_key(&Piece::Step(step)) => (StepEnd::Failed {}, None),
            None if run.contains(&step) => (StepEnd::Open {}, None),
            None => (StepEnd::Unneeded {}, None),
        };
        Some(account::account(&self.desk, planned, &self.passed, end))
    }
}

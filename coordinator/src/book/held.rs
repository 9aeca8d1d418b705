//! Results that their workers keep to themselves, since their build wants nothing of them in the store: another worker may
//! need one on its way, or another build want it kept.

use std::sync::Arc;

use dcbuild_model::{AttemptId, Record, StepIndex, WorkerId};
use dcbuild_proto::document::{Sending, Upload};

use super::makers::{Fate, Hold, Unsent};
use super::{Active, Book, Effect, Order};
use crate::planned;

/// A result by the attempt that made it and the step.
pub(super) type ResultId = (AttemptId, StepIndex);

/// As often is a record held that no build and no attempt uses: by the list of records, and as one that is not sent.
const UNUSED: usize = 2;

impl Active {
    /// Whether a step's result is to be kept for later builds.
    pub(crate) fn keeps(&self, step: StepIndex) -> bool {
        let upload = self.desk.submission.upload;
        let planned = self.planned.as_ref();
        planned.map_or(upload == Upload::All, |it| planned::keeps(upload, &it.plan, step))
    }

    /// When the worker of a step is to send its result to the store.
    pub(crate) fn sending(&self, step: StepIndex) -> Sending {
        if self.keeps(step) { Sending::AtOnce } else { Sending::WhenAsked }
    }
}

impl Book {
    /// Has a result sent that its worker keeps to itself.
    pub(super) fn ask_for(&mut self, (attempt, step): ResultId) {
        let Some(unsent) = self.undurable.get_mut(&(attempt, step)) else { return };
        if unsent.hold == Hold::Held {
            unsent.hold = Hold::Asked;
            let worker = unsent.worker;
            self.order(worker, Order::Send { attempt, step });
        }
    }

    /// Has all results of these attempts sent.
    pub(super) fn ask_for_all(&mut self, wanted: impl Fn(&ResultId, &Record) -> bool) {
        let held = self.undurable.iter().filter(|(_, unsent)| unsent.hold == Hold::Held);
        let wanted = held.filter(|(id, unsent)| wanted(id, &unsent.record));
        let wanted: Vec<ResultId> = wanted.map(|(id, _)| *id).collect();
        for id in wanted {
            self.ask_for(id);
        }
    }

    /// A build wants a record kept that another build's attempt made.
    pub(super) fn want(&mut self, record: &Arc<Record>) {
        let (first, last) = (StepIndex(0), StepIndex(u32::MAX));
        let attempt = record.attempt;
        let mut made = self.undurable.range_mut((attempt, first)..=(attempt, last));
        if let Some((id, unsent)) = made.find(|(_, unsent)| unsent.record == *record) {
            let id = *id;
            unsent.wanted = true;
            self.ask_for(id);
        } else if let Some(scope) = self.passed.remove(&planned::record_digest(record)) {
            self.effects.push(Effect::Keep(scope, record.clone()));
        }
    }

    /// Lets go of what is held for builds that are over.
    pub(super) fn release_held(&mut self) {
        let is_used = |unsent: &Unsent| Arc::strong_count(&unsent.record) > UNUSED;
        self.undurable.retain(|_, unsent| {
            unsent.fate != Fate::KeptBack || unsent.hold != Hold::No || is_used(unsent)
        });
        let unused = self
            .undurable
            .iter()
            .filter(|(_, unsent)| unsent.hold != Hold::No && !unsent.wanted && !is_used(unsent));
        let unused: Vec<(ResultId, WorkerId)> =
            unused.map(|(id, unsent)| (*id, unsent.worker)).collect();
        for (id, worker) in unused {
            self.let_go(worker, id);
        }
    }

    /// Tells a worker that nobody wants a result of its own.
    pub(super) fn let_go(&mut self, worker: WorkerId, (attempt, step): ResultId) {
        self.undurable.remove(&(attempt, step));
        self.order(worker, Order::LetGo { attempt, step });
    }

    /// A worker that came back says what it holds: it is told again what has become of that.
    pub(super) fn held_still(&mut self, worker: WorkerId, held: Vec<ResultId>) {
        for (attempt, step) in held {
            match self.undurable.get(&(attempt, step)).filter(|unsent| unsent.worker == worker) {
                None => self.order(worker, Order::LetGo { attempt, step }),
                Some(unsent) if unsent.hold == Hold::Asked => {
                    self.order(worker, Order::Send { attempt, step });
                }
                Some(_) => {}
            }
        }
    }
}

//! Who has what the store lacks: results are on a worker's disk before they are durable.

use std::sync::Arc;

use dcbuild_model::{AttemptId, LayerId, Record, StepIndex, WorkerId};
use dcbuild_remote::PeerKey;

use super::Book;

/// A result that is not durable yet.
pub(super) struct Unsent {
    /// The worker that has it.
    pub(super) worker: WorkerId,
    pub(super) record: Arc<Record>,
    /// The worker has given up to send it, and has it still.
    pub(super) kept_back: bool,
}

impl Unsent {
    fn has(&self, layer: &LayerId) -> bool {
        self.record.result.layers.iter().any(|one| one.layer == *layer)
    }
}

/// Where a worker is reached by others, and what opens its layers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerPlace {
    /// As HOST:PORT.
    pub(crate) address: String,
    pub(crate) key: PeerKey,
}

/// What is known of a layer that the store lacks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Found {
    /// Whether a worker that lives is sending it.
    pub(crate) coming: bool,
    /// One that has it and is connected.
    pub(crate) peer: Option<(WorkerId, PeerPlace)>,
}

impl Book {
    /// Says who made a layer that is not durable yet, to a worker that is known.
    pub(crate) fn maker(&self, asker: WorkerId, layer: LayerId) -> Found {
        let mut found = Found::default();
        if !self.workers.contains_key(&asker) {
            return found;
        }
        for unsent in self.undurable.values().filter(|unsent| unsent.has(&layer)) {
            let Some(member) = self.workers.get(&unsent.worker) else { continue };
            found.coming |= !unsent.kept_back;
            if found.peer.is_none() && member.session.is_some() && unsent.worker != asker {
                found.peer = member.peer.clone().map(|peer| (unsent.worker, peer));
            }
        }
        found
    }

    /// A worker does not try any more to make a result durable.
    pub(super) fn kept_back(&mut self, worker: WorkerId, result: (AttemptId, StepIndex)) {
        if let Some(unsent) = self.undurable.get_mut(&result)
            && unsent.worker == worker
        {
            unsent.kept_back = true;
        }
    }

    /// Whether a layer of an attempt is not durable yet.
    pub(super) fn is_unsent(&self, attempt: AttemptId, layer: &LayerId) -> bool {
        let (first, last) = (StepIndex(0), StepIndex(u32::MAX));
        let mut made = self.undurable.range((attempt, first)..=(attempt, last));
        made.any(|(_, unsent)| unsent.has(layer))
    }
}

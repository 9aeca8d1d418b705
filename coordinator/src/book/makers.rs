//! Who has what the store lacks: results are on a worker's disk before they are durable.

use std::collections::BTreeSet;
use std::sync::Arc;

use dcbuild_model::{AttemptId, LayerId, Record, Scope, StepIndex, WorkerId};
use dcbuild_remote::{CertificateDigest, PeerKey};
use dcbuild_scheduler::{Fence, Work};

use super::Book;
use crate::build::Build;

/// A result that is not durable yet.
pub(super) struct Unsent {
    /// The worker that has it.
    pub(super) worker: WorkerId,
    pub(super) record: Arc<Record>,
    /// Whose it is.
    pub(super) scope: Scope,
    pub(super) fate: Fate,
    pub(super) hold: Hold,
    /// Later builds are to find it.
    pub(super) wanted: bool,
}

/// What has become of a result so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It comes to the store, as far as is known.
    Coming,
    /// The same, and somebody who needed a layer of it did not get it, from nobody.
    Missed,
    /// The worker has given up to send it, and has it still.
    KeptBack,
}

/// Whether a worker waits with sending a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hold {
    /// It sends it at once.
    No,
    /// It keeps it to itself until somebody asks for it.
    Held,
    /// Somebody has asked for it.
    Asked,
}

impl Unsent {
    fn has(&self, layer: &LayerId) -> bool {
        has(&self.record, layer)
    }
}

fn has(record: &Record, layer: &LayerId) -> bool {
    record.result.layers.iter().any(|one| one.layer == *layer)
}

/// By which way a layer is to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Whichever there is.
    Any,
    /// By the store: its maker does not give it.
    Store,
}

/// Where a worker is reached by others, and what opens its layers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerPlace {
    /// As HOST:PORT.
    pub(crate) address: String,
    pub(crate) key: PeerKey,
    /// The certificate that it shows there; none where nothing is encrypted.
    pub(crate) certificate: Option<CertificateDigest>,
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
    /// Says who made a layer that is not durable yet, to a worker that is known. What is held comes from its worker, or
    /// else by way of the store.
    pub(crate) fn maker(&mut self, asker: WorkerId, layer: LayerId, way: Way) -> Found {
        let found = self.find_maker(asker, layer);
        let known = self.workers.contains_key(&asker);
        if known && (way == Way::Store || found.peer.is_none()) {
            self.ask_for_all(|_, record| has(record, &layer));
        }
        found
    }

    fn find_maker(&self, asker: WorkerId, layer: LayerId) -> Found {
        let mut found = Found::default();
        if !self.workers.contains_key(&asker) {
            return found;
        }
        // What the asker itself is sending it cannot wait for: it asks because it lacks the layer.
        let others = self.undurable.values().filter(|unsent| unsent.worker != asker);
        for unsent in others.filter(|unsent| unsent.has(&layer)) {
            let Some(member) = self.workers.get(&unsent.worker) else { continue };
            found.coming |= unsent.fate != Fate::KeptBack;
            if found.peer.is_none() && member.session.is_some() {
                found.peer = member.peer.clone().map(|peer| (unsent.worker, peer));
            }
        }
        found
    }

    /// Has the results of these attempts sent, and says whether any is on its way to the store.
    pub(crate) fn are_coming(&mut self, attempts: &BTreeSet<AttemptId>) -> bool {
        self.ask_for_all(|(attempt, _), _| attempts.contains(attempt));
        let unsent = self.undurable.iter().filter(|((attempt, _), _)| attempts.contains(attempt));
        unsent.into_iter().any(|(_, unsent)| {
            unsent.fate != Fate::KeptBack && self.workers.contains_key(&unsent.worker)
        })
    }

    /// The records of an image that an attempt is making, as far as later builds may take them.
    pub(crate) fn image_records(
        &self,
        fence: Fence,
        image: u32,
    ) -> Option<(Arc<Build>, Vec<Record>)> {
        let attempt = self.attempts.get(&fence.attempt)?;
        if attempt.lease.epoch != fence.epoch || !matches!(attempt.lease.work, Work::Output(_)) {
            return None;
        }
        let active = self.builds.get(&attempt.lease.build)?;
        let plan = &active.planned.as_ref()?.plan;
        let state = plan.images.get(usize::try_from(image).ok()?)?.state;
        let settled = plan.chain(state).into_iter().filter_map(|step| active.results.get(&step));
        let clean = settled.filter(|settled| !settled.tainted);
        let records = clean.map(|settled| Record::clone(&settled.record)).collect();
        Some((active.desk.clone(), records))
    }

    /// A worker does not try any more to make a result durable.
    pub(super) fn kept_back(&mut self, result: (AttemptId, StepIndex)) {
        if let Some(unsent) = self.undurable.get_mut(&result) {
            let is_lost = unsent.fate == Fate::Missed;
            unsent.fate = Fate::KeptBack;
            if is_lost {
                self.undurable.remove(&result);
            }
        }
    }

    /// A build does without a result that it had: what its worker has given up to send, or will, is no result any more.
    pub(super) fn unused(&mut self, result: (AttemptId, StepIndex)) {
        match self.undurable.get_mut(&result) {
            Some(Unsent { fate: Fate::KeptBack, .. }) => {
                self.undurable.remove(&result);
            }
            Some(unsent) => unsent.fate = Fate::Missed,
            None => {}
        }
    }

    /// Somebody needed a layer and did not get it; what its worker has given up to send is no result any more.
    pub(super) fn missed(&mut self, layer: &LayerId) {
        self.undurable.retain(|_, unsent| unsent.fate != Fate::KeptBack || !unsent.has(layer));
        for unsent in self.undurable.values_mut().filter(|unsent| unsent.has(layer)) {
            unsent.fate = Fate::Missed;
        }
    }

    /// Whether a layer of an attempt is not durable yet.
    pub(super) fn is_unsent(&self, attempt: AttemptId, layer: &LayerId) -> bool {
        let (first, last) = (StepIndex(0), StepIndex(u32::MAX));
        let mut made = self.undurable.range((attempt, first)..=(attempt, last));
        made.any(|(_, unsent)| unsent.has(layer))
    }
}

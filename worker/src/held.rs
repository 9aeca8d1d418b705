//! Results that lie here and are not sent: their build wants nothing of them in the store, but somebody may yet need one.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dcbuild_model::{AttemptId, LayerId, StepIndex};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// A result by the attempt that made it and the step.
pub(crate) type ResultId = (AttemptId, StepIndex);

/// How many results a coordinator is told of; those beyond are sent when the worker leaves.
const TOLD_MAX: usize = 5_000;
/// Layers that are remembered as wanted by nobody; of those beyond it is not known, and they stay.
const OVER_MAX: usize = 100_000;

/// What becomes of a result that was held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// Somebody wants it.
    Send,
    /// Nobody will.
    LetGo,
}

#[derive(Default, Debug)]
struct Open {
    held: HashMap<ResultId, (oneshot::Sender<Fate>, Vec<LayerId>)>,
    /// Layers of results that were let go.
    over: HashSet<LayerId>,
}

/// All results that are held.
#[derive(Default, Debug)]
pub(crate) struct Held(Mutex<Open>);

/// One result that is held.
#[derive(Debug)]
pub(crate) struct Holding(oneshot::Receiver<Fate>);

impl Holding {
    /// Waits until it is known what becomes of it. A worker that leaves sends what may still be wanted.
    pub(crate) async fn fate(self, ending: &CancellationToken) -> Fate {
        tokio::select! {
            // One that is held a second time is another attempt's.
            fate = self.0 => fate.unwrap_or(Fate::Send),
            () = ending.cancelled() => Fate::Send,
        }
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a result with these layers.
    pub(crate) fn hold(&self, result: ResultId, layers: Vec<LayerId>) -> Holding {
        let (end, fate) = oneshot::channel();
        self.lock().held.insert(result, (end, layers));
        Holding(fate)
    }

    /// Ends the holding of a result; one that is not held is sent, or gone, already.
    pub(crate) fn end(&self, result: ResultId, fate: Fate) {
        let mut open = self.lock();
        let Some((end, layers)) = open.held.remove(&result) else { return };
        if fate == Fate::LetGo && open.over.len() < OVER_MAX {
            open.over.extend(layers);
        }
        // Nobody waits any more where the worker leaves.
        let _unheard = end.send(fate);
    }

    /// These layers were made again: whoever made them says what becomes of them.
    pub(crate) fn wanted_again(&self, layers: &[LayerId]) {
        let mut open = self.lock();
        for layer in layers {
            open.over.remove(layer);
        }
    }

    /// Whether a layer was let go, so that nobody misses it.
    pub(crate) fn is_over(&self, layer: &LayerId) -> bool {
        self.lock().over.contains(layer)
    }

    /// What is held.
    pub(crate) fn all(&self) -> Vec<ResultId> {
        self.lock().held.keys().take(TOLD_MAX).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use dcbuild_model::Digest;

    use super::*;

    #[tokio::test]
    async fn what_is_held_is_sent_when_it_is_asked_for_and_when_the_worker_leaves() {
        let (held, ending) = (Held::default(), CancellationToken::new());
        let layer = |name: &str| LayerId(Digest::of(name.as_bytes()));
        let id = |step| (AttemptId::from_bits(1), StepIndex(step));
        let [asked, over, left] =
            [0, 1, 2].map(|step| held.hold(id(step), vec![layer(&step.to_string())]));
        assert_eq!(held.all().len(), 3);
        held.end(id(0), Fate::Send);
        held.end(id(1), Fate::LetGo);
        held.end(id(7), Fate::LetGo);
        assert_eq!(held.all(), [id(2)]);
        assert_eq!(asked.fate(&ending).await, Fate::Send);
        assert_eq!(over.fate(&ending).await, Fate::LetGo);
        assert_eq!([held.is_over(&layer("0")), held.is_over(&layer("1"))], [false, true]);
        held.wanted_again(&[layer("1")]);
        assert!(!held.is_over(&layer("1")));
        ending.cancel();
        assert_eq!(left.fate(&ending).await, Fate::Send);
    }
}

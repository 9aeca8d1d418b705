//! The attempts under way on this worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dcbuild_model::{AttemptId, StepIndex, UnixTime};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How far an attempt is to go and how far it is.
#[derive(Debug, Default)]
struct Reach {
    current: Option<StepIndex>,
    last: Option<StepIndex>,
}

/// One attempt under way.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) stop: CancellationToken,
    /// When it began; what was used since is needed.
    began: UnixTime,
    reach: Mutex<Reach>,
}

impl Run {
    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a step, unless nobody wants it any more.
    pub(crate) fn begin(&self, step: StepIndex) -> bool {
        let mut reach = self.reach();
        reach.current = Some(step);
        !self.stop.is_cancelled() && reach.last.is_none_or(|last| step <= last)
    }

    /// Ends the attempt behind a step; at once if it is past it.
    fn cut(&self, after: Option<StepIndex>) {
        let mut reach = self.reach();
        match after {
            Some(last) if reach.current.is_none_or(|current| current <= last) => {
                reach.last = Some(last);
            }
            Some(_) | None => self.stop.cancel(),
        }
    }
}

/// All attempts under way.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    runs: Mutex<HashMap<AttemptId, Arc<Run>>>,
    ended: Notify,
}

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptId, Arc<Run>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an attempt; none if it runs already.
    pub(crate) fn begin(
        &self,
        attempt: AttemptId,
        stop: CancellationToken,
        began: UnixTime,
    ) -> Option<Arc<Run>> {
        let mut attempts = self.lock();
        if attempts.contains_key(&attempt) {
            return None;
        }
        let run = Arc::new(Run { stop, began, reach: Mutex::default() });
        attempts.insert(attempt, run.clone());
        Some(run)
    }

    pub(crate) fn end(&self, attempt: AttemptId) {
        self.lock().remove(&attempt);
        self.ended.notify_one();
    }

    /// Waits until an attempt ends, or returns at once if one has since the last call.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Whether an attempt under way may need what was last used at this time.
    pub(crate) fn need(&self, last_used: UnixTime) -> bool {
        self.lock().values().any(|run| last_used >= run.began)
    }

    /// Stops an attempt behind the last step that is wanted.
    pub(crate) fn stop(&self, attempt: AttemptId, after: Option<StepIndex>) {
        let run = self.lock().get(&attempt).cloned();
        if let Some(run) = run {
            run.cut(after);
        }
    }

    pub(crate) fn ids(&self) -> Vec<AttemptId> {
        let mut ids: Vec<AttemptId> = self.lock().keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_cut_behind_the_last_step_that_is_wanted() {
        let attempts = Attempts::default();
        let id = AttemptId::from_bits(1);
        let began = UnixTime { secs: 7, nanos: 0 };
        let run = attempts.begin(id, CancellationToken::new(), began).unwrap();
        assert!(attempts.begin(id, CancellationToken::new(), began).is_none());
        assert!(attempts.need(began));
        assert!(!attempts.need(UnixTime { secs: 6, nanos: 999_999_999 }));
        assert!(run.begin(StepIndex(3)));
        attempts.stop(id, Some(StepIndex(4)));
        assert!(run.begin(StepIndex(4)));
        assert!(!run.stop.is_cancelled());
        assert!(!run.begin(StepIndex(5)));
        attempts.stop(id, Some(StepIndex(4)));
        assert!(run.stop.is_cancelled());
        attempts.end(id);
        assert!(attempts.ids().is_empty() && !attempts.need(began));
    }
}

//! How long a registry may say nothing, and who hears of that meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Hears which registry says nothing, and for how long.
pub type Ear = Arc<dyn Fn(&str, Duration) + Send + Sync>;

/// How long something may take to begin to answer.
const ANSWER_MAX: Duration = Duration::from_mins(1);
/// How long a registry may take to answer who has sent it something: some put it into a store of their own first.
const STORED_MAX: Duration = Duration::from_mins(5);
/// How long is waited for what need not be there.
const ANSWER_MAX_OF_EXTRAS: Duration = Duration::from_secs(10);
/// How often it is told that a registry says nothing.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How long registries are waited for.
#[derive(Clone)]
pub(crate) struct Patience {
    /// For an answer to begin.
    pub(crate) answer: Duration,
    /// For an answer to begin to who has sent something.
    pub(crate) stored: Duration,
    /// For all tries together, where that matters.
    whole: Option<Duration>,
    ear: Option<Ear>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { answer: ANSWER_MAX, stored: STORED_MAX, whole: None, ear: None }
    }
}

impl Patience {
    /// Little, as for what need not be there.
    pub(crate) fn little(&self) -> Patience {
        let (answer, whole) = (ANSWER_MAX_OF_EXTRAS, Some(ANSWER_MAX_OF_EXTRAS));
        Patience { answer, stored: answer, whole, ear: self.ear.clone() }
    }

    /// Whether it is over by the end of a pause, for what began at a time.
    pub(crate) fn ends_before(&self, begun: Instant, pause: Duration) -> bool {
        self.whole.is_some_and(|whole| begun.elapsed() + pause > whole)
    }

    /// The same, with somebody who hears of silence.
    pub(crate) fn heard_by(&self, ear: Ear) -> Patience {
        Patience { ear: Some(ear), ..self.clone() }
    }

    /// Waits for a future of a host as long as bytes move; none when they have not moved for too long.
    pub(crate) async fn while_moving<T>(
        &self,
        (host, limit): (&str, Duration),
        moved: &AtomicU64,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(work);
        let mut silent = Duration::ZERO;
        loop {
            let before = moved.load(Ordering::Relaxed);
            let step = TOLD_EVERY.min(limit.saturating_sub(silent));
            match tokio::time::timeout(step, &mut work).await {
                Ok(done) => return Some(done),
                Err(_) if moved.load(Ordering::Relaxed) != before => silent = Duration::ZERO,
                Err(_) => {
                    silent += step;
                    if silent >= limit {
                        return None;
                    }
                    if let Some(ear) = &self.ear {
                        ear(host, silent);
                    }
                }
            }
        }
    }
}

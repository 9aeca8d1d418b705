//! How soon a store usually answers, and when it did so last.

use std::time::Duration;

use tokio::time::Instant;

use super::{Hedge, Patience};

/// Whoever waits for an answer waits for so long, and so many times as long as usual.
const FIRST_MIN: Duration = Duration::from_secs(1);
const USUAL_TIMES: u32 = 8;
/// What is given longer than this has much to do, and its time says nothing of others'.
const QUICK_MAX: Duration = Duration::from_secs(2);
/// Each answer counts for so much of what is usual.
const WEIGHT: u32 = 8;

/// Learns a store's pace.
#[derive(Debug, Default)]
pub(super) struct Pace {
    usual: Option<Duration>,
    heard: Option<Instant>,
}

impl Pace {
    /// How long an answer is waited for: of a store whose pace is not known as long as may be.
    pub(super) fn first(&self, patience: Patience) -> Duration {
        match self.usual {
            Some(usual) if patience.first <= QUICK_MAX => {
                patience.first.min(FIRST_MIN + usual.saturating_mul(USUAL_TIMES))
            }
            Some(_) | None => patience.first,
        }
    }

    /// After how long without any sign of life a store may be taken for silent.
    pub(super) fn quick(&self) -> Duration {
        if self.usual.is_some() { FIRST_MIN } else { QUICK_MAX }
    }

    /// Something came from the store just now: an answer, or bytes.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// It was waited for in vain for so long: it may have become slow.
    pub(super) fn waited(&mut self, limit: Duration) {
        let usual = self.usual.unwrap_or_default();
        self.usual = Some((usual * (WEIGHT - 1) + limit.min(QUICK_MAX)) / WEIGHT);
    }

    /// It began to answer after so long: what is written moves before the store says anything.
    pub(super) fn answered(&mut self, took: Duration, patience: Patience) {
        if patience.hedge == Hedge::Never {
            return;
        }
        let usual = self.usual.map_or(took, |usual| (usual * (WEIGHT - 1) + took) / WEIGHT);
        self.usual = Some(usual);
    }

    /// Whether nothing at all has come since then.
    pub(super) fn is_silent_since(&self, began: Instant) -> bool {
        self.heard.is_none_or(|heard| heard <= began)
    }
}

//! What was said and may not have been heard: it is said again in the next session, for a coordinator that dies takes along
//! what it has heard and not written down.

use std::collections::VecDeque;

use dcbuild_model::{AttemptId, limits};
use tokio::time::Instant;

use crate::report::Report;

/// How many reports are kept of which it is guessed whether they were heard.
const GUESSED_MAX: usize = 256;
/// How many are kept in all: a session that nobody reads takes far fewer before it stands still.
const KEPT_MAX: usize = 65_536;

/// How it is known what was heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Hearing {
    /// The coordinator says so.
    Told,
    /// A coordinator of an earlier version does not: what was said a while ago was heard, most likely.
    #[default]
    Guessed,
}

/// A report that was said.
#[derive(Debug)]
struct Said {
    number: u64,
    at: Instant,
    report: Report,
}

/// All that may not have been heard, as it was said.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    said: VecDeque<Said>,
    /// How many were ever said.
    count: u64,
    hearing: Hearing,
}

impl Kept {
    /// Keeps a report that is about to be said.
    pub(crate) fn add(&mut self, report: Report, running: &[AttemptId], now: Instant) {
        if self.hearing == Hearing::Guessed {
            self.guess(running, now);
        }
        if self.said.len() >= KEPT_MAX {
            self.said.pop_front();
        }
        self.count += 1;
        self.said.push_back(Said { number: self.count, at: now, report });
    }

    /// Forgets what is old or too much, unless it says how steps of an attempt under way have ended: without one of those
    /// nothing counts that the attempt says later.
    fn guess(&mut self, running: &[AttemptId], now: Instant) {
        let stays = |said: &Said| said.report.end_of().is_some_and(|it| running.contains(&it));
        let others = self.said.iter().filter(|said| !stays(said)).count();
        let mut spare = (others + 1).saturating_sub(GUESSED_MAX);
        self.said.retain(|said| {
            // While no session is there nothing is said, and nothing grows too old to be said again.
            let is_old = now.duration_since(said.at) >= limits::LEASE;
            let goes = !stays(said) && (is_old || spare > 0);
            if goes {
                spare = spare.saturating_sub(1);
            }
            !goes
        });
    }

    /// From now on it is known in this way what was heard.
    pub(crate) fn hears(&mut self, hearing: Hearing) {
        self.hearing = hearing;
    }

    /// Forgets all reports up to this one.
    pub(crate) fn heard(&mut self, last: u64) {
        while self.said.front().is_some_and(|said| said.number <= last) {
            self.said.pop_front();
        }
    }

    /// The number of the last report; zero if none is kept.
    pub(crate) fn last(&self) -> u64 {
        self.said.back().map_or(0, |said| said.number)
    }

    /// All that is to be said again.
    pub(crate) fn all(&self) -> VecDeque<Report> {
        self.said.iter().map(|said| said.report.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dcbuild_model::{Epoch, StepIndex};

    use super::*;
    use crate::report::Fence;

    fn fence(attempt: u128) -> Fence {
        Fence { attempt: AttemptId::from_bits(attempt), epoch: Epoch(1) }
    }

    fn started(attempt: u128, step: u32) -> Report {
        Report::StepStarted { fence: fence(attempt), step: StepIndex(step) }
    }

    fn returned(attempt: u128) -> Report {
        Report::JobReturned { fence: fence(attempt), lost: None, layer: None }
    }

    /// How many ends of attempts are kept, and how many other reports.
    fn left(kept: &Kept) -> (usize, usize) {
        let all = kept.all();
        let ends = all.iter().filter(|report| report.end_of().is_some()).count();
        (ends, all.len() - ends)
    }

    #[test]
    fn what_was_not_heard_is_kept_however_old_and_much_it_is() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        kept.hears(Hearing::Told);
        for step in 0..1_000 {
            kept.add(started(1, step), &[], now + Duration::from_secs(step.into()));
        }
        assert_eq!((left(&kept), kept.last()), ((0, 1_000), 1_000));
        kept.heard(998);
        assert_eq!((left(&kept), kept.last()), ((0, 2), 1_000));
        kept.add(returned(1), &[], now);
        // An answer that was overtaken takes nothing back.
        kept.heard(998);
        assert_eq!((left(&kept), kept.last()), ((1, 2), 1_001));
        kept.heard(1_001);
        assert_eq!((left(&kept), kept.last()), ((0, 0), 0));
    }

    #[test]
    fn where_nobody_says_what_was_heard_the_ends_of_what_runs_are_kept() {
        let (mut kept, began) = (Kept::default(), Instant::now());
        let running = [AttemptId::from_bits(1)];
        for attempt in [1, 2] {
            kept.add(started(attempt, 0), &running, began);
            kept.add(returned(attempt), &running, began);
        }
        assert_eq!(left(&kept), (2, 2));
        let late = began + limits::LEASE;
        kept.add(started(2, 1), &running, late);
        assert_eq!(left(&kept), (1, 1));
        for step in 0..1_000 {
            kept.add(started(2, step), &running, late);
        }
        assert_eq!(left(&kept), (1, GUESSED_MAX));
        // It has ended.
        kept.add(started(2, 1), &[], late);
        assert_eq!(left(&kept), (0, GUESSED_MAX));
    }
}

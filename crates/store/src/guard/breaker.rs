//! Whether the store is asked at all.

use std::time::Duration;

use tokio::time::Instant;

use super::GuardLimits;
use super::jitter::Jitter;

/// Leave to ask the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leave {
    /// As all do while the store is well.
    Usual,
    /// To see whether it is well again.
    Probe,
}

/// What a result changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    None,
    Opened,
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stand {
    Closed,
    /// Nobody asks until then.
    Open {
        until: Instant,
    },
    /// One asks, the others wait for what it says.
    Probing,
}

/// Counts failures in a row, and opens when there are too many.
#[derive(Debug)]
pub(super) struct Breaker {
    stand: Stand,
    /// Points of the failures in a row: one that cost a caller much has several.
    failures: u32,
    failures_max: u32,
    rest: Duration,
    rest_first: Duration,
    rest_max: Duration,
    /// Probes that failed since the store answered last.
    probes: u32,
}

impl Breaker {
    pub(super) fn new(limits: &GuardLimits) -> Breaker {
        Breaker {
            stand: Stand::Closed,
            failures: 0,
            failures_max: limits.failures_max,
            rest: limits.rest,
            rest_first: limits.rest,
            rest_max: limits.rest_max,
            probes: 0,
        }
    }

    /// How long whoever has this leave waits, of the time that he would: who probes waits in vain most times, so the first
    /// wait is short, and each further one longer, lest a store that has become slow is never found again.
    pub(super) fn wait(&self, leave: Leave, first: Duration) -> Duration {
        match leave {
            Leave::Usual => first,
            Leave::Probe => first.min(first / 4 * (1 << self.probes.min(2))),
        }
    }

    /// Whether it is left alone.
    pub(super) fn is_open(&self) -> bool {
        self.stand != Stand::Closed
    }

    /// Asks for leave; refused with the failures so far.
    pub(super) fn leave(&mut self, now: Instant) -> Result<Leave, u32> {
        match self.stand {
            Stand::Closed => Ok(Leave::Usual),
            Stand::Open { until } if until <= now => {
                self.stand = Stand::Probing;
                Ok(Leave::Probe)
            }
            Stand::Open { .. } | Stand::Probing => Err(self.failures),
        }
    }

    /// The store answered.
    pub(super) fn succeeded(&mut self) -> Change {
        (self.failures, self.probes) = (0, 0);
        self.rest = self.rest_first;
        let was = std::mem::replace(&mut self.stand, Stand::Closed);
        if was == Stand::Closed { Change::None } else { Change::Closed }
    }

    /// The store did not, which counts for so many points.
    pub(super) fn failed(
        &mut self,
        leave: Leave,
        points: u32,
        now: Instant,
        jitter: &mut Jitter,
    ) -> Change {
        self.failures = self.failures.saturating_add(points);
        self.probes = self.probes.saturating_add(u32::from(leave == Leave::Probe));
        let opens = match (leave, self.stand) {
            (Leave::Probe, _) => true,
            (Leave::Usual, Stand::Closed) => self.failures >= self.failures_max,
            // What was asked before it opened tells nothing new.
            (Leave::Usual, Stand::Open { .. } | Stand::Probing) => false,
        };
        if !opens {
            return Change::None;
        }
        // Between half and the whole of the rest, so that many clients do not probe at once.
        let half = self.rest / 2;
        self.stand = Stand::Open { until: now + half + jitter.up_to(half) };
        self.rest = self.rest.saturating_mul(2).min(self.rest_max);
        if leave == Leave::Probe { Change::None } else { Change::Opened }
    }

    /// Whoever asked does not care for the answer any more: somebody else may probe.
    pub(super) fn given_up(&mut self, leave: Leave) {
        if leave == Leave::Probe && self.stand == Stand::Probing {
            self.stand = Stand::Open { until: Instant::now() };
        }
    }
}

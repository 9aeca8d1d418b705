//! Further tries are paid for: a store in trouble is not asked twice as much for it.

use super::GuardLimits;

/// What one further try costs.
const PRICE: u32 = 100;

/// What is left for further tries.
#[derive(Debug)]
pub(super) struct Budget {
    each_earns: u32,
    saved: u32,
    saved_max: u32,
}

impl Budget {
    pub(super) fn new(limits: &GuardLimits) -> Budget {
        let saved_max = limits.retries_saved.saturating_mul(PRICE);
        Budget { each_earns: limits.retries_per_hundred, saved: saved_max, saved_max }
    }

    /// A request is made for the first time.
    pub(super) fn earn(&mut self) {
        self.saved = self.saved.saturating_add(self.each_earns).min(self.saved_max);
    }

    /// Whether one may be made again.
    pub(super) fn spend(&mut self) -> bool {
        match self.saved.checked_sub(PRICE) {
            Some(left) => {
                self.saved = left;
                true
            }
            None => false,
        }
    }
}

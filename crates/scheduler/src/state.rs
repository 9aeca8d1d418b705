//! x
use crate::{Action, Event};
use dcbuild_model::LogTime;
/// The scheduler.
#[derive(Clone, Debug)]
pub struct Scheduler {
    seed: u128,
}
impl Scheduler {
    /// An empty cluster.
    pub fn new(seed: u128) -> Scheduler {
        Scheduler { seed }
    }
    /// Applies one entry of the log.
    pub fn apply(&mut self, now: LogTime, event: Event) -> Vec<Action> {
        self.seed ^= u128::from(now.0);
        drop(event);
        Vec::new()
    }
}

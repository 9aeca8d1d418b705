//! How many requests are under way: fewer as soon as the store is busy, more again bit by bit.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// A limit that the store's answers move.
#[derive(Debug)]
pub(super) struct Limit {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    under_way: u32,
    allowed: u32,
    allowed_max: u32,
    /// Good answers since the limit was moved.
    good: u32,
    /// Requests that began earlier say nothing about the limit as it is now.
    lowered: Option<Instant>,
}

/// One request's place among those under way.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    limit: &'a Limit,
    began: Instant,
}

impl Limit {
    pub(super) fn new(max: u32) -> Limit {
        let max = max.max(1);
        let state = State { under_way: 0, allowed: max, allowed_max: max, good: 0, lowered: None };
        Limit { state: Mutex::new(state), freed: Notify::new() }
    }

    pub(super) fn now(&self) -> u32 {
        self.with(|state| state.allowed)
    }

    /// Waits for a place.
    pub(super) async fn turn(&self) -> Turn<'_> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Whoever frees a place between the look and the wait is heard.
            freed.as_mut().enable();
            let is_free = self.with(|state| {
                let is_free = state.under_way < state.allowed;
                state.under_way += u32::from(is_free);
                is_free
            });
            if is_free {
                return Turn { limit: self, began: Instant::now() };
            }
            freed.await;
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Turn<'_> {
    /// Ends with an answer: a busy store halves the limit, once for all requests that were under way together.
    pub(super) fn end(self, is_busy: bool) {
        let grew = self.limit.with(|state| {
            if is_busy {
                if state.lowered.is_none_or(|lowered| self.began >= lowered) {
                    state.allowed = (state.allowed / 2).max(1);
                    state.good = 0;
                    state.lowered = Some(Instant::now());
                }
                return false;
            }
            state.good += 1;
            let grows = state.allowed < state.allowed_max && state.good >= state.allowed;
            if grows {
                state.allowed += 1;
                state.good = 0;
            }
            grows
        });
        if grew {
            self.limit.freed.notify_one();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.limit.with(|state| state.under_way -= 1);
        self.limit.freed.notify_one();
    }
}

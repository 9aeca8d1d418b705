//! Stands between a store outside this process and whoever needs it: deadlines, patience with limits, and a breaker.
//!
//! It goes round one request, not round a whole `get` or `put`: a stream that was half sent cannot be sent again, while
//! one of its parts can. Whatever happens to the store costs a caller a bounded time: a request has a deadline, and one
//! for its progress; requests are repeated after a random pause, out of one budget for all of them; a store that keeps
//! failing is left alone for a while and then probed by a single request; a store that is busy gets fewer at once. One that
//! has said nothing at all to anybody for as long as its pace allows is left alone from that first silence on.

mod breaker;
mod budget;
mod jitter;
mod limit;
mod pace;
mod progress;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use self::breaker::{Breaker, Change, Leave};
use self::budget::Budget;
use self::jitter::Jitter;
use self::limit::Limit;
use self::pace::Pace;
use self::progress::Moment;
pub use self::progress::{Hedge, Patience, Progress};

/// What an error of a request says about the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The store is well, and would answer the same again.
    Settled,
    /// The store asks for fewer requests, and perhaps for how long.
    Busy {
        /// The pause that it asks for.
        after: Option<Duration>,
    },
    /// Another try may do better.
    Failed,
}

/// An error that a guard can judge.
pub trait Judged {
    /// What it says about the store.
    fn verdict(&self) -> Verdict;
}

/// Says how a request ended that had no good answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError<E> {
    /// The last try's answer.
    #[error("the store failed")]
    Answered(E),
    /// Neither an answer nor progress came in time.
    #[error("nothing came within {limit:?}")]
    Late {
        /// How long was waited.
        limit: Duration,
    },
    /// The store failed too often just now; it was not asked.
    #[error("the store keeps failing, and is left alone for a moment")]
    Resting {
        /// What its failures in a row count for.
        failures: u32,
    },
}

/// How patient a guard is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuardLimits {
    /// How often one request is made at most.
    pub tries_max: u32,
    /// The first pause before another try is up to this long; each further one up to twice as long.
    pub pause: Duration,
    /// No pause is longer.
    pub pause_max: Duration,
    /// A store that asks for a longer pause than this gets it by being given up on.
    pub asked_pause_max: Duration,
    /// How many further tries a hundred requests pay for.
    pub retries_per_hundred: u32,
    /// How many further tries may be made before any request has paid for them.
    pub retries_saved: u32,
    /// After so many failures in a row the store is left alone.
    pub failures_max: u32,
    /// For how long at first; each failed probe doubles it.
    pub rest: Duration,
    /// And at most.
    pub rest_max: Duration,
    /// How many requests are under way at most, while the store is not busy.
    pub calls_max: u32,
}

impl Default for GuardLimits {
    fn default() -> GuardLimits {
        GuardLimits {
            tries_max: 4,
            pause: Duration::from_millis(100),
            pause_max: Duration::from_secs(2),
            asked_pause_max: Duration::from_secs(5),
            retries_per_hundred: 20,
            retries_saved: 10,
            failures_max: 10,
            rest: Duration::from_secs(1),
            rest_max: Duration::from_secs(5),
            calls_max: 32,
        }
    }
}

/// What a guard saw so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GuardCounts {
    /// Requests that were made, by name, further tries included.
    pub requests: BTreeMap<&'static str, u64>,
    /// Further tries among them.
    pub retries: u64,
    /// Answers that asked for fewer requests.
    pub busy: u64,
    /// Requests that were given up on because nothing came in time.
    pub late: u64,
    /// How often the store was left alone.
    pub opened: u64,
    /// Requests that were not made because it was.
    pub spared: u64,
}

impl GuardCounts {
    /// All requests that were made.
    pub fn all_requests(&self) -> u64 {
        self.requests.values().sum()
    }
}

/// Guards one store.
#[derive(Debug)]
pub struct Guard {
    /// As messages name the store.
    store: String,
    limits: GuardLimits,
    limit: Limit,
    /// When bytes of any request have moved last.
    moved: Moment,
    /// Set while the store is left alone.
    silent: watch::Sender<Option<Duration>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    budget: Budget,
    pace: Pace,
    jitter: Jitter,
    counts: GuardCounts,
}

/// How one try ended.
enum Try<T, E> {
    Answered(Result<T, E>),
    Late(Duration),
}

impl Guard {
    /// Guards the store of this name.
    pub fn new(store: impl Into<String>, limits: GuardLimits) -> Guard {
        Guard::seeded(store, limits, RandomState::new().hash_one(0))
    }

    /// The same, with pauses that the seed decides.
    pub fn seeded(store: impl Into<String>, limits: GuardLimits, seed: u64) -> Guard {
        let state = State {
            breaker: Breaker::new(&limits),
            budget: Budget::new(&limits),
            pace: Pace::default(),
            jitter: Jitter::new(seed),
            counts: GuardCounts::default(),
        };
        let limit = Limit::new(limits.calls_max);
        let (store, moved, silent) = (store.into(), Moment::default(), watch::Sender::new(None));
        Guard { store, limits, limit, moved, silent, state: Mutex::new(state) }
    }

    /// What it saw so far.
    pub fn counts(&self) -> GuardCounts {
        self.with(|state| state.counts.clone())
    }

    /// How many requests may be under way at the moment.
    pub fn calls_at_once(&self) -> u32 {
        self.limit.now()
    }

    /// Makes a request, more than once if need be; `work` is given a [`Progress`] to tell that bytes moved.
    pub async fn call<T, E, W>(
        &self,
        request: &'static str,
        patience: Patience,
        work: impl Fn(Progress) -> W,
    ) -> Result<T, CallError<E>>
    where
        E: Judged,
        W: Future<Output = Result<T, E>>,
    {
        self.with(|state| state.budget.earn());
        let (mut tries, mut last) = (0, None);
        loop {
            tries += 1;
            let ended = match self.attempt(request, patience, &work).await {
                Ok(ended) => ended,
                // What was wrong with the store tells more than that it is left alone for it.
                Err(resting) => return Err(last.unwrap_or(resting)),
            };
            let (error, verdict) = match ended {
                Try::Answered(Ok(value)) => return Ok(value),
                Try::Answered(Err(error)) => {
                    let verdict = error.verdict();
                    (CallError::Answered(error), verdict)
                }
                // Waiting was the first try; waiting once more is all that a caller's time is good for.
                Try::Late(limit) => {
                    tries += 1;
                    if self.with(|state| state.breaker.is_open()) {
                        return Err(CallError::Late { limit });
                    }
                    (CallError::Late { limit }, Verdict::Failed)
                }
            };
            match self.pause(verdict, tries) {
                Some(pause) => {
                    last = Some(error);
                    sleep(pause).await;
                }
                None => return Err(error),
            }
        }
    }

    /// One try, when it is its turn and the store is not left alone.
    async fn attempt<T, E, W>(
        &self,
        request: &'static str,
        patience: Patience,
        work: &impl Fn(Progress) -> W,
    ) -> Result<Try<T, E>, CallError<E>>
    where
        E: Judged,
        W: Future<Output = Result<T, E>>,
    {
        let turn = self.limit.turn().await;
        let asking = self.ask(request, patience)?;
        let progress = asking.progress.clone();
        let first = asking.first;
        let may_hedge = || {
            let is_silent = patience.hedge == Hedge::Once && progress.first().is_none();
            is_silent && self.with(|state| state.hedges(request))
        };
        let asked = progress::hedged(|| work(progress.clone()), first / 2, may_hedge);
        let patience = Patience { first, ..patience };
        let silent = match asking.leave {
            Leave::Usual => self.silent.subscribe(),
            // Whoever finds out whether it does better has a wait of his own.
            Leave::Probe => watch::Sender::new(None).subscribe(),
        };
        let ended = match progress::watched(asked, &progress, patience, silent).await {
            Ok(answer) => Try::Answered(answer),
            Err(limit) => Try::Late(limit),
        };
        let (verdict, came) = match &ended {
            Try::Answered(Ok(_)) => (Verdict::Settled, Came::Answer),
            Try::Answered(Err(error)) => (error.verdict(), Came::Answer),
            Try::Late(_) => (Verdict::Failed, Came::Nothing),
        };
        asking.settle(verdict, came);
        turn.end(matches!(verdict, Verdict::Busy { .. }));
        Ok(ended)
    }

    /// Leave for one request, if the store is not left alone.
    fn ask<E>(
        &self,
        request: &'static str,
        patience: Patience,
    ) -> Result<Asking<'_>, CallError<E>> {
        let leave = self.with(|state| {
            let leave = state.breaker.leave(Instant::now());
            match leave {
                Ok(_) => *state.counts.requests.entry(request).or_default() += 1,
                Err(_) => state.counts.spared += 1,
            }
            leave.map(|leave| (leave, state.breaker.wait(leave, state.pace.first(patience))))
        });
        let (leave, first) = leave.map_err(|failures| CallError::Resting { failures })?;
        let (progress, began) = (Progress::new(&self.moved, patience), Instant::now());
        Ok(Asking { guard: self, leave, first, patience, progress, began, is_settled: false })
    }

    /// How long to wait before another try; none if there is to be none.
    fn pause(&self, verdict: Verdict, tries: u32) -> Option<Duration> {
        let asked = match verdict {
            Verdict::Settled => return None,
            Verdict::Busy { after } => after.unwrap_or_default(),
            Verdict::Failed => Duration::ZERO,
        };
        if tries >= self.limits.tries_max || asked > self.limits.asked_pause_max {
            return None;
        }
        self.with(|state| {
            if !state.budget.spend() {
                return None;
            }
            state.counts.retries += 1;
            let doubled = self.limits.pause.saturating_mul(1 << (tries - 1).min(16));
            Some(asked + state.jitter.up_to(doubled.min(self.limits.pause_max)))
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Whether a request that is silent may be made a second time: out of the same budget as further tries.
    fn hedges(&mut self, request: &'static str) -> bool {
        let may = self.budget.spend();
        if may {
            *self.counts.requests.entry(request).or_default() += 1;
            self.counts.retries += 1;
        }
        may
    }
}

/// What came of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Came {
    Answer,
    Nothing,
}

/// A request under way; one that is given up by its caller says nothing about the store, unless nobody would have waited
/// longer.
struct Asking<'a> {
    guard: &'a Guard,
    leave: Leave,
    /// How long its first bytes are waited for.
    first: Duration,
    patience: Patience,
    progress: Progress,
    began: Instant,
    is_settled: bool,
}

impl Asking<'_> {
    fn settle(mut self, verdict: Verdict, came: Came) {
        self.is_settled = true;
        self.note(verdict, came);
    }

    fn note(&self, verdict: Verdict, came: Came) {
        let moved = self.progress.first();
        let (leave, now) = (self.leave, Instant::now());
        let failures_max = self.guard.limits.failures_max;
        let moved_last = progress::last(&self.guard.moved);
        let (change, cut) = self.guard.with(|state| {
            let State { breaker, jitter, counts, pace, .. } = state;
            let cut = pace.first(Patience::SMALL);
            if let Some(moved) = moved_last {
                pace.heard(moved);
            }
            counts.late += u64::from(came == Came::Nothing);
            counts.busy += u64::from(matches!(verdict, Verdict::Busy { .. }));
            if came == Came::Answer {
                pace.heard(now);
            }
            let points = match (verdict, came) {
                (Verdict::Settled, _) => {
                    pace.answered(moved.unwrap_or(now) - self.began, self.patience);
                    return (breaker.succeeded(), cut);
                }
                (Verdict::Busy { .. }, _) => 1,
                (Verdict::Failed, Came::Answer) => 2,
                // Nobody has had an answer meanwhile.
                (Verdict::Failed, Came::Nothing) if pace.is_silent_since(self.began) => {
                    failures_max
                }
                // Who waited in vain has lost more than who was refused at once.
                (Verdict::Failed, Came::Nothing) => 4,
            };
            if came == Came::Nothing {
                pace.waited(self.began.elapsed());
            }
            (breaker.failed(leave, points, now, jitter), cut)
        });
        let store = &self.guard.store;
        match change {
            Change::Opened => {
                self.guard.with(|state| state.counts.opened += 1);
                self.guard.silent.send_replace(Some(cut));
                warn!(
                    store,
                    "the store keeps failing; it is left alone, and work goes on without it"
                );
            }
            Change::Closed => {
                self.guard.silent.send_replace(None);
                info!(store, "the store answers again");
            }
            Change::None => {}
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let moved = progress::last(&self.guard.moved);
        let is_silent = self.guard.with(|state| {
            // A store that took bytes may well be busy with them.
            let took_some = self.progress.first().is_some();
            let has_waited = self.began.elapsed() >= state.pace.quick() && !took_some;
            let moved = moved.is_some_and(|moved| moved >= self.began);
            has_waited && !moved && state.pace.is_silent_since(self.began)
        });
        if is_silent {
            self.note(Verdict::Failed, Came::Nothing);
        } else {
            self.guard.with(|state| state.breaker.given_up(self.leave));
        }
    }
}

#[cfg(test)]
mod tests;

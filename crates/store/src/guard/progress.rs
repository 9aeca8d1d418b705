//! Deadlines that a request which gets on does not meet.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long a try may be silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Until it ends, or its first bytes move.
    pub first: Duration,
    /// From then on, until it ends or further bytes move.
    pub stall: Duration,
}

impl Patience {
    /// For requests that are small both ways.
    pub const SMALL: Patience =
        Patience { first: Duration::from_secs(2), stall: Duration::from_secs(2) };

    /// For requests that move bulk bytes: the machine's own buffers take some of them long before the store does.
    pub const BULK: Patience =
        Patience { first: Duration::from_secs(2), stall: Duration::from_secs(10) };

    /// For requests with which the store itself has much to do.
    pub const SLOW: Patience =
        Patience { first: Duration::from_secs(30), stall: Duration::from_secs(30) };
}

/// Tells the guard that a request gets on; clones are the same request's.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Mutex<Option<Instant>>>);

impl Progress {
    pub(super) fn new() -> Progress {
        Progress(Arc::default())
    }

    /// Bytes have moved just now.
    pub fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for work as long as it gets on; fails with the limit that it met.
pub(super) async fn watched<T>(
    work: impl Future<Output = T>,
    progress: &Progress,
    patience: Patience,
) -> Result<T, Duration> {
    let began = Instant::now();
    let mut work = std::pin::pin!(work);
    loop {
        let (since, limit) = match progress.last() {
            None => (began, patience.first),
            Some(last) => (last, patience.stall),
        };
        let until = since + limit;
        if until <= Instant::now() {
            return Err(limit);
        }
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = sleep_until(until) => {}
        }
    }
}

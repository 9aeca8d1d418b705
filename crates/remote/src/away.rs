//! Waits for the other side while it is away: a coordinator that is started again, or moved, is soon back.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

/// How long a worker waits. Its leases outlast that: a coordinator counts no silence in which it was not there itself.
pub(crate) const WORKERS_AWAY_MAX: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// For how long one question has met nobody.
#[derive(Debug)]
pub(crate) struct Away {
    max: Duration,
    since: Option<Instant>,
    pause: Duration,
}

impl Away {
    /// Nobody was missed so far.
    pub(crate) fn new(max: Duration) -> Away {
        Away { max, since: None, pause: FIRST_PAUSE }
    }

    /// Waits before another try; gives back what failed where that is of no use.
    pub(crate) async fn wait(&mut self, status: Status) -> Result<(), Status> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !is_of_connection(&status) || since.elapsed() + self.pause > self.max {
            return Err(status);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = PAUSE_MAX.min(self.pause * 2);
        Ok(())
    }

    /// Somebody was there.
    pub(crate) fn over(&mut self) {
        *self = Away::new(self.max);
    }

    /// Asks until there is an answer.
    pub(crate) async fn ask<T, F>(mut self, question: impl Fn() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        loop {
            match question().await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status) => self.wait(status).await?,
            }
        }
    }
}

/// Whether the question has not come to the other side, or its answer not back; what that side says itself has no cause
/// here.
fn is_of_connection(status: &Status) -> bool {
    status.code() == Code::Cancelled || std::error::Error::source(status).is_some()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn broken() -> Status {
        Status::from_error(Box::new(std::io::Error::other("the connection broke")))
    }

    async fn asked(fails: u32, status: impl Fn() -> Status) -> (Result<u32, Status>, Duration) {
        let (begun, tries) = (Instant::now(), Cell::new(0));
        let question = || {
            let number = tries.replace(tries.get() + 1);
            let answer =
                if number < fails { Err(status()) } else { Ok(tonic::Response::new(number)) };
            std::future::ready(answer)
        };
        (Away::new(WORKERS_AWAY_MAX).ask(question).await, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_waited_for_and_an_answer_is_one() {
        let (answer, took) = asked(8, broken).await;
        assert_eq!(answer.unwrap(), 8);
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(6), "{took:?}");
        let (answer, took) = asked(100, broken).await;
        assert!(answer.is_err() && took <= WORKERS_AWAY_MAX, "{took:?}");
        assert!(took + 2 * PAUSE_MAX > WORKERS_AWAY_MAX, "{took:?}");
        let (answer, took) = asked(1, || Status::unavailable("the store is dead")).await;
        assert!(answer.is_err() && took.is_zero());
        let (answer, took) = asked(100, broken).await;
        assert!(answer.is_err() && !took.is_zero());
    }
}

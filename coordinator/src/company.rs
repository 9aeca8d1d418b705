//! Which clients attend a build, for what waits for one of them.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// The clients that attend a build and answer.
#[derive(Debug)]
pub(crate) struct Company(watch::Sender<Present>);

#[derive(Clone, Copy, Debug)]
struct Present {
    /// All that answer.
    answering: Clients,
    /// Those of them that said that they own the build.
    owning: Clients,
    /// Whether one ever said so: clients of before do not.
    owned: bool,
}

#[derive(Clone, Copy, Debug)]
struct Clients {
    count: usize,
    /// When the last one left, or when the build came.
    left: Instant,
}

/// A client that attends, until this is dropped.
#[derive(Debug)]
pub(crate) struct Visit {
    company: watch::Sender<Present>,
    owns: bool,
}

impl Company {
    /// Nobody, from now on.
    pub(crate) fn new() -> Company {
        let nobody = Clients { count: 0, left: Instant::now() };
        Company(watch::Sender::new(Present { answering: nobody, owning: nobody, owned: false }))
    }

    /// A client that answers comes; it owns the build if it has all that was submitted.
    pub(crate) fn enter(&self, owns: bool) -> Visit {
        self.0.send_modify(|present| {
            present.answering.count += 1;
            if owns {
                present.owning.count += 1;
                present.owned = true;
            }
        });
        Visit { company: self.0.clone(), owns }
    }

    /// Whether one is there that can speak for the build: its owner, or anybody who answers where no owner ever said so.
    pub(crate) fn has_client(&self) -> bool {
        of_build(&self.0.borrow()).count > 0
    }

    /// Whether a client is there that said that it owns the build.
    pub(crate) fn has_owner(&self) -> bool {
        self.0.borrow().owning.count > 0
    }

    /// Waits until the owner has been away for so long, not counting what was before `from`.
    pub(crate) async fn lacks_owner(&self, from: Instant, limit: Duration) {
        self.lacks(|present| present.owning, from, limit).await;
    }

    /// The same of a build whose owner never said that it is that: there any client that answers counts.
    pub(crate) async fn lacks_client(&self, from: Instant, limit: Duration) {
        self.lacks(of_build, from, limit).await;
    }

    async fn lacks(&self, of: impl Fn(&Present) -> Clients, from: Instant, limit: Duration) {
        let mut present = self.0.subscribe();
        loop {
            let clients = of(&present.borrow_and_update());
            let changed = present.changed();
            let seen = if clients.count > 0 {
                changed.await.is_ok()
            } else {
                let end = clients.left.max(from) + limit;
                matches!(timeout_at(end, changed).await, Ok(Ok(())))
            };
            if !seen {
                return;
            }
        }
    }
}

fn of_build(present: &Present) -> Clients {
    if present.owned { present.owning } else { present.answering }
}

impl Visit {
    /// Whether it has all that was submitted.
    pub(crate) fn owns(&self) -> bool {
        self.owns
    }
}

impl Clients {
    fn leave(&mut self) {
        self.count = self.count.saturating_sub(1);
        self.left = Instant::now();
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.company.send_modify(|present| {
            present.answering.leave();
            if self.owns {
                present.owning.leave();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn lacks(waiting: impl Future<Output = ()>, within: Duration) -> bool {
        tokio::time::timeout(within, waiting).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_counts_while_nobody_is_there() {
        let (company, begun) = (Company::new(), Instant::now());
        let visit = company.enter(true);
        assert!(!lacks(company.lacks_owner(begun, LIMIT), 100 * LIMIT).await);
        let other = company.enter(true);
        drop(visit);
        assert!(!lacks(company.lacks_owner(begun, LIMIT), 100 * LIMIT).await, "one is left");
        drop(other);
        assert!(!lacks(company.lacks_owner(begun, LIMIT), LIMIT / 2).await);
        drop(company.enter(true));
        let left = Instant::now();
        company.lacks_owner(begun, LIMIT).await;
        assert_eq!(left.elapsed(), LIMIT, "who was there in between counts");
        company.lacks_owner(begun, LIMIT).await;
        assert_eq!(left.elapsed(), LIMIT, "it is known");
        company.lacks_owner(Instant::now(), LIMIT).await;
        assert_eq!(left.elapsed(), 2 * LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_is_no_owner_unless_nobody_says_that_he_is_that() {
        let (company, begun) = (Company::new(), Instant::now());
        let _guest = company.enter(false);
        assert!(lacks(company.lacks_owner(begun, LIMIT), 2 * LIMIT).await);
        assert!(!lacks(company.lacks_client(begun, LIMIT), 2 * LIMIT).await);
        drop(company.enter(true));
        assert!(lacks(company.lacks_client(begun, LIMIT), 2 * LIMIT).await);
    }
}

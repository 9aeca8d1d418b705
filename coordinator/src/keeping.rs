//! Records on their way into the store: who looks for records waits for those that were under way before.
//!
//! A build's end is told while the last records are still being written; without the wait its repetition, submitted in
//! the same moment, would miss them and run their steps again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How long a search for records waits: a store that has trouble costs hits, not the build.
const WAIT_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Open {
    begun: u64,
    open: BTreeSet<u64>,
}

/// Counts what is under way; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keeping(Arc<watch::Sender<Open>>);

/// One record on its way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Underway {
    keeping: Keeping,
    number: u64,
}

impl Keeping {
    /// Notes that a record is about to be written.
    pub(crate) fn begin(&self) -> Underway {
        let mut number = 0;
        self.0.send_modify(|open| {
            open.begun += 1;
            number = open.begun;
            open.open.insert(number);
        });
        Underway { keeping: self.clone(), number }
    }

    /// Waits until all that is under way now has come to its end, but not for ever.
    pub(crate) async fn settled(&self) {
        let mut changes = self.0.subscribe();
        let last = changes.borrow().begun;
        let settled = |open: &Open| open.open.first().is_none_or(|first| *first > last);
        if tokio::time::timeout(WAIT_MAX, changes.wait_for(settled)).await.is_err() {
            tracing::warn!("records are looked for while others are still being written");
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.keeping.0.send_modify(|open| {
            open.open.remove(&self.number);
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_begun_before_is_waited_for_and_no_more() {
        let keeping = Keeping::default();
        assert!(keeping.settled().now_or_never().is_some());
        let (first, second) = (keeping.begin(), keeping.begin());
        let mut settled = Box::pin(keeping.settled());
        assert!(settled.as_mut().now_or_never().is_none());
        let later = keeping.begin();
        drop(second);
        assert!(settled.as_mut().now_or_never().is_none());
        drop(first);
        assert!(settled.as_mut().now_or_never().is_some());
        // One that hangs is given up in the end.
        keeping.settled().await;
        drop(later);
        assert!(keeping.settled().now_or_never().is_some());
    }
}

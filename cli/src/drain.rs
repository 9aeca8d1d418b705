//! What of a build is still to go to the bucket once the build is done: shown while it is sent.

use std::time::Duration;

use dcbuild_progress::{Mode, text};
use dcbuild_store::{Backlog, Behind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::complain;

/// A bucket that fails for so long gets the rest from the next build.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon, and how often, a person is told how far the sending is.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Waits until all is sent, or `stop` is cancelled, or the bucket has failed for too long; says so unless the mode is a
/// silent one.
pub(crate) async fn drain(behind: &Behind, stop: &CancellationToken, mode: Mode) {
    let tell = |words: String| {
        if matches!(mode, Mode::Auto | Mode::Tty | Mode::Plain) {
            complain(&words);
        }
    };
    let (began, backlog) = (Instant::now(), behind.backlog());
    let mut drained = std::pin::pin!(behind.drained(PATIENCE));
    let mut ticks = tokio::time::interval_at(began + TOLD_EVERY, TOLD_EVERY);
    let left = loop {
        tokio::select! {
            left = &mut drained => break left,
            () = stop.cancelled() => break backlog.borrow().clone(),
            _ = ticks.tick() => tell(sending(&backlog.borrow())),
        }
    };
    let sent = left.sent_bytes;
    if let Some(words) = unsent(&left) {
        // A warning is for every mode: the next machine will not find what it counts on.
        complain(&words);
    } else if sent > 0 && began.elapsed() >= TOLD_EVERY {
        tell(format!(
            "cache: {} sent in {:.1} s\n",
            text::bytes(sent),
            began.elapsed().as_secs_f64()
        ));
    }
}

fn sending(backlog: &Backlog) -> String {
    let (bytes, items) = (text::bytes(backlog.bytes), backlog.items);
    match &backlog.failure {
        None => format!("cache: {bytes} in {items} pieces are still being sent\n"),
        Some(failure) => format!("cache: {bytes} wait, for {failure}\n"),
    }
}

fn unsent(left: &Backlog) -> Option<String> {
    if left.items == 0 {
        return None;
    }
    let bytes = text::bytes(left.bytes);
    let why = left.failure.as_ref().map_or(String::new(), |failure| format!(": {failure}"));
    Some(format!(
        "warning: {bytes} of the cache were not sent{why}; the next build on this store sends them\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_with_its_reason_and_what_becomes_of_it() {
        let mut backlog = Backlog { items: 2, bytes: 3_000_000, ..Backlog::default() };
        assert_eq!(sending(&backlog), "cache: 3.00MB in 2 pieces are still being sent\n");
        backlog.failure = Some("the store s3://b refused access".into());
        assert_eq!(sending(&backlog), "cache: 3.00MB wait, for the store s3://b refused access\n");
        assert_eq!(
            unsent(&backlog).unwrap(),
            "warning: 3.00MB of the cache were not sent: the store s3://b refused access; the next build on this \
             store sends them\n"
        );
        assert_eq!(unsent(&Backlog::default()), None);
    }
}

//! What of a build is still to go to the bucket once the build is done: shown while it is sent.

use std::time::Duration;

use dcbuild_progress::{Mode, text};
use dcbuild_store::{Backlog, Behind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::complain;

/// A bucket that answers, but takes nothing for so long, gets the rest from the next build.
const PATIENCE: Duration = Duration::from_secs(4);
/// How soon a person is told how far the sending is, and how often it is looked whether it goes on otherwise than was told.
const LOOKED_EVERY: Duration = Duration::from_secs(1);
/// How often it is told again where it goes on as was told.
const TOLD_EVERY: Duration = Duration::from_secs(10);

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
    let mut ticks = tokio::time::interval_at(began + LOOKED_EVERY, LOOKED_EVERY);
    let mut course = Course::default();
    let left = loop {
        tokio::select! {
            left = &mut drained => break left,
            () = stop.cancelled() => break backlog.borrow().clone(),
            _ = ticks.tick() => {
                let words = course.told(&backlog.borrow(), began.elapsed());
                words.into_iter().for_each(tell);
            }
        }
    };
    let sent = left.sent_bytes;
    if let Some(words) = unsent(&left) {
        // A warning is for every mode: the next machine will not find what it counts on.
        complain(&words);
    } else if sent > 0 && began.elapsed() >= LOOKED_EVERY {
        tell(format!(
            "cache: {} sent in {:.1} s\n",
            text::bytes(sent),
            began.elapsed().as_secs_f64()
        ));
    }
}

/// What was told last, and when.
#[derive(Default)]
struct Course {
    told: Option<(Option<String>, Duration)>,
}

impl Course {
    /// What is to be told of a backlog after this time: if it fails otherwise than was told, or if that is long ago.
    fn told(&mut self, backlog: &Backlog, after: Duration) -> Option<String> {
        let is_known = |(failure, at): &(Option<String>, Duration)| {
            *failure == backlog.failure && after < *at + TOLD_EVERY
        };
        if self.told.as_ref().is_some_and(is_known) {
            return None;
        }
        self.told = Some((backlog.failure.clone(), after));
        Some(sending(backlog, after))
    }
}

fn sending(backlog: &Backlog, after: Duration) -> String {
    let (bytes, items, secs) = (text::bytes(backlog.bytes), backlog.items, after.as_secs());
    match &backlog.failure {
        None => format!("cache: {bytes} in {items} pieces are still being sent after {secs} s\n"),
        Some(failure) => format!("cache: {bytes} wait for {secs} s now, for {failure}\n"),
    }
}

fn unsent(left: &Backlog) -> Option<String> {
    if left.items == 0 {
        return None;
    }
    let bytes = text::bytes(left.bytes);
    let why = left.failure.as_ref().map_or(String::new(), |failure| format!(": {failure}"));
    let then = if left.needs_hand { "once that is mended, " } else { "" };
    Some(format!(
        "warning: {bytes} of the cache were not sent{why}; {then}the next build on this store sends them\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_with_its_reason_and_what_becomes_of_it() {
        let mut backlog = Backlog { items: 2, bytes: 3_000_000, ..Backlog::default() };
        let after = Duration::from_secs(2);
        assert_eq!(
            sending(&backlog, after),
            "cache: 3.00MB in 2 pieces are still being sent after 2 s\n"
        );
        backlog.failure = Some("the store s3://b refused access".into());
        assert_eq!(
            sending(&backlog, after),
            "cache: 3.00MB wait for 2 s now, for the store s3://b refused access\n"
        );
        assert_eq!(
            unsent(&backlog).unwrap(),
            "warning: 3.00MB of the cache were not sent: the store s3://b refused access; the next build on this \
             store sends them\n"
        );
        assert_eq!(unsent(&Backlog::default()), None);
    }

    #[test]
    fn what_goes_on_as_was_told_is_told_again_only_after_a_while() {
        let hangs = Some("the store s3://b gave no answer in time".to_owned());
        let failing = |failure: &Option<String>, bytes| Backlog {
            items: 1,
            bytes,
            failure: failure.clone(),
            ..Backlog::default()
        };
        let mut course = Course::default();
        let mut told = Vec::new();
        for secs in 1..=25_u64 {
            // It is sent until it hangs; the bytes change all the time.
            let backlog = failing(if secs < 4 { &None } else { &hangs }, 1_000_000 * (30 - secs));
            told.extend(course.told(&backlog, Duration::from_secs(secs)));
        }
        assert_eq!(
            told.concat(),
            "cache: 29.00MB in 1 pieces are still being sent after 1 s\n\
             cache: 26.00MB wait for 4 s now, for the store s3://b gave no answer in time\n\
             cache: 16.00MB wait for 14 s now, for the store s3://b gave no answer in time\n\
             cache: 6.00MB wait for 24 s now, for the store s3://b gave no answer in time\n"
        );
    }
}

//! What a log that has grown is begun again with.

use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{BuildId, UnixTime};

use super::Entry;
use crate::book::outlived;

/// The entries that are left of a log once none of its builds goes on: builds that can still be looked at, with their
/// ends. None while a build goes on. Workers are not among them: they join again.
pub(crate) fn left_over(entries: &[Entry], now: UnixTime) -> Option<Vec<Entry>> {
    let (mut open, mut ended) = (BTreeSet::new(), BTreeMap::new());
    for entry in entries {
        match entry {
            Entry::Submitted { build, .. } => {
                open.insert(*build);
            }
            Entry::Ended { build, time, .. } => {
                open.remove(build);
                ended.insert(*build, *time);
            }
            _ => {}
        }
    }
    if !open.is_empty() {
        return None;
    }
    let times = ended.into_iter().map(|(build, time)| (time, build)).collect();
    let outlived: BTreeSet<BuildId> = outlived(times, now).into_iter().collect();
    let stays = |entry: &&Entry| match entry {
        Entry::Submitted { build, .. } | Entry::Ended { build, .. } => !outlived.contains(build),
        _ => false,
    };
    Some(entries.iter().filter(stays).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dcbuild_plan::Request;
    use dcbuild_proto::document::{Aim, Caches, Origin, Outcome, Submission, Upload};

    const DAY: i64 = 24 * 60 * 60;

    fn at(day: i64) -> UnixTime {
        UnixTime { secs: day * DAY, nanos: 0 }
    }

    fn submitted(number: u128) -> Entry {
        let submission = Submission {
            request: Request::new("FROM scratch\n"),
            outputs: Vec::new(),
            detached: true,
            aim: Aim::Build {},
            in_place: false,
            title: "test".into(),
            agents: BTreeSet::new(),
            caches: Caches::default(),
            origin: Origin::default(),
            upload: Upload::All,
            scope: None,
        };
        let (build, submission) = (BuildId::from_bits(number), Box::new(submission));
        Entry::Submitted { build, time: at(0), submission }
    }

    fn ended(number: u128, day: i64) -> Entry {
        let outcome = Box::new(Outcome::Canceled { reason: "enough".into() });
        Entry::Ended { build: BuildId::from_bits(number), time: at(day), outcome }
    }

    #[test]
    fn builds_with_their_ends_stay_for_a_week_and_nothing_else_does() {
        let founded = Entry::Founded { version: super::super::VERSION, seed: "1".into() };
        let log = [founded, submitted(1), submitted(2), ended(2, 1), ended(1, 9)];
        assert_eq!(left_over(&log, at(10)).unwrap(), [submitted(1), ended(1, 9)]);
        assert_eq!(left_over(&log, at(8)).unwrap(), log[1..]);
        assert_eq!(left_over(&log[..4], at(8)), None, "a build goes on");
    }
}

//! Several results under one key, as builds at once and `--no-cache` make them: which of them a build may still take.
//!
//! The one decided last counts. An earlier one counts for the sake of what was made from it and is itself the newest under
//! its key: whoever takes that takes along what it was made from. All others were replaced.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dcbuild_model::{AttemptId, Record, StateDigest, UnixTime};

/// So many results of one key count where nothing says what they stand on (`COPY --link`).
const UNGROUNDED_MAX: usize = 4;
/// So many states are looked at that such results may have been laid upon.
const LAID_MAX: usize = 4_000;

/// The state of a stage after this record; where it does not say what it stands on, after it alone.
fn state_of(record: &Record) -> StateDigest {
    let below = record.lineage.parent.unwrap_or_else(StateDigest::empty);
    record.result.state_after(below)
}

fn made_from(record: &Record) -> impl Iterator<Item = StateDigest> {
    record.lineage.parent.into_iter().chain(record.lineage.inputs.iter().copied())
}

/// Drops the records of each list that no build can take any more; lists of one key and scope, the one decided last at
/// the end.
pub(crate) fn retain_takeable<T>(lists: &mut [Vec<T>], record: impl Fn(&T) -> &Record) {
    let mut earlier: BTreeMap<StateDigest, Vec<(usize, usize)>> = BTreeMap::new();
    let mut counts: Vec<Vec<bool>> = Vec::with_capacity(lists.len());
    let mut open = Vec::new();
    for (at, list) in lists.iter().enumerate() {
        let mut of_list = vec![false; list.len()];
        // Of several that came to the same the last one serves.
        let mut states = BTreeSet::new();
        for (place, item) in list.iter().enumerate().rev() {
            let state = state_of(record(item));
            if !states.insert(state) {
                continue;
            }
            let is_grounded = record(item).lineage.parent.is_some();
            if states.len() <= if is_grounded { 1 } else { UNGROUNDED_MAX } {
                of_list[place] = true;
                open.push((at, place));
            } else {
                earlier.entry(state).or_default().push((at, place));
            }
        }
        counts.push(of_list);
    }
    add_laid(lists, &record, &mut earlier);
    while let Some((at, place)) = open.pop() {
        for state in made_from(record(&lists[at][place])) {
            for (at, place) in earlier.remove(&state).unwrap_or_default() {
                counts[at][place] = true;
                open.push((at, place));
            }
        }
    }
    for (list, counts) in lists.iter_mut().zip(counts) {
        let mut counts = counts.into_iter();
        list.retain(|_| counts.next() == Some(true));
    }
}

/// Adds the states of earlier results with others laid upon them that do not say what they stand on: whatever was made from
/// such a state was made from the earlier result.
fn add_laid<T>(
    lists: &[Vec<T>],
    record: &impl Fn(&T) -> &Record,
    earlier: &mut BTreeMap<StateDigest, Vec<(usize, usize)>>,
) {
    let ungrounded = lists.iter().flatten().map(record).filter(|it| it.lineage.parent.is_none());
    let layers: BTreeMap<StateDigest, &Record> = ungrounded.map(|it| (state_of(it), it)).collect();
    let mut open: VecDeque<(StateDigest, Vec<(usize, usize)>)> =
        earlier.iter().map(|(state, places)| (*state, places.clone())).collect();
    let mut looked = 0;
    while let Some((below, places)) = open.pop_front() {
        for laid in layers.values() {
            looked += 1;
            if looked > LAID_MAX {
                return;
            }
            let state = laid.result.state_after(below);
            // Without layers it is where it was.
            if let Entry::Vacant(new) = earlier.entry(state) {
                new.insert(places.clone());
                open.push_back((state, places.clone()));
            }
        }
    }
}

/// A record among the things of a store, for whoever sweeps it.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// The place of its thing.
    pub(crate) place: usize,
    id: AttemptId,
    decided: UnixTime,
    state: StateDigest,
    made_from: Vec<StateDigest>,
}

impl Attempt {
    pub(crate) fn new(place: usize, decided: UnixTime, record: &Record) -> Attempt {
        let (state, made_from) = (state_of(record), made_from(record).collect());
        Attempt { place, id: record.attempt, decided, state, made_from }
    }

    /// What it goes by among those of its key: the greatest is the newest.
    pub(crate) fn order(&self) -> (UnixTime, AttemptId) {
        (self.decided, self.id)
    }
}

/// One that was replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Replaced {
    /// Its thing.
    pub(crate) place: usize,
    /// When the next under its key was decided.
    pub(crate) at: UnixTime,
}

/// Which of these, each list of one key, were replaced by newer ones; and which thing needs which of those, since it was
/// made from it.
pub(crate) fn replaced(keys: &mut [Vec<Attempt>]) -> (Vec<Replaced>, Vec<(usize, usize)>) {
    let mut replaced = Vec::new();
    let mut by_state: BTreeMap<StateDigest, Vec<(UnixTime, usize)>> = BTreeMap::new();
    for attempts in keys.iter_mut() {
        attempts.sort_unstable_by_key(Attempt::order);
        let mut states: BTreeSet<StateDigest> =
            attempts.last().map(|it| it.state).into_iter().collect();
        for (one, next) in attempts.iter().zip(attempts.iter().skip(1)).rev() {
            replaced.push(Replaced { place: one.place, at: next.decided });
            // Where a newer one has made the same again, that serves.
            if states.insert(one.state) {
                by_state.entry(one.state).or_default().push((one.decided, one.place));
            }
        }
    }
    let mut needs = Vec::new();
    for maker in keys.iter().flatten() {
        let of_state = maker.made_from.iter().filter_map(|state| by_state.get(state)).flatten();
        // What it was made from was there before it; so nothing can need itself, by however long a way.
        let before = of_state.filter(|(decided, _)| *decided < maker.decided);
        needs.extend(before.map(|(_, place)| (maker.place, *place)));
    }
    (replaced, needs)
}

#[cfg(test)]
mod tests {
    use dcbuild_model::{
        ChangeDigest, Digest, LayerId, LayerRef, Lineage, Record, StateDigest, StepKey, StepResult,
        UnixTime, WorkerId,
    };

    use super::*;

    /// A record with a layer of this name upon a state.
    fn record(number: u32, layer: &str, parent: Option<StateDigest>, inputs: &[&Record]) -> Record {
        let digest = Digest::of(layer.as_bytes());
        let layer = LayerRef {
            layer: LayerId(digest),
            change: ChangeDigest(digest),
            entries: 1,
            bytes: 1,
            base: None,
        };
        Record {
            recipe: StepKey(digest),
            outcome: None,
            attempt: AttemptId::from_bits(number.into()),
            worker: WorkerId::from_bits(1),
            result: StepResult { layers: vec![layer], created: UnixTime::default() },
            lineage: Lineage {
                parent,
                inputs: inputs.iter().map(|it| state_of(it)).collect(),
                selections: Vec::new(),
            },
            components: Vec::new(),
            took_ms: number.into(),
        }
    }

    fn kept(lists: &[&[&Record]]) -> Vec<Vec<u64>> {
        let mut lists: Vec<Vec<&Record>> = lists.iter().map(|list| list.to_vec()).collect();
        retain_takeable(&mut lists, |it| it);
        let number = |it: &&Record| it.took_ms;
        lists.iter().map(|list| list.iter().map(number).collect()).collect()
    }

    #[test]
    fn what_the_newest_were_made_from_counts() {
        let root = Some(StateDigest::empty());
        let a: Vec<Record> =
            (0..4).map(|number| record(number, &format!("a{number}"), root, &[])).collect();
        let b = record(10, "b", Some(state_of(&a[1])), &[]);
        let c = record(20, "c", Some(state_of(&b)), &[]);
        let newer_b = record(11, "b'", Some(state_of(&a[3])), &[]);
        let reads = record(30, "d", root, &[&a[0]]);
        let all_a: Vec<&Record> = a.iter().collect();
        assert_eq!(kept(&[&all_a]), [[3]]);
        assert_eq!(kept(&[&all_a, &[&b]]), [vec![1, 3], vec![10]], "one build's others");
        assert_eq!(kept(&[&all_a, &[&b, &newer_b]]), [[3], [11]], "b was replaced");
        assert_eq!(
            kept(&[&all_a, &[&b, &newer_b], &[&c]]),
            [vec![1, 3], vec![10, 11], vec![20]],
            "two builds at once"
        );
        // One that came to the same serves for all that did.
        let again = Record { took_ms: 9, ..a[1].clone() };
        let twice: Vec<&Record> = a.iter().chain([&again, &a[3]]).collect();
        assert_eq!(kept(&[&twice, &[&b]]), [vec![9, 3], vec![10]]);
        assert_eq!(kept(&[&all_a, &[&reads]]), [vec![0, 3], vec![30]], "read by another stage");
    }

    #[test]
    fn of_results_that_stand_on_anything_the_last_few_count() {
        let all: Vec<Record> =
            (0..9).map(|number| record(number, &format!("l{number}"), None, &[])).collect();
        assert_eq!(kept(&[&all.iter().collect::<Vec<_>>()]), [[5, 6, 7, 8]]);
        let same = [record(1, "one", None, &[]), record(2, "one", None, &[])];
        assert_eq!(kept(&[&same.iter().collect::<Vec<_>>()]), [[2]]);
    }

    #[test]
    fn what_lies_below_a_linked_layer_counts_for_what_was_made_upon_that() {
        let root = Some(StateDigest::empty());
        let (old, new) = (record(1, "a", root, &[]), record(2, "a'", root, &[]));
        let links = [record(3, "l", None, &[]), record(4, "m", None, &[])];
        let state = links[1].result.state_after(links[0].result.state_after(state_of(&old)));
        let upon = record(5, "b", Some(state), &[]);
        let lists: [&[&Record]; 4] = [&[&old, &new], &[&links[0]], &[&links[1]], &[&upon]];
        assert_eq!(kept(&lists), [vec![1, 2], vec![3], vec![4], vec![5]]);
        assert_eq!(kept(&lists[..3]), [vec![2], vec![3], vec![4]], "nothing was made upon it");
    }

    #[test]
    fn replaced_ones_are_needed_by_what_was_made_from_them_later() {
        let root = Some(StateDigest::empty());
        let at = |secs| UnixTime { secs, nanos: 0 };
        let (a, newer) = (record(1, "a", root, &[]), record(2, "a'", root, &[]));
        let b = record(3, "b", Some(state_of(&a)), &[]);
        let mut keys = vec![
            vec![Attempt::new(1, at(9), &newer), Attempt::new(0, at(1), &a)],
            vec![Attempt::new(2, at(2), &b)],
        ];
        let (gone, needs) = replaced(&mut keys);
        assert_eq!(gone, [Replaced { place: 0, at: at(9) }]);
        assert_eq!(needs, [(2, 0)]);
        // The same again: whoever stands on it stands on the newest.
        let again = Record { attempt: AttemptId::from_bits(5), ..a.clone() };
        keys[0].push(Attempt::new(3, at(10), &again));
        let (gone, needs) = replaced(&mut keys);
        assert_eq!(gone.iter().map(|it| it.place).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(needs, []);
    }
}

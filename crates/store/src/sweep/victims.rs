//! Which things of a store are to go: the longest unused first, and never what a thing that stays needs.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use dcbuild_model::{EvictionRule, LayerId, Scope, StepKey, UnixTime};

use super::Ceilings;

/// What a thing of a store is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ThingKind {
    /// A step record under one of its keys.
    Record {
        /// Whose it is.
        scope: Scope,
        /// The key.
        key: StepKey,
    },
    /// A step record that a newer one of its key has replaced: it may still be what others were made from.
    Replaced,
    /// What is known of a layer's blob in one compression.
    Form {
        /// The layer.
        layer: LayerId,
    },
    /// What is known of a base image's layer.
    Base,
    /// The name of an image.
    Image,
    /// The latest version of a cache mount.
    CacheMount,
    /// A blob.
    Blob,
    /// A corrupt blob that was put aside.
    Quarantined,
}

/// Why a thing stays whatever the ceilings say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Nothing holds it.
    Free,
    /// A build that goes on may have found or made it.
    InUse,
    /// It is the name of an image.
    Named,
}

/// One thing of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thing {
    /// What it is.
    pub kind: ThingKind,
    /// Whose it is; nobody's alone, if none.
    pub scope: Option<Scope>,
    /// Its name in the store.
    pub name: String,
    /// The names of the objects or files that it is made of.
    pub parts: Vec<String>,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written.
    pub written: UnixTime,
    /// When it was last used, as far as anybody knows.
    pub used: UnixTime,
    /// Why it stays.
    pub hold: Hold,
    /// The places of what it needs.
    pub needs: Vec<usize>,
}

/// A thing that is to go, by its place, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Victim {
    /// Its place among the things.
    pub place: usize,
    /// The rule.
    pub rule: EvictionRule,
}

/// Chooses what is to go so that the rest keeps the ceilings, in an order in which nothing goes before what needs it.
///
/// What only a thing that goes needed goes with it. What nothing needs (packs of contexts, manifests of images without a
/// name) goes by its own age, unless the ceilings are those of one scope: it is nobody's alone. What is larger, with all
/// that it needs, than all that may stay goes first, however lately it was used: else all the others would go, and it after
/// them.
pub fn victims(things: &[Thing], ceilings: &Ceilings, now: UnixTime) -> Vec<Victim> {
    let mut choice = Choice::new(things, ceilings.within.as_ref());
    for place in choice.oversized(ceilings) {
        if let Some(rule) = choice.rule(place, ceilings, now) {
            choice.take(place, rule);
        }
    }
    while let Some(place) = choice.longest_unused() {
        let Some(rule) = choice.rule(place, ceilings, now) else {
            // All others were used later, and the rest fits.
            break;
        };
        choice.take(place, rule);
    }
    choice.victims
}

struct Choice<'a> {
    things: &'a [Thing],
    /// How many things that stay need each.
    needed: Vec<usize>,
    gone: Vec<bool>,
    bytes: u64,
    /// What may go, by use; of one use what was written last comes first, as it stands on what was written before.
    queue: BinaryHeap<Reverse<(UnixTime, Reverse<UnixTime>, usize)>>,
    victims: Vec<Victim>,
}

impl<'a> Choice<'a> {
    fn new(things: &'a [Thing], within: Option<&Scope>) -> Choice<'a> {
        let mut needed = vec![0; things.len()];
        for place in things.iter().flat_map(|thing| &thing.needs) {
            if let Some(count) = needed.get_mut(*place) {
                *count += 1;
            }
        }
        let mut choice = Choice {
            things,
            needed,
            gone: vec![false; things.len()],
            bytes: things.iter().map(|thing| thing.size).sum(),
            queue: BinaryHeap::new(),
            victims: Vec::new(),
        };
        for (place, thing) in things.iter().enumerate() {
            let is_meant = within.is_none_or(|outer| {
                thing.scope.as_ref().is_some_and(|scope| scope.is_within(outer))
            });
            if is_meant && choice.may_go(place, thing) {
                choice.queue.push(Reverse((thing.used, Reverse(thing.written), place)));
            }
        }
        choice
    }

    fn may_go(&self, place: usize, thing: &Thing) -> bool {
        let unneeded = self.needed.get(place) == Some(&0);
        thing.hold == Hold::Free && unneeded && self.gone.get(place) == Some(&false)
    }

    fn longest_unused(&mut self) -> Option<usize> {
        while let Some(Reverse((_, _, place))) = self.queue.pop() {
            if self.gone.get(place) == Some(&false) {
                return Some(place);
            }
        }
        None
    }

    /// What cannot stay even alone, the longest unused first.
    fn oversized(&self, ceilings: &Ceilings) -> Vec<usize> {
        let Some(keep) = ceilings.keep_bytes.filter(|keep| !ceilings.all && self.bytes > *keep)
        else {
            return Vec::new();
        };
        let mut queued: Vec<_> = self.queue.iter().map(|Reverse(queued)| *queued).collect();
        queued.retain(|(_, _, place)| self.is_larger(*place, keep));
        queued.sort_unstable();
        queued.into_iter().map(|(_, _, place)| place).collect()
    }

    /// Whether a thing and all that it needs have more bytes than these.
    fn is_larger(&self, place: usize, max: u64) -> bool {
        let (mut open, mut seen, mut bytes) = (vec![place], BTreeSet::new(), 0_u64);
        while let Some(place) = open.pop() {
            if let Some(thing) = self.things.get(place)
                && seen.insert(place)
            {
                bytes = bytes.saturating_add(thing.size);
                open.extend(&thing.needs);
            }
            if bytes > max {
                return true;
            }
        }
        false
    }

    fn rule(&self, place: usize, ceilings: &Ceilings, now: UnixTime) -> Option<EvictionRule> {
        let thing = self.things.get(place)?;
        if ceilings.all {
            return Some(EvictionRule::All {});
        }
        let age = now.secs.saturating_sub(thing.used.secs).max(0).unsigned_abs();
        if let Some(max) = ceilings.max_age
            && age > max.as_secs()
        {
            return Some(EvictionRule::Age { max_secs: max.as_secs() });
        }
        let keep = ceilings.keep_bytes.filter(|keep| self.bytes > *keep)?;
        Some(EvictionRule::Bytes { keep })
    }

    /// Takes a thing, and all that only it needed.
    fn take(&mut self, place: usize, rule: EvictionRule) {
        let mut open = vec![place];
        while let Some(place) = open.pop() {
            let Some(thing) = self.things.get(place) else { continue };
            if !self.may_go(place, thing) {
                continue;
            }
            self.gone[place] = true;
            self.bytes -= thing.size;
            self.victims.push(Victim { place, rule });
            for need in &thing.needs {
                if let Some(count) = self.needed.get_mut(*need) {
                    *count -= 1;
                }
                open.push(*need);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dcbuild_model::Digest;

    use super::*;

    fn thing(kind: ThingKind, size: u64, used: i64, needs: &[usize]) -> Thing {
        let used = UnixTime { secs: used, nanos: 0 };
        let (name, parts, written) = (String::new(), Vec::new(), used);
        let (hold, needs) = (Hold::Free, needs.to_vec());
        Thing { kind, scope: None, name, parts, size, written, used, hold, needs }
    }

    fn record(used: i64, needs: &[usize]) -> Thing {
        let key = StepKey(Digest::of(b"key"));
        thing(ThingKind::Record { scope: Scope::local(), key }, 1, used, needs)
    }

    fn blob(size: u64, used: i64) -> Thing {
        thing(ThingKind::Blob, size, used, &[])
    }

    fn check(things: &[Thing], ceilings: &Ceilings, want: &[usize]) {
        let now = UnixTime { secs: 1_000, nanos: 0 };
        let victims = victims(things, ceilings, now);
        let places: Vec<usize> = victims.iter().map(|victim| victim.place).collect();
        assert_eq!(places, want, "{ceilings:?}");
    }

    #[test]
    fn of_one_scope_goes_what_only_it_needs() {
        let of = |scope: &str, thing: Thing| Thing { scope: scope.parse().ok(), ..thing };
        let things = [
            of("acme/shop", record(1, &[3])),
            of("acme/shop/pr/7", record(2, &[3, 4])),
            of("acme/shop-2", record(3, &[5])),
            blob(1, 1),
            blob(1, 2),
            blob(1, 3),
            // Nobody's alone.
            blob(1, 1),
        ];
        let of =
            |scope: &str| Ceilings { all: true, within: scope.parse().ok(), ..Ceilings::default() };
        check(&things, &of("acme/shop/pr"), &[1, 4]);
        check(&things, &of("acme/shop"), &[0, 1, 4, 3]);
        check(&things, &of("acme/other"), &[]);
    }

    fn keep(bytes: u64) -> Ceilings {
        Ceilings { keep_bytes: Some(bytes), ..Ceilings::default() }
    }

    #[test]
    fn nothing_goes_without_a_ceiling_or_below_it() {
        let things = [record(1, &[1]), blob(100, 1)];
        check(&things, &Ceilings::default(), &[]);
        check(&things, &keep(101), &[]);
    }

    #[test]
    fn a_record_goes_before_its_blobs_and_takes_them_along() {
        // The blob was used later than the record of another build.
        let things = [record(5, &[1]), blob(100, 9), record(6, &[3]), blob(100, 6)];
        check(&things, &keep(150), &[0, 1]);
        check(&things, &keep(10), &[0, 1, 2, 3]);
    }

    #[test]
    fn what_another_record_needs_stays() {
        let things = [record(5, &[2]), record(50, &[2]), blob(100, 1), blob(10, 2)];
        check(&things, &keep(105), &[3]);
        check(&things, &keep(101), &[3, 0]);
        check(&things, &keep(50), &[0, 1, 2]);
    }

    #[test]
    fn what_is_larger_than_all_that_may_stay_goes_before_what_is_older() {
        let things = [
            record(5, &[1]),
            blob(10, 5),
            record(99, &[3]),
            blob(100, 99),
            // A blob that nothing needs.
            blob(60, 50),
            blob(10, 1),
        ];
        check(&things, &keep(50), &[4, 2, 3]);
        // Together they are too many then, and the longest unused goes.
        check(&things, &keep(20), &[4, 2, 3, 5]);
        check(&things, &keep(150), &[5, 0, 1, 4]);
        let aged = Ceilings { max_age: Some(Duration::from_secs(998)), ..keep(50) };
        check(&things, &aged, &[4, 2, 3, 5]);
    }

    #[test]
    fn what_is_in_use_or_named_stays_and_so_does_all_that_it_needs() {
        for hold in [Hold::InUse, Hold::Named] {
            let held = Thing { hold, ..record(1, &[1]) };
            let things = [held, blob(100, 1), record(2, &[]), blob(7, 3)];
            let all = Ceilings { all: true, ..Ceilings::default() };
            check(&things, &all, &[2, 3]);
        }
        // A blob that a build has just found outlives the old record that named it.
        let found = Thing { hold: Hold::InUse, ..blob(100, 999) };
        check(&[record(1, &[1]), found], &keep(0), &[0]);
    }

    #[test]
    fn age_counts_from_the_last_use() {
        let age =
            |secs| Ceilings { max_age: Some(Duration::from_secs(secs)), ..Ceilings::default() };
        let things = [record(100, &[1]), blob(5, 100), record(900, &[3]), blob(5, 900)];
        check(&things, &age(899), &[0, 1]);
        check(&things, &age(900), &[]);
        check(&things, &age(99), &[0, 1, 2, 3]);
    }

    #[test]
    fn of_one_use_what_was_made_last_goes_first() {
        let written = |secs, thing| Thing { written: UnixTime { secs, nanos: 0 }, ..thing };
        let things = [written(1, record(9, &[])), written(2, record(9, &[]))];
        check(&things, &keep(1), &[1]);
    }
}

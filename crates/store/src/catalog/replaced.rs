//! Records that newer ones of their keys have replaced, told apart from those for whoever sweeps: their uses are known
//! together.

use crate::attempts::{Attempt, replaced};
use crate::sweep::{Hold, Thing, ThingKind};

/// One document of a thing that is the records of a key.
pub(super) struct Stored {
    pub(super) part: String,
    /// Its bytes in the store.
    pub(super) size: u64,
    /// The places of the things that it needs.
    pub(super) needs: Vec<usize>,
    /// None if it cannot be read.
    pub(super) attempt: Option<Attempt>,
}

/// Adds what the records of each thing need, and makes each that was replaced a thing of its own: used last when the next
/// was decided, and needed by what was made from it. So what no build can take any more ages, whatever takes the newest.
pub(super) fn add_record_needs(things: &mut Vec<Thing>, records: Vec<(usize, Vec<Stored>)>) {
    let mut keys = Vec::with_capacity(records.len());
    for (at, mut stored) in records {
        let order = |it: &Stored| it.attempt.as_ref().map(Attempt::order);
        // Those that cannot be read stand first, and stay with the newest.
        stored.sort_by_key(order);
        let newest = stored.len().saturating_sub(1);
        let mut attempts = Vec::with_capacity(stored.len());
        for (number, stored) in stored.into_iter().enumerate() {
            match stored.attempt {
                Some(mut attempt) if number < newest => {
                    attempt.place = take_apart(things, at, stored.part, stored.size, stored.needs);
                    attempts.push(attempt);
                }
                attempt => {
                    things[at].needs.extend(stored.needs);
                    attempts.extend(attempt);
                }
            }
        }
        keys.push(attempts);
    }
    let (replaced, needs) = replaced(&mut keys);
    for replaced in replaced {
        let thing = &mut things[replaced.place];
        thing.used = thing.used.min(replaced.at);
    }
    for (of, need) in needs {
        things[of].needs.push(need);
    }
    for thing in things.iter_mut().filter(|it| is_record(&it.kind)) {
        thing.needs.sort_unstable();
        thing.needs.dedup();
    }
}

/// Makes a part of a thing one of its own, and says its place.
fn take_apart(
    things: &mut Vec<Thing>,
    at: usize,
    part: String,
    size: u64,
    needs: Vec<usize>,
) -> usize {
    let of = &mut things[at];
    of.parts.retain(|it| *it != part);
    of.size = of.size.saturating_sub(size);
    let thing = Thing {
        kind: ThingKind::Replaced,
        scope: of.scope.clone(),
        name: part.clone(),
        parts: vec![part],
        size,
        written: of.written,
        used: of.used,
        hold: Hold::Free,
        needs,
    };
    things.push(thing);
    things.len() - 1
}

fn is_record(kind: &ThingKind) -> bool {
    matches!(kind, ThingKind::Record { .. } | ThingKind::Replaced)
}

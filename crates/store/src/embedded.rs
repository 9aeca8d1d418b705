//! An index in the memory of one process.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use dcbuild_model::UnixTime;

use crate::StoreError;
use crate::keys::{ENTRY_BYTES_MAX, Fill, IndexEntry, IndexKey, KeyIndex, KeyUse, Looked};

/// About what the maps take for one key or field beside its text.
const OVERHEAD_BYTES: usize = 120;

/// Keeps an index in memory, up to a number of bytes; it begins incomplete, as its process does.
///
/// When it grows too large, the values of the keys that were not asked for longest go first: their fields stay, and with
/// them completeness. Only when nothing but names is left do whole keys go, and the mark with them.
#[derive(Debug)]
pub struct EmbeddedIndex(Mutex<State>);

impl EmbeddedIndex {
    /// An empty index that takes about `bytes_max` at most.
    pub fn new(bytes_max: usize) -> EmbeddedIndex {
        EmbeddedIndex(Mutex::new(State { bytes_max, ..State::default() }))
    }

    /// About how many bytes it takes now.
    pub fn bytes(&self) -> usize {
        self.with(|state| state.bytes)
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A key's fields, when it was used, and its place in the order of asking.
#[derive(Debug, Default)]
struct Known {
    fields: BTreeMap<String, Bytes>,
    used: UnixTime,
    asked: u64,
}

impl Known {
    fn value_bytes(&self) -> usize {
        self.fields.values().map(Bytes::len).sum()
    }

    fn bytes(&self, key: &IndexKey) -> usize {
        let fields: usize = self.fields.keys().map(|field| field.len() + OVERHEAD_BYTES).sum();
        3 * key.0.len() + OVERHEAD_BYTES + fields + self.value_bytes()
    }
}

#[derive(Debug)]
struct Lease {
    holder: String,
    until: UnixTime,
}

#[derive(Debug, Default)]
struct State {
    bytes_max: usize,
    bytes: usize,
    keys: BTreeMap<IndexKey, Known>,
    by_use: BTreeSet<KeyUse>,
    /// Keys that have values, and keys that have only fields, in the order of asking.
    valued: BTreeMap<u64, IndexKey>,
    bare: BTreeMap<u64, IndexKey>,
    asked: u64,
    complete: bool,
    fill: Option<(Fill, UnixTime)>,
    fills: u64,
    leases: BTreeMap<String, Lease>,
}

impl State {
    /// Takes a key out of all maps.
    fn take(&mut self, key: &IndexKey) -> Option<Known> {
        let known = self.keys.remove(key)?;
        self.bytes -= known.bytes(key);
        self.by_use.remove(&KeyUse { used: known.used, key: key.clone() });
        self.valued.remove(&known.asked);
        self.bare.remove(&known.asked);
        Some(known)
    }

    /// Puts a key into all maps, with the place in the order of asking that it has.
    fn place(&mut self, key: IndexKey, known: Known) {
        self.bytes += known.bytes(&key);
        self.by_use.insert(KeyUse { used: known.used, key: key.clone() });
        let order = if known.value_bytes() > 0 { &mut self.valued } else { &mut self.bare };
        order.insert(known.asked, key.clone());
        self.keys.insert(key, known);
    }

    fn next_asked(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    fn look(&mut self, key: &IndexKey) -> Vec<(String, Bytes)> {
        let asked = self.next_asked();
        let Some(known) = self.keys.get_mut(key) else {
            return Vec::new();
        };
        for order in [&mut self.valued, &mut self.bare] {
            if let Some(moved) = order.remove(&known.asked) {
                order.insert(asked, moved);
            }
        }
        known.asked = asked;
        known.fields.iter().map(|(field, value)| (field.clone(), value.clone())).collect()
    }

    fn put(&mut self, entry: &IndexEntry) {
        let mut known = self.take(&entry.key).unwrap_or_default();
        // A copy: a slice would keep alive whatever it was cut from.
        let fits = entry.value.len() <= ENTRY_BYTES_MAX;
        let value = if fits { Bytes::copy_from_slice(&entry.value) } else { Bytes::new() };
        let field = known.fields.entry(entry.field.clone()).or_default();
        if !entry.value.is_empty() {
            *field = value;
        }
        known.used = known.used.max(to_millis(entry.used));
        known.asked = self.next_asked();
        self.place(entry.key.clone(), known);
    }

    fn remove_field(&mut self, key: &IndexKey, field: &str) {
        if let Some(mut known) = self.take(key) {
            known.fields.remove(field);
            if !known.fields.is_empty() {
                self.place(key.clone(), known);
            }
        }
    }

    fn touch(&mut self, key: &IndexKey, now: UnixTime) {
        if let Some(mut known) = self.take(key) {
            known.used = known.used.max(to_millis(now));
            self.place(key.clone(), known);
        }
    }

    fn shrink(&mut self) {
        while self.bytes > self.bytes_max {
            if let Some((_, key)) = self.valued.pop_first() {
                if let Some(mut known) = self.take(&key) {
                    for value in known.fields.values_mut() {
                        *value = Bytes::new();
                    }
                    self.place(key, known);
                }
            } else if let Some((_, key)) = self.bare.pop_first() {
                self.take(&key);
                self.disturb();
            } else {
                return;
            }
        }
    }

    fn disturb(&mut self) {
        self.complete = false;
        self.fill = None;
    }

    fn begin_fill(&mut self, now: UnixTime, until: UnixTime) -> Option<Fill> {
        if self.fill.as_ref().is_some_and(|(_, until)| *until > now) {
            return None;
        }
        self.fills += 1;
        let fill = Fill(self.fills.to_string());
        self.fill = Some((fill.clone(), until));
        Some(fill)
    }

    fn end_fill(&mut self, fill: &Fill) -> bool {
        let undisturbed = self.fill.take_if(|(current, _)| current == fill).is_some();
        self.complete |= undisturbed;
        undisturbed
    }

    fn hold(&mut self, name: &str, wanted: Lease, now: UnixTime) -> bool {
        self.leases.retain(|_, lease| lease.until > now);
        let there = self.leases.get(name);
        let free = there.is_none_or(|lease| lease.holder == wanted.holder);
        if free {
            self.leases.insert(name.into(), wanted);
        }
        free
    }
}

/// The time without what is finer than every index keeps.
fn to_millis(time: UnixTime) -> UnixTime {
    UnixTime { secs: time.secs, nanos: time.nanos / 1_000_000 * 1_000_000 }
}

#[async_trait::async_trait]
impl KeyIndex for EmbeddedIndex {
    async fn find(&self, keys: &[IndexKey]) -> Result<Looked, StoreError> {
        Ok(self.with(|state| {
            let found = keys.iter().map(|key| state.look(key)).collect();
            Looked { complete: state.complete, found }
        }))
    }

    async fn put(&self, entries: &[IndexEntry]) -> Result<(), StoreError> {
        self.with(|state| {
            for entry in entries {
                state.put(entry);
            }
            state.shrink();
        });
        Ok(())
    }

    async fn remove(&self, keys: &[IndexKey]) -> Result<(), StoreError> {
        self.with(|state| {
            for key in keys {
                state.take(key);
            }
        });
        Ok(())
    }

    async fn remove_fields(&self, fields: &[(IndexKey, String)]) -> Result<(), StoreError> {
        self.with(|state| {
            for (key, field) in fields {
                state.remove_field(key, field);
            }
        });
        Ok(())
    }

    async fn touch(&self, keys: &[IndexKey], now: UnixTime) -> Result<(), StoreError> {
        self.with(|state| {
            for key in keys {
                state.touch(key, now);
            }
        });
        Ok(())
    }

    async fn last_used(&self, keys: &[IndexKey]) -> Result<Vec<Option<UnixTime>>, StoreError> {
        Ok(self.with(|state| {
            keys.iter().map(|key| state.keys.get(key).map(|known| known.used)).collect()
        }))
    }

    async fn unused(
        &self,
        prefix: &str,
        after: Option<&KeyUse>,
        limit: usize,
    ) -> Result<Vec<KeyUse>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.with(|state| {
            let behind = state.by_use.range((from, Bound::Unbounded));
            behind.filter(|known| known.key.0.starts_with(prefix)).take(limit).cloned().collect()
        }))
    }

    async fn begin_fill(&self, now: UnixTime, until: UnixTime) -> Result<Option<Fill>, StoreError> {
        Ok(self.with(|state| state.begin_fill(now, until)))
    }

    async fn end_fill(&self, fill: &Fill) -> Result<bool, StoreError> {
        Ok(self.with(|state| state.end_fill(fill)))
    }

    async fn mark_incomplete(&self) -> Result<(), StoreError> {
        self.with(State::disturb);
        Ok(())
    }

    async fn hold(
        &self,
        name: &str,
        holder: &str,
        now: UnixTime,
        until: UnixTime,
    ) -> Result<bool, StoreError> {
        let wanted = Lease { holder: holder.into(), until };
        Ok(self.with(|state| state.hold(name, wanted, now)))
    }

    async fn release(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        self.with(|state| {
            if state.leases.get(name).is_some_and(|lease| lease.holder == holder) {
                state.leases.remove(name);
            }
        });
        Ok(())
    }
}

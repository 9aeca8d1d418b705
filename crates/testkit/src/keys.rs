//! What every index over a store must do, told in two ways: as a list of demands, and as a model to be followed.

use std::collections::BTreeMap;

use bytes::Bytes;
use dcbuild_model::UnixTime;
use dcbuild_store::{ENTRY_BYTES_MAX, Fill, IndexEntry, IndexKey, KeyIndex, KeyUse, Looked};
use futures::future::BoxFuture;

fn at(secs: i64) -> UnixTime {
    UnixTime { secs, nanos: 5_000_000 }
}

fn key(name: &str) -> IndexKey {
    IndexKey(name.into())
}

fn entry(name: &str, field: &str, value: &[u8], secs: i64) -> IndexEntry {
    let value = Bytes::copy_from_slice(value);
    IndexEntry { key: key(name), field: field.into(), value, used: at(secs) }
}

async fn find(index: &dyn KeyIndex, names: &[&str]) -> Looked {
    let keys: Vec<IndexKey> = names.iter().map(|name| key(name)).collect();
    index.find(&keys).await.expect("looked up")
}

async fn begin(index: &dyn KeyIndex, now: i64, until: i64) -> Option<Fill> {
    index.begin_fill(at(now), at(until)).await.expect("asked for a fill")
}

/// Holds an empty index to its contract.
pub async fn keys(index: &dyn KeyIndex) {
    fields(index).await;
    completeness(index).await;
    uses(index).await;
    leases(index).await;
}

async fn fields(index: &dyn KeyIndex) {
    let nothing = Looked { complete: false, found: vec![vec![], vec![]] };
    assert_eq!(find(index, &["f/a", "f/b"]).await, nothing, "an empty index is incomplete");
    assert_eq!(index.find(&[]).await.expect("looked up").found, Vec::<Vec<_>>::new());

    index.put(&[]).await.expect("nothing is put");
    let binary = [0, 255, b'\r', b'\n'];
    index.put(&[entry("f/a", "2", &binary, 1), entry("f/a", "1", b"one", 1)]).await.expect("put");
    index.put(&[entry("f/b", "", b"", 1), entry("f/a", "1", b"uno", 1)]).await.expect("put");
    let a = vec![("1".into(), Bytes::from("uno")), ("2".into(), Bytes::copy_from_slice(&binary))];
    let b = vec![(String::new(), Bytes::new())];
    let both = find(index, &["f/b", "f/a", "f/c", "f/b"]).await;
    assert_eq!(both.found, [b.clone(), a, vec![], b.clone()], "in the order asked, by name");

    index.put(&[entry("f/a", "1", b"", 1), entry("f/large", "x", b"old", 1)]).await.expect("put");
    let found = find(index, &["f/a"]).await.found.remove(0);
    assert_eq!(found[0].1, "uno", "who has no value takes none away");

    let large = vec![7; ENTRY_BYTES_MAX + 1];
    index
        .put(&[entry("f/large", "x", &large, 1), entry("f/large", "y", &large[1..], 1)])
        .await
        .expect("put");
    let found = find(index, &["f/large"]).await.found.remove(0);
    let lengths: Vec<_> = found.iter().map(|(field, value)| (&**field, value.len())).collect();
    assert_eq!(lengths, [("x", 0), ("y", ENTRY_BYTES_MAX)], "the field stays without its value");

    index.remove(&[key("f/a"), key("f/never"), key("f/large")]).await.expect("removed");
    assert_eq!(find(index, &["f/a", "f/b"]).await.found, [vec![], b.clone()]);

    let two = [entry("f/d", "1", b"one", 1), entry("f/d", "2", b"two", 1)];
    index.put(&two).await.expect("put");
    let fields = |names: &[(&str, &str)]| -> Vec<(IndexKey, String)> {
        names.iter().map(|(name, field)| (key(name), (*field).to_owned())).collect()
    };
    let gone = fields(&[("f/d", "1"), ("f/never", "1"), ("f/b", "never")]);
    index.remove_fields(&gone).await.expect("removed");
    let left = vec![("2".into(), Bytes::from("two"))];
    assert_eq!(find(index, &["f/d", "f/b"]).await.found, [left, b.clone()]);
    assert_eq!(index.last_used(&[key("f/d")]).await.expect("told"), [Some(at(1))]);
    index.remove_fields(&fields(&[("f/d", "2")])).await.expect("removed");
    assert_eq!(find(index, &["f/d", "f/b"]).await.found, [vec![], b]);
    assert_eq!(index.last_used(&[key("f/d")]).await.expect("told"), [None], "it has no field");
}

async fn completeness(index: &dyn KeyIndex) {
    let stranger = Fill("stranger".into());
    assert!(!index.end_fill(&stranger).await.expect("ended"), "nobody began that fill");

    let fill = begin(index, 10, 20).await.expect("nobody else fills");
    assert_eq!(begin(index, 19, 40).await, None, "somebody fills");
    assert!(!find(index, &["c/a"]).await.complete, "not yet");
    assert!(index.end_fill(&fill).await.expect("ended"));
    assert!(find(index, &["c/a"]).await.complete);
    assert!(!index.end_fill(&fill).await.expect("ended"), "it has ended already");

    let again = begin(index, 21, 30).await.expect("a complete index may be filled again");
    assert!(find(index, &["c/a"]).await.complete, "and is complete all the while");
    let later = begin(index, 30, 40).await.expect("whoever is late makes way");
    assert_ne!(again, later);
    assert!(!index.end_fill(&again).await.expect("ended"), "another fill is under way");
    assert!(index.end_fill(&later).await.expect("ended"));

    let fill = begin(index, 50, 60).await.expect("nobody else fills");
    index.mark_incomplete().await.expect("marked");
    assert!(!find(index, &["c/a"]).await.complete);
    assert!(!index.end_fill(&fill).await.expect("ended"), "it was disturbed");
    assert!(!find(index, &["c/a"]).await.complete);

    let fill = begin(index, 50, 60).await.expect("a disturbed fill is in nobody's way");
    index.put(&[entry("c/b", "x", b"1", 1)]).await.expect("put");
    index.remove(&[key("c/b")]).await.expect("removed");
    assert!(index.end_fill(&fill).await.expect("ended"), "writes do not disturb it");
}

async fn uses(index: &dyn KeyIndex) {
    let used = |secs, name: &str| KeyUse { used: at(secs), key: key(name) };
    let names = ["u/a", "u/b", "u/c", "u/d", "v/a"];
    let put: Vec<IndexEntry> =
        names.iter().zip([400, 300, 200, 200, 100]).map(|(n, t)| entry(n, "", b"", t)).collect();
    index.put(&put).await.expect("put");
    index.put(&[entry("u/a", "x", b"", 1)]).await.expect("an earlier use changes nothing");
    let finer = UnixTime { secs: 500, nanos: 5_999_999 };
    index.touch(&[key("u/b"), key("u/never")], finer).await.expect("touched");
    index.touch(&[key("u/b")], at(2)).await.expect("touched");
    let asked = ["u/b", "u/never", "u/a"].map(key);
    let last = index.last_used(&asked).await.expect("asked");
    assert_eq!(last, [Some(at(500)), None, Some(at(400))]);
    assert_eq!(find(index, &["u/never"]).await.found, [vec![]]);

    let page = |after: Option<KeyUse>, limit| async move {
        index.unused("u/", after.as_ref(), limit).await.expect("asked")
    };
    let first = page(None, 3).await;
    assert_eq!(first, [used(200, "u/c"), used(200, "u/d"), used(400, "u/a")]);
    assert_eq!(page(Some(used(400, "u/a")), 3).await, [used(500, "u/b")]);
    assert_eq!(page(Some(used(500, "u/b")), 3).await, []);
    index.remove(&[key("u/c")]).await.expect("removed");
    let rest = page(Some(used(200, "u/c")), 2).await;
    assert_eq!(rest, [used(200, "u/d"), used(400, "u/a")], "behind a key that is gone");
    let all = index.unused("", None, 1).await.expect("asked");
    assert_eq!(all.len(), 1);
}

async fn leases(index: &dyn KeyIndex) {
    let hold = |name, holder, now, until| async move {
        index.hold(name, holder, at(now), at(until)).await.expect("asked for a lease")
    };
    assert!(hold("sweep", "one", 10, 20).await);
    assert!(!hold("sweep", "two", 11, 21).await);
    assert!(hold("other", "two", 11, 21).await, "names are apart");
    assert!(hold("sweep", "one", 15, 30).await, "renewed");
    assert!(!hold("sweep", "two", 29, 40).await);
    assert!(hold("sweep", "two", 30, 40).await, "it has ended");
    index.release("sweep", "one").await.expect("released");
    assert!(!hold("sweep", "one", 31, 50).await, "who has no lease cannot let go of it");
    index.release("sweep", "two").await.expect("released");
    assert!(hold("sweep", "one", 32, 50).await);
    for name in ["sweep", "other", "never"] {
        index.release(name, "one").await.expect("released");
    }
}

/// Numbers that look random and are the same for the same seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Begins a row of numbers.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number under `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// Harms an index from outside; the number says how.
pub type Harm<'a> = Box<dyn Fn(u64) -> BoxFuture<'a, ()> + Send + Sync + 'a>;

/// How often an index said what during a run against the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    /// Look-ups that it called complete; each was compared with the truth.
    pub complete: u32,
    /// Look-ups that it called incomplete.
    pub incomplete: u32,
    /// Times that it was harmed.
    pub harmed: u32,
}

#[derive(Debug, Default)]
struct Held {
    fields: BTreeMap<String, Bytes>,
    used: UnixTime,
}

struct Run<'a> {
    index: &'a dyn KeyIndex,
    /// What the store has.
    truth: BTreeMap<IndexKey, Held>,
    dice: Dice,
    now: i64,
    agreement: Agreement,
}

/// Does random things to an index, and compares it with a model whenever it claims to be complete.
pub async fn agrees(index: &dyn KeyIndex, seed: u64, steps: u32, harm: Harm<'_>) -> Agreement {
    let (truth, dice) = (BTreeMap::new(), Dice::new(seed));
    let mut run = Run { index, truth, dice, now: 1, agreement: Agreement::default() };
    for _ in 0..steps {
        run.now += 1;
        match run.dice.roll(17) {
            0..=3 => run.put().await,
            4 => run.put_to_the_store_only().await,
            5 => run.remove().await,
            16 => run.remove_field().await,
            6..=11 => run.look().await,
            12 | 13 => run.fill().await,
            14 => run.touch().await,
            _ => {
                run.agreement.harmed += 1;
                harm(run.dice.roll(1 << 32)).await;
            }
        }
    }
    run.agreement
}

impl Run<'_> {
    fn key(&mut self) -> IndexKey {
        IndexKey(format!(
            "{}/{}",
            ["a", "b"][usize::from(self.dice.roll(2) == 0)],
            self.dice.roll(6)
        ))
    }

    fn entry(&mut self) -> IndexEntry {
        let (field, length) = (self.dice.roll(3).to_string(), 1 + self.dice.roll(200));
        let value = vec![b'v'; usize::try_from(length).expect("it is small")].into();
        let used = at(self.now - 3 + i64::try_from(self.dice.roll(4)).expect("it is small"));
        IndexEntry { key: self.key(), field, value, used }
    }

    fn store(&mut self, entry: &IndexEntry) {
        let held = self.truth.entry(entry.key.clone()).or_default();
        held.fields.insert(entry.field.clone(), entry.value.clone());
        held.used = held.used.max(entry.used);
    }

    async fn put(&mut self) {
        let entries: Vec<IndexEntry> = (0..=self.dice.roll(3)).map(|_| self.entry()).collect();
        for entry in &entries {
            self.store(entry);
        }
        self.index.put(&entries).await.expect("put");
    }

    async fn put_to_the_store_only(&mut self) {
        let entry = self.entry();
        self.store(&entry);
        self.index.mark_incomplete().await.expect("marked");
    }

    async fn remove(&mut self) {
        let key = self.key();
        self.truth.remove(&key);
        self.index.remove(&[key]).await.expect("removed");
    }

    async fn remove_field(&mut self) {
        let (key, field) = (self.key(), self.dice.roll(3).to_string());
        if let Some(held) = self.truth.get_mut(&key) {
            held.fields.remove(&field);
            if held.fields.is_empty() {
                self.truth.remove(&key);
            }
        }
        self.index.remove_fields(&[(key, field)]).await.expect("removed");
    }

    async fn touch(&mut self) {
        let (key, now) = (self.key(), at(self.now));
        if let Some(held) = self.truth.get_mut(&key) {
            held.used = held.used.max(now);
        }
        self.index.touch(&[key], now).await.expect("touched");
    }

    async fn fill(&mut self) {
        let Some(fill) = begin(self.index, self.now, self.now + 1).await else { return };
        let disturbed_at = self.dice.roll(30);
        for (number, (key, held)) in (0..).zip(&self.truth) {
            let entry = |(field, value): (&String, &Bytes)| IndexEntry {
                key: key.clone(),
                field: field.clone(),
                value: value.clone(),
                used: held.used,
            };
            let entries: Vec<IndexEntry> = held.fields.iter().map(entry).collect();
            self.index.put(&entries).await.expect("put");
            if number == disturbed_at {
                self.index.mark_incomplete().await.expect("marked");
            }
        }
        let undisturbed = self.index.end_fill(&fill).await.expect("ended");
        let told = disturbed_at < u64::try_from(self.truth.len()).expect("it is small");
        assert!(!(told && undisturbed), "a disturbed fill was taken for a whole one");
    }

    async fn look(&mut self) {
        let keys: Vec<IndexKey> = (0..=self.dice.roll(8)).map(|_| self.key()).collect();
        let looked = self.index.find(&keys).await.expect("looked up");
        if !looked.complete {
            self.agreement.incomplete += 1;
            return;
        }
        self.agreement.complete += 1;
        for (key, found) in keys.iter().zip(looked.found) {
            let empty = BTreeMap::new();
            let held = self.truth.get(key).map_or(&empty, |held| &held.fields);
            for (field, value) in held {
                let known = found.iter().find(|(name, _)| name == field).map(|(_, value)| value);
                let known =
                    known.unwrap_or_else(|| panic!("{key:?} has a field {field}: {found:?}"));
                assert!(known.is_empty() || known == value, "{key:?} {field}: {known:?}");
            }
            assert_eq!(found.len(), held.len(), "{key:?}: {found:?}");
        }
        let last = self.index.last_used(&keys).await.expect("asked");
        let used = keys.iter().map(|key| self.truth.get(key).map(|held| held.used));
        assert_eq!(last, used.collect::<Vec<_>>(), "{keys:?}");
    }
}

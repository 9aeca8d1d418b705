//! The contract of notes.

use bytes::Bytes;
use dcbuild_model::{Eviction, EvictionRule, NoteId, Scope, UnixTime};
use dcbuild_store::{NoteKind, Notes, evictions, put_eviction};

/// More notes than one page of a listing has.
const MANY: u32 = 130;

fn id(number: u32) -> NoteId {
    NoteId::from_bits(u128::from(number) << 80)
}

/// Holds a keeper of notes to its contract.
pub async fn notes(notes: &dyn Notes) {
    let (scope, kind) = (Scope::local(), NoteKind::Account);
    let list = async |before, limit| notes.list(&scope, kind, before, limit).await.expect("listed");
    assert_eq!(list(None, 10).await, []);
    assert_eq!(notes.get(&scope, kind, id(1)).await.expect("read"), None);
    for number in 1..=MANY {
        let text = Bytes::from(format!("note {number}"));
        notes.put(&scope, kind, id(number), text).await.expect("kept");
    }
    notes.put(&scope, kind, id(7), Bytes::from_static(b"again")).await.expect("kept");
    assert_eq!(notes.get(&scope, kind, id(7)).await.expect("read"), Some("again".into()));
    assert_eq!(list(None, 2).await, [id(MANY), id(MANY - 1)], "the newest first");
    assert_eq!(list(Some(id(3)), 10).await, [id(2), id(1)], "older ones only");
    assert_eq!(list(None, 1_000).await.len(), 130, "all pages");
    let other: Scope = "acme/shop".parse().expect("a scope");
    assert_eq!(notes.list(&other, kind, None, 10).await.expect("listed"), [], "scopes are apart");
    assert_eq!(notes.trim(&scope, kind, 3).await.expect("trimmed"), u64::from(MANY) - 3);
    assert_eq!(list(None, 10).await, [id(MANY), id(MANY - 1), id(MANY - 2)]);

    let at = |secs| Eviction {
        at: UnixTime { secs, nanos: 0 },
        rule: EvictionRule::All {},
        records: Vec::new(),
        layers: Vec::new(),
    };
    for secs in [5, 4] {
        put_eviction(notes, &scope, &at(secs)).await.expect("noted");
    }
    assert_eq!(evictions(notes, &scope).await.expect("read"), [at(5), at(4)], "kinds are apart");
}

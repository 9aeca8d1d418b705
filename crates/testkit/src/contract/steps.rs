//! The contract of step indexes.

use dcbuild_model::{
    AttemptId, ChangeDigest, Digest, LayerId, LayerRef, Lineage, Record, Scope, StepKey,
    StepResult, UnixTime, WorkerId,
};
use dcbuild_store::StepIndex;

/// A record for tests; `number` tells attempts apart.
pub fn record(recipe: &str, outcome: Option<&str>, number: u32) -> Record {
    let key = |name: &str| StepKey(Digest::of(name.as_bytes()));
    Record {
        recipe: key(recipe),
        outcome: outcome.map(key),
        attempt: AttemptId::from_bits(number.into()),
        worker: WorkerId::from_bits(1),
        result: StepResult { layers: Vec::new(), created: UnixTime::default() },
        lineage: Lineage { parent: None, inputs: Vec::new(), selections: Vec::new() },
        components: Vec::new(),
        took_ms: 5,
    }
}

/// The record, where the step came to a layer of this name.
#[must_use]
pub fn with_layer(mut record: Record, name: &str) -> Record {
    let layer = Digest::of(name.as_bytes());
    let (layer, change) = (LayerId(layer), ChangeDigest(layer));
    record.result.layers.push(LayerRef { layer, change, entries: 1, bytes: 7, base: None });
    record
}

/// Holds a step index to its contract.
pub async fn steps(index: &dyn StepIndex) {
    let scope = Scope::local();
    let first = record("a", Some("b"), 7);
    let second = with_layer(record("a", None, 3), "another");
    let keys = [first.recipe, StepKey(Digest::of(b"b")), StepKey(Digest::of(b"c"))];
    let none = index.find(&scope, &keys).await.expect("found");
    assert_eq!(none, [vec![], vec![], vec![]]);
    index.put(&scope, &first).await.expect("stored");
    index.put(&scope, &second).await.expect("stored");
    let altered = Record { took_ms: 9, ..first.clone() };
    index.put(&scope, &altered).await.expect("stored");
    let found = index.find(&scope, &keys).await.expect("found");
    assert_eq!(found, [vec![first.clone(), second.clone()], vec![first.clone()], vec![]]);
    // Of several that came to the same the one decided last is enough.
    let again = Record { attempt: AttemptId::from_bits(9), ..first.clone() };
    index.put(&scope, &again).await.expect("stored");
    let found = index.find(&scope, &keys).await.expect("found");
    assert_eq!(found, [vec![second, again.clone()], vec![again], vec![]]);
    let other = "acme/shop".parse().expect("a scope");
    assert_eq!(index.find(&other, &keys).await.expect("found"), none, "scopes are apart");
    families(index, &other).await;
}

/// A build takes what its parents have, the nearer the better; nobody takes what only a child or a sibling has.
async fn families(index: &dyn StepIndex, parent: &Scope) {
    let scope = |text: &str| -> Scope { text.parse().expect("a scope") };
    let (child, sibling) = (scope("acme/shop/pr"), scope("acme/shop/other"));
    let (theirs, own) = (record("d", None, 11), record("d", None, 10));
    let keys = [own.recipe];
    // What the child has comes last though it was decided first.
    index.put(&child, &own).await.expect("stored");
    assert_eq!(index.find(parent, &keys).await.expect("found"), [vec![]], "not from a child");
    index.put(parent, &theirs).await.expect("stored");
    let found = index.find(&child, &keys).await.expect("found");
    assert_eq!(found, [vec![theirs.clone(), own]]);
    assert_eq!(index.find(&sibling, &keys).await.expect("found"), [vec![theirs.clone()]]);
    assert_eq!(index.find(parent, &keys).await.expect("found"), [vec![theirs]]);
    assert_eq!(index.find(&scope("acme"), &keys).await.expect("found"), [vec![]]);
    assert_eq!(index.find(&scope("acme/shop-2"), &keys).await.expect("found"), [vec![]]);
}

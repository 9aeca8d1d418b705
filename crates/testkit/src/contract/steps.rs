//! The contract of step indexes.

use dcbuild_model::{
    AttemptId, Digest, Lineage, Record, Scope, StepKey, StepResult, UnixTime, WorkerId,
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

/// Holds a step index to its contract.
pub async fn steps(index: &dyn StepIndex) {
    let scope = Scope::local();
    let first = record("a", Some("b"), 7);
    let second = record("a", None, 3);
    let keys = [first.recipe, StepKey(Digest::of(b"b")), StepKey(Digest::of(b"c"))];
    let none = index.find(&scope, &keys).await.expect("found");
    assert_eq!(none, [vec![], vec![], vec![]]);
    index.put(&scope, &first).await.expect("stored");
    index.put(&scope, &second).await.expect("stored");
    let altered = Record { took_ms: 9, ..first.clone() };
    index.put(&scope, &altered).await.expect("stored");
    let found = index.find(&scope, &keys).await.expect("found");
    assert_eq!(found, [vec![first.clone(), second], vec![first], vec![]]);
    let other = "acme/shop".parse().expect("a scope");
    assert_eq!(index.find(&other, &keys).await.expect("found"), none, "scopes are apart");
}

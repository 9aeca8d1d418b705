//! The contract of places for small objects.

use bytes::Bytes;
use dcbuild_store::{ObjectName, Objects, StoreError};

fn name(text: &str) -> ObjectName {
    text.parse().expect("an object's name")
}

/// All names that begin with `prefix`, page by page.
async fn listed(store: &dyn Objects, prefix: &str) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(prefix, after.as_ref()).await.expect("listed");
        after = page.objects.last().map(|object| object.name.clone());
        all.extend(page.objects.iter().map(|object| (object.name.to_string(), object.size)));
        if !page.more || after.is_none() {
            return all;
        }
    }
}

/// Holds a place for objects to its contract; it is to be empty, or at least to have nothing that begins with `t/`.
pub async fn objects(store: &dyn Objects) {
    let (one, two) = (name("t/step/a:1"), name("t/step/a:2"));
    assert_eq!(store.get(&one, 100).await.expect("asked"), None);
    assert_eq!(listed(store, "t/").await, []);
    store.delete(std::slice::from_ref(&one)).await.expect("what is not there is deleted");

    store.put(&one, Bytes::from_static(b"first")).await.expect("written");
    store.put(&one, Bytes::from_static(b"second")).await.expect("written again");
    let found = store.get(&one, 6).await.expect("read");
    assert_eq!(found.as_deref(), Some(&b"second"[..]), "the last write counts");
    let large = store.get(&one, 5).await;
    assert!(matches!(large, Err(StoreError::ObjectTooLarge { .. })), "{large:?}");
    store.put(&two, Bytes::new()).await.expect("written");
    assert_eq!(store.get(&two, 0).await.expect("read"), Some(Bytes::new()));

    store.put(&name("t/other"), Bytes::from_static(b"x")).await.expect("written");
    store.put(&name("t/step-x"), Bytes::from_static(b"xy")).await.expect("written");
    let all = [("t/other", 1), ("t/step-x", 2), ("t/step/a:1", 6), ("t/step/a:2", 0)];
    let all = all.map(|(name, size)| (name.to_owned(), size));
    assert_eq!(listed(store, "t/").await, all, "by name, as bytes");
    assert_eq!(listed(store, "t/step").await, all[1..], "a prefix need not end with a part");
    assert_eq!(listed(store, "t/step/").await, all[2..]);
    let behind = store.list("t/step/", Some(&one)).await.expect("listed");
    let behind: Vec<_> = behind.objects.into_iter().map(|object| object.name).collect();
    assert_eq!(behind, std::slice::from_ref(&two));

    store.delete(&[one.clone(), two, name("t/absent")]).await.expect("deleted");
    assert_eq!(store.get(&one, 100).await.expect("asked"), None);
    assert_eq!(listed(store, "t/").await, all[..2]);
    store.delete(&[]).await.expect("nothing is deleted");
    many(store).await;
}

/// More objects than any backend lists or deletes at once.
async fn many(store: &dyn Objects) {
    let names: Vec<ObjectName> = (0..1003).map(|at| name(&format!("t/many/{at:04}"))).collect();
    let writes = names.iter().map(|name| store.put(name, Bytes::from_static(b"m")));
    for written in futures::future::join_all(writes).await {
        written.expect("written");
    }
    let found: Vec<String> = listed(store, "t/many/").await.into_iter().map(|it| it.0).collect();
    assert_eq!(found, names.iter().map(ToString::to_string).collect::<Vec<_>>());
    store.delete(&names).await.expect("deleted");
    assert_eq!(listed(store, "t/many/").await, []);
}

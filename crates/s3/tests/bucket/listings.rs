//! Listings of servers that do not know where they are to go on.

use std::time::Duration;

use crate::common::{blob, connect, small_parts};
use dcbuild_s3::S3Store;
use dcbuild_store::{Grants as _, Leftovers as _, ObjectName, Objects, StoreError};
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::s3::faults::Fault;

/// More than two pages.
const OBJECTS: usize = 2_100;
/// Whoever asks for more pages goes round in circles.
const PAGES_MAX: usize = 10;

/// Puts objects into the bucket, past the server; returns their names in order.
fn fill(server: &S3Server) -> Vec<String> {
    let names: Vec<String> = (0..OBJECTS).map(|number| format!("many/{number:05}")).collect();
    std::fs::create_dir_all(server.file("some/prefix/many")).unwrap();
    for name in &names {
        std::fs::write(server.file(&format!("some/prefix/{name}")), b"m").unwrap();
    }
    names
}

async fn listed(store: &S3Store, mut after: Option<ObjectName>) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = store.list("many/", after.as_ref()).await?;
        after = page.objects.last().map(|object| object.name.clone());
        names.extend(page.objects.iter().map(|object| object.name.to_string()));
        if !page.more || after.is_none() {
            return Ok(names);
        }
    }
    panic!("it does not end: {} names", names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_on_where_the_server_knows_no_key_to_begin_behind() {
    let server = S3Server::start();
    let names = fill(&server);
    server.fail(|seen| (seen.request == "ListObjectsV2").then_some(Fault::NoStartAfter));
    let store = connect(&server, small_parts).await;
    assert_eq!(listed(&store, None).await.unwrap(), names);
    assert_eq!(server.fired(), 3, "a page for each thousand");
    // Whoever has not seen the page before that ends with the key.
    let other = connect(&server, small_parts).await;
    let after = names[999].parse().unwrap();
    assert_eq!(listed(&other, Some(after)).await.unwrap(), names[1000..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lists_the_same_keys_again_is_an_error() {
    let server = S3Server::start();
    fill(&server);
    server.fail(|seen| (seen.request == "ListObjectsV2").then_some(Fault::FirstPage));
    let store = connect(&server, small_parts).await;
    let error = listed(&store, None).await.unwrap_err();
    let StoreError::Unavailable { source, .. } = &error else { panic!("{error:?}") };
    let text = source.to_string();
    assert!(text.contains("lists the same keys again"), "{text}");
    assert_eq!(server.fired(), 3, "its own word and the key are tried once each");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_listed_again_are_looked_at_once() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    store.write(&blob(b"never sent"), 20 << 20).await.unwrap();
    server.fail(|seen| (seen.request == "ListMultipartUploads").then_some(Fault::FirstPage));
    let sweep = store.sweep_uploads(Duration::from_hours(1));
    let swept = tokio::time::timeout(Duration::from_secs(30), sweep).await;
    assert_eq!(swept.expect("it ends").unwrap(), 0, "too young");
    assert_eq!(server.fired(), 2);
    assert_eq!(store.sweep_uploads(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(server.open_uploads(), 0);
}

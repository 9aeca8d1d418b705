//! A store in a bucket keeps the contracts, on a server of S3.

use std::time::Duration;

use crate::common::{connect, small_parts};
use bytes::Bytes;
use dcbuild_store::{
    BlobStore, ByteRange, Grant, GrantMethod, Grants, Leftovers as _, StoreError, WriteGrant,
};
use dcbuild_testkit::contract::{self, Sent};
use dcbuild_tests::http::request;
use dcbuild_tests::s3::S3Server;
use futures::FutureExt;
use futures::future::BoxFuture;

const LARGE: u32 = 23 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn blobs_keep_the_contract() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    contract::blobs(&store).await;
    contract::large_blobs(&store, LARGE).await;
    store.close().await;
    assert_eq!(server.open_uploads(), 0, "what was given up is away");
    assert!(server.count("UploadPart") >= 5, "{:?}", server.requests());
    assert!(server.keys().iter().all(|key| key.starts_with("some/prefix/blob/sha256/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_keep_the_contract() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    contract::objects(&store).await;
    assert_eq!(server.count("DeleteObjects"), 4, "a thousand at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_keep_the_contract() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    contract::grants(&store, 12 << 20, send).await;
    assert_eq!(server.open_uploads(), 0);
}

fn send(grant: Grant, range: Option<ByteRange>, body: Bytes) -> BoxFuture<'static, Sent> {
    let sending = tokio::task::spawn_blocking(move || {
        let (host, path) = grant.url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let method = match grant.method {
            GrantMethod::Get => "GET",
            GrantMethod::Put => "PUT",
        };
        let headers = grant.headers.iter().map(|(name, value)| format!("{name}: {value}"));
        let mut headers: Vec<String> = headers.collect();
        if let Some(ByteRange { start, length: Some(length) }) = range {
            headers.push(format!("range: bytes={start}-{}", start + length - 1));
        }
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let answer = request(host, &format!("{method} /{path}"), &headers, &body);
        let etag = answer.header("etag").unwrap_or_default().to_owned();
        Sent { is_done: matches!(answer.status, 200 | 206), etag, body: answer.body.into() }
    });
    sending.map(Result::unwrap).boxed()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_ends_are_swept() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    let blob = crate::common::blob(b"never sent");
    let granted = store.write(&blob, 20 << 20).await.unwrap();
    assert!(matches!(granted, WriteGrant::Parts { .. }));
    assert_eq!(server.open_uploads(), 1);
    assert_eq!(store.sweep_uploads(Duration::from_hours(1)).await.unwrap(), 0, "too young");
    assert_eq!(store.sweep_uploads(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(server.open_uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_named() {
    let server = S3Server::start();
    let store = connect(&server, |config| config.bucket = "nosuch".into()).await;
    let error = store.put(&crate::common::blob(b"x"), dcbuild_store::stream_of(&b"x"[..])).await;
    let Err(StoreError::Misplaced { store, source }) = error else { panic!("{error:?}") };
    assert!(store.starts_with("s3://nosuch/some/prefix at http://127.0.0.1"), "{store}");
    assert!(source.to_string().contains("create the bucket"), "{source}");
}

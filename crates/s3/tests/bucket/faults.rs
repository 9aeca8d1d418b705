//! What a store in a bucket does when its server does not do as it should; each test asserts that the fault fired.

use std::time::Duration;

use crate::common::{blob, connect, small_parts};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{
    ProvideCredentials, future::ProvideCredentials as ProvideFuture,
};
use dcbuild_s3::{S3Config, S3Store};
use dcbuild_store::{BlobStore, ByteRange, Objects, StoreError, read_bytes, stream_of};
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::s3::faults::{Fault, Seen};
use futures::StreamExt;
use tokio::time::Instant;

const LARGE: usize = 18 << 20;

fn large() -> Vec<u8> {
    (0..LARGE).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

async fn whole(store: &S3Store, bytes: &[u8]) -> Result<bool, StoreError> {
    let max = u64::try_from(bytes.len()).unwrap();
    read_bytes(store, &blob(bytes), max).await.map(|found| found == bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn c01_a_flipped_bit_is_found_and_the_blob_put_aside() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    for bytes in [b"small".to_vec(), large()] {
        let name = blob(&bytes);
        BlobStore::put(&store, &name, stream_of(bytes.clone())).await.unwrap();
        server.flip_bit(&format!("some/prefix/blob/sha256/{}", name.0.hex()));
        let error = whole(&store, &bytes).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { blob } if blob == name), "{error:?}");
        assert_eq!(store.find_missing(&[name]).await.unwrap(), [name], "it is a miss now");
        let aside = format!("some/prefix/quarantine/sha256/{}", name.0.hex());
        assert!(server.keys().contains(&aside), "{:?}", server.keys());
        // Made again, it is served again.
        BlobStore::put(&store, &name, stream_of(bytes.clone())).await.unwrap();
        assert!(whole(&store, &bytes).await.unwrap());
    }
    assert_eq!(store.counts().quarantined, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bucket_fails_is_counted_and_what_it_lacks_is_not() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    let name = blob(b"small");
    assert_eq!(store.find_missing(&[name]).await.unwrap(), [name]);
    assert!(read_bytes(&store, &name, 10).await.unwrap_err().is_miss());
    assert_eq!(store.counts().faults, 0);
    server.fail(|_| Some(Fault::DENIED));
    store.find_missing(&[name]).await.unwrap_err();
    BlobStore::put(&store, &name, stream_of(b"small".to_vec())).await.unwrap_err();
    Objects::list(&store, "blob/", None).await.unwrap_err();
    assert_eq!(store.counts().faults, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn c01_a_bit_that_flips_on_the_way_is_found() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    let bytes = large();
    BlobStore::put(&store, &blob(&bytes), stream_of(bytes.clone())).await.unwrap();
    server.fail(|seen| (seen.request == "GetObject" && seen.number == 1).then_some(Fault::FlipBit));
    assert!(matches!(whole(&store, &bytes).await, Err(StoreError::Corrupt { .. })));
    assert_eq!(server.fired(), 1);
    // It is whole in the bucket, and stays there.
    assert_eq!(store.counts().quarantined, 0);
    assert!(whole(&store, &bytes).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn c03_a_range_that_is_answered_in_part_is_asked_for_again() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    let bytes = large();
    BlobStore::put(&store, &blob(&bytes), stream_of(bytes.clone())).await.unwrap();
    server
        .fail(|seen| (seen.request == "GetObject" && seen.number < 2).then_some(Fault::HalfRange));
    assert!(whole(&store, &bytes).await.unwrap());
    assert_eq!(server.fired(), 2);
    assert_eq!(store.counts().quarantined, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn c03_an_upload_that_was_cut_on_the_way_is_not_served() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    let bytes = large();
    server.fail(|seen| (seen.request == "UploadPart").then_some(Fault::CutUpload));
    let cut = BlobStore::put(&store, &blob(&bytes), stream_of(bytes.clone())).await;
    assert!(matches!(cut, Err(StoreError::Unavailable { .. })), "{cut:?}");
    assert!(server.fired() >= 4);
    assert_eq!(store.find_missing(&[blob(&bytes)]).await.unwrap(), [blob(&bytes)]);

    // A server that says yes to half an object, and checks nothing: nobody reads a wrong byte.
    server.fail(|seen| (seen.request == "PutObject").then_some(Fault::CutUpload));
    let put = BlobStore::put(&store, &blob(b"short"), stream_of(&b"short"[..])).await;
    assert!(put.is_err(), "{put:?}");
    assert_eq!(store.find_missing(&[blob(b"short")]).await.unwrap(), [blob(b"short")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn c03_a_server_that_names_no_checksum_is_asked_again_only_where_its_etag_shows_nothing() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    server.fail(|seen| (seen.request == "PutObject").then_some(Fault::NoChecksum));
    let name = "some/object".parse().unwrap();
    Objects::put(&store, &name, b"a document"[..].into()).await.unwrap();
    assert_eq!((server.fired(), server.count("HeadObject")), (1, 0), "its ETag is the MD5");
    let bytes = vec![7; 300 << 10];
    BlobStore::put(&store, &blob(&bytes), stream_of(bytes.clone())).await.unwrap();
    assert_eq!((server.fired(), server.count("HeadObject")), (2, 1));
}

/// An upload in parts is complete where the object is there, whatever the yes looks like; a no in a yes is a no.
#[tokio::test(flavor = "multi_thread")]
async fn c03_a_yes_that_is_not_understood_is_looked_after() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    let bytes = large();
    let is_last = |seen: &Seen| seen.request == "CompleteMultipartUpload";
    server.fail(move |seen| {
        let no = Fault::Answer { status: 200, code: "InternalError", retry_after: None };
        is_last(seen).then_some(no)
    });
    let refused = BlobStore::put(&store, &blob(&bytes), stream_of(bytes.clone())).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(store.find_missing(&[blob(&bytes)]).await.unwrap(), [blob(&bytes)]);
    let fired = server.fired();
    server.fail(move |seen| is_last(seen).then_some(Fault::OwnName));
    BlobStore::put(&store, &blob(&bytes), stream_of(bytes.clone())).await.unwrap();
    assert_eq!(server.fired(), fired + 1, "it was asked once");
    assert!(whole(&store, &bytes).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn c03_an_upload_whose_maker_is_gone_leaves_nothing() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    let bytes = large();
    let endless =
        futures::stream::iter([Ok(bytes.clone().into())]).chain(futures::stream::pending());
    let name = blob(&bytes);
    let put = BlobStore::put(&store, &name, endless.boxed());
    let put = tokio::time::timeout(Duration::from_secs(5), put).await;
    assert!(put.is_err(), "the content has no end");
    assert!(server.count("UploadPart") > 0, "{:?}", server.requests());
    assert_eq!(store.find_missing(&[blob(&bytes)]).await.unwrap(), [blob(&bytes)]);
    store.close().await;
    assert_eq!(server.open_uploads(), 0);
    assert_eq!(server.count("AbortMultipartUpload"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c03_two_writers_of_one_blob_do_not_disturb_each_other() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    let bytes = large();
    let name = blob(&bytes);
    let put = || BlobStore::put(&store, &name, stream_of(bytes.clone()));
    let (one, other, third) = tokio::join!(put(), put(), put());
    for size in [one, other, third] {
        assert_eq!(size.unwrap(), u64::try_from(LARGE).unwrap());
    }
    assert!(whole(&store, &bytes).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn c03_a_read_that_breaks_is_taken_up_again() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    let bytes = large();
    BlobStore::put(&store, &blob(&bytes), stream_of(bytes.clone())).await.unwrap();
    server.fail(|seen| (seen.number == 1).then_some(Fault::BreakInBody));
    assert!(whole(&store, &bytes).await.unwrap());
    assert_eq!(server.fired(), 1);
    assert_eq!(store.counts().guard.retries, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_a_server_that_refuses_costs_little_and_is_found_again() {
    let mut server = S3Server::start();
    let store = connect(&server, small_parts).await;
    BlobStore::put(&store, &blob(b"x"), stream_of(&b"x"[..])).await.unwrap();
    server.refuse();
    let began = Instant::now();
    for _ in 0..200 {
        let error = store.find_missing(&[blob(b"x")]).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let counts = store.counts().guard;
    assert!(counts.opened >= 1 && counts.spared > 150, "{counts:?}");
    server.serve_again();
    let began = Instant::now();
    while store.find_missing(&[blob(b"x")]).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "it is not found again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(whole(&store, b"x").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_silence_ends_after_a_deadline() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    server.fail(|_| Some(Fault::Stall));
    let began = Instant::now();
    let blobs: Vec<_> = (0..100_u32).map(|at| blob(&at.to_le_bytes())).collect();
    assert!(store.find_missing(&blobs).await.is_err());
    for name in &blobs {
        assert!(BlobStore::get(&store, name, ByteRange::ALL).await.is_err());
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(server.fired() > 0 && store.counts().guard.late > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_who_may_not_is_told_so_once_and_loudly() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    server.fail(|_| Some(Fault::DENIED));
    let name = "some/object".parse().unwrap();
    let error = Objects::get(&store, &name, 100).await.unwrap_err();
    let StoreError::Denied { source, .. } = error else { panic!("{error:?}") };
    let text = source.to_string();
    assert!(text.contains("403 AccessDenied") && text.contains("s3:ListBucket"), "{text}");
    let error = store.find_missing(&[blob(b"x")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    let put = BlobStore::put(&store, &blob(b"x"), stream_of(&b"x"[..])).await;
    assert!(matches!(put, Err(StoreError::Denied { .. })), "{put:?}");
    assert_eq!(server.fired(), 3, "nothing is tried again");
    assert_eq!(store.counts().guard.retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_a_mistake_of_the_configuration_is_told_as_one_with_the_setting_to_change() {
    let server = S3Server::start();
    let name = "some/object".parse().unwrap();
    for (fault, names) in [
        (Fault::NO_BUCKET, "404 NoSuchBucket told to; create the bucket, or mend its name"),
        (Fault::REDIRECTED, "its region is eu-west-1; name the bucket's region with ?region="),
        (Fault::OTHER_REGION, "its region is eu-west-1; name the bucket's region with ?region="),
        (Fault::UNKNOWN_KEY, "403 InvalidAccessKeyId told to; check AWS_ACCESS_KEY_ID"),
    ] {
        let store = connect(&server, small_parts).await;
        let before = server.fired();
        server.fail(move |_| Some(fault.clone()));
        let error = Objects::get(&store, &name, 100).await.unwrap_err();
        assert!(error.is_of_configuration(), "{error:?}");
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains(names), "{text}");
        let put = BlobStore::put(&store, &blob(b"x"), stream_of(&b"x"[..])).await.unwrap_err();
        assert!(put.is_of_configuration(), "{put:?}");
        let counts = store.counts();
        assert_eq!(
            (server.fired() - before, counts.guard.retries),
            (2, 0),
            "nothing is tried again"
        );
        assert_eq!((counts.faults, counts.guard.opened), (2, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c05_a_full_bucket_is_full_whatever_it_is_called_and_is_read() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    BlobStore::put(&store, &blob(b"there"), stream_of(&b"there"[..])).await.unwrap();
    let answer = |status, code| Fault::Answer { status, code, retry_after: None };
    let no_space = Fault::Said {
        status: 500,
        code: "InternalError",
        message: "We encountered an internal error, please try again.: cause(no space left on device)",
        header: None,
    };
    for fault in [
        answer(507, "XMinioStorageFull"),
        answer(400, "XMinioAdminBucketQuotaExceeded"),
        answer(403, "QuotaExceeded"),
        Fault::QUOTA_IS_REACHED,
        no_space,
    ] {
        let before = server.fired();
        let full = fault.clone();
        let writes = ["PutObject", "CreateMultipartUpload", "UploadPart"];
        server.fail(move |seen| writes.contains(&seen.request).then_some(full.clone()));
        for bytes in [b"small".to_vec(), large()] {
            let put = BlobStore::put(&store, &blob(&bytes), stream_of(bytes)).await;
            let Err(StoreError::Full { source, .. }) = put else { panic!("{fault:?}: {put:?}") };
            assert!(source.to_string().contains("`dcbuild cache prune`"), "{source}");
        }
        assert_eq!(server.fired() - before, 2, "nothing is tried again");
        assert!(whole(&store, b"there").await.unwrap());
    }
    assert_eq!(store.counts().guard.opened, 0);
    // In the middle of parts.
    let first = server.fired();
    server.fail(|seen| {
        (seen.request == "UploadPart" && seen.number > 1).then_some(Fault::QUOTA_IS_REACHED)
    });
    let put = BlobStore::put(&store, &blob(&large()), stream_of(large())).await;
    assert!(matches!(put, Err(StoreError::Full { .. })), "{put:?}");
    assert!(server.fired() > first);
    server.heal();
    store.close().await;
    assert_eq!(server.open_uploads(), 0, "what was begun is given up");
}

/// What the usual chain answers on a machine that has no credentials.
#[derive(Debug)]
struct Nobody;

impl ProvideCredentials for Nobody {
    fn provide_credentials<'a>(&'a self) -> ProvideFuture<'a>
    where
        Self: 'a,
    {
        ProvideFuture::ready(Err(CredentialsError::not_loaded("nobody is here")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_who_has_no_credentials_is_told_so_at_the_start() {
    let server = S3Server::start();
    let config = S3Config::from_url(&server.url("some/prefix")).unwrap();
    let Err(StoreError::Denied { source, .. }) = S3Store::connect_as(config, Nobody).await else {
        panic!("it connects without credentials");
    };
    assert!(source.to_string().contains("AWS_ACCESS_KEY_ID"), "{source}");
    assert!(server.requests().is_empty(), "{:?}", server.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn c05_a_third_of_slow_downs_is_ridden_out_within_the_budget() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    // Decided by what is asked, so that nothing depends on who comes first.
    server.fail(|seen| (seen.number % 10 < 3).then_some(Fault::SLOW_DOWN));
    let mut failed = 0;
    for at in 0..200_u32 {
        failed += u32::from(store.find_missing(&[blob(&at.to_le_bytes())]).await.is_err());
    }
    let counts = store.counts().guard;
    assert!(server.fired() > 50, "{}", server.fired());
    assert!(counts.retries <= 200 / 5 + 10, "{counts:?}");
    assert!(failed < 60, "{failed} of 200 failed; {counts:?}");
    // A blob in parts is a dozen requests; each is repeated by itself.
    server.fail(|seen| (seen.number % 10 == 3).then_some(Fault::SLOW_DOWN));
    let bytes = large();
    BlobStore::put(&store, &blob(&bytes), stream_of(bytes.clone())).await.unwrap();
    assert!(whole(&store, &bytes).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn c05_slow_downs_only_are_not_answered_with_more_requests() {
    let server = S3Server::start();
    let store = connect(&server, small_parts).await;
    server.fail(|_| Some(Fault::SLOW_DOWN));
    let blobs: Vec<_> = (0..500_u32).map(|at| blob(&at.to_le_bytes())).collect();
    let asked = blobs.iter().map(|name| store.find_missing(std::slice::from_ref(name)));
    let ended = futures::future::join_all(asked).await;
    assert!(ended.iter().all(Result::is_err));
    let counts = store.counts().guard;
    assert!(server.fired() > 0 && server.fired() < 60, "{} requests: {counts:?}", server.fired());
    assert!(counts.opened >= 1, "{counts:?}");
    server.heal();
    let began = Instant::now();
    while store.find_missing(&blobs[..1]).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "it does not recover");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

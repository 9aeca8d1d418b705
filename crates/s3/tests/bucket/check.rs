//! What is said about a store that is not as it should be.

use std::fmt::Write;

use crate::common::connect;
use dcbuild_s3::{Checked, S3Config, S3Store};
use dcbuild_testkit::tls::{Authority, Valid};
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::s3::faults::Fault;
use expect_test::{Expect, expect};

async fn check(server: &S3Server, change: impl Fn(&mut S3Config), expected: Expect) {
    let store: S3Store = connect(server, change).await;
    let mut text = String::new();
    for (step, checked) in store.check().await {
        write!(text, "{}: ", step.words()).unwrap();
        match checked {
            Checked::Well => text.push_str("well\n"),
            Checked::Skipped => text.push_str("skipped\n"),
            Checked::Failed(error) => {
                let cause = std::error::Error::source(&error).unwrap();
                writeln!(text, "{error}: {cause}").unwrap();
            }
        }
    }
    expected.assert_eq(&text.replace(&server.endpoint(), "SERVER"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_store_is_good_and_left_as_it_was() {
    let server = S3Server::start();
    check(
        &server,
        |_| {},
        expect![[r#"
        list the bucket: well
        write an object: well
        read a part of it: well
        sign leave to read it: well
        begin an upload in parts, find it and give it up: well
        delete the object: well
    "#]],
    )
    .await;
    assert_eq!(server.keys(), Vec::<String>::new());
    assert_eq!(server.open_uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_known_by_its_certificate() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = S3Server::start_secure(&ours.certificate("127.0.0.1", Valid::Now));
    let store = connect(&server, |config| config.ca_file = Some(ours.ca())).await;
    for (step, checked) in store.check().await {
        assert!(matches!(checked, Checked::Well), "{step:?}: {checked:?}");
    }
    for ca in [Some(theirs.ca()), None] {
        let store = connect(&server, |config| config.ca_file.clone_from(&ca)).await;
        let steps = store.check().await;
        let Some((_, Checked::Failed(error))) = steps.first() else { panic!("{steps:?}") };
        let told = std::error::Error::source(error).unwrap().to_string();
        assert!(told.contains("AWS_CA_BUNDLE"), "{told}");
    }
    let config = S3Config { ca_file: Some("/no/ca.pem".into()), ..S3Config::new("bucket") };
    let error = S3Store::connect(config).await.err().unwrap();
    assert!(format!("{error:?}").contains("/no/ca.pem"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_with_what_to_do() {
    let mut server = S3Server::start();
    check(&server, |config| config.bucket = "nosuch".into(), expect![[r#"
        list the bucket: the store s3://nosuch/some/prefix at SERVER is not where its address says: ListObjectsV2 failed: 404 NoSuchBucket; create the bucket, or mend its name in the store's address
        write an object: skipped
        read a part of it: skipped
        sign leave to read it: skipped
        begin an upload in parts, find it and give it up: skipped
        delete the object: skipped
    "#]]).await;
    for (status, code, expected) in [
        (
            403,
            "AccessDenied",
            expect![[r#"
            list the bucket: the store s3://cache/some/prefix at SERVER refused access: ListObjectsV2 failed: 403 AccessDenied told to; the credentials need s3:GetObject, PutObject, DeleteObject and AbortMultipartUpload on the store's keys, and s3:ListBucket and ListBucketMultipartUploads on the bucket
            write an object: skipped
            read a part of it: skipped
            sign leave to read it: skipped
            begin an upload in parts, find it and give it up: skipped
            delete the object: skipped
        "#]],
        ),
        (
            403,
            "RequestTimeTooSkewed",
            expect![[r#"
            list the bucket: the store s3://cache/some/prefix at SERVER refused access: ListObjectsV2 failed: 403 RequestTimeTooSkewed told to; set this machine's clock; NTP keeps it right
            write an object: skipped
            read a part of it: skipped
            sign leave to read it: skipped
            begin an upload in parts, find it and give it up: skipped
            delete the object: skipped
        "#]],
        ),
        (
            301,
            "PermanentRedirect",
            expect![[r#"
            list the bucket: the store s3://cache/some/prefix at SERVER is not where its address says: ListObjectsV2 failed: 301 PermanentRedirect told to; name the bucket's region with ?region= in the store's address
            write an object: skipped
            read a part of it: skipped
            sign leave to read it: skipped
            begin an upload in parts, find it and give it up: skipped
            delete the object: skipped
        "#]],
        ),
    ] {
        server.fail(move |_| Some(Fault::Answer { status, code, retry_after: None }));
        check(&server, |_| {}, expected).await;
    }
    assert_eq!(server.fired(), 3);
    server.fail(|seen| (seen.request == "PutObject").then_some(Fault::DENIED));
    check(&server, |_| {}, expect![[r#"
        list the bucket: well
        write an object: the store s3://cache/some/prefix at SERVER refused access: PutObject failed: 403 AccessDenied told to; the credentials need s3:GetObject, PutObject, DeleteObject and AbortMultipartUpload on the store's keys, and s3:ListBucket and ListBucketMultipartUploads on the bucket
        read a part of it: skipped
        sign leave to read it: skipped
        begin an upload in parts, find it and give it up: skipped
        delete the object: skipped
    "#]]).await;
    server.refuse();
    check(&server, |_| {}, expect![[r#"
        list the bucket: the store s3://cache/some/prefix at SERVER failed: ListObjectsV2 failed: dispatch failure: io error: client error (Connect): tcp connect error: Connection refused (os error 111); check the endpoint, its port and certificate, and what lies between; a server without names for its buckets wants ?path-style=true
        write an object: skipped
        read a part of it: skipped
        sign leave to read it: skipped
        begin an upload in parts, find it and give it up: skipped
        delete the object: skipped
    "#]]).await;
}

//! TLS, users and passwords, and what `check` says.
#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::path::Path;

use common::{fill, index, index_of, is_complete};
use dcbuild_redis::{Credentials, RedisConfig, RedisFault, RedisFinding};
use dcbuild_store::{KeyIndex as _, StoreError};
use dcbuild_testkit::redis::{RedisServer, free_port};

/// Makes a certificate for 127.0.0.1 that vouches for itself, and its key.
fn certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn tls_with_our_own_certificate() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let port = free_port();
    let place = folder.path().display();
    let server = RedisServer::start_at(
        port,
        &[
            "port 0",
            &format!("tls-port {port}"),
            &format!("tls-cert-file {place}/cert.pem"),
            &format!("tls-key-file {place}/key.pem"),
            "tls-auth-clients no",
        ],
    );
    let mut config = RedisConfig::from_url(&format!("rediss://127.0.0.1:{port}")).unwrap();
    config.ca_file = Some(folder.path().join("cert.pem"));
    let trusting = index_of(config.clone());
    assert!(fill(&trusting, 10, 5).await, "{}", server.log());
    assert!(is_complete(&trusting).await);

    config.ca_file = None;
    let stranger = index_of(config.clone()).find(&[]).await.unwrap_err();
    let StoreError::Unavailable { source, .. } = &stranger else { panic!("{stranger:?}") };
    let fault = source.downcast_ref().unwrap();
    assert!(matches!(fault, RedisFault::Connection { .. }), "{fault:?}");

    config.ca_file = Some(folder.path().join("none.pem"));
    let missing = index_of(config).find(&[]).await.unwrap_err();
    let StoreError::Unavailable { source, .. } = &missing else { panic!("{missing:?}") };
    assert!(source.to_string().contains("none.pem"), "{source}");

    let plain = index(&format!("redis://127.0.0.1:{port}"));
    assert!(plain.find(&[]).await.is_err(), "no word without TLS");
}

#[tokio::test]
async fn users_and_their_rights() {
    let server = RedisServer::start(&[
        "user default off",
        "user cache on >p@ss ~dcbuild:* +@all -@admin -@dangerous +info",
        "user reader on >p@ss ~dcbuild:* +@read +ping",
    ]);
    let url = |user: &str| format!("redis://{user}@127.0.0.1:{}", server.port);
    let good = index(&url("cache:p%40ss"));
    assert!(fill(&good, 10, 5).await);
    assert_eq!(good.check().await.unwrap().findings, [RedisFinding::Unbounded]);
    for wrong in ["cache:wrong", "nobody:p%40ss", "reader:p%40ss"] {
        let refused = index(&url(wrong)).check().await.unwrap_err();
        assert!(matches!(refused, StoreError::Denied { .. }), "{wrong}: {refused:?}");
        assert!(!format!("{refused:?}").contains("p@ss"), "{refused:?}");
    }
    let mut config = RedisConfig::from_url(&server.url()).unwrap();
    let refused = index_of(config.clone()).find(&[]).await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "without a name: {refused:?}");
    config.prefix = "other:".into();
    config.credentials = Some(Credentials { user: Some("cache".into()), password: "p@ss".into() });
    let refused = index_of(config).check().await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "another's keys: {refused:?}");
}

#[tokio::test]
async fn check_says_what_should_be_changed() {
    let server = RedisServer::start(&["maxmemory 100mb", "maxmemory-policy allkeys-lru"]);
    let index = index(&server.url());
    let health = index.check().await.unwrap();
    let policy = "allkeys-lru".to_owned();
    assert_eq!(health.findings, [RedisFinding::Evicts { policy }], "{health:?}");
    assert!(health.version.starts_with(|first: char| first.is_ascii_digit()), "{health:?}");
    server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    assert_eq!(index.check().await.unwrap().findings, []);
    assert_eq!(server.ask(&["DBSIZE"]), "0", "nothing is left behind");
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = index.check().await.unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
}

//! TLS, users and passwords, and what `check` says.
#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::path::Path;

use common::{at, fill, index, index_of, is_complete};
use dcbuild_process::TlsFault;
use dcbuild_redis::{Credentials, RedisConfig, RedisFault, RedisFinding};
use dcbuild_store::{KeyIndex as _, StoreError};
use dcbuild_testkit::redis::{RedisServer, free_port};
use dcbuild_testkit::tls::{Authority, Pair, Valid, authority_of_server};

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
    let RedisFault::Untrusted { fault, .. } = fault else { panic!("{fault:?}") };
    assert_eq!(*fault, TlsFault::Untrusted);

    config.ca_file = Some(folder.path().join("none.pem"));
    let missing = index_of(config).find(&[]).await.unwrap_err();
    let StoreError::Unavailable { source, .. } = &missing else { panic!("{missing:?}") };
    assert!(source.to_string().contains("none.pem"), "{source}");

    let plain = index(&format!("redis://127.0.0.1:{port}"));
    assert!(plain.find(&[]).await.is_err(), "no word without TLS");
}

/// What is said of an index that cannot be used, with its causes.
async fn said(config: RedisConfig) -> String {
    let error = index_of(config).check().await.unwrap_err();
    let mut text = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test]
async fn an_authority_s_certificate_is_not_taken_for_a_server_s() {
    let folder = tempfile::tempdir().unwrap();
    let Pair { cert, key } = authority_of_server(folder.path(), &["127.0.0.1"]);
    let port = free_port();
    let [cert, key] = [cert, key].map(|path| path.display().to_string());
    let lines = [
        "port 0".to_owned(),
        format!("tls-port {port}"),
        format!("tls-cert-file {cert}"),
        format!("tls-key-file {key}"),
        "tls-auth-clients no".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let _server = RedisServer::start_at(port, &lines);
    let mut config = RedisConfig::from_url(&format!("rediss://127.0.0.1:{port}")).unwrap();
    config.ca_file = Some(cert.into());
    let said = said(config).await;
    assert!(said.contains("an authority's own (CA:TRUE)") && said.contains("CA:FALSE"), "{said}");
}

#[tokio::test]
async fn tls_with_certificates_of_clients() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let Pair { cert, key } = ours.certificate("127.0.0.1", Valid::Now);
    let port = free_port();
    let options = [
        "port 0".to_owned(),
        format!("tls-port {port}"),
        format!("tls-cert-file {}", cert.display()),
        format!("tls-key-file {}", key.display()),
        format!("tls-ca-cert-file {}", ours.ca().display()),
        "tls-auth-clients yes".to_owned(),
    ];
    let server = RedisServer::start_at(port, &options.each_ref().map(String::as_str));
    let url = format!("rediss://127.0.0.1:{port}");
    let base = RedisConfig { ca_file: Some(ours.ca()), ..RedisConfig::from_url(&url).unwrap() };
    let with =
        |Pair { cert, key }| RedisConfig { identity_files: Some((cert, key)), ..base.clone() };
    let known = index_of(with(ours.certificate("client", Valid::Now)));
    assert!(fill(&known, 10, 5).await, "{}", server.log());
    assert!(is_complete(&known).await);

    let nobody = said(base.clone()).await;
    assert!(nobody.contains("wants a certificate") && nobody.contains("cert and key"), "{nobody}");
    for stranger in
        [theirs.certificate("client", Valid::Now), ours.certificate("c", Valid::Formerly)]
    {
        let refused = said(with(stranger)).await;
        assert!(refused.contains("does not accept the certificate"), "{refused}");
    }
    let config = RedisConfig { ca_file: Some(theirs.ca()), ..base.clone() };
    let untrusted = said(config).await;
    assert!(untrusted.contains("nobody who is trusted here"), "{untrusted}");
    let localhost = format!("rediss://localhost:{port}");
    let named = RedisConfig::from_url(&localhost).unwrap();
    let other =
        said(RedisConfig { servers: named.servers, ..with(ours.certificate("c", Valid::Now)) });
    let other = other.await;
    assert!(other.contains("another name"), "{other}");
    let none = Pair { cert: "/no/cert.pem".into(), key: "/no/key.pem".into() };
    let missing = said(with(none)).await;
    assert!(missing.contains("could not read the certificates in /no/cert.pem"), "{missing}");

    let plain = RedisServer::start(&[]);
    let url = plain.url().replace("redis://", "rediss://");
    let spoken =
        said(RedisConfig { ca_file: Some(ours.ca()), ..RedisConfig::from_url(&url).unwrap() });
    let spoken = spoken.await;
    assert!(spoken.contains("speaks no TLS: write redis:// instead of rediss://"), "{spoken}");
    assert!(!spoken.contains("did not answer"), "{spoken}");
}

#[tokio::test]
async fn sentinels_with_passwords() {
    let primary = RedisServer::start(&["requirepass primary"]);
    let options = ["sentinel auth-pass main primary", "requirepass watch"];
    let sentinel = RedisServer::start_sentinel_with(primary.port, &options);
    let url =
        |password: &str| format!("redis+sentinel://:{password}@127.0.0.1:{}/main", sentinel.port);
    let mut config = RedisConfig::from_url(&url("primary")).unwrap();
    let refused = said(config.clone()).await;
    assert!(refused.contains("DCBUILD_SENTINEL_AUTH"), "{refused}");
    config.sentinel_credentials = Some(Credentials::from_text("wrong"));
    let refused = said(config.clone()).await;
    assert!(refused.contains("no such user with this password"), "{refused}");
    config.sentinel_credentials = Some(Credentials::from_text("default:watch"));
    let good = index_of(config);
    assert!(fill(&good, 10, 5).await, "{}", sentinel.log());
    let wrong = RedisConfig::from_url(&url("other")).unwrap();
    let sentinel_credentials = Some(Credentials::from_text("watch"));
    let refused = said(RedisConfig { sentinel_credentials, ..wrong }).await;
    assert!(refused.contains("no such user with this password"), "{refused}");
}

#[tokio::test]
async fn users_and_their_rights() {
    let server = RedisServer::start(&[
        "user default off",
        "user cache on >p@ss ~dcbuild:* +@all -@admin -@dangerous +info",
        "user reader on >p@ss ~dcbuild:* +@read +ping",
        "user timeless on >p@ss ~dcbuild:* +@read +@write +@scripting +@connection +info +role",
        "user hinted on >p@ss ~dcbuild:* +@read +@write +@scripting +@connection +info +role +time",
    ]);
    let url = |user: &str| format!("redis://{user}@127.0.0.1:{}", server.port);
    let good = index(&url("cache:p%40ss"));
    assert!(fill(&good, 10, 5).await);
    assert_eq!(good.check().await.unwrap().findings, [RedisFinding::Unbounded]);
    let hinted = index(&url("hinted:p%40ss"));
    assert!(fill(&hinted, 10, 5).await && hinted.check().await.is_ok(), "as the message says");
    for (wrong, words) in [
        ("cache:wrong", "no such user with this password"),
        ("nobody:p%40ss", "no such user with this password"),
        ("reader:p%40ss", "ACL SETUSER"),
    ] {
        let told = said(RedisConfig::from_url(&url(wrong)).unwrap()).await;
        assert!(told.contains(words), "{wrong}: {told}");
        let refused = index(&url(wrong)).check().await.unwrap_err();
        assert!(matches!(refused, StoreError::Denied { .. }), "{wrong}: {refused:?}");
        assert!(!format!("{refused:?}").contains("p@ss"), "{refused:?}");
    }
    // A right that only a fill needs is asked for as well, and one that a script lacks is no wrong version.
    let timeless = index(&url("timeless:p%40ss"));
    let refused = timeless.check().await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused:?}");
    let refused = timeless.begin_fill(at(1), at(2)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused:?}");
    let no_database = format!("{}/99", url("cache:p%40ss"));
    let told = said(RedisConfig::from_url(&no_database).unwrap()).await;
    assert!(told.contains("no database of this number"), "{told}");
    let mut config = RedisConfig::from_url(&server.url()).unwrap();
    let told = said(config.clone()).await;
    assert!(told.contains("write redis://USER:PASSWORD@HOST:PORT"), "{told}");
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

//! Reads over TLS: between whom they take place, and that they do not between others.

use dcbuild_process::TlsFault;
use dcbuild_process::config::ClientTls;
use dcbuild_testkit::tls::{Authority, Pair, Use, Valid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::encrypted::{ServerTls, Speech};
use crate::secure::Distrust;

/// What a worker shows, who asks its readers for theirs.
fn shown(pair: &Pair, authority: &Authority) -> Arc<ServerCertificates> {
    let Pair { cert, key } = pair.clone();
    let files = ServerTls { cert, key, client_ca: Some(authority.ca()) };
    Arc::new(ServerCertificates::open(files, Speech::Calls).unwrap())
}

fn reader(authority: &Authority, pair: Option<Pair>) -> Arc<ClientCertificates> {
    let identity = pair.map(|Pair { cert, key }| (cert, key));
    let files = ClientTls { ca: Some(authority.ca()), identity };
    Arc::new(ClientCertificates::open(files).unwrap())
}

/// A worker whose certificate is for no name that it is reached by, and for clients alone.
fn member(authority: &Authority) -> Pair {
    authority.certificate_for("member", Valid::Now, Use::Clients)
}

fn distrust(error: PeerError) -> Distrust {
    match error {
        PeerError::Distrusted { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn two_members_read_over_tls() {
    let ours = Authority::new("ours");
    let world = World::known(
        Manner::Honest,
        Some(shown(&member(&ours), &ours)),
        Some(reader(&ours, Some(member(&ours)))),
    )
    .await;
    let peer = world.named().await.unwrap();
    assert_eq!(peer, world.peer());
    assert_eq!(world.table(&peer).await.unwrap(), TABLE);
    assert_eq!(world.file(&peer, "small", b"small").await.unwrap(), b"small");
    assert!(world.whole(20_000_000).await.unwrap() == large());
    let read = u64::try_from(TABLE.len() + 5 + large().len()).unwrap();
    assert_eq!(world.peers.read_bytes(), PeerBytes { encrypted: read, plain: 0 });
}

#[tokio::test]
async fn reads_in_the_clear_are_counted_as_such() {
    let world = World::with(Manner::Honest).await;
    assert_eq!(world.file(&world.peer(), "small", b"small").await.unwrap(), b"small");
    assert_eq!(world.peers.read_bytes(), PeerBytes { encrypted: 0, plain: 5 });
}

#[tokio::test]
async fn who_speaks_no_tls_gets_nothing() {
    let ours = Authority::new("ours");
    let world = World::known(Manner::Honest, Some(shown(&member(&ours), &ours)), None).await;
    // One of an older version, say, that knows nothing of certificates.
    let peer = Peer { certificate: None, ..world.peer() };
    let error = world.file(&peer, "small", b"small").await.unwrap_err();
    let PeerError::Answer { source, .. } = error else { panic!("{error:?}") };
    assert!(source.message.contains("speaks TLS only"), "{source:?}");
    assert_eq!(world.peers.read_bytes(), PeerBytes::default());
    // And one that sends whatever it likes.
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"GET /small HTTP/1.1\r\nHost: w\r\n\r\n").await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("write https://"), "{said}");
}

#[tokio::test]
async fn who_shows_no_certificate_or_a_strange_one_gets_nothing() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    for (pair, fault) in [
        (None, TlsFault::Wanted),
        (Some(member(&theirs)), TlsFault::RefusedIssuer),
        (Some(ours.certificate("w", Valid::Formerly)), TlsFault::RefusedDate),
        (Some(ours.certificate_for("w", Valid::Now, Use::Servers)), TlsFault::RefusedUse),
    ] {
        let path = pair.as_ref().map(|pair| pair.cert.clone());
        let reader = reader(&ours, pair);
        let world =
            World::known(Manner::Honest, Some(shown(&member(&ours), &ours)), Some(reader)).await;
        let found = distrust(world.file(&world.peer(), "small", b"small").await.unwrap_err());
        assert_eq!(found, Distrust { fault, shown: path });
        assert_eq!(world.peers.read_bytes(), PeerBytes::default());
        // It is left alone, and the store looked at.
        assert_eq!(world.named().await, None);
    }
}

#[tokio::test]
async fn a_worker_is_believed_only_with_the_certificate_that_it_announced() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let mine = || reader(&ours, Some(member(&ours)));
    // Another member of the same cluster, at its address.
    let world =
        World::known(Manner::Honest, Some(shown(&member(&ours), &ours)), Some(mine())).await;
    let announced = Some(CertificateDigest(Digest::of(b"another")));
    let peer = Peer { certificate: announced, ..world.peer() };
    let found = distrust(world.file(&peer, "small", b"small").await.unwrap_err());
    assert_eq!(found.fault, TlsFault::Another);
    // What it announced is from nobody who is trusted here, or has expired.
    for (pair, fault) in [
        (member(&theirs), TlsFault::Untrusted),
        (ours.certificate("w", Valid::Formerly), TlsFault::Expired),
        (ours.certificate("w", Valid::Later), TlsFault::Early),
    ] {
        let world = World::known(Manner::Honest, Some(shown(&pair, &ours)), Some(mine())).await;
        let found = distrust(world.file(&world.peer(), "small", b"small").await.unwrap_err());
        assert_eq!(found.fault, fault);
        assert_eq!(world.peers.read_bytes(), PeerBytes::default());
    }
}

#[tokio::test]
async fn one_that_encrypts_and_one_that_does_not_leave_each_other_alone() {
    let ours = Authority::new("ours");
    let encrypts = World::known(Manner::Honest, Some(shown(&member(&ours), &ours)), None).await;
    let maker = encrypts.peers.maker(&layer()).await.unwrap();
    assert_eq!(maker, Maker { coming: true, peer: None }, "the store is waited for");
    let plain = World::known(Manner::Honest, None, Some(reader(&ours, Some(member(&ours))))).await;
    let maker = plain.peers.maker(&layer()).await.unwrap();
    assert_eq!(maker, Maker { coming: true, peer: None }, "the store is waited for");
    // Nor are they read from by whoever has an address.
    let error = plain.file(&plain.peer(), "small", b"small").await.unwrap_err();
    assert!(matches!(error, PeerError::Unlike { .. }), "{error:?}");
    assert_eq!(plain.peers.read_bytes(), PeerBytes::default());
}

#[tokio::test]
async fn certificates_that_are_renewed_count_at_once_on_both_sides() {
    let ours = Authority::new("ours");
    let (worker, own) = (member(&ours), ours.certificate("r", Valid::Formerly));
    let mine = reader(&ours, Some(own.clone()));
    let world = World::known(Manner::Honest, Some(shown(&worker, &ours)), Some(mine)).await;
    let before = world.peer();
    let found = distrust(world.file(&before, "small", b"small").await.unwrap_err());
    assert_eq!(found.fault, TlsFault::RefusedDate);
    ours.renew(&own, "r", Valid::Now);
    assert_eq!(world.file(&before, "small", b"small").await.unwrap(), b"small");

    ours.renew(&worker, "member", Valid::Now);
    let after = world.peer();
    assert_ne!(after.certificate, before.certificate);
    assert_eq!(world.file(&after, "small", b"small").await.unwrap(), b"small");
    assert_eq!(world.peers.read_bytes().encrypted, 10);
}

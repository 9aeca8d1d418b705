//! Which certificates of servers are taken, and why others are not.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::Path;
use std::time::{Duration, SystemTime};

use dcbuild_trust::{Roots, is_authority};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error};

/// In what a server's certificate differs.
#[derive(Clone, Copy, Default)]
struct Kind {
    is_authority: bool,
    is_over: bool,
    is_signed_by_other: bool,
}

fn make(kind: Kind) -> rcgen::Certificate {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["registry.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "registry");
    if kind.is_authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    if kind.is_over {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    if kind.is_signed_by_other {
        let mut other = CertificateParams::new(Vec::new()).unwrap();
        other.distinguished_name.push(DnType::CommonName, "other");
        other.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(other, KeyPair::generate().unwrap());
        return params.signed_by(&key, &issuer).unwrap();
    }
    params.self_signed(&key).unwrap()
}

fn check(trusted: &Path, shown: &CertificateDer<'_>, name: &str) -> Result<(), Error> {
    let verifier = Roots::of_file(trusted).unwrap().verifier().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()));
    verifier.verify_server_cert(shown, &[], &name, &[], now).map(drop)
}

/// The certificate that `openssl req -x509` makes is an authority's and its own server's at once.
#[test]
fn what_is_trusted_itself_may_be_shown() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    let (own, other) = ("registry.example", "other.example");
    let plain = Kind::default();
    let authority = Kind { is_authority: true, ..plain };
    for (kind, name, wanted) in [
        (plain, own, "taken"),
        (authority, own, "taken"),
        (Kind { is_signed_by_other: true, ..authority }, own, "taken"),
        (plain, other, "another name"),
        (authority, other, "another name"),
        (Kind { is_over: true, ..plain }, own, "over"),
        (Kind { is_over: true, ..authority }, own, "over"),
        (Kind { is_over: true, is_signed_by_other: true, ..authority }, own, "over"),
    ] {
        let shown = make(kind);
        std::fs::write(&trusted, shown.pem()).unwrap();
        let said = match check(&trusted, shown.der(), name) {
            Ok(()) => "taken",
            Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => {
                "another name"
            }
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. })) => "over",
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(said, wanted, "authority {}, over {}", kind.is_authority, kind.is_over);
    }
}

#[test]
fn an_authority_that_nobody_named_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    let authority = Kind { is_authority: true, ..Kind::default() };
    std::fs::write(&trusted, make(authority).pem()).unwrap();
    // Of the same name, and with another key.
    let error = check(&trusted, make(authority).der(), "registry.example").unwrap_err();
    assert!(is_authority(&error), "{error:?}");
    let error = check(&trusted, make(Kind::default()).der(), "registry.example").unwrap_err();
    assert!(!is_authority(&error), "{error:?}");
}

#[test]
fn where_nobody_is_trusted_it_is_said_when_a_server_shows_itself() {
    let verifier = Roots::none().verifier().unwrap();
    let shown = make(Kind::default());
    let name = ServerName::try_from("registry.example").unwrap();
    let error = verifier.verify_server_cert(shown.der(), &[], &name, &[], UnixTime::now());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("NoneTrusted"), "{error}");
}

//! Which certificates of servers are taken, and why others are not.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::Path;
use std::time::{Duration, SystemTime};

use dcbuild_trust::{Roots, is_authority};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error};

/// How a server's certificate was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It signs itself and is no authority's.
    Plain,
    /// It signs itself.
    Authority,
    /// An authority's that another signed.
    Between,
}

fn make(kind: Kind, is_over: bool) -> rcgen::Certificate {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["registry.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "registry");
    if kind != Kind::Plain {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    if is_over {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    if kind == Kind::Between {
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
    for (kind, is_over, name, wanted) in [
        (Kind::Plain, false, own, "taken"),
        (Kind::Authority, false, own, "taken"),
        (Kind::Between, false, own, "taken"),
        (Kind::Plain, false, other, "another name"),
        (Kind::Authority, false, other, "another name"),
        (Kind::Plain, true, own, "over"),
        (Kind::Authority, true, own, "over"),
        (Kind::Between, true, own, "over"),
    ] {
        let shown = make(kind, is_over);
        std::fs::write(&trusted, shown.pem()).unwrap();
        let said = match check(&trusted, shown.der(), name) {
            Ok(()) => "taken",
            Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => {
                "another name"
            }
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. })) => "over",
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(said, wanted, "{kind:?}, over {is_over}");
    }
}

#[test]
fn an_authority_that_nobody_named_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    std::fs::write(&trusted, make(Kind::Authority, false).pem()).unwrap();
    // Of the same name, and with another key.
    let error =
        check(&trusted, make(Kind::Authority, false).der(), "registry.example").unwrap_err();
    assert!(is_authority(&error), "{error:?}");
    let error = check(&trusted, make(Kind::Plain, false).der(), "registry.example").unwrap_err();
    assert!(!is_authority(&error), "{error:?}");
}

#[test]
fn where_nobody_is_trusted_it_is_said_when_a_server_shows_itself() {
    let verifier = Roots::none().verifier().unwrap();
    let shown = make(Kind::Plain, false);
    let name = ServerName::try_from("registry.example").unwrap();
    let error = verifier.verify_server_cert(shown.der(), &[], &name, &[], UnixTime::now());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("NoneTrusted"), "{error}");
}

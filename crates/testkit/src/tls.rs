//! Certificates for servers and clients of a test, and who signs them.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// Until when a certificate counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Valid {
    /// For a long time.
    Now,
    /// It counted once.
    Formerly,
    /// It will count.
    Later,
}

/// What a certificate may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Everything.
    All,
    /// To be a server.
    Servers,
    /// To be a client.
    Clients,
}

/// The files of a certificate and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Writes a certificate that signs itself, as `openssl req -x509` makes one: it is an authority's, and a server shows it.
pub fn authority_of_server(folder: &Path, hosts: &[&str]) -> Pair {
    let key = KeyPair::generate().expect("a key");
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let cert = params.self_signed(&key).expect("it signs itself");
    let pair = Pair { cert: folder.join("tls.crt"), key: folder.join("tls.key") };
    std::fs::write(&pair.key, key.serialize_pem()).expect("the key is written");
    std::fs::write(&pair.cert, cert.pem()).expect("the certificate is written");
    pair
}

/// Signs certificates; its files are gone when it is dropped.
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one; the name tells it from others.
    pub fn new(name: &str) -> Authority {
        let folder = tempfile::tempdir().expect("a folder for certificates");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let own = params.self_signed(&key).expect("it signs itself");
        std::fs::write(folder.path().join("ca.pem"), own.pem()).expect("it is written");
        Authority { folder, issuer: Issuer::new(params, key) }
    }

    /// The file by which it is trusted.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a host name or address, in files of its own.
    pub fn certificate(&self, host: &str, valid: Valid) -> Pair {
        self.certificate_for(host, valid, Use::All)
    }

    /// The same, of limited use.
    pub fn certificate_for(&self, host: &str, valid: Valid, used: Use) -> Pair {
        let number = std::fs::read_dir(self.folder.path()).expect("its folder").count();
        let at = |what: &str| self.folder.path().join(format!("{number}-{what}.pem"));
        let pair = Pair { cert: at("cert"), key: at("key") };
        self.write(&pair, host, (valid, used));
        pair
    }

    /// Writes another certificate into the files of one.
    pub fn renew(&self, pair: &Pair, host: &str, valid: Valid) {
        self.write(pair, host, (valid, Use::All));
    }

    fn write(&self, pair: &Pair, host: &str, (valid, used): (Valid, Use)) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([host.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, host);
        let years = match valid {
            Valid::Now => None,
            Valid::Formerly => Some((2019, 2020)),
            Valid::Later => Some((2090, 2091)),
        };
        if let Some((from, to)) = years {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        }
        params.extended_key_usages = match used {
            Use::All => Vec::new(),
            Use::Servers => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Use::Clients => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let cert = params.signed_by(&key, &self.issuer).expect("it is signed");
        std::fs::write(&pair.key, key.serialize_pem()).expect("the key is written");
        std::fs::write(&pair.cert, cert.pem()).expect("the certificate is written");
    }
}

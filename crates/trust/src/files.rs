//! Certificates and keys in files.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Says why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file cannot be read.
    #[error("could not read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {what} in PEM", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// They do not go together.
    #[error(
        "could not use the certificate {cert} with the key {key}",
        cert = cert.display(), key = key.display()
    )]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with them.
        source: Box<rustls::Error>,
    },
    /// Nobody can be checked by them.
    #[error("could not check others by the certificates in {path}", path = path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system has no certificates that it trusts.
    #[error(
        "this system trusts no certificate at all: install ca-certificates, or name those to trust with the key ca"
    )]
    NoneTrusted,
    /// The library of TLS cannot be set up.
    #[error("could not prepare TLS")]
    Setup(#[source] rustls::Error),
}

impl TlsSetupError {
    /// A certificate and a key that do not go together.
    pub fn pair(cert: &Path, key: &Path, source: rustls::Error) -> TlsSetupError {
        TlsSetupError::Pair { cert: cert.into(), key: key.into(), source: Box::new(source) }
    }

    /// What is wrong and why, in one line.
    pub fn with_cause(&self) -> String {
        match std::error::Error::source(self) {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsSetupError> {
    std::fs::read(path).map_err(|source| TlsSetupError::Read { path: path.into(), source })
}

/// Reads the certificates of a file, of which there is at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let bytes = read(path)?;
    let none = || TlsSetupError::Pem { path: path.into(), what: "certificate" };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(none)
}

/// Reads the key of a file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsSetupError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|_| TlsSetupError::Pem { path: path.into(), what: "private key" })
}

/// Reads a certificate and its key, and sees that they belong together.
pub fn pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsSetupError> {
    let wrong = |source| TlsSetupError::pair(cert, key, source);
    let (chain, private) = (certificates(cert)?, private_key(key)?);
    CertifiedKey::from_der(chain, private, &crate::provider()).map_err(wrong)
}

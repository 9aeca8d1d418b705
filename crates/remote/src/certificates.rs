//! Certificates in files, which are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use std::{fmt, io};

use dcbuild_model::Digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};

/// Names a certificate by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CertificateDigest(pub Digest);

impl CertificateDigest {
    /// The name of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> CertificateDigest {
        CertificateDigest(Digest::of(certificate))
    }

    /// Its bytes, for the message that carries them.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.0.to_vec()
    }

    /// Reads one that was sent; none where nothing was.
    pub fn read(bytes: &[u8]) -> Result<Option<CertificateDigest>, InvalidCertificateDigest> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let wrong = InvalidCertificateDigest { bytes: bytes.len() };
        <[u8; 32]>::try_from(bytes).map(|it| Some(CertificateDigest(Digest(it)))).map_err(|_| wrong)
    }
}

/// Says why bytes do not name a certificate.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the digest of a certificate has 32 bytes, and this one has {bytes}")]
pub struct InvalidCertificateDigest {
    /// How many it has.
    pub bytes: usize,
}

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
        source: rustls::Error,
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
    #[error("this system trusts no certificate at all: name those to trust with the key ca")]
    NoneTrusted,
}

/// Reads the certificates of a file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let bytes =
        std::fs::read(path).map_err(|source| TlsSetupError::Read { path: path.into(), source })?;
    let none = || TlsSetupError::Pem { path: path.into(), what: "certificate" };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(none)
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsSetupError> {
    let bytes =
        std::fs::read(path).map_err(|source| TlsSetupError::Read { path: path.into(), source })?;
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| TlsSetupError::Pem { path: path.into(), what: "private key" })
}

/// Reads a certificate and its key, and sees that they belong together.
pub(crate) fn pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsSetupError> {
    let wrong = |source| TlsSetupError::Pair { cert: cert.into(), key: key.into(), source };
    let (chain, private) = (certificates(cert)?, private_key(key)?);
    CertifiedKey::from_der(chain, private, &rustls::crypto::ring::default_provider()).map_err(wrong)
}

/// Reads whom to trust.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, TlsSetupError> {
    let wrong =
        |source: rustls::Error| TlsSetupError::Ca { path: path.into(), source: source.into() };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(wrong)?;
    }
    Ok(roots)
}

/// A certificate that is another one than was announced, as TLS words it.
pub(crate) const ANOTHER: CertificateError = CertificateError::ApplicationVerificationFailure;

/// Files, and what is made of them.
pub(crate) trait Files {
    type Made;

    fn paths(&self) -> [Option<&Path>; 4];
    fn load(&self) -> Result<Self::Made, TlsSetupError>;
}

/// Tells one state of files from the next.
type Stamp = [Option<(u64, SystemTime)>; 4];

/// What files make, made anew when they change. Ones that cannot be used are logged, and what was made before stays.
pub(crate) struct Kept<F: Files> {
    files: F,
    known: Mutex<(Stamp, Arc<F::Made>)>,
}

impl<F: Files + fmt::Debug> fmt::Debug for Kept<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.files).finish()
    }
}

impl<F: Files> Kept<F> {
    pub(crate) fn open(files: F) -> Result<Kept<F>, TlsSetupError> {
        let known = Mutex::new((stamp(&files), Arc::new(files.load()?)));
        Ok(Kept { files, known })
    }

    pub(crate) fn files(&self) -> &F {
        &self.files
    }

    /// As the files are now.
    pub(crate) fn current(&self) -> Arc<F::Made> {
        let stamp = stamp(&self.files);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != stamp {
            known.0 = stamp;
            match self.files.load() {
                Ok(made) => {
                    known.1 = Arc::new(made);
                    tracing::info!("the certificates were read again");
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "the certificates from before stay in use");
                }
            }
        }
        known.1.clone()
    }
}

fn stamp(files: &impl Files) -> Stamp {
    files.paths().map(|file| {
        let found = std::fs::metadata(file?).ok()?;
        Some((found.len(), found.modified().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_a_length_or_is_not_there() {
        assert_eq!(CertificateDigest::read(&[]), Ok(None));
        let digest = CertificateDigest(Digest::of(b"it"));
        assert_eq!(CertificateDigest::read(&digest.bytes()), Ok(Some(digest)));
        assert_eq!(CertificateDigest::read(&[1; 31]), Err(InvalidCertificateDigest { bytes: 31 }));
    }
}

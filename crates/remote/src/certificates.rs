//! Certificates in files, which are read again when they change.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use dcbuild_model::Digest;
use dcbuild_trust::TlsSetupError;
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;

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

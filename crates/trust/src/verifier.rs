//! Checks of the certificate that a server shows.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use crate::files::TlsSetupError;
use crate::roots::Roots;

/// What a server shows to a client that is about to trust it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Its certificate.
    pub own: &'a CertificateDer<'a>,
    /// Those that lead from there to an authority, as the server says.
    pub between: &'a [CertificateDer<'a>],
    /// The name by which it was reached.
    pub name: &'a ServerName<'a>,
    /// When that is.
    pub now: UnixTime,
}

/// Whether a server was refused only because its certificate is that of an authority: its time has been checked, not its name.
pub fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Trusts the servers that a check lets pass, once they have proved that the certificate is theirs.
pub fn passing(
    check: impl Fn(Shown<'_>) -> Result<(), Error> + Send + Sync + 'static,
) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Passing { check, provider: crate::provider() })
}

/// Takes any certificate, for users who said so.
pub fn anybody() -> Arc<dyn ServerCertVerifier> {
    passing(|_| Ok(()))
}

/// Takes none, where nobody is trusted: what does without TLS can still be reached.
pub(crate) fn nobody() -> Arc<dyn ServerCertVerifier> {
    passing(|_| {
        let untrusted = OtherError(Arc::new(TlsSetupError::NoneTrusted));
        Err(Error::InvalidCertificate(CertificateError::Other(untrusted)))
    })
}

/// Takes what an authority signed, and what is trusted itself.
pub(crate) fn known(
    chains: Arc<dyn ServerCertVerifier>,
    roots: Roots,
) -> Arc<dyn ServerCertVerifier> {
    passing(move |shown| {
        let Shown { own, between, name, now } = shown;
        match chains.verify_server_cert(own, between, name, &[], now) {
            Err(error) if is_authority(&error) && roots.contains(own) => {
                verify_server_name(&ParsedCertificate::try_from(own)?, name)
            }
            done => done.map(drop),
        }
    })
}

struct Passing<C> {
    check: C,
    provider: Arc<CryptoProvider>,
}

impl<C> fmt::Debug for Passing<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passing").finish_non_exhaustive()
    }
}

impl<C: Fn(Shown<'_>) -> Result<(), Error> + Send + Sync> ServerCertVerifier for Passing<C> {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        (self.check)(Shown { own, between, name, now }).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

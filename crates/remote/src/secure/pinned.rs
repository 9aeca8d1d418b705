//! A server that is known by its certificate and not by its name.

use std::sync::Arc;

use rustls::client::VerifierBuilderError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::certificates::{ANOTHER, CertificateDigest};

/// Trusts one certificate, as long as it is valid and from a CA that is trusted.
#[derive(Debug)]
pub(super) struct Pinned {
    digest: CertificateDigest,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    members: Arc<dyn ClientCertVerifier>,
}

impl Pinned {
    pub(super) fn new(
        digest: CertificateDigest,
        roots: Arc<RootCertStore>,
    ) -> Result<Pinned, VerifierBuilderError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let members =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        Ok(Pinned { digest, roots, provider, members })
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if CertificateDigest::of(end_entity) != self.digest {
            return Err(Error::InvalidCertificate(ANOTHER));
        }
        // It is the one that its worker shows to the coordinator, and often made for clients alone.
        let Err(error) = self.members.verify_client_cert(end_entity, intermediates, now) else {
            return Ok(ServerCertVerified::assertion());
        };
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )
        .map(|()| ServerCertVerified::assertion())
        .map_err(|_| error)
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

//! A server that is known by its certificate and not by its name.

use std::sync::Arc;

use dcbuild_trust::{Shown, passing};
use rustls::client::VerifierBuilderError;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{Error, RootCertStore};

use crate::certificates::{ANOTHER, CertificateDigest};

/// Trusts one certificate, as long as it is valid and from a CA that is trusted.
pub(super) fn pinned(
    digest: CertificateDigest,
    roots: Arc<RootCertStore>,
) -> Result<Arc<dyn ServerCertVerifier>, VerifierBuilderError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms.all;
    let members = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider).build()?;
    Ok(passing(move |Shown { own, between, now, .. }| {
        if CertificateDigest::of(own) != digest {
            return Err(Error::InvalidCertificate(ANOTHER));
        }
        // It is the one that its worker shows to the coordinator, and often made for clients alone.
        let Err(error) = members.verify_client_cert(own, between, now) else { return Ok(()) };
        let parsed = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, between, now, algorithms)
            .map_err(|_| error)
    }))
}

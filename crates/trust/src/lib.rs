//! By which certificates servers are known, and which one they are shown.

mod files;
mod roots;
mod verifier;

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, WantsClientCert};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ConfigBuilder};

pub use files::{TlsSetupError, certificates, pair, private_key};
pub use roots::Roots;
pub use verifier::{Shown, anybody, is_authority, passing};

/// What a client of servers needs, which shows the same certificate to each; with ring's algorithms.
pub fn client(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, TlsSetupError> {
    let builder = checked_by(verifier)?;
    let Some((cert, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let wrong = |source| TlsSetupError::pair(cert, key, source);
    builder.with_client_auth_cert(certificates(cert)?, private_key(key)?).map_err(wrong)
}

/// The same for a client that chooses its certificate when it is asked.
pub fn client_with(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Arc<dyn ResolvesClientCert>,
) -> Result<ClientConfig, TlsSetupError> {
    Ok(checked_by(verifier)?.with_client_cert_resolver(identity))
}

fn checked_by(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsSetupError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Setup)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

//! Whose certificates are trusted.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;

use crate::files::{TlsSetupError, certificates};
use crate::verifier::{known, nobody};

/// The certificates that are trusted: as authorities, and as those of servers.
#[derive(Clone, Debug)]
pub struct Roots {
    authorities: Arc<RootCertStore>,
    themselves: Arc<HashSet<CertificateDer<'static>>>,
}

impl Roots {
    /// Trusts nobody yet.
    pub fn none() -> Roots {
        Roots { authorities: Arc::new(RootCertStore::empty()), themselves: Arc::default() }
    }

    /// Trusts whom this system trusts. Where its certificates cannot be read, that is nobody.
    pub fn of_system() -> Roots {
        let found = rustls_native_certs::load_native_certs();
        if !found.errors.is_empty() {
            tracing::debug!(errors = ?found.errors, "some certificates of the system cannot be read");
        }
        let mut authorities = RootCertStore::empty();
        authorities.add_parsable_certificates(found.certs.iter().cloned());
        let themselves = Arc::new(found.certs.into_iter().collect());
        Roots { authorities: Arc::new(authorities), themselves }
    }

    /// Trusts those in a file as well.
    pub fn add(&mut self, path: &Path) -> Result<(), TlsSetupError> {
        let authorities = Arc::make_mut(&mut self.authorities);
        for certificate in certificates(path)? {
            let wrong = |source: rustls::Error| TlsSetupError::Ca {
                path: path.into(),
                source: source.into(),
            };
            authorities.add(certificate.clone()).map_err(wrong)?;
            Arc::make_mut(&mut self.themselves).insert(certificate);
        }
        Ok(())
    }

    /// Trusts those in a file alone.
    pub fn of_file(path: &Path) -> Result<Roots, TlsSetupError> {
        let mut roots = Roots::none();
        roots.add(path).map(|()| roots)
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty()
    }

    /// The same as authorities alone.
    pub fn authorities(&self) -> &Arc<RootCertStore> {
        &self.authorities
    }

    pub(crate) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.themselves.contains(certificate)
    }

    /// Checks servers by them.
    ///
    /// A server's certificate counts if an authority of these signed it, or if it is one of these itself, as in Go's TLS and
    /// so with docker and BuildKit: the certificate that `openssl req -x509` makes says that it is an authority, and is
    /// shown by registries all the same. Its time and its names are checked either way.
    pub fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, TlsSetupError> {
        if self.is_empty() {
            return Ok(nobody());
        }
        let chains = WebPkiServerVerifier::builder_with_provider(
            self.authorities.clone(),
            crate::provider(),
        );
        let chains = chains
            .build()
            .map_err(|error| TlsSetupError::Setup(rustls::Error::General(error.to_string())))?;
        Ok(known(chains, self.clone()))
    }
}

//! What keeps us from a registry now and would at each other try, so that nobody waits for one.

use std::error::Error;

use dcbuild_model::Fault;
use dcbuild_trust::is_authority;
use rustls::{AlertDescription, CertificateError};

use crate::names::NameError;

/// What keeps a connection from being made, now and at each other try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Obstacle {
    /// Nobody knows where that is.
    Unknown,
    /// Nobody says where anything is.
    NoNames,
    /// Nothing listens there.
    Refused,
    /// The certificate is signed by nobody whom we trust.
    Certificate,
    /// The certificate is an authority's, and not itself trusted.
    Authority,
    /// The certificate is for other names.
    OtherName,
    /// The certificate does not count any more, or not yet.
    Time,
    /// It wants to see a certificate of ours, or another one.
    Identity,
    /// What listens there does not speak TLS.
    NoTls,
}

impl Obstacle {
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Obstacle> {
        let mut next = Some(error);
        while let Some(cause) = next {
            if let Some(NameError { source, .. }) = cause.downcast_ref() {
                return Some(match Fault::of_lookup(source) {
                    Fault::Request => Obstacle::Unknown,
                    Fault::Step | Fault::Cluster | Fault::Bug => Obstacle::NoNames,
                });
            }
            if let Some(error) = cause.downcast_ref::<std::io::Error>() {
                if error.kind() == std::io::ErrorKind::ConnectionRefused {
                    return Some(Obstacle::Refused);
                }
                // An error within an I/O error is not among its sources, which are those of the inner one.
                if let Some(inner) = error.get_ref() {
                    next = Some(inner);
                    continue;
                }
            }
            if let Some(obstacle) = cause.downcast_ref().and_then(Obstacle::of_tls) {
                return Some(obstacle);
            }
            next = cause.source();
        }
        None
    }

    fn of_tls(error: &rustls::Error) -> Option<Obstacle> {
        match error {
            rustls::Error::InvalidCertificate(refused) => Some(match refused {
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Obstacle::OtherName,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Obstacle::Time,
                _ if is_authority(error) => Obstacle::Authority,
                _ => Obstacle::Certificate,
            }),
            rustls::Error::InvalidMessage(_) => Some(Obstacle::NoTls),
            rustls::Error::AlertReceived(
                AlertDescription::BadCertificate
                | AlertDescription::CertificateRequired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA,
            ) => Some(Obstacle::Identity),
            _ => None,
        }
    }

    /// Who can mend it.
    pub(crate) fn fault(self) -> Fault {
        match self {
            Obstacle::Unknown
            | Obstacle::Certificate
            | Obstacle::Authority
            | Obstacle::OtherName
            | Obstacle::Time
            | Obstacle::Identity
            | Obstacle::NoTls => Fault::Request,
            Obstacle::NoNames | Obstacle::Refused => Fault::Cluster,
        }
    }

    pub(crate) fn hint(self, whole: &str) -> String {
        let name = whole.split_once("://").map_or(whole, |(_, name)| name);
        match self {
            Obstacle::Unknown => format!(
                "no name service knows {name}: check the registry's name, and whether this machine has a network"
            ),
            Obstacle::NoNames => format!(
                "no name service answers for {name}: check whether this machine has a network"
            ),
            Obstacle::Refused => {
                format!("nothing listens at {name}: check the registry's name and port")
            }
            Obstacle::Certificate => format!(
                "name the authority that signed its certificate with ca = [\"FILE\"] under [registry.\"{name}\"], or set insecure = true there"
            ),
            Obstacle::Authority => format!(
                "its certificate is an authority's (CA:TRUE), such as `openssl req -x509` makes: it counts where it is itself in ca = [\"FILE\"] under [registry.\"{name}\"], or set insecure = true there"
            ),
            Obstacle::OtherName => format!(
                "its certificate is not for {name}: give it a subjectAltName with that name or address (`openssl req -x509 -addext subjectAltName=DNS:NAME,IP:ADDRESS`; a common name alone does not count), or reach the registry by a name that it has"
            ),
            Obstacle::Time => {
                "its certificate counts no more, or not yet: have it renewed, and look whether the clock of this machine is right".into()
            }
            Obstacle::Identity => format!(
                "the registry wants a certificate of ours that it knows: name its files with key and cert in [[registry.\"{name}\".keypair]], or put them where docker has them, /etc/docker/certs.d/{name}/client.cert and client.key"
            ),
            Obstacle::NoTls => format!(
                "if the registry speaks plain http, set http = true under [registry.\"{name}\"]"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use reqwest::dns::{Name, Resolve, Resolving};

    use super::*;

    /// A name service that knows nothing.
    struct Nothing(&'static str);

    impl Resolve for Nothing {
        fn resolve(&self, name: Name) -> Resolving {
            let source = std::io::Error::other(self.0);
            Box::pin(
                async move { Err(NameError { host: name.as_str().to_owned(), source }.into()) },
            )
        }
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_no_matter_of_patience() {
        // Another test of this process may have been first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        for (said, obstacle, fault) in [
            ("Name or service not known", Obstacle::Unknown, Fault::Request),
            ("Temporary failure in name resolution", Obstacle::NoNames, Fault::Cluster),
        ] {
            let names = Arc::new(Nothing(said));
            let client = reqwest::Client::builder().no_proxy().dns_resolver(names);
            let asked = client.build().unwrap().get("http://registry.invalid:5000/v2/").send();
            let error = asked.await.unwrap_err();
            assert_eq!(Obstacle::of(&error), Some(obstacle), "{error:?}");
            assert_eq!(obstacle.fault(), fault);
        }
        let hint = Obstacle::Unknown.hint("http://registry.invalid:5000");
        assert!(hint.contains("registry.invalid:5000"), "{hint}");
    }
}

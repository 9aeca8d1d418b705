//! What is wrong with an encrypted connection, told apart by the errors that say so and never by their words.

use std::error::Error;
use std::io;
use std::sync::Arc;

use dcbuild_trust::is_authority;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// Why a client and a server do not trust each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TlsFault {
    /// Whoever signed the server's certificate is not trusted.
    #[error("the server's certificate is from nobody who is trusted here")]
    Untrusted,
    /// The server's certificate was good once.
    #[error("the server's certificate has expired")]
    Expired,
    /// The server's certificate will be good, or a clock is wrong.
    #[error("the server's certificate is not valid yet, or the clock of this machine is wrong")]
    Early,
    /// The server's certificate is another server's.
    #[error("the server's certificate is for another name than the one in the address")]
    OtherName,
    /// The server's certificate is not the one that it was to have.
    #[error("the server's certificate is another one than was announced")]
    Another,
    /// The server's certificate is one by which others are signed.
    #[error("the server's certificate is an authority's own (CA:TRUE)")]
    Authority,
    /// There is something else wrong with the server's certificate.
    #[error("the server's certificate cannot be used")]
    Unusable,
    /// What answers speaks no TLS.
    #[error("what answers there speaks no TLS")]
    Plain,
    /// The server wants to know its clients, and was told nothing.
    #[error("the server wants a certificate of its client")]
    Wanted,
    /// The server does not know who signed the client's certificate.
    #[error(
        "the server does not accept the certificate of this side, for it does not trust who signed it"
    )]
    RefusedIssuer,
    /// The client's certificate is not valid any more, or not yet.
    #[error(
        "the server does not accept the certificate of this side, for it has expired, or is not valid yet by the clock there"
    )]
    RefusedDate,
    /// The client's certificate is for servers.
    #[error(
        "the server does not accept the certificate of this side, for it is not one for clients"
    )]
    RefusedUse,
    /// The server does not take the client's certificate.
    #[error("the server does not accept the certificate of this side")]
    Refused,
    /// They have nothing in common.
    #[error("client and server found no form of TLS that both speak")]
    Failed,
}

/// What to do about a server that shows an authority's certificate to a client that takes none of them.
pub const NOT_AN_AUTHORITY: &str = "have one made that is no authority's, as with \
     `openssl req -x509 -addext basicConstraints=critical,CA:FALSE`, and name it as ca";

/// What a server says of a client's certificate.
const ALERTS: [AlertDescription; 9] = [
    AlertDescription::CertificateRequired,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::DecryptError,
];

/// Looks for something in an error, in its causes, and in what they are made of.
pub fn find_cause<T>(
    error: &(dyn Error + 'static),
    look: impl Fn(&(dyn Error + 'static)) -> Option<T>,
) -> Option<T> {
    search(error, &look)
}

fn search<T>(
    error: &(dyn Error + 'static),
    look: &dyn Fn(&(dyn Error + 'static)) -> Option<T>,
) -> Option<T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = look(error) {
            return Some(found);
        }
        // What an error of the system was made of is not among its causes, and one that is shared hides what it is.
        let made_of = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner: Option<&(dyn Error + 'static)> = match (made_of, error.downcast_ref()) {
            (Some(inner), _) => Some(inner),
            (None, Some(shared)) => {
                let shared: &Arc<dyn Error + Send + Sync> = shared;
                Some(&**shared)
            }
            (None, None) => None,
        };
        if let Some(found) = inner.and_then(|inner| search(inner, look)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

impl TlsFault {
    /// Finds what is wrong with TLS among an error and its causes, if it is that.
    pub fn find(error: &(dyn Error + 'static)) -> Option<TlsFault> {
        find_cause(error, |error| match error.downcast_ref::<rustls::Error>() {
            Some(fault) => TlsFault::of(fault),
            None => TlsFault::of_alert(error),
        })
    }

    /// Whether it is the client's certificate that is at fault.
    pub fn is_of_client(self) -> bool {
        let refused = [
            TlsFault::RefusedIssuer,
            TlsFault::RefusedDate,
            TlsFault::RefusedUse,
            TlsFault::Refused,
        ];
        self == TlsFault::Wanted || refused.contains(&self)
    }

    /// A client is refused after it has begun to speak HTTP/2, whose library keeps an error's words alone: they are
    /// compared with what rustls itself says of each alert.
    fn of_alert(error: &(dyn Error + 'static)) -> Option<TlsFault> {
        let words = error.to_string();
        let alerts = ALERTS.iter().map(|alert| rustls::Error::AlertReceived(*alert));
        alerts.filter(|alert| alert.to_string() == words).find_map(|alert| TlsFault::of(&alert))
    }

    fn of(error: &rustls::Error) -> Option<TlsFault> {
        Some(match error {
            rustls::Error::InvalidCertificate(refused) => match refused {
                CertificateError::UnknownIssuer => TlsFault::Untrusted,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    TlsFault::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    TlsFault::Early
                }
                CertificateError::ApplicationVerificationFailure => TlsFault::Another,
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => TlsFault::OtherName,
                _ if is_authority(error) => TlsFault::Authority,
                _ => TlsFault::Unusable,
            },
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => TlsFault::Plain,
            rustls::Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired => TlsFault::Wanted,
                AlertDescription::UnknownCA => TlsFault::RefusedIssuer,
                AlertDescription::CertificateExpired => TlsFault::RefusedDate,
                AlertDescription::UnsupportedCertificate => TlsFault::RefusedUse,
                alert if ALERTS.contains(alert) => TlsFault::Refused,
                _ => TlsFault::Failed,
            },
            rustls::Error::NoCertificatesPresented => TlsFault::Wanted,
            rustls::Error::PeerIncompatible(_)
            | rustls::Error::PeerMisbehaved(_)
            | rustls::Error::InvalidMessage(_)
            | rustls::Error::NoApplicationProtocol => TlsFault::Failed,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_wherever_it_hides() {
        #[derive(Debug, thiserror::Error)]
        #[error("outside")]
        struct Outside(#[source] io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("shared")]
        struct Shared(#[source] Arc<dyn Error + Send + Sync>);
        let fault = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let hidden = Outside(io::Error::other(io::Error::other(fault)));
        assert_eq!(TlsFault::find(&hidden), Some(TlsFault::Untrusted));
        let fault = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let shared = Shared(Arc::new(io::Error::other(fault)));
        assert_eq!(TlsFault::find(&shared), Some(TlsFault::Expired));
        let words = rustls::Error::AlertReceived(AlertDescription::UnknownCA).to_string();
        let told = Outside(io::Error::new(io::ErrorKind::InvalidData, words));
        assert_eq!(TlsFault::find(&told), Some(TlsFault::RefusedIssuer));
        let other = Outside(io::Error::other("no such host"));
        assert_eq!(TlsFault::find(&other), None);
    }

    #[test]
    fn faults_are_told_apart() {
        for (error, fault) in [
            (rustls::Error::InvalidCertificate(CertificateError::Expired), TlsFault::Expired),
            (rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType), TlsFault::Plain),
            (rustls::Error::AlertReceived(AlertDescription::CertificateRequired), TlsFault::Wanted),
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), TlsFault::RefusedIssuer),
            (
                rustls::Error::AlertReceived(AlertDescription::CertificateExpired),
                TlsFault::RefusedDate,
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::UnsupportedCertificate),
                TlsFault::RefusedUse,
            ),
            (rustls::Error::AlertReceived(AlertDescription::DecryptError), TlsFault::Refused),
            (
                rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure),
                TlsFault::Another,
            ),
            (rustls::Error::NoApplicationProtocol, TlsFault::Failed),
        ] {
            assert_eq!(TlsFault::find(&error), Some(fault), "{error}");
        }
    }
}

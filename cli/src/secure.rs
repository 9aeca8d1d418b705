//! Channels to a coordinator, encrypted where its address says so.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dcbuild_process::config::{ClientTls, ServerTlsConfig};
use dcbuild_remote::{ClientCertificates, ServerTls, Trust, plain_channel, secure_channel};
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::Authority;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The certificates of a coordinator.
pub(crate) fn server_tls(config: ServerTlsConfig) -> ServerTls {
    let ServerTlsConfig { cert, key, client_ca } = config;
    ServerTls { cert, key, client_ca }
}

/// Whether a coordinator is reached over TLS.
pub(crate) fn is_encrypted(url: &str) -> bool {
    url.starts_with("https://")
}

/// A channel to a coordinator; it connects when it is first used, and again when it was cut.
pub(crate) fn channel(url: &str, tls: &ClientTls) -> anyhow::Result<Channel> {
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let is_encrypted = is_encrypted(&full);
    if !is_encrypted && *tls != ClientTls::default() {
        bail!(
            "'{url}' is not encrypted, and certificates are set for it: write https://, or take them away \
             (submit.tls, worker.tls, DCBUILD_TLS_CA, DCBUILD_TLS_CERT, DCBUILD_TLS_KEY)"
        );
    }
    let no_address =
        || format!("'{url}' is not the address of a coordinator, such as http://10.0.0.5:7070");
    let uri = full.parse::<Uri>().with_context(no_address)?;
    let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority =
        uri.authority().filter(|it| is_known && is_place(it)).with_context(no_address)?;
    let (place, limit) = (authority.as_str(), CONNECT_MAX);
    let channel = if is_encrypted {
        let certificates = Arc::new(ClientCertificates::open(tls.clone())?);
        secure_channel(place, (certificates, Trust::Name), limit, settings)
    } else {
        plain_channel(place, limit, settings)
    };
    channel.with_context(no_address)
}

/// Whether it is a host, and a port if there is more.
fn is_place(authority: &Authority) -> bool {
    let (all, host) = (authority.as_str(), authority.host());
    !host.is_empty() && (all == host || authority.port_u16().is_some_and(|port| port > 0))
}

fn settings(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_meant_is_refused() {
        let tls = ClientTls { ca: Some("/no/ca.pem".into()), identity: None };
        let error = channel("https://h:7070", &tls).unwrap_err();
        assert!(format!("{error:#}").contains("could not read /no/ca.pem"), "{error:#}");
        let error = channel("http://h:7070", &tls).unwrap_err();
        assert!(error.to_string().contains("write https://"), "{error:#}");
        for wrong in ["ftp://h:7070", "http://", "h:99999", "https://h:0", "http://:7070", "h h"] {
            let error = channel(wrong, &ClientTls::default()).unwrap_err();
            assert!(error.to_string().contains("is not the address of a coordinator"), "{error:#}");
        }
        let empty = tempfile::NamedTempFile::new().unwrap();
        let tls = ClientTls { ca: Some(empty.path().into()), identity: None };
        let error = channel("https://h:7070", &tls).unwrap_err();
        assert!(error.to_string().contains("holds no certificate"), "{error:#}");
    }
}

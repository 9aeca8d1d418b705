//! Channels to a coordinator, encrypted where its address says so.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dcbuild_process::config::{ClientTls, ServerTlsConfig};
use dcbuild_remote::{ServerTls, certificates, private_key};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// The certificates of a coordinator.
pub(crate) fn server_tls(config: ServerTlsConfig) -> ServerTls {
    let ServerTlsConfig { cert, key, client_ca } = config;
    ServerTls { cert, key, client_ca }
}

/// A channel to a coordinator; it connects when it is first used, and again when it was cut.
pub(crate) fn channel(url: &str, tls: &ClientTls) -> anyhow::Result<Channel> {
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let encrypted = full.starts_with("https://");
    if !encrypted && *tls != ClientTls::default() {
        bail!(
            "'{url}' is not encrypted, and certificates are set for it: write https://, or take them away \
             (submit.tls, worker.tls, DCBUILD_TLS_CA, DCBUILD_TLS_CERT, DCBUILD_TLS_KEY)"
        );
    }
    let mut endpoint = Endpoint::from_shared(full).with_context(|| {
        format!("'{url}' is not the address of a coordinator, such as http://10.0.0.5:7070")
    })?;
    if encrypted {
        let config = client_config(tls)?;
        endpoint = endpoint.tls_config(config).context("could not use the certificates")?;
    }
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .connect_lazy())
}

fn client_config(tls: &ClientTls) -> anyhow::Result<ClientTlsConfig> {
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("could not read {}", path.display()))
    };
    let mut config = ClientTlsConfig::new();
    config = match &tls.ca {
        // These count instead of the system's: a company's CA is to vouch for nobody else's cluster.
        Some(path) => {
            certificates(path)?;
            config.ca_certificate(Certificate::from_pem(read(path)?))
        }
        None => config.with_native_roots(),
    };
    if let Some((cert, key)) = &tls.identity {
        certificates(cert)?;
        private_key(key)?;
        config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(config)
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
        let empty = tempfile::NamedTempFile::new().unwrap();
        let tls = ClientTls { ca: Some(empty.path().into()), identity: None };
        let error = channel("https://h:7070", &tls).unwrap_err();
        assert!(error.to_string().contains("holds no certificate"), "{error:#}");
    }
}

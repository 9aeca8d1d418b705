//! Registries behind TLS: whose certificate is trusted, and what is said where none is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcbuild_model::Fault;
use dcbuild_oci::ImageRef;
use dcbuild_registry::{Anonymous, PullError, RawRegistryConfig, RegistryClient, RegistryConfig};
use dcbuild_testkit::tls::{Authority, Pair, Use, Valid, authority_of_server};
use serde_json::{Value, json};

use crate::server::RegistryServer;

/// Writes a certificate for this machine and its key.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let Pair { cert, key } = authority_of_server(folder, &["localhost", "127.0.0.1"]);
    (cert, key)
}

async fn server(folder: &Path) -> Option<(RegistryServer, PathBuf)> {
    let (file, key) = certificate(folder);
    let lines = |_: &Path| {
        format!("  tls:\n    certificate: {}\n    key: {}\n", file.display(), key.display())
    };
    RegistryServer::start_with(lines).await.map(|server| (server, file.clone()))
}

fn config(host: &str, table: Value) -> RegistryConfig {
    let raw: RawRegistryConfig = serde_json::from_value(json!({ host: table })).unwrap();
    raw.resolve().unwrap()
}

/// Asks for an image that is not there; the error where it does not come so far.
async fn asks(config: RegistryConfig, host: &str) -> Result<(), PullError> {
    let client = RegistryClient::new(config, Arc::new(Anonymous)).unwrap();
    let image: ImageRef = format!("{host}/team/none:1").parse().unwrap();
    assert_eq!(client.head_manifest(&image).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_certificate_is_trusted_where_the_configuration_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let Some((server, file)) = server(folder.path()).await else { return };
    let host = &server.host;
    asks(config(host, json!({ "ca": [file] })), host).await.unwrap();
    asks(config(host, json!({ "insecure": true })), host).await.unwrap();

    // It is on this machine, where registries are plain http unless something else is said.
    let plain = asks(RegistryConfig::default(), host).await.unwrap_err();
    let hint = plain.hint().unwrap_or_else(|| panic!("no hint: {plain:?}"));
    assert!(hint.contains("if the registry speaks TLS"), "{hint}");

    // Another registry's file is no concern of this one.
    let raw = json!({ host: { "ca": [file] }, "other.example": { "ca": ["/nonexistent.pem"] } });
    let raw: RawRegistryConfig = serde_json::from_value(raw).unwrap();
    asks(raw.resolve().unwrap(), host).await.unwrap();

    let other = tempfile::tempdir().unwrap();
    let (foreign, _) = certificate(other.path());
    let begun = tokio::time::Instant::now();
    let error = asks(config(host, json!({ "ca": [foreign] })), host).await.unwrap_err();
    assert!(begun.elapsed() < std::time::Duration::from_secs(3), "it is tried again: {error:?}");
    let PullError::Http { source, .. } = &error else { panic!("{error:?}") };
    let want = format!("could not reach https://{host} for HEAD /v2/team/none/manifests/1");
    assert_eq!(source.to_string(), want);
    let hint = error.hint().unwrap();
    assert!(hint.contains("`openssl req -x509` makes: it counts where it is itself"), "{hint}");
    assert!(hint.contains(&format!("under [registry.\"{host}\"]")), "{hint}");
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said() {
    let authority = Authority::new("registry");
    for (name, valid, said) in [
        ("127.0.0.1", Valid::Formerly, "it renewed"),
        ("127.0.0.1", Valid::Later, "or not yet"),
        ("other.example", Valid::Now, "a subjectAltName with that name"),
    ] {
        let pair = authority.certificate(name, valid);
        let lines = |_: &Path| {
            let (cert, key) = (pair.cert.display(), pair.key.display());
            format!("  tls:\n    certificate: {cert}\n    key: {key}\n")
        };
        let Some(server) = RegistryServer::start_with(lines).await else { return };
        let config = config(&server.host, json!({ "ca": [authority.ca()] }));
        let error = asks(config, &server.host).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Request, "{error:?}");
        let hint = error.hint().unwrap();
        assert!(hint.contains(said), "{hint}");
    }
}

#[tokio::test]
async fn docker_s_certificates_are_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let Some((server, file)) = server(folder.path()).await else { return };
    let certificates = tempfile::tempdir().unwrap();
    let own = certificates.path().join(&server.host);
    std::fs::create_dir(&own).unwrap();
    std::fs::copy(file, own.join("ca.crt")).unwrap();
    std::fs::write(own.join("broken.crt"), "nothing").unwrap();
    let config = RegistryConfig::default().with_certificates_of(certificates.path());
    asks(config, &server.host).await.unwrap();
    let missing = RegistryConfig::default().with_certificates_of(Path::new("/nonexistent"));
    assert!(asks(missing, &server.host).await.is_err());
}

#[tokio::test]
async fn a_registry_without_tls_is_told_from_one_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = RegistryServer::start().await else { return };
    let (file, _) = certificate(folder.path());
    let host = &server.host;
    let error = asks(config(host, json!({ "ca": [file] })), host).await.unwrap_err();
    let hint = error.hint().unwrap_or_else(|| panic!("no hint: {error:?}"));
    assert!(hint.contains("http = true"), "{hint}");
}

#[tokio::test]
async fn a_registry_is_shown_a_certificate_where_it_asks_who_we_are() {
    let authority = Authority::new("registry");
    let own = authority.certificate("127.0.0.1", Valid::Now);
    let ca = authority.ca();
    let lines = |_: &Path| {
        let (cert, key) = (own.cert.display(), own.key.display());
        let clients = format!("    clientcas:\n      - {}\n", ca.display());
        format!("  tls:\n    certificate: {cert}\n    key: {key}\n{clients}")
    };
    let Some(server) = RegistryServer::start_with(lines).await else { return };
    let host = &server.host;
    let pair = authority.certificate_for("client", Valid::Now, Use::Clients);
    let keypair = json!({ "key": pair.key, "cert": pair.cert });
    asks(config(host, json!({ "ca": [ca], "keypair": keypair })), host).await.unwrap();
    let stranger = asks(config(host, json!({ "ca": [ca] })), host).await.unwrap_err();
    assert_eq!(stranger.fault(), Fault::Request, "{stranger:?}");
    let hint = stranger.hint().unwrap_or_else(|| panic!("no hint: {stranger:?}"));
    assert!(hint.contains(&format!("[[registry.\"{host}\".keypair]]")), "{hint}");

    // As docker keeps it.
    let folder = tempfile::tempdir().unwrap();
    let docker = folder.path().join(host);
    std::fs::create_dir(&docker).unwrap();
    std::fs::copy(&ca, docker.join("ca.crt")).unwrap();
    std::fs::copy(&pair.cert, docker.join("client.cert")).unwrap();
    let without_key = RegistryConfig::default().with_certificates_of(folder.path());
    assert!(asks(without_key, host).await.is_err());
    std::fs::copy(&pair.key, docker.join("client.key")).unwrap();
    asks(RegistryConfig::default().with_certificates_of(folder.path()), host).await.unwrap();

    let broken = json!({ "ca": [ca], "keypair": { "key": pair.cert, "cert": pair.cert } });
    let error = asks(config(host, broken), host).await.unwrap_err();
    let PullError::Http { source, .. } = &error else { panic!("{error:?}") };
    let cert = pair.cert.display();
    let want =
        format!("could not prepare connections to {host}: {cert} holds no private key in PEM");
    assert_eq!(source.to_string(), want);
    let other = authority.certificate_for("client", Valid::Now, Use::Clients);
    let mixed = json!({ "ca": [ca], "keypair": { "key": other.key, "cert": pair.cert } });
    let error = asks(config(host, mixed), host).await.unwrap_err();
    let PullError::Http { source, .. } = &error else { panic!("{error:?}") };
    for file in [&pair.cert, &other.key] {
        assert!(source.to_string().contains(&file.display().to_string()), "{source}");
    }
}

/// As in `buildkitd.toml`, where both are often written together.
#[tokio::test]
async fn http_and_insecure_together_mean_whichever_is_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let Some((encrypted, _)) = server(folder.path()).await else { return };
    let Some(plain) = RegistryServer::start().await else { return };
    for host in [&encrypted.host, &plain.host] {
        let both = json!({ "http": true, "insecure": true, "ca": ["/etc/config/myca.pem"] });
        let error = asks(config(host, both), host).await.unwrap_err();
        let PullError::Http { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains("/etc/config/myca.pem"), "{source}");
        asks(config(host, json!({ "http": true, "insecure": true })), host).await.unwrap();
        asks(config(host, json!({ "insecure": true })), host).await.unwrap();
    }
}

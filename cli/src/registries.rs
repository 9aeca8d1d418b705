//! From the configuration's registry tables to how registries are reached.

use std::path::Path;

use anyhow::Context as _;
use dcbuild_process::Config;
use dcbuild_registry::{Keypair, RawHostConfig, RawRegistryConfig, RegistryConfig};

/// Where docker keeps the certificates of registries.
const DOCKER_CERTIFICATES: &str = "/etc/docker/certs.d";

pub(crate) fn registries(config: &Config) -> anyhow::Result<RegistryConfig> {
    let hosts = config.registries.iter().map(|(host, table)| {
        let raw = RawHostConfig {
            mirrors: table.mirrors.clone(),
            http: table.http,
            insecure: table.insecure,
            ca: table.ca.clone(),
            keypair: table.keypair.clone().map(|(key, cert)| Keypair { key, cert }),
            ..RawHostConfig::default()
        };
        (host.clone(), raw)
    });
    let registries = RawRegistryConfig(hosts.collect())
        .resolve()
        .context("the registries of the configuration are wrong")?;
    Ok(registries.with_certificates_of(Path::new(DOCKER_CERTIFICATES)))
}

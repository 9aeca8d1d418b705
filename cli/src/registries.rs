//! From the configuration's registry tables to how registries are reached.

use std::path::Path;

use anyhow::Context as _;
use dcbuild_model::HttpProxies;
use dcbuild_process::{Config, Env};
use dcbuild_registry::{Keypair, RawHostConfig, RawRegistryConfig, RegistryConfig};

/// Where docker keeps the certificates of registries.
const DOCKER_CERTIFICATES: &str = "/etc/docker/certs.d";

pub(crate) fn registries(config: &Config, env: &Env) -> anyhow::Result<RegistryConfig> {
    let hosts = config.registries.iter().map(|(host, table)| {
        let raw = RawHostConfig {
            mirrors: table.mirrors.clone(),
            http: table.http,
            insecure: table.insecure,
            ca: table.ca.clone(),
            keypair: table.keypair.clone().map(|(key, cert)| Keypair { key, cert }),
            token_origins: table.token_origins.clone(),
            upload_chunk_bytes: table.upload_chunk.map(|size| size.0),
        };
        (host.clone(), raw)
    });
    let registries = RawRegistryConfig(hosts.collect())
        .resolve()
        .context("the registries of the configuration are wrong")?;
    let registries = registries.with_certificates_of(Path::new(DOCKER_CERTIFICATES));
    let variable = |name: &str| env.get(name).map(str::to_owned);
    Ok(registries.by_proxies(HttpProxies::of(variable)))
}

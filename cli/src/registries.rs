//! From the configuration's registry tables to how registries are reached.

use anyhow::Context as _;
use dcbuild_process::Config;
use dcbuild_registry::{RawHostConfig, RawRegistryConfig, RegistryConfig};

pub(crate) fn registries(config: &Config) -> anyhow::Result<RegistryConfig> {
    let hosts = config.registries.iter().map(|(host, table)| {
        let raw = RawHostConfig {
            mirrors: table.mirrors.clone(),
            http: table.http,
            insecure: table.insecure,
            ca: table.ca.clone(),
            ..RawHostConfig::default()
        };
        (host.clone(), raw)
    });
    RawRegistryConfig(hosts.collect())
        .resolve()
        .context("the registries of the configuration are wrong")
}

//! The client of S3: where it goes, with what credentials, and what it leaves to us.

use std::io;
use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    Builder, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

use dcbuild_store::StoreError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::S3Config;

/// Within this time there is a connection, or the server counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);

/// Makes a client; the environment, profiles and the machine's metadata are asked, the store itself is not.
pub(crate) async fn client(
    config: &S3Config,
    credentials: Option<SharedCredentialsProvider>,
) -> Result<Client, StoreError> {
    let sdk = load(config, credentials, trust(config)?).await;
    // Which endpoint it will be is the client's to work out; where it has one, it shows in the profile or environment.
    let style = config.is_path_style(config.endpoint.as_deref().or(sdk.endpoint_url()));
    let client = Builder::from(&sdk)
        .force_path_style(style)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Ok(Client::from_conf(client))
}

/// Whose certificates are trusted.
fn trust(config: &S3Config) -> Result<TlsContext, StoreError> {
    let mut store = TrustStore::default();
    if let Some(path) = &config.ca_file {
        let wrong = |source| StoreError::Io { path: path.clone(), source };
        let pem = std::fs::read(path).map_err(wrong)?;
        let none = || io::Error::new(io::ErrorKind::InvalidData, "it holds no certificate in PEM");
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        certificates.ok().filter(|found| !found.is_empty()).ok_or_else(none).map_err(wrong)?;
        store = TrustStore::empty().with_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(store).build();
    context.map_err(|error| StoreError::Unavailable {
        store: config.to_string(),
        source: error.into(),
    })
}

async fn load(
    config: &S3Config,
    credentials: Option<SharedCredentialsProvider>,
    trust: TlsContext,
) -> SdkConfig {
    let tls = Provider::Rustls(CryptoMode::Ring);
    let http =
        aws_smithy_http_client::Builder::new().tls_provider(tls).tls_context(trust).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build());
    if let Ok(name) = AppName::new("dcbuild") {
        loader = loader.app_name(name);
    }
    loader = match (&config.region, &config.endpoint) {
        (Some(region), _) => loader.region(Region::new(region.clone())),
        // A server of one's own is on no machine of AWS whose metadata could name the region.
        (None, Some(_)) => loader.region(
            RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else("us-east-1"),
        ),
        (None, None) => {
            let machine = ProviderConfig::without_region().with_http_client(http);
            loader.region(
                RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                    .or_else(ProfileFileRegionProvider::new())
                    .or_else(ImdsRegionProvider::builder().configure(&machine).build())
                    .or_else("us-east-1"),
            )
        }
    };
    if let Some(credentials) = credentials {
        loader = loader.credentials_provider(credentials);
    }
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    loader.load().await
}

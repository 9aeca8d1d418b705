//! Who asks, and what somebody may do with a store that is served.

use dcbuild_model::Scope;
use tonic::Request;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use webpki::EndEntityCert;

use crate::certificates::CertificateDigest;

/// Decides who may say what a store holds.
pub trait Door: Send + Sync {
    /// Whether whoever shows a certificate with these names may do what workers do; else why not.
    fn lets_work(&self, names: &[String]) -> Result<(), String>;

    /// Whether workers may read the cache mounts of a scope.
    fn reads(&self, scope: &Scope) -> bool;

    /// Whether workers may write them.
    fn writes(&self, scope: &Scope) -> bool;
}

/// The names of the certificate that a caller has shown: the hosts and URIs that it is for, and its digest as
/// `sha256:HEX`. Nothing where there is none.
pub fn caller_names<T>(request: &Request<T>) -> Vec<String> {
    let shown = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let Some(chain) = shown.and_then(TlsConnectInfo::peer_certs) else { return Vec::new() };
    let Some(own) = chain.first() else { return Vec::new() };
    let mut names = vec![format!("sha256:{}", CertificateDigest::of(own).0.hex())];
    if let Ok(read) = EndEntityCert::try_from(own) {
        names.extend(read.valid_dns_names().map(str::to_owned));
        names.extend(read.valid_uri_names().map(str::to_owned));
    }
    names
}

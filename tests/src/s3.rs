//! A server of S3 on a free port, which fails as told and counts that it did.
//!
//! It keeps objects as files in a folder. Start with [`S3Server::start`]; [`faults::Fault`] says what can go wrong.

pub mod backend;
pub mod faults;
mod serve;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use dcbuild_testkit::tls::Pair;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use self::faults::{Fault, Seen};
use self::serve::{Serving, State};

/// The name of the bucket that is there from the start.
pub const BUCKET: &str = "cache";

/// The credentials that the server knows.
pub const KEY: &str = "test-key";

/// Their secret.
pub const SECRET: &str = "test-secret";

/// A server of S3 that runs until it is dropped.
pub struct S3Server {
    address: SocketAddr,
    folder: TempDir,
    state: Arc<State>,
    serving: Option<Serving>,
    tls: Option<Arc<ServerConfig>>,
}

impl S3Server {
    /// Starts one with an empty bucket.
    pub fn start() -> S3Server {
        S3Server::start_with(None)
    }

    /// Starts one that speaks TLS alone.
    pub fn start_secure(Pair { cert, key }: &Pair) -> S3Server {
        let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        S3Server::start_with(Some(Arc::new(config)))
    }

    fn start_with(tls: Option<Arc<ServerConfig>>) -> S3Server {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::new(folder.path()));
        let serving = Some(Serving::start(listener, state.clone(), tls.clone()));
        S3Server { address, folder, state, serving, tls }
    }

    /// Its address, as an endpoint.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The address of a store in the bucket, below a prefix.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint={}", self.endpoint())
    }

    /// The variables by which a process gets the credentials, and none of this machine's.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        let nowhere = self.folder.path().join("no-such-file").display().to_string();
        [
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("AWS_CONFIG_FILE", nowhere.clone()),
            ("AWS_SHARED_CREDENTIALS_FILE", nowhere),
        ]
    }

    /// Asks `rule` from now on what is to go wrong with each request.
    pub fn fail(&self, rule: impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static) {
        self.state.faults.set(rule);
    }

    /// Lets all go well again.
    pub fn heal(&self) {
        self.state.faults.set(|_| None);
    }

    /// How many requests were made to fail so far; a test that expects faults asserts that there were some.
    pub fn fired(&self) -> u64 {
        self.state.faults.fired()
    }

    /// How many requests came so far, by their names in S3.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.state.requests()
    }

    /// How many requests of this name came so far.
    pub fn count(&self, request: &str) -> u64 {
        self.requests().get(request).copied().unwrap_or(0)
    }

    /// How many bytes its answers had so far.
    pub fn sent_bytes(&self) -> u64 {
        self.state.sent_bytes()
    }

    /// The uploads in parts that were begun and not ended.
    pub fn open_uploads(&self) -> usize {
        self.state.uploads.len()
    }

    /// Stops serving: connections break, new ones are refused.
    pub fn refuse(&mut self) {
        self.serving = None;
    }

    /// Serves again, at the same address and with what it had.
    pub fn serve_again(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.serving = Some(Serving::start(listener, self.state.clone(), self.tls.clone()));
    }

    /// The file of an object in the bucket.
    pub fn file(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }

    /// The keys of all objects in the bucket.
    pub fn keys(&self) -> Vec<String> {
        let top = self.folder.path().join(BUCKET);
        let mut keys = Vec::new();
        let mut folders = vec![top.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    keys.push(path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        keys.sort();
        keys
    }

    /// Flips one bit in the middle of a stored object.
    pub fn flip_bit(&self, key: &str) {
        let file = self.file(key);
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(file, bytes).unwrap();
    }
}

impl std::fmt::Debug for S3Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Server").field("address", &self.address).finish_non_exhaustive()
    }
}

//! A store on a server of S3 that the test started.

use aws_credential_types::Credentials;
use dcbuild_model::{BlobDigest, Digest};
use dcbuild_s3::{S3Config, S3Store};
use dcbuild_tests::s3::{KEY, S3Server, SECRET};

/// Connects to a server after the configuration was changed.
pub(crate) async fn connect(server: &S3Server, change: impl Fn(&mut S3Config)) -> S3Store {
    let mut config = S3Config::from_url(&server.url("some/prefix")).unwrap();
    change(&mut config);
    let credentials = Credentials::new(KEY, SECRET, None, None, "test");
    S3Store::connect_as(config, credentials).await.unwrap()
}

/// The smallest parts that S3 takes.
pub(crate) fn small_parts(config: &mut S3Config) {
    config.part_bytes = 5 << 20;
}

pub(crate) fn blob(bytes: &[u8]) -> BlobDigest {
    BlobDigest(Digest::of(bytes))
}

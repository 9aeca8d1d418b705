//! Requests that write or delete objects.

use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dcbuild_model::Digest;
use dcbuild_store::Patience;
use md5::{Digest as _, Md5};

use super::body::body;
use super::{Wire, failed};
use crate::failure::{Failure, FailureKind};

/// S3 takes this many keys in one request.
const DELETED_AT_ONCE: usize = 1000;

/// Longer bytes are not hashed once more: one request more costs less there.
const ETAG_BYTES_MAX: usize = 256 << 10;

fn checksum(digest: &Digest) -> String {
    STANDARD.encode(digest.0)
}

/// Whether a server that echoes no checksum shows by its `ETag` that it got all bytes: that is their MD5 where the object
/// is not encrypted with a key of its own.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html>
fn is_etag_of(etag: &str, bytes: &Bytes) -> bool {
    let etag = etag.trim_matches('"');
    if bytes.len() > ETAG_BYTES_MAX || etag.len() != 2 * Md5::output_size() {
        return false;
    }
    let byte_at = |at: usize| u8::from_str_radix(etag.get(2 * at..2 * at + 2)?, 16).ok();
    (0..).zip(Md5::digest(bytes)).all(|(at, byte)| byte_at(at) == Some(byte))
}

impl Wire {
    /// Writes an object; the server compares what arrived with the digest.
    pub(crate) async fn put(
        &self,
        key: &str,
        bytes: &Bytes,
        digest: &Digest,
    ) -> Result<(), Failure> {
        const REQUEST: &str = "PutObject";
        let sum = &checksum(digest);
        let echoed = self.call(REQUEST, Patience::BULK, |progress| async move {
            let request = self.client.put_object().bucket(&self.bucket).key(key);
            let request = request.checksum_sha256(sum).body(body(bytes, progress));
            let request = request.customize().disable_payload_signing();
            let put = request.send().await.map_err(failed(REQUEST))?;
            Ok((put.checksum_sha256, put.e_tag))
        });
        let (echoed, etag) = echoed.await?;
        if echoed.as_ref() == Some(sum) || etag.is_some_and(|etag| is_etag_of(&etag, bytes)) {
            return Ok(());
        }
        // A server that does not say what it got may have got less.
        let size = self.head(key).await?;
        if usize::try_from(size) == Ok(bytes.len()) {
            return Ok(());
        }
        let answer = format!("{size} bytes are there of {} that were sent", bytes.len());
        self.delete(&[key.into()]).await?;
        Err(Failure::new(FailureKind::Damaged, REQUEST, answer))
    }

    /// Copies an object inside the bucket.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<(), Failure> {
        self.call("CopyObject", Patience::SLOW, |_| async {
            let source = format!("{}/{from}", self.bucket);
            let request = self.client.copy_object().bucket(&self.bucket).key(to);
            let copied = request.copy_source(source).send().await;
            copied.map_err(failed("CopyObject")).map(drop)
        })
        .await
    }

    /// Deletes objects; those that are not there do not matter.
    pub(crate) async fn delete(&self, keys: &[String]) -> Result<(), Failure> {
        for keys in keys.chunks(DELETED_AT_ONCE) {
            self.call("DeleteObjects", Patience::SLOW, |_| self.delete_some(keys)).await?;
        }
        Ok(())
    }

    async fn delete_some(&self, keys: &[String]) -> Result<(), Failure> {
        const REQUEST: &str = "DeleteObjects";
        let unbuilt = |error: aws_smithy_types::error::operation::BuildError| {
            Failure::new(FailureKind::Refused, REQUEST, error.to_string())
        };
        let ids = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build());
        let ids: Vec<ObjectIdentifier> = ids.collect::<Result<_, _>>().map_err(unbuilt)?;
        let delete = Delete::builder().quiet(true).set_objects(Some(ids));
        let delete = delete.build().map_err(unbuilt)?;
        let request = self.client.delete_objects().bucket(&self.bucket).delete(delete);
        let deleted = request.send().await.map_err(failed(REQUEST))?;
        let errors = deleted.errors.unwrap_or_default();
        let error = errors.into_iter().find(|error| error.code.as_deref() != Some("NoSuchKey"));
        let Some(error) = error else { return Ok(()) };
        let code = error.code.unwrap_or_default();
        let kind = match code.as_str() {
            "AccessDenied" => FailureKind::Denied,
            "SlowDown" => FailureKind::SlowDown,
            _ => FailureKind::Server,
        };
        let answer = format!("{code} {}", error.key.unwrap_or_default());
        Err(Failure::new(kind, REQUEST, answer))
    }

    /// Signs a read; makes no request of the store.
    pub(crate) async fn presign_get(
        &self,
        key: &str,
        signed: PresigningConfig,
    ) -> Result<PresignedRequest, Failure> {
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        request.presigned(signed).await.map_err(failed("GetObject"))
    }

    /// Signs a write of bytes with this digest, and of no others.
    pub(crate) async fn presign_put(
        &self,
        key: &str,
        digest: &Digest,
        signed: PresigningConfig,
    ) -> Result<PresignedRequest, Failure> {
        let request = self.client.put_object().bucket(&self.bucket).key(key);
        let request = request.checksum_sha256(checksum(digest));
        request.presigned(signed).await.map_err(failed("PutObject"))
    }
}

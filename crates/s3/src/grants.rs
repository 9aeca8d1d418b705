//! Leave for others to move one blob, signed with our credentials.

use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use dcbuild_model::BlobDigest;
use dcbuild_store::{Grant, GrantMethod, Grants, StoreError, WriteGrant, Written};

use crate::S3Store;
use crate::failure::{Failure, FailureKind};
use crate::store::Inner;
use crate::upload::PARTS_MAX;
use crate::wire::{Part, Upload};

#[async_trait::async_trait]
impl Grants for S3Store {
    async fn read(&self, blob: &BlobDigest) -> Result<Grant, StoreError> {
        let store = &self.inner;
        let signed = lifetime(store).map_err(|failure| store.error(failure))?;
        let request = store.wire.presign_get(&store.keys.blob(blob), signed).await;
        request
            .map(|request| grant(store, GrantMethod::Get, &request))
            .map_err(|failure| store.error(failure))
    }

    /// A write with one request is signed together with the blob's digest: the server takes no other bytes. Parts are not
    /// known when their writes are granted; their number and size are checked at the end.
    async fn write(&self, blob: &BlobDigest, size: u64) -> Result<WriteGrant, StoreError> {
        let store = &self.inner;
        let part_bytes = store.config.part_bytes;
        if size > part_bytes {
            return in_parts(store, blob, size).await;
        }
        let signed = lifetime(store).map_err(|failure| store.error(failure))?;
        let request = store.wire.presign_put(&store.keys.blob(blob), &blob.0, signed).await;
        request
            .map(|request| WriteGrant::Whole(grant(store, GrantMethod::Put, &request)))
            .map_err(|failure| store.error(failure))
    }

    async fn finish(&self, blob: &BlobDigest, written: &Written) -> Result<(), StoreError> {
        let store = &self.inner;
        let key = store.keys.blob(blob);
        let mut completed = false;
        if let Some(id) = &written.upload {
            let upload = Upload { key: key.clone(), id: id.clone() };
            let parts = written.etags.iter().zip(1..).map(|(etag, number)| Part {
                number,
                etag: etag.clone(),
                crc32: None,
            });
            match store.wire.complete(&upload, &parts.collect::<Vec<Part>>()).await {
                // Whoever asked before and did not get the answer asks again.
                Err(failure) if failure.kind != FailureKind::Absent => {
                    return Err(store.error(failure));
                }
                ended => completed = ended.is_ok(),
            }
        }
        let size = store.wire.head(&key).await;
        if size.map_err(|failure| store.blob_error(blob, failure))? == written.size {
            return Ok(());
        }
        // What somebody says of its size proves nothing against a blob that was there.
        if completed {
            store.quarantine(blob).await;
        }
        Err(StoreError::Corrupt { blob: *blob })
    }
}

async fn in_parts(store: &Inner, blob: &BlobDigest, size: u64) -> Result<WriteGrant, StoreError> {
    let part_bytes = store.config.part_bytes;
    let count = size.div_ceil(part_bytes);
    if count > PARTS_MAX {
        let max = part_bytes.saturating_mul(PARTS_MAX);
        return Err(StoreError::TooLarge { blob: *blob, max });
    }
    let upload = store.wire.begin_granted(&store.keys.blob(blob)).await;
    let upload = upload.map_err(|failure| store.error(failure))?;
    let mut parts = Vec::new();
    for number in 1..=i32::try_from(count).unwrap_or(i32::MAX) {
        let signed = lifetime(store).map_err(|failure| store.error(failure))?;
        let request = store.wire.presign_part(&upload, number, signed).await;
        let request = request.map_err(|failure| store.error(failure))?;
        parts.push(grant(store, GrantMethod::Put, &request));
    }
    Ok(WriteGrant::Parts { upload: upload.id, part_bytes, parts })
}

/// How long a signature counts from now on.
pub(crate) fn lifetime(store: &Inner) -> Result<PresigningConfig, Failure> {
    let lifetime = PresigningConfig::builder()
        .start_time(store.wire.now())
        .expires_in(store.config.grant_lifetime)
        .build();
    lifetime.map_err(|error| Failure::new(FailureKind::Refused, "a signature", error.to_string()))
}

fn grant(store: &Inner, method: GrantMethod, request: &PresignedRequest) -> Grant {
    let headers = request.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let valid_for = store.config.grant_lifetime;
    Grant { method, url: request.uri().into(), headers: headers.collect(), valid_for }
}

//! Uploads in parts: nothing is visible until the last request, which names all parts.

use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dcbuild_model::UnixTime;
use dcbuild_store::{Patience, Progress};
use tracing::warn;

use super::body::body;
use super::read::unix_time;
use super::{Wire, failed};
use crate::failure::{Failure, FailureKind};

/// How long a server may take to join one part to the others: some copy the bytes then, at 32 MB/s if it is a slow one.
const PART_JOINED: Duration = Duration::from_millis(250);

/// An upload in parts that was begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Upload {
    pub(crate) key: String,
    pub(crate) id: String,
}

/// A part that has arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// Its place, from 1.
    pub(crate) number: i32,
    pub(crate) etag: String,
    /// The CRC-32 that the server compared it with, if there was one.
    pub(crate) crc32: Option<String>,
}

/// An upload that the server waits for.
pub(crate) struct OpenUpload {
    pub(crate) upload: Upload,
    pub(crate) begun: UnixTime,
}

impl Wire {
    /// Begins an upload whose parts come with a CRC-32, so that a part that was cut is refused.
    pub(crate) async fn begin_upload(&self, key: &str) -> Result<Upload, Failure> {
        self.begin(key, Some(ChecksumAlgorithm::Crc32)).await
    }

    /// Begins an upload whose parts are sent by others.
    pub(crate) async fn begin_granted(&self, key: &str) -> Result<Upload, Failure> {
        self.begin(key, None).await
    }

    async fn begin(&self, key: &str, sums: Option<ChecksumAlgorithm>) -> Result<Upload, Failure> {
        const REQUEST: &str = "CreateMultipartUpload";
        self.call(REQUEST, Patience::SMALL, |_| async {
            let request = self.client.create_multipart_upload().bucket(&self.bucket).key(key);
            let request = request.set_checksum_algorithm(sums.clone());
            let begun = request.send().await.map_err(failed(REQUEST))?;
            let id = begun.upload_id.ok_or_else(|| {
                Failure::new(FailureKind::Server, REQUEST, "the answer names no upload")
            })?;
            Ok(Upload { key: key.into(), id })
        })
        .await
    }

    /// Sends one part.
    pub(crate) async fn send_part(
        &self,
        upload: &Upload,
        number: i32,
        bytes: &Bytes,
    ) -> Result<Part, Failure> {
        const REQUEST: &str = "UploadPart";
        let crc32 = STANDARD.encode(crc32fast::hash(bytes).to_be_bytes());
        let crc32 = &crc32;
        self.call(REQUEST, Patience::BULK, |progress: Progress| async move {
            let request = self.client.upload_part().bucket(&self.bucket).key(&upload.key);
            let request = request.upload_id(&upload.id).part_number(number);
            let request = request.checksum_crc32(crc32).body(body(bytes, progress));
            let request = request.customize().disable_payload_signing();
            let sent = request.send().await.map_err(failed(REQUEST))?;
            let etag = sent.e_tag.ok_or_else(|| {
                Failure::new(FailureKind::Server, REQUEST, "the answer names no ETag")
            })?;
            Ok(Part { number, etag, crc32: Some(crc32.clone()) })
        })
        .await
    }

    /// Makes the parts one object.
    pub(crate) async fn complete(&self, upload: &Upload, parts: &[Part]) -> Result<(), Failure> {
        let patience = joining(parts.len());
        let parts = parts.iter().map(|part| {
            let named = CompletedPart::builder().part_number(part.number).e_tag(&part.etag);
            named.set_checksum_crc32(part.crc32.clone()).build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        self.call("CompleteMultipartUpload", patience, |_| async {
            let request = self.client.complete_multipart_upload().bucket(&self.bucket);
            let request = request.key(&upload.key).upload_id(&upload.id);
            let completed = request.multipart_upload(parts.clone()).send().await;
            match completed {
                Ok(_) => Ok(()),
                // Some servers say yes in a document of their own; one that S3 calls an error has a code.
                Err(error) if is_unread(&error) && self.is_there(&upload.key).await => Ok(()),
                Err(error) => Err(failed("CompleteMultipartUpload")(error)),
            }
        })
        .await
    }

    async fn is_there(&self, key: &str) -> bool {
        self.client.head_object().bucket(&self.bucket).key(key).send().await.is_ok()
    }

    /// Throws an upload and its parts away.
    pub(crate) async fn abort(&self, upload: &Upload) -> Result<(), Failure> {
        let aborted = self
            .call("AbortMultipartUpload", Patience::SMALL, |_| async {
                let request = self.client.abort_multipart_upload().bucket(&self.bucket);
                let request = request.key(&upload.key).upload_id(&upload.id);
                request.send().await.map_err(failed("AbortMultipartUpload")).map(drop)
            })
            .await;
        match aborted {
            Err(failure) if failure.kind == FailureKind::Absent => Ok(()),
            aborted => aborted,
        }
    }

    /// Lists the uploads below a prefix that were begun and not ended; at most a thousand of them, `true` if there are more.
    /// A server that lists the same ones again has no more to tell until those are ended.
    pub(crate) async fn open_uploads(
        &self,
        prefix: &str,
        after: Option<&Upload>,
    ) -> Result<(Vec<OpenUpload>, bool), Failure> {
        self.call("ListMultipartUploads", Patience::SLOW, |_| async {
            let request = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(prefix);
            let request = request
                .set_key_marker(after.map(|upload| upload.key.clone()))
                .set_upload_id_marker(after.map(|upload| upload.id.clone()));
            let listed = request.send().await.map_err(failed("ListMultipartUploads"))?;
            let more = listed.is_truncated == Some(true);
            let uploads = listed.uploads.unwrap_or_default().into_iter().filter_map(|upload| {
                let begun = upload.initiated.map(unix_time).unwrap_or_default();
                let upload = Upload { key: upload.key?, id: upload.upload_id? };
                Some(OpenUpload { upload, begun })
            });
            let mut uploads: Vec<OpenUpload> = uploads.collect();
            if let Some(seen) = uploads.iter().rposition(|open| Some(&open.upload) == after) {
                uploads.drain(..=seen);
                if more && uploads.is_empty() {
                    warn!("the server lists the same uploads again: it does not know key-marker");
                    return Ok((uploads, false));
                }
            }
            Ok((uploads, more))
        })
        .await
    }

    /// Signs the sending of one part.
    pub(crate) async fn presign_part(
        &self,
        upload: &Upload,
        number: i32,
        signed: PresigningConfig,
    ) -> Result<PresignedRequest, Failure> {
        let request = self.client.upload_part().bucket(&self.bucket).key(&upload.key);
        let request = request.upload_id(&upload.id).part_number(number);
        request.presigned(signed).await.map_err(failed("UploadPart"))
    }
}

/// Whether a server said yes, and the rest of what it said was not understood.
fn is_unread<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    status.is_some_and(|status| (200..300).contains(&status)) && error.code().is_none()
}

/// How long making one object of so many parts may take.
fn joining(parts: usize) -> Patience {
    Patience::SLOW.and(PART_JOINED.saturating_mul(u32::try_from(parts).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_copies_parts_has_longer_for_many() {
        assert!(joining(1).first < Duration::from_secs(31));
        // 2.3 GB in parts of 8 MiB, of which a server in Python makes one object in 50 s.
        assert!((60..120).contains(&joining(275).stall.as_secs()));
        assert!(joining(10_000).first > Duration::from_mins(30));
    }
}

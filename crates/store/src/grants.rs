//! Leave to move one blob between its store and somebody who has no credentials for it.

use std::time::Duration;

use dcbuild_model::BlobDigest;

use crate::StoreError;

/// What the request of a grant does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrantMethod {
    /// Reads; a `Range` header may be added.
    Get,
    /// Writes.
    Put,
}

/// One HTTP request that its holder may make until it expires.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// What it does.
    pub method: GrantMethod,
    /// The whole address, signature and all: whoever has it has the leave.
    pub url: String,
    /// Headers that belong to the signature and must be sent as they are.
    pub headers: Vec<(String, String)>,
    /// How long it may be used, from when it was given.
    pub valid_for: Duration,
}

impl std::fmt::Debug for Grant {
    /// Without the signature.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = self.url.split('?').next().unwrap_or_default();
        let mut shown = f.debug_struct("Grant");
        shown.field("method", &self.method).field("url", &address);
        shown.field("valid_for", &self.valid_for).finish_non_exhaustive()
    }
}

/// How a blob of a certain size is to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteGrant {
    /// With one request.
    Whole(Grant),
    /// In parts that may be sent side by side, each `part_bytes` long but for the last.
    Parts {
        /// The store's name of the upload, to be given to [`Grants::finish`].
        upload: String,
        /// The size of a part in bytes.
        part_bytes: u64,
        /// One grant for each part, in order.
        parts: Vec<Grant>,
    },
}

/// What was written under a [`WriteGrant`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The bytes of all parts together.
    pub size: u64,
    /// The upload, if it was one in parts.
    pub upload: Option<String>,
    /// The `ETag` of each part's answer, in order; empty for a write with one request.
    pub etags: Vec<String>,
}

/// Gives out grants: a second ability of some blob stores, for those who move bulk bytes themselves.
#[async_trait::async_trait]
pub trait Grants: Send + Sync {
    /// Grants reads of a blob, whole or in ranges; whether it is there shows when it is read.
    async fn read(&self, blob: &BlobDigest) -> Result<Grant, StoreError>;

    /// Grants the write of a blob; the store checks what it gets as far as it can, and readers hash it anyway.
    async fn write(&self, blob: &BlobDigest, size: u64) -> Result<WriteGrant, StoreError>;

    /// Ends a granted write: from now on the blob is there, if it is whole.
    async fn finish(&self, blob: &BlobDigest, written: &Written) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_not_printed() {
        let grant = Grant {
            method: GrantMethod::Get,
            url: "https://s3.example/b/k?X-Amz-Signature=0123".into(),
            headers: vec![("authorization".into(), "hunter2".into())],
            valid_for: Duration::from_mins(1),
        };
        let shown = format!("{grant:?}");
        assert!(shown.contains("https://s3.example/b/k"), "{shown}");
        assert!(!shown.contains("0123") && !shown.contains("hunter2"), "{shown}");
    }
}

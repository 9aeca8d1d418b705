//! What a store may answer instead of what it was asked for.

use std::path::PathBuf;

use dcbuild_model::{BlobDigest, Fault};

use crate::ObjectName;

/// Says why a store could not do as told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store has no such blob.
    #[error("blob {blob} is not in the store")]
    NotFound {
        /// The blob.
        blob: BlobDigest,
    },
    /// The store's bytes were not the blob's; they are out of the way now.
    #[error("blob {blob} was corrupt and has been put aside")]
    Corrupt {
        /// The blob.
        blob: BlobDigest,
    },
    /// The bytes that were to be stored have another digest; nothing was stored.
    #[error("the bytes for blob {expected} have the digest {found}")]
    DigestMismatch {
        /// The name that they came with.
        expected: BlobDigest,
        /// The name that they have.
        found: BlobDigest,
    },
    /// The blob is larger than the reader allows.
    #[error("blob {blob} is larger than {max} bytes")]
    TooLarge {
        /// The blob.
        blob: BlobDigest,
        /// The reader's limit.
        max: u64,
    },
    /// The object is larger than the reader allows.
    #[error("object {name} is larger than {max} bytes")]
    ObjectTooLarge {
        /// The object.
        name: ObjectName,
        /// The reader's limit.
        max: u64,
    },
    /// A file or folder of the store failed.
    #[error("could not use {path} of the store", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A value could not be written as JSON.
    #[error("could not encode {what} for the store")]
    Encode {
        /// What was to be written.
        what: &'static str,
        /// The encoder's answer.
        source: serde_json::Error,
    },
    /// The content that was to be stored broke off.
    #[error("the content for the store broke off")]
    Content {
        /// Whoever sent it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A store outside this process did not answer as it should.
    #[error("the store {store} failed")]
    Unavailable {
        /// The store, as the configuration names it.
        store: String,
        /// What it answered.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A store outside this process refused the credentials; trying again is of no use.
    #[error("the store {store} refused access")]
    Denied {
        /// The store, as the configuration names it.
        store: String,
        /// What it answered.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no such store, or not where it is looked for; trying again is of no use.
    #[error("the store {store} is not where its address says")]
    Misplaced {
        /// The store, as the configuration names it.
        store: String,
        /// What was answered.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A document that nothing can stand for is there and cannot be read.
    #[error("{document} of the store is damaged")]
    Damaged {
        /// The document.
        document: String,
    },
    /// The store has no space left.
    #[error("the store {store} is full")]
    Full {
        /// The store, as the configuration names it.
        store: String,
        /// What it answered.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something would have a name that no object can have.
    #[error("an object cannot be named so")]
    Name {
        /// Why not.
        source: crate::InvalidObjectName,
    },
    /// The runtime is shutting down, or a task of the store panicked.
    #[error("the store's work was stopped")]
    Stopped,
}

impl StoreError {
    /// Whether the caller may go on as if the blob had never been stored.
    pub fn is_miss(&self) -> bool {
        matches!(self, StoreError::NotFound { .. } | StoreError::Corrupt { .. })
    }

    /// Whether somebody has to mend the configuration: the store's address or the credentials for it.
    pub fn is_of_configuration(&self) -> bool {
        matches!(self, StoreError::Denied { .. } | StoreError::Misplaced { .. })
    }

    /// Whether the disk under the store is full, or may not take more of this user's.
    pub fn is_for_want_of_space(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let StoreError::Io { source, .. } = self else { return false };
        matches!(source.kind(), StorageFull | QuotaExceeded)
    }

    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            StoreError::Encode { .. } => Fault::Bug,
            _ => Fault::Cluster,
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> StoreError {
        let path = path.into();
        move |source| StoreError::Io { path, source }
    }
}

/// Whether a server of S3 says that it has no space left for what is to be written: `text` is its answer's code and message.
///
/// There is no agreed way to say so: 507 and 400 (`MinIO`'s disk and quota), 403 with a code of its own (Ceph and others) or
/// with the one for who may not (Garage's quota, Backblaze's cap), 500 where the server met the end of its disk.
pub fn says_full(status: u16, text: &str) -> bool {
    const WORDS: [&str; 5] = [
        "quotaexceeded",
        "storagefull",
        "quota is reached",
        "storage cap exceeded",
        "no space left on device",
    ];
    let text = text.to_ascii_lowercase();
    // A rate that is exceeded is no space that is used up.
    let may_be = status >= 400 && !matches!(status, 429 | 503);
    status == 507 || (may_be && WORDS.iter().any(|word| text.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_is_told_from_one_that_refuses() {
        for (status, text, full) in [
            (507, "", true),
            (429, "RequestQuotaExceeded Slow down", false),
            (
                507,
                "XMinioStorageFull Storage backend has reached its minimum free drive threshold",
                true,
            ),
            (400, "XMinioAdminBucketQuotaExceeded Bucket quota exceeded", true),
            (
                500,
                "InternalError We encountered an internal error: cause(no space left on device)",
                true,
            ),
            (403, "QuotaExceeded", true),
            (403, "AccessDenied Forbidden: Bucket size quota is reached, maximum size: 100", true),
            (403, "AccessDenied Cannot upload files, storage cap exceeded.", true),
            (403, "AccessDenied Access Denied.", false),
            (403, "AccessDenied Transaction cap exceeded", false),
            (400, "InvalidRequest", false),
            (503, "SlowDown Please reduce your request rate", false),
        ] {
            assert_eq!(says_full(status, text), full, "{status} {text}");
        }
    }
}

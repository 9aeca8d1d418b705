//! Where a cache may lie: a registry, a folder, a bucket.

pub mod bucket;
pub mod folder;
pub mod registry;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, Fault, ManifestDigest};
use dcbuild_registry::{BlobReader, HttpError, PullError, PushError};
use dcbuild_store::{BlobStream, StoreError};

/// Says why a place could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Nothing can be asked of registries.
    #[error("could not prepare connections to registries")]
    Registry(#[from] HttpError),
    /// A registry, or a layout in a folder, did not give what was asked for.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// A registry did not take something.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A bucket failed, or a blob's bytes broke off.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file failed.
    #[error("could not use '{}'", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The layout's list of contents is none.
    #[error("'{}' is no list of a layout's contents", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: dcbuild_oci::InvalidLayout,
    },
    /// The records could not be understood.
    #[error("could not read what lies at {place}")]
    Records {
        /// The place.
        place: String,
        /// What is wrong.
        source: crate::documents::InvalidDocuments,
    },
    /// The records of an image could not be understood.
    #[error("could not read what lies at {place}")]
    Inline {
        /// The place.
        place: String,
        /// What is wrong.
        source: crate::inline::InvalidInline,
    },
    /// A blob is larger than its kind may be.
    #[error("{blob} at {place} is larger than {max} bytes")]
    TooLarge {
        /// The place.
        place: String,
        /// The blob.
        blob: BlobDigest,
        /// How large it may be.
        max: u64,
    },
    /// A cache has more in it than an index of manifests can name.
    #[error(
        "it would have {parts} parts, and nobody reads more than {max}: export the scopes one by one (--scope), or make the cache \
         smaller (`dcbuild cache prune`)"
    )]
    TooMany {
        /// How many parts it has.
        parts: usize,
        /// How many there may be.
        max: usize,
    },
    /// A blob has other bytes than its name says.
    #[error("{blob} at {place} is damaged")]
    Damaged {
        /// The place.
        place: String,
        /// The blob.
        blob: BlobDigest,
    },
}

impl PlaceError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            PlaceError::Registry(error) => error.fault(),
            PlaceError::Pull(error) => error.fault(),
            PlaceError::Push(error) => error.fault(),
            PlaceError::Store(error) => error.fault(),
            PlaceError::File { .. }
            | PlaceError::Index { .. }
            | PlaceError::Records { .. }
            | PlaceError::Inline { .. }
            | PlaceError::TooLarge { .. }
            | PlaceError::TooMany { .. }
            | PlaceError::Damaged { .. } => Fault::Request,
        }
    }
}

/// A place that holds one cache, or none yet.
#[async_trait::async_trait]
pub trait Place: Send + Sync {
    /// What people know it by.
    fn name(&self) -> String;

    /// The manifest that the place itself means, or one that its index lists; none if it is not there.
    async fn manifest(&self, digest: Option<ManifestDigest>) -> Result<Option<Bytes>, PlaceError>;

    /// The manifest in whose place [`Place::finish`] puts another.
    async fn former(&self) -> Result<Option<Bytes>, PlaceError>;

    /// A blob; whether its bytes are right is its reader's to say.
    async fn get(&self, blob: &BlobDigest, size: u64) -> Result<BlobStream, PlaceError>;

    /// Takes a blob, and says whether its bytes were new.
    async fn put(&self, blob: Arc<dyn BlobReader>) -> Result<bool, PlaceError>;

    /// Takes a manifest that an index is to list, once its blobs are there.
    async fn put_manifest(&self, manifest: Bytes) -> Result<(), PlaceError>;

    /// Makes a manifest, or an index of manifests, the one that the place means, once all that it names is there.
    async fn finish(&self, manifest: Bytes, media_type: &str) -> Result<(), PlaceError>;
}

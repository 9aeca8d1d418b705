//! Versions of cache mounts: the tree that each was last written back as.

use dcbuild_model::{BlobDigest, BuildId, LayerId, Scope, UnixTime};

use crate::StoreError;

/// A version of a cache mount: a whole tree, never merged with another.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheVersion {
    /// The mount's id, as the Dockerfile gives it.
    pub id: String,
    /// The tree, and where the bytes of its files are.
    pub parcel: BlobDigest,
    /// The packs that the parcel names, for whoever sweeps: what they need stays with the version.
    #[serde(default)]
    pub packs: Vec<LayerId>,
    /// The pieces of the tree that the parcel names, likewise.
    #[serde(default)]
    pub pieces: Vec<BlobDigest>,
    /// How many entries it has.
    pub entries: u64,
    /// The bytes of all its files together.
    pub bytes: u64,
    /// When it was written back.
    pub written: UnixTime,
    /// The build that had the mount begin empty the last time before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emptied: Option<BuildId>,
}

/// Keeps the latest version of each cache mount; the last write counts.
#[async_trait::async_trait]
pub trait CacheVersions: Send + Sync {
    /// The latest version of one scope's mount; to find it is a use of it.
    async fn find(&self, scope: &Scope, id: &str) -> Result<Option<CacheVersion>, StoreError>;

    /// Makes a version the latest; all that it names must be durable.
    async fn put(&self, scope: &Scope, version: &CacheVersion) -> Result<(), StoreError>;
}

/// The version that a build of a scope starts from: its own, else that of the nearest parent that has one.
pub async fn inherited(
    versions: &dyn CacheVersions,
    scope: &Scope,
    id: &str,
) -> Result<Option<CacheVersion>, StoreError> {
    for scope in std::iter::once(scope.clone()).chain(scope.parents()) {
        if let Some(version) = versions.find(&scope, id).await? {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

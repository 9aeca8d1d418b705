//! The cache mounts of a folder store: `cache-mount/SCOPE/HEX.json`, HEX being the digest of the id.

use std::path::PathBuf;

use dcbuild_model::{Digest, Scope};

use super::{FolderStore, scope_name};
use crate::{CacheVersion, CacheVersions, StoreError};

impl FolderStore {
    fn cache_path(&self, scope: &Scope, id: &str) -> PathBuf {
        let name = format!("{}.json", Digest::of(id.as_bytes()).hex());
        self.inner.dir.join("cache-mount").join(scope_name(scope)).join(name)
    }
}

#[async_trait::async_trait]
impl CacheVersions for FolderStore {
    async fn find(&self, scope: &Scope, id: &str) -> Result<Option<CacheVersion>, StoreError> {
        let path = self.cache_path(scope, id);
        self.blocking(move |store| store.find_value(path)).await
    }

    async fn put(&self, scope: &Scope, version: &CacheVersion) -> Result<(), StoreError> {
        let (path, version) = (self.cache_path(scope, &version.id), version.clone());
        self.blocking(move |store| store.put_value(path, "a cache mount", version)).await
    }
}

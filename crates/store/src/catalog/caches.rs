//! Cache mounts: `scope/SCOPE/cache/HEX/latest`, HEX being the digest of the id. These change, so the store is asked; the
//! index knows when they were used.

use bytes::Bytes;
use dcbuild_model::{Digest, Scope, UnixTime};

use super::Catalog;
use super::latest::Latest;
use crate::{CacheVersion, CacheVersions, IndexEntry, IndexKey, StoreError};

impl Latest for CacheVersion {
    const WHAT: &'static str = "a cache mount";
    const WORD: &'static str = "latest";

    fn written(&self) -> UnixTime {
        self.written
    }
}

fn key_of(scope: &Scope, id: &str) -> IndexKey {
    IndexKey(format!("scope/{scope}/cache/{}", Digest::of(id.as_bytes()).hex()))
}

impl Catalog {
    /// Notes a use, also in an index that does not know of the mount yet. Without a value: the store has the last word.
    async fn note_mount(&self, key: IndexKey) {
        let field = self.inner.parts.seal.field(CacheVersion::WORD);
        let (value, used) = (Bytes::new(), self.now());
        if let Err(error) = self.index().put(&[IndexEntry { key, field, value, used }]).await {
            self.index_failed(&error);
        }
    }
}

#[async_trait::async_trait]
impl CacheVersions for Catalog {
    async fn find(&self, scope: &Scope, id: &str) -> Result<Option<CacheVersion>, StoreError> {
        let key = key_of(scope, id);
        let version = self.read_latest(&key).await?;
        let version = version.filter(|version: &CacheVersion| version.id == id);
        if version.is_some() {
            let catalog = self.clone();
            self.inner.parts.tasks.spawn(async move { catalog.note_mount(key).await });
        }
        Ok(version)
    }

    async fn put(&self, scope: &Scope, version: &CacheVersion) -> Result<(), StoreError> {
        let key = key_of(scope, &version.id);
        self.put_latest(&key, version).await?;
        self.note_mount(key).await;
        Ok(())
    }
}

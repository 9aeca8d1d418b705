//! Cache mounts: `scope/SCOPE/cache/HEX/latest`, HEX being the digest of the id. These change, so the store is asked.

use dcbuild_model::{Digest, Scope};

use super::Catalog;
use crate::{CacheVersion, CacheVersions, IndexKey, ObjectName, StoreError};

const LATEST: &str = "latest";
const WHAT: &str = "a cache mount";

fn object_of(scope: &Scope, id: &str) -> Result<ObjectName, StoreError> {
    let hex = Digest::of(id.as_bytes()).hex();
    super::name_of(&IndexKey(format!("scope/{scope}/cache/{hex}")), LATEST)
}

#[async_trait::async_trait]
impl CacheVersions for Catalog {
    async fn find(&self, scope: &Scope, id: &str) -> Result<Option<CacheVersion>, StoreError> {
        let version: Option<CacheVersion> = self.read_latest(WHAT, &object_of(scope, id)?).await?;
        Ok(version.filter(|version| version.id == id))
    }

    async fn put(&self, scope: &Scope, version: &CacheVersion) -> Result<(), StoreError> {
        self.put_latest(WHAT, &object_of(scope, &version.id)?, version).await
    }
}

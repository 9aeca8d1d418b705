//! Objects in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use dcbuild_model::UnixTime;
use dcbuild_store::{ListedObject, ObjectName, ObjectPage, Objects, StoreError};

/// As many objects are in one page of a listing.
const PAGE: usize = 100;

/// Keeps objects in memory; each write is a second later than the one before.
#[derive(Debug, Default)]
pub struct MemoryObjects(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<ObjectName, (Bytes, UnixTime)>,
    writes: i64,
    reads: u64,
    lists: u64,
}

impl MemoryObjects {
    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts its clock on: the next write is the second behind this one.
    pub fn wind(&self, secs: i64) {
        self.with(|kept| kept.writes = kept.writes.max(secs));
    }

    /// How often an object was asked for.
    pub fn reads(&self) -> u64 {
        self.with(|kept| kept.reads)
    }

    /// How often a listing was asked for.
    pub fn lists(&self) -> u64 {
        self.with(|kept| kept.lists)
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<ObjectName> {
        self.with(|kept| kept.objects.keys().cloned().collect())
    }
}

#[async_trait::async_trait]
impl Objects for MemoryObjects {
    async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        self.with(|kept| {
            kept.writes += 1;
            let written = UnixTime { secs: kept.writes, nanos: 0 };
            kept.objects.insert(name.clone(), (bytes, written));
        });
        Ok(())
    }

    async fn get(&self, name: &ObjectName, max: u64) -> Result<Option<Bytes>, StoreError> {
        let found = self.with(|kept| {
            kept.reads += 1;
            kept.objects.get(name).map(|(bytes, _)| bytes.clone())
        });
        match found {
            Some(bytes) if u64::try_from(bytes.len()).is_ok_and(|size| size > max) => {
                Err(StoreError::ObjectTooLarge { name: name.clone(), max })
            }
            found => Ok(found),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
    ) -> Result<ObjectPage, StoreError> {
        let mut objects: Vec<ListedObject> = self.with(|kept| {
            kept.lists += 1;
            let below = kept.objects.iter().filter(|(name, _)| {
                name.as_str().starts_with(prefix) && after.is_none_or(|after| *name > after)
            });
            let listed = below.take(PAGE + 1).map(|(name, (bytes, modified))| ListedObject {
                name: name.clone(),
                size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                modified: *modified,
            });
            listed.collect()
        });
        let more = objects.len() > PAGE;
        objects.truncate(PAGE);
        Ok(ObjectPage { objects, more })
    }

    async fn delete(&self, names: &[ObjectName]) -> Result<(), StoreError> {
        self.with(|kept| kept.objects.retain(|name, _| !names.contains(name)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[tokio::test]
    async fn objects_in_memory_keep_the_contract() {
        contract::objects(&MemoryObjects::default()).await;
    }
}

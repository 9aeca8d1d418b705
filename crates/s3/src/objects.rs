//! The bucket as a place for small named objects.

use bytes::Bytes;
use dcbuild_model::Digest;
use dcbuild_store::{ListedObject, ObjectName, ObjectPage, Objects, StoreError};

use crate::S3Store;
use crate::failure::FailureKind;
use crate::store::add;

#[async_trait::async_trait]
impl Objects for S3Store {
    async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        let store = &self.inner;
        let put = store.wire.put(&store.keys.object(name), &bytes, &Digest::of(&bytes)).await;
        put.map_err(|failure| store.error(failure))?;
        add(&store.counters.bytes_up, bytes.len());
        Ok(())
    }

    async fn get(&self, name: &ObjectName, max: u64) -> Result<Option<Bytes>, StoreError> {
        let store = &self.inner;
        // One byte more than there may be shows that there are more.
        match store.wire.get(&store.keys.object(name), 0, max.saturating_add(1)).await {
            Ok(fetched) if fetched.size > max => {
                Err(StoreError::ObjectTooLarge { name: name.clone(), max })
            }
            Ok(fetched) => {
                add(&store.counters.bytes_down, fetched.bytes.len());
                Ok(Some(fetched.bytes))
            }
            Err(failure) if failure.kind == FailureKind::Absent => Ok(None),
            Err(failure) => Err(store.error(failure)),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
    ) -> Result<ObjectPage, StoreError> {
        let store = &self.inner;
        let above = store.keys.below(prefix);
        let mut behind = after.map(|name| store.keys.object(name));
        loop {
            let listed = store.wire.list(&above, behind.as_deref()).await;
            let listed = listed.map_err(|failure| store.error(failure))?;
            let last = listed.keys.last().map(|key| key.key.clone());
            let objects = listed.keys.into_iter().filter_map(|listed| {
                let name = store.keys.name(&listed.key)?;
                Some(ListedObject { name, size: listed.size, modified: listed.modified })
            });
            let objects: Vec<ListedObject> = objects.collect();
            // A page of keys that are not ours, such as folders made by a browser, is no reason to stop.
            if !objects.is_empty() || !listed.more || last.is_none() {
                return Ok(ObjectPage { objects, more: listed.more });
            }
            behind = last;
        }
    }

    async fn delete(&self, names: &[ObjectName]) -> Result<(), StoreError> {
        let store = &self.inner;
        let keys: Vec<String> = names.iter().map(|name| store.keys.object(name)).collect();
        store.wire.delete(&keys).await.map_err(|failure| store.error(failure))
    }
}

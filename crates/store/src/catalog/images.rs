//! Names of images: `scope/SCOPE/image/HEX/named`, HEX being the digest of the name. These change, so the store is asked.

use dcbuild_model::{Digest, Scope};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{AT_ONCE, Catalog, DOCUMENT_BYTES_MAX, encode};
use crate::{ImageNames, IndexKey, NamedImage, ObjectName, StoreError};

const NAMED: &str = "named";

fn key_of(scope: &Scope, name: &str) -> IndexKey {
    IndexKey(format!("scope/{scope}/image/{}", Digest::of(name.as_bytes()).hex()))
}

impl Catalog {
    /// A document whose name says what it is and whose content changes: the store has the last word on it.
    pub(super) async fn read_latest<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
        object: &ObjectName,
    ) -> Result<Option<T>, StoreError> {
        let Some(sealed) = self.objects().get(object, DOCUMENT_BYTES_MAX).await? else {
            return Ok(None);
        };
        let Some(document) = self.open(object, &sealed) else {
            self.unsealed(object);
            return Ok(None);
        };
        let value = serde_json::from_slice(&document);
        Ok(value.map_err(|error| self.refuse(what, &error)).ok())
    }

    pub(super) async fn put_latest<T: serde::Serialize>(
        &self,
        what: &'static str,
        object: &ObjectName,
        value: &T,
    ) -> Result<(), StoreError> {
        let sealed = self.inner.parts.seal.close(object, &encode(what, value)?);
        self.objects().put(object, sealed).await
    }
}

#[async_trait::async_trait]
impl ImageNames for Catalog {
    async fn find(&self, scope: &Scope, name: &str) -> Result<Option<NamedImage>, StoreError> {
        let object = super::name_of(&key_of(scope, name), NAMED)?;
        let image: Option<NamedImage> = self.read_latest("an image name", &object).await?;
        Ok(image.filter(|image| image.name == name))
    }

    async fn list(&self, scope: &Scope) -> Result<Vec<NamedImage>, StoreError> {
        let prefix = format!("scope/{scope}/image/");
        let (mut objects, mut after) = (Vec::new(), None);
        loop {
            let page = self.objects().list(&prefix, after.as_ref()).await?;
            objects.extend(page.objects.into_iter().map(|object| object.name));
            after = objects.last().cloned();
            if !page.more {
                break;
            }
        }
        let reads: Vec<_> =
            objects.iter().map(|object| self.read_latest("an image name", object)).collect();
        let images = futures::stream::iter(reads).buffered(AT_ONCE);
        let images: Vec<Option<NamedImage>> = images.try_collect().await?;
        let mut images: Vec<NamedImage> = images.into_iter().flatten().collect();
        images.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(images)
    }

    async fn put(&self, scope: &Scope, image: &NamedImage) -> Result<(), StoreError> {
        let object = super::name_of(&key_of(scope, &image.name), NAMED)?;
        self.put_latest("an image name", &object, image).await
    }

    async fn remove(&self, scope: &Scope, name: &str) -> Result<bool, StoreError> {
        let object = super::name_of(&key_of(scope, name), NAMED)?;
        let there = self.objects().get(&object, DOCUMENT_BYTES_MAX).await?.is_some();
        if there {
            self.objects().delete(&[object]).await?;
        }
        Ok(there)
    }
}

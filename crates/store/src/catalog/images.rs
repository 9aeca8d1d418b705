//! Names of images: `scope/SCOPE/image/HEX/named`, HEX being the digest of the name. These change, so the store is asked.

use std::collections::BTreeMap;

use dcbuild_model::{Digest, Scope, UnixTime};

use super::latest::{Found, Latest};
use super::{Catalog, field_of};
use crate::{ImageNames, IndexKey, NamedImage, ObjectName, StoreError};

fn key_of(scope: &Scope, name: &str) -> IndexKey {
    IndexKey(format!("scope/{scope}/image/{}", Digest::of(name.as_bytes()).hex()))
}

impl Latest for NamedImage {
    const WHAT: &'static str = "an image name";
    const WORD: &'static str = "named";

    fn written(&self) -> UnixTime {
        self.tagged
    }
}

#[async_trait::async_trait]
impl ImageNames for Catalog {
    async fn find(&self, scope: &Scope, name: &str) -> Result<Option<NamedImage>, StoreError> {
        let key = key_of(scope, name);
        match self.look_for::<NamedImage>(&key).await? {
            Found::Said(image) => Ok(Some(image).filter(|image| image.name == name)),
            Found::Nothing => Ok(None),
            // An image has the name, and nobody can say which.
            Found::Damaged => {
                Err(StoreError::Damaged { document: format!("{}/{}", key.0, NamedImage::WORD) })
            }
        }
    }

    async fn list(&self, scope: &Scope) -> Result<Vec<NamedImage>, StoreError> {
        let prefix = format!("scope/{scope}/image/");
        let (mut objects, mut after): (Vec<ObjectName>, _) = (Vec::new(), None);
        loop {
            let page = self.objects().list(&prefix, after.as_ref()).await?;
            objects.extend(page.objects.into_iter().map(|object| object.name));
            after = objects.last().cloned();
            if !page.more {
                break;
            }
        }
        objects.retain(|name| !self.inner.parts.seal.is_foreign(field_of(name)));
        // Of one name that several of our keys have sealed the newest counts.
        let mut images: BTreeMap<String, NamedImage> = BTreeMap::new();
        for (_, image) in self.read_all::<NamedImage>(objects).await? {
            match images.get(&image.name) {
                Some(known) if known.tagged > image.tagged => {}
                Some(_) | None => drop(images.insert(image.name.clone(), image)),
            }
        }
        Ok(images.into_values().collect())
    }

    async fn put(&self, scope: &Scope, image: &NamedImage) -> Result<(), StoreError> {
        self.put_latest(&key_of(scope, &image.name), image).await
    }

    async fn remove(&self, scope: &Scope, name: &str) -> Result<bool, StoreError> {
        self.remove_latest::<NamedImage>(&key_of(scope, name)).await
    }
}

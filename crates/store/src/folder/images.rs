//! The image names of a folder store: `image/SCOPE/HEX.json`, HEX being the digest of the name.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use dcbuild_model::{Digest, Scope};

use super::{FolderStore, children, scope_name};
use crate::{ImageNames, NamedImage, StoreError};

impl FolderStore {
    fn image_folder(&self, scope: &Scope) -> PathBuf {
        self.inner.dir.join("image").join(scope_name(scope))
    }

    fn image_path(&self, scope: &Scope, name: &str) -> PathBuf {
        self.image_folder(scope).join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    pub(super) fn images_below(&self, folder: &Path) -> Result<Vec<NamedImage>, StoreError> {
        let mut images = Vec::new();
        for path in children(folder)? {
            images.extend(self.find_value::<NamedImage>(path)?);
        }
        images.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(images)
    }
}

#[async_trait::async_trait]
impl ImageNames for FolderStore {
    async fn find(&self, scope: &Scope, name: &str) -> Result<Option<NamedImage>, StoreError> {
        let path = self.image_path(scope, name);
        self.blocking(move |store| {
            // The second time tells what was given just now from what is damaged: nobody can say which image that is.
            for _ in 0..2 {
                let found = store.find_value(path.clone())?;
                if found.is_some() || !path.exists() {
                    return Ok(found);
                }
            }
            Err(StoreError::Damaged { document: path.display().to_string() })
        })
        .await
    }

    async fn list(&self, scope: &Scope) -> Result<Vec<NamedImage>, StoreError> {
        let folder = self.image_folder(scope);
        self.blocking(move |store| store.images_below(&folder)).await
    }

    async fn put(&self, scope: &Scope, image: &NamedImage) -> Result<(), StoreError> {
        let (path, image) = (self.image_path(scope, &image.name), image.clone());
        self.blocking(move |store| store.put_value(path, "an image name", image)).await
    }

    async fn remove(&self, scope: &Scope, name: &str) -> Result<bool, StoreError> {
        let path = self.image_path(scope, name);
        self.blocking(move |_| match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io(path)(error)),
        })
        .await
    }
}

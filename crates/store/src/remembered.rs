//! Names of images in a store that is far, remembered near.

use std::sync::Arc;

use dcbuild_model::Scope;

use crate::{ImageNames, NamedImage, StoreError};

/// The names of a store that may fail, beside a folder that remembers which of them were seen.
///
/// A registry may have another image of the same name. So where the store gives no answer, a name that was seen is an
/// error, and one that never was is none: builds that name no such image go on.
pub struct RememberedNames {
    far: Arc<dyn ImageNames>,
    near: Arc<dyn ImageNames>,
}

impl RememberedNames {
    /// Remembers in `near` what `far` says.
    pub fn new(far: Arc<dyn ImageNames>, near: Arc<dyn ImageNames>) -> RememberedNames {
        RememberedNames { far, near }
    }

    /// A name that cannot be remembered is one that is not known while the store fails.
    async fn remember(&self, scope: &Scope, image: &NamedImage) {
        let known = self.near.find(scope, &image.name).await;
        if !known.is_ok_and(|known| known.as_ref() == Some(image))
            && let Err(error) = self.near.put(scope, image).await
        {
            tracing::warn!(%error, name = image.name, "the name of an image is not remembered here");
        }
    }

    async fn forget(&self, scope: &Scope, name: &str) {
        if let Err(error) = self.near.remove(scope, name).await {
            tracing::warn!(%error, name, "the name of an image is still remembered here");
        }
    }
}

#[async_trait::async_trait]
impl ImageNames for RememberedNames {
    async fn find(&self, scope: &Scope, name: &str) -> Result<Option<NamedImage>, StoreError> {
        match self.far.find(scope, name).await {
            Ok(Some(image)) => {
                self.remember(scope, &image).await;
                Ok(Some(image))
            }
            Ok(None) => {
                self.forget(scope, name).await;
                Ok(None)
            }
            Err(error @ StoreError::Damaged { .. }) => Err(error),
            Err(error) => match self.near.find(scope, name).await {
                Ok(None) => {
                    tracing::warn!(%error, name, "the store does not say whether an image has this name");
                    Ok(None)
                }
                Ok(Some(_)) | Err(_) => Err(error),
            },
        }
    }

    async fn list(&self, scope: &Scope) -> Result<Vec<NamedImage>, StoreError> {
        let images = self.far.list(scope).await?;
        for image in &images {
            self.remember(scope, image).await;
        }
        Ok(images)
    }

    async fn put(&self, scope: &Scope, image: &NamedImage) -> Result<(), StoreError> {
        self.far.put(scope, image).await?;
        self.remember(scope, image).await;
        Ok(())
    }

    async fn remove(&self, scope: &Scope, name: &str) -> Result<bool, StoreError> {
        let there = self.far.remove(scope, name).await?;
        self.forget(scope, name).await;
        Ok(there)
    }
}

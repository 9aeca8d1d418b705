//! Which forms of a layer a folder store knows: `layer/HEX.COMPRESSION.json` and `base/HEX.json`.

use std::path::PathBuf;

use dcbuild_model::{Compression, LayerDigest, LayerId};
use serde::{Deserialize, Serialize};

use super::FolderStore;
use crate::{HashedBase, LayerIndex, StoreError, StoredBlob};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Versioned<T> {
    pub(super) version: u32,
    pub(super) value: T,
}

impl FolderStore {
    pub(super) fn find_value<T>(&self, path: PathBuf) -> Result<Option<T>, StoreError>
    where
        T: serde::de::DeserializeOwned,
    {
        let _gate = self.gate()?;
        let Some((stored, used)) = self.read_document::<Versioned<T>>(&path)? else {
            return Ok(None);
        };
        self.touch(&path, used);
        Ok((stored.version == VERSION).then_some(stored.value))
    }

    pub(super) fn put_value<T: Serialize>(
        &self,
        path: PathBuf,
        what: &'static str,
        value: T,
    ) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(&Versioned { version: VERSION, value })
            .map_err(|source| StoreError::Encode { what, source })?;
        self.write_whole(&path, &bytes)
    }

    fn layer_path(&self, layer: &LayerId, compression: Compression) -> PathBuf {
        let name = format!("{}.{}.json", layer.0.hex(), compression.name());
        self.inner.dir.join("layer").join(name)
    }

    fn base_path(&self, digest: &LayerDigest) -> PathBuf {
        self.inner.dir.join("base").join(format!("{}.json", digest.0.hex()))
    }
}

/// The order in which forms are told: zstd is the quickest to read.
const FORMS: [Compression; 3] = [Compression::Zstd, Compression::Gzip, Compression::None];

#[async_trait::async_trait]
impl LayerIndex for FolderStore {
    async fn find_forms(&self, layers: &[LayerId]) -> Result<Vec<Vec<StoredBlob>>, StoreError> {
        let layers = layers.to_vec();
        self.blocking(move |store| {
            let find = |layer: &LayerId| {
                let forms =
                    FORMS.iter().map(|form| store.find_value(store.layer_path(layer, *form)));
                Ok(forms.collect::<Result<Vec<_>, StoreError>>()?.into_iter().flatten().collect())
            };
            layers.iter().map(find).collect()
        })
        .await
    }

    async fn put_form(&self, layer: &LayerId, stored: &StoredBlob) -> Result<(), StoreError> {
        let path = self.layer_path(layer, stored.blob.compression);
        let stored = stored.clone();
        self.blocking(move |store| store.put_value(path, "a layer's blob", stored)).await
    }

    async fn find_bases(
        &self,
        digests: &[LayerDigest],
    ) -> Result<Vec<Option<HashedBase>>, StoreError> {
        let paths: Vec<PathBuf> = digests.iter().map(|digest| self.base_path(digest)).collect();
        self.blocking(move |store| paths.into_iter().map(|path| store.find_value(path)).collect())
            .await
    }

    async fn put_base(&self, digest: &LayerDigest, base: &HashedBase) -> Result<(), StoreError> {
        let (path, base) = (self.base_path(digest), base.clone());
        self.blocking(move |store| store.put_value(path, "a base layer", base)).await
    }
}

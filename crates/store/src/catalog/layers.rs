//! Forms of layers: `layer/LAYER/COMPRESSION`, and what is known of base images' layers: `base/DIGEST/hashed`, each with the
//! name of its key.

use std::collections::BTreeMap;

use dcbuild_model::{Compression, LayerDigest, LayerId};
use serde::{Deserialize, Serialize};

use super::{Catalog, Seal, decode, encode};
use crate::{HashedBase, IndexKey, LayerIndex, StoreError, StoredBlob};

const VERSION: u32 = 1;
const HASHED: &str = "hashed";
/// The order in which forms are told: zstd is the quickest to read.
const FORMS: [Compression; 3] = [Compression::Zstd, Compression::Gzip, Compression::None];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Versioned<T> {
    version: u32,
    pub(super) value: T,
}

fn layer_key(layer: &LayerId) -> IndexKey {
    IndexKey(format!("layer/{}", layer.0.hex()))
}

fn base_key(digest: &LayerDigest) -> IndexKey {
    IndexKey(format!("base/{}", digest.0.hex()))
}

#[async_trait::async_trait]
impl LayerIndex for Catalog {
    async fn find_forms(&self, layers: &[LayerId]) -> Result<Vec<Vec<StoredBlob>>, StoreError> {
        let keys: Vec<IndexKey> = layers.iter().map(layer_key).collect();
        let found = self.find(&keys).await?;
        let forms = |documents| {
            let mut forms = decode::<Versioned<StoredBlob>>(self, "a layer's form", documents);
            let form = |compression: Compression| {
                let stored = self.take_own(&mut forms, compression.name())?;
                let right =
                    stored.version == VERSION && stored.value.blob.compression == compression;
                right.then_some(stored.value)
            };
            FORMS.into_iter().filter_map(form).collect()
        };
        Ok(found.into_iter().map(forms).collect())
    }

    async fn put_form(&self, layer: &LayerId, stored: &StoredBlob) -> Result<(), StoreError> {
        let document = Versioned { version: VERSION, value: stored };
        let field = self.inner.parts.seal.field(stored.blob.compression.name());
        self.put(&layer_key(layer), &field, &encode("a layer's form", &document)?).await
    }

    async fn find_bases(
        &self,
        digests: &[LayerDigest],
    ) -> Result<Vec<Option<HashedBase>>, StoreError> {
        let keys: Vec<IndexKey> = digests.iter().map(base_key).collect();
        let found = self.find(&keys).await?;
        let base = |documents| {
            let mut bases = decode::<Versioned<HashedBase>>(self, "a base layer", documents);
            let stored = self.take_own(&mut bases, HASHED)?;
            (stored.version == VERSION).then_some(stored.value)
        };
        Ok(found.into_iter().map(base).collect())
    }

    async fn put_base(&self, digest: &LayerDigest, base: &HashedBase) -> Result<(), StoreError> {
        let document = Versioned { version: VERSION, value: base };
        let field = self.inner.parts.seal.field(HASHED);
        self.put(&base_key(digest), &field, &encode("a base layer", &document)?).await
    }
}

impl Catalog {
    /// The document of this word: that of our own key, else one of another that we hold.
    fn take_own<T>(&self, documents: &mut BTreeMap<String, T>, word: &str) -> Option<T> {
        let own = documents.remove(&self.inner.parts.seal.field(word));
        own.or_else(|| {
            documents.extract_if(.., |field, _| Seal::word(field) == word).next().map(|it| it.1)
        })
    }
}

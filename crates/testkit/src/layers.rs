//! A layer index in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use dcbuild_model::{Compression, LayerDigest, LayerId};
use dcbuild_store::{HashedBase, LayerIndex, StoreError, StoredBlob};

#[derive(Debug, Default)]
struct Known {
    forms: BTreeMap<LayerId, BTreeMap<Compression, StoredBlob>>,
    bases: BTreeMap<LayerDigest, HashedBase>,
}

/// Keeps what is known of layers in memory.
#[derive(Debug, Default)]
pub struct MemoryLayers(Mutex<Known>);

impl MemoryLayers {
    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All forms of all layers, by layer.
    pub fn all(&self) -> Vec<(LayerId, StoredBlob)> {
        self.with(|known| {
            let of = |(layer, forms): (&LayerId, &BTreeMap<Compression, StoredBlob>)| {
                forms.values().map(|stored| (*layer, stored.clone())).collect::<Vec<_>>()
            };
            known.forms.iter().flat_map(of).collect()
        })
    }
}

#[async_trait::async_trait]
impl LayerIndex for MemoryLayers {
    async fn find_forms(&self, layers: &[LayerId]) -> Result<Vec<Vec<StoredBlob>>, StoreError> {
        Ok(self.with(|known| {
            let forms = |layer| known.forms.get(layer).into_iter().flat_map(BTreeMap::values);
            // The one that is quickest to read is the last by order.
            layers.iter().map(|layer| forms(layer).rev().cloned().collect()).collect()
        }))
    }

    async fn put_form(&self, layer: &LayerId, stored: &StoredBlob) -> Result<(), StoreError> {
        self.with(|known| {
            let forms = known.forms.entry(*layer).or_default();
            forms.insert(stored.blob.compression, stored.clone());
        });
        Ok(())
    }

    async fn find_bases(
        &self,
        digests: &[LayerDigest],
    ) -> Result<Vec<Option<HashedBase>>, StoreError> {
        let find = |known: &mut Known| {
            digests.iter().map(|digest| known.bases.get(digest).cloned()).collect()
        };
        Ok(self.with(find))
    }

    async fn put_base(&self, digest: &LayerDigest, base: &HashedBase) -> Result<(), StoreError> {
        self.with(|known| known.bases.insert(*digest, base.clone()));
        Ok(())
    }
}

//! What this machine knows of steps and layers, and what a far store knows: one index of both.

use std::collections::BTreeSet;
use std::sync::Arc;

use dcbuild_model::{AttemptId, BlobDigest, LayerDigest, LayerId, Record, Scope, StepKey};

use crate::{
    BlobStore, Catalog, FolderStore, HashedBase, LayerIndex, StepIndex, StoreError, StoredBlob,
};

/// Which of what this machine learns the far store is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// All of it.
    All,
    /// Records whose layers it has, and the forms of those.
    OfItsOwn,
    /// Nothing.
    Nothing,
}

/// Finds what either knows, and writes to both.
pub struct Both {
    near: Arc<FolderStore>,
    far: Arc<Catalog>,
    /// The blobs of the far store.
    blobs: Arc<dyn BlobStore>,
    told: Told,
}

impl Both {
    /// Joins the index of this machine and that of a far store with these blobs.
    pub fn new(
        near: Arc<FolderStore>,
        far: Arc<Catalog>,
        blobs: Arc<dyn BlobStore>,
        told: Told,
    ) -> Both {
        Both { near, far, blobs, told }
    }

    /// Whether the far store has, or is being sent, all that a record leans on.
    async fn has_all(&self, record: &Record) -> Result<bool, StoreError> {
        let own = record.result.layers.iter().filter(|layer| layer.base.is_none());
        let own: Vec<LayerId> = own.map(|layer| layer.layer).collect();
        let mut blobs: Vec<BlobDigest> =
            record.result.layers.iter().map(|layer| BlobDigest(layer.layer.0)).collect();
        for forms in self.far.find_forms(&own).await? {
            let Some(stored) = forms.first() else { return Ok(false) };
            blobs.extend([BlobDigest(stored.blob.digest.0), stored.index]);
        }
        Ok(self.blobs.find_missing(&blobs).await?.is_empty())
    }
}

#[async_trait::async_trait]
impl StepIndex for Both {
    async fn find(&self, scope: &Scope, keys: &[StepKey]) -> Result<Vec<Vec<Record>>, StoreError> {
        let (near, far) = (&*self.near, &*self.far);
        let (far, near) = futures::try_join!(
            StepIndex::find(far, scope, keys),
            StepIndex::find(near, scope, keys)
        )?;
        let join = |(mut far, near): (Vec<Record>, Vec<Record>)| {
            let known: BTreeSet<AttemptId> = far.iter().map(|record| record.attempt).collect();
            far.extend(near.into_iter().filter(|record| !known.contains(&record.attempt)));
            far
        };
        Ok(far.into_iter().zip(near).map(join).collect())
    }

    async fn put(&self, scope: &Scope, record: &Record) -> Result<(), StoreError> {
        StepIndex::put(&*self.near, scope, record).await?;
        let tell = match self.told {
            Told::All => true,
            Told::OfItsOwn => self.has_all(record).await?,
            Told::Nothing => false,
        };
        if tell { StepIndex::put(&*self.far, scope, record).await } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl LayerIndex for Both {
    async fn find_forms(&self, layers: &[LayerId]) -> Result<Vec<Vec<StoredBlob>>, StoreError> {
        let (far, near) =
            futures::try_join!(self.far.find_forms(layers), self.near.find_forms(layers))?;
        let join = |(mut far, near): (Vec<StoredBlob>, Vec<StoredBlob>)| {
            let known: Vec<_> = far.iter().map(|stored| stored.blob.compression).collect();
            far.extend(near.into_iter().filter(|it| !known.contains(&it.blob.compression)));
            far
        };
        Ok(far.into_iter().zip(near).map(join).collect())
    }

    async fn put_form(&self, layer: &LayerId, stored: &StoredBlob) -> Result<(), StoreError> {
        self.near.put_form(layer, stored).await?;
        match self.told {
            Told::All | Told::OfItsOwn => self.far.put_form(layer, stored).await,
            Told::Nothing => Ok(()),
        }
    }

    async fn find_bases(
        &self,
        digests: &[LayerDigest],
    ) -> Result<Vec<Option<HashedBase>>, StoreError> {
        let (far, near) =
            futures::try_join!(self.far.find_bases(digests), self.near.find_bases(digests))?;
        Ok(far.into_iter().zip(near).map(|(far, near)| far.or(near)).collect())
    }

    async fn put_base(&self, digest: &LayerDigest, base: &HashedBase) -> Result<(), StoreError> {
        self.near.put_base(digest, base).await?;
        match self.told {
            Told::All | Told::OfItsOwn => self.far.put_base(digest, base).await,
            Told::Nothing => Ok(()),
        }
    }
}

//! Gathers what records speak of: forms of their layers, what is known of bases, and the blobs without which a record is
//! none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use dcbuild_model::{
    BlobDigest, Component, Compression, Digest, LayerDigest, LayerId, LayerRef, Record, Scope,
    UnixTime,
};
use dcbuild_store::{
    BlobStore, ByteRange, HashedBase, LayerIndex, Seal, StepIndex, StoreError, StoredBlob,
};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::documents::Documents;

/// Blobs looked at, or made, at a time.
const AT_ONCE: usize = 16;

/// Makes blobs of layers that have none yet.
#[async_trait::async_trait]
pub trait Packs: Send + Sync {
    /// Makes the blob of a layer in a compression; false if its bytes are not to be had.
    async fn pack(&self, layer: LayerId, compression: Compression) -> bool;
}

/// Has no layers but those of the store.
#[derive(Clone, Copy, Debug)]
pub struct NoPacks;

#[async_trait::async_trait]
impl Packs for NoPacks {
    async fn pack(&self, _: LayerId, _: Compression) -> bool {
        false
    }
}

/// A store, as far as records need it.
#[derive(Clone)]
pub struct Shelf {
    /// Blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// Forms of layers.
    pub layers: Arc<dyn LayerIndex>,
    /// Records.
    pub steps: Arc<dyn StepIndex>,
}

/// How records are to be packed.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Whose records they are.
    pub scope: Scope,
    /// What they are sealed with.
    pub seal: Seal,
    /// The compression that layers should have, where one is asked for.
    pub compression: Option<Compression>,
    /// The only blobs that layers may have: those of an image that travel anyway.
    pub within: Option<BTreeSet<BlobDigest>>,
}

/// Records with all that they speak of.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The name of the key that sealed them.
    pub key: String,
    /// The sealed documents.
    pub documents: Documents,
    /// The blobs, with their sizes.
    pub blobs: BTreeMap<BlobDigest, u64>,
    /// Records.
    pub records: u64,
    /// Records that were left, since a layer of theirs is not to be had.
    pub left: u64,
}

impl Packed {
    /// Adds what was packed of another scope of the same store, under the same key.
    pub fn join(&mut self, other: Packed) {
        self.documents.join(&other.documents);
        self.blobs.extend(other.blobs);
        self.records += other.records;
        self.left += other.left;
    }
}

/// The layers of some records, each once. A layer of a base and one of a step may be the same, as two that change nothing
/// are: what is to be known of them differs, and so they count as two.
struct Layers<'r>(BTreeMap<(LayerId, Option<LayerDigest>), &'r LayerRef>);

impl<'r> Layers<'r> {
    fn of(records: &'r [Record]) -> Layers<'r> {
        let layers = records.iter().flat_map(|record| &record.result.layers);
        let named =
            layers.map(|layer| ((layer.layer, layer.base.as_ref().map(|base| base.digest)), layer));
        Layers(named.collect())
    }

    fn all(&self) -> impl Iterator<Item = &'r LayerRef> {
        self.0.values().copied()
    }

    /// Those that are of no base.
    fn own(&self) -> impl Iterator<Item = LayerId> {
        self.all().filter(|layer| layer.base.is_none()).map(|layer| layer.layer)
    }
}

/// What is known of the layers of some records.
#[derive(Default)]
struct Known {
    forms: BTreeMap<LayerId, StoredBlob>,
    bases: BTreeMap<LayerDigest, HashedBase>,
    /// Blobs that are asked of and not there.
    missing: BTreeSet<BlobDigest>,
}

impl Known {
    async fn of(shelf: &Shelf, layers: &Layers<'_>, wish: &Wish) -> Result<Known, StoreError> {
        let own: Vec<LayerId> = layers.own().collect();
        let digests = layers.all().filter_map(|layer| Some(layer.base.as_ref()?.digest));
        let digests: Vec<LayerDigest> = digests.collect();
        let (forms, bases) =
            tokio::try_join!(shelf.layers.find_forms(&own), shelf.layers.find_bases(&digests))?;
        let mut asked: BTreeSet<BlobDigest> =
            layers.all().map(|layer| BlobDigest(layer.layer.0)).collect();
        let blobs_of = |form: &StoredBlob| [BlobDigest(form.blob.digest.0), form.index];
        asked.extend(forms.iter().flatten().flat_map(blobs_of));
        let asked: Vec<BlobDigest> = asked.into_iter().collect();
        let missing: BTreeSet<BlobDigest> =
            shelf.blobs.find_missing(&asked).await?.into_iter().collect();
        let bases = digests.into_iter().zip(bases);
        let bases = bases.filter_map(|(digest, base)| Some((digest, base?))).collect();
        let mut known = Known { forms: BTreeMap::new(), bases, missing };
        for (layer, forms) in own.into_iter().zip(forms) {
            let may = |form: &&StoredBlob| {
                let blobs = blobs_of(form);
                let travels = wish.within.as_ref().is_none_or(|within| within.contains(&blobs[0]));
                travels && blobs.iter().all(|blob| !known.missing.contains(blob))
            };
            let whole: Vec<&StoredBlob> = forms.iter().filter(may).collect();
            let asked = whole.iter().find(|it| Some(it.blob.compression) == wish.compression);
            if let Some(form) = asked.or(whole.first()) {
                known.forms.insert(layer, (**form).clone());
            }
        }
        Ok(known)
    }

    /// Whether all of a layer is there.
    fn has(&self, layer: &LayerRef) -> bool {
        let whole = match &layer.base {
            Some(base) => self.bases.contains_key(&base.digest),
            None => self.forms.contains_key(&layer.layer),
        };
        whole && !self.missing.contains(&BlobDigest(layer.layer.0))
    }

    /// The layers that a packer should make a blob of.
    fn to_make(&self, layers: &Layers<'_>, wish: &Wish) -> Vec<LayerId> {
        let made = |layer: &LayerId| {
            let form = self.forms.get(layer);
            let right = |form: &StoredBlob| {
                wish.compression.is_none_or(|asked| asked == form.blob.compression)
            };
            !form.is_some_and(right)
        };
        layers.own().filter(made).collect()
    }
}

/// Packs records with what they speak of, each under its seal.
pub async fn pack(
    shelf: &Shelf,
    packs: &dyn Packs,
    records: &[Record],
    wish: &Wish,
) -> Result<Packed, StoreError> {
    let layers = Layers::of(records);
    let mut known = Known::of(shelf, &layers, wish).await?;
    let to_make = known.to_make(&layers, wish);
    let compression = wish.compression.unwrap_or(Compression::Zstd);
    let made = to_make.into_iter().map(|layer| packs.pack(layer, compression));
    let made: Vec<bool> = futures::stream::iter(made).buffer_unordered(2).collect().await;
    if made.contains(&true) {
        known = Known::of(shelf, &layers, wish).await?;
    }
    let has = |record: &&Record| record.result.layers.iter().all(|layer| known.has(layer));
    let (whole, left): (Vec<&Record>, Vec<&Record>) = records.iter().partition(has);
    let documents = write(&known, &whole, wish).await?;
    let blobs = measure(shelf, &known, &whole).await?;
    let count = |list: &[&Record]| u64::try_from(list.len()).unwrap_or(u64::MAX);
    let key = wish.seal.key_name().to_owned();
    Ok(Packed { key, documents, blobs, records: count(&whole), left: count(&left) })
}

/// Writes the documents; their bytes depend on what they say alone.
async fn write(known: &Known, records: &[&Record], wish: &Wish) -> Result<Documents, StoreError> {
    let (documents, time) = (Documents::default(), Arc::new(Mutex::new(UnixTime::default())));
    let catalog = documents.catalog(wish.seal.clone(), &time);
    catalog.fill().await?;
    for record in records {
        for layer in &record.result.layers {
            if let Some(base) = &layer.base
                && let Some(hashed) = known.bases.get(&base.digest)
            {
                catalog.put_base(&base.digest, hashed).await?;
            }
            if let Some(form) = known.forms.get(&layer.layer) {
                catalog.put_form(&layer.layer, form).await?;
            }
        }
        // Of two records of one step the later one counts, here as where they come from.
        *time.lock().unwrap_or_else(PoisonError::into_inner) = record.result.created;
        StepIndex::put(&catalog, &wish.scope, &without_values(record)).await?;
    }
    Ok(documents)
}

/// A record that names the parts of its key and says of their values no more than that they differ: what is carried to a
/// registry is read by whoever may pull, and people hand passwords to stages that are in no image.
fn without_values(record: &Record) -> Record {
    let hidden = |part: &Component| {
        // One that came from such a place says no more than that either.
        let is_hidden = part.value.parse::<BlobDigest>().is_ok();
        let digest = || Digest::of(part.value.as_bytes()).to_string();
        let value = if is_hidden { part.value.clone() } else { digest() };
        Component { name: part.name.clone(), value }
    };
    Record { components: record.components.iter().map(hidden).collect(), ..record.clone() }
}

/// The blobs of records, with their sizes.
async fn measure(
    shelf: &Shelf,
    known: &Known,
    records: &[&Record],
) -> Result<BTreeMap<BlobDigest, u64>, StoreError> {
    let (mut sizes, mut unknown) = (BTreeMap::new(), BTreeSet::new());
    for layer in records.iter().flat_map(|record| &record.result.layers) {
        unknown.insert(BlobDigest(layer.layer.0));
        if let Some(form) = known.forms.get(&layer.layer) {
            unknown.insert(form.index);
            sizes.insert(BlobDigest(form.blob.digest.0), form.blob.size);
        }
    }
    let measured = unknown.into_iter().map(|blob| async move {
        let mut content = shelf.blobs.get(&blob, ByteRange::ALL).await?;
        let mut size = 0_u64;
        while let Some(piece) = content.try_next().await? {
            size = size.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
        Ok::<_, StoreError>((blob, size))
    });
    let measured: Vec<_> = measured.collect();
    let mut measured = futures::stream::iter(measured).buffer_unordered(AT_ONCE);
    while let Some((blob, size)) = measured.try_next().await? {
        sizes.insert(blob, size);
    }
    Ok(sizes)
}

//! Moves a whole cache from a place to a store.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dcbuild_model::{BlobDigest, LayerDigest, LayerId, LayerRef, Record, Scope};
use dcbuild_registry::{LayoutOpenError, PullError};
use dcbuild_store::{HashedBase, ObjectName, Seal, StoreError, StoredBlob};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::documents::Contents;
use crate::look::Borrowed;
use crate::pack::Shelf;
use crate::place::{Place, PlaceError};

/// Blobs under way at a time: each may have a part of some megabytes in memory.
const BLOBS_AT_ONCE: usize = 16;
/// Documents under way at a time; a far store answers each after tens of milliseconds.
const DOCUMENTS_AT_ONCE: usize = 32;

/// What is wrong with what is not there.
const IS_MISSING: &str = "is missing";

/// What was taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// Records.
    pub records: u64,
    /// Blobs that the store lacked.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whose records came.
    pub scopes: BTreeSet<Scope>,
    /// Documents that the reader's seal does not open.
    pub refused: Vec<ObjectName>,
    /// Records that were left, since something that they speak of is neither there nor here.
    pub left: u64,
    /// Blobs that were not to be had as they should be, and what is wrong with each.
    pub damaged: BTreeMap<BlobDigest, String>,
}

/// Says why a cache was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The place failed.
    #[error("could not read the cache from {place}")]
    Place {
        /// The place.
        place: String,
        /// Why not.
        source: PlaceError,
    },
    /// The store failed, or what came is not what its name says.
    #[error("could not store what came from {place}")]
    Store {
        /// The place.
        place: String,
        /// Why not.
        source: StoreError,
    },
    /// The records are of several scopes, none of which is above all others.
    #[error(
        "{place} has records of the scopes {scopes}, which have no place below one scope: export those of one scope alone \
         (--scope), or import into a coordinator's store (--store) without --scope"
    )]
    Scopes {
        /// The place.
        place: String,
        /// The scopes.
        scopes: String,
    },
    /// No document carries a seal that opens.
    #[error("nothing is taken from {place}: all {documents} documents there {why}")]
    Sealed {
        /// The place.
        place: String,
        /// How many there are.
        documents: usize,
        /// What is wrong with them.
        why: &'static str,
    },
}

/// Takes a whole cache into a store: blobs first, each hashed on its way in, then what describes layers, then records. Each
/// record keeps its scope; where another is given, that takes the place of the scope above all, and those below it stay
/// below: what a pull request made is not its parent's then either. A document that the seal does not open is passed over, and so is a record that lacks something or needs a blob
/// that is damaged.
pub async fn take(
    borrowed: &Borrowed,
    place: &dyn Place,
    shelf: &Shelf,
    scope: Option<&Scope>,
    seal: &Seal,
) -> Result<Carried, TakeError> {
    let failed = |source| TakeError::Store { place: place.name(), source };
    let refused = borrowed.keep_opened(seal);
    if borrowed.documents.records() == 0 && !refused.is_empty() {
        let (documents, why) = (refused.len(), crate::look::why_unopened(seal));
        return Err(TakeError::Sealed { place: place.name(), documents, why });
    }
    let mut contents = borrowed.documents.read(seal.clone()).await.map_err(failed)?;
    if let Some(scope) = scope {
        let moved = move_below(scope, &mut contents.records);
        moved.map_err(|scopes| TakeError::Scopes { place: place.name(), scopes })?;
    }
    let scopes = contents.records.iter().map(|(scope, _)| scope.clone()).collect();
    let missing = borrowed.missing.iter().map(|part| (*part, IS_MISSING.to_owned()));
    let damaged = missing.collect();
    let mut carried = Carried { scopes, refused, damaged, ..Carried::default() };
    let mut choice = Choice::of(contents, borrowed, shelf).await.map_err(failed)?;
    bring(&choice, borrowed, place, shelf, &mut carried).await?;
    choice.leave(&carried.damaged.keys().copied().collect());
    carried.left = choice.left;
    let forms = choice.layers.iter().filter_map(|layer| Some((layer, choice.forms.get(layer)?)));
    let forms = forms.flat_map(|(layer, forms)| forms.iter().map(move |form| (layer, form)));
    side_by_side(forms.map(|(layer, form)| shelf.layers.put_form(layer, form)))
        .await
        .map_err(failed)?;
    let bases = choice.bases.iter().filter_map(|base| Some((base, choice.hashed.get(base)?)));
    side_by_side(bases.map(|(digest, base)| shelf.layers.put_base(digest, base)))
        .await
        .map_err(failed)?;
    let records = choice.records.iter().map(|(scope, record)| shelf.steps.put(scope, record));
    carried.records = side_by_side(records).await.map_err(failed)?;
    Ok(carried)
}

/// Moves records to a scope and those below it; else says whose they are, if no scope is above all.
fn move_below(to: &Scope, records: &mut [(Scope, Record)]) -> Result<(), String> {
    let scopes: BTreeSet<Scope> = records.iter().map(|(scope, _)| scope.clone()).collect();
    let top = scopes.iter().find(|top| scopes.iter().all(|scope| scope.is_within(top)));
    let all = || scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(", ");
    for (scope, _) in records.iter_mut() {
        let top = top.ok_or_else(all)?;
        let below = scope.as_str().strip_prefix(top.as_str()).unwrap_or_default();
        // One that would have too many parts.
        *scope = format!("{to}{below}").parse().map_err(|_| all())?;
    }
    Ok(())
}

/// Writes documents, none of which leans on another; says how many they were.
fn side_by_side<W: Future<Output = Result<(), StoreError>>>(
    writes: impl Iterator<Item = W>,
) -> impl Future<Output = Result<u64, StoreError>> {
    let writes: Vec<W> = writes.collect();
    let writes = futures::stream::iter(writes).buffer_unordered(DOCUMENTS_AT_ONCE);
    writes.try_fold(0, |written, ()| async move { Ok(written + 1) })
}

/// Which records are taken, and all that they need.
struct Choice {
    records: Vec<(Scope, Record)>,
    left: u64,
    forms: BTreeMap<LayerId, Vec<StoredBlob>>,
    hashed: BTreeMap<LayerDigest, HashedBase>,
    /// Blobs that the store lacks.
    missing: BTreeSet<BlobDigest>,
    layers: BTreeSet<LayerId>,
    bases: BTreeSet<LayerDigest>,
    blobs: BTreeSet<BlobDigest>,
}

fn blobs_of(form: &StoredBlob) -> [BlobDigest; 2] {
    [BlobDigest(form.blob.digest.0), form.index]
}

impl Choice {
    async fn of(
        contents: Contents,
        borrowed: &Borrowed,
        shelf: &Shelf,
    ) -> Result<Choice, StoreError> {
        let Contents { forms: told, bases, records } = contents;
        let layers = records.iter().flat_map(|(_, record)| &record.result.layers);
        let asked = layers.map(|layer| BlobDigest(layer.layer.0));
        let asked: BTreeSet<BlobDigest> =
            asked.chain(told.iter().flat_map(|(_, form)| blobs_of(form))).collect();
        let asked: Vec<BlobDigest> = asked.into_iter().collect();
        let missing: BTreeSet<BlobDigest> =
            shelf.blobs.find_missing(&asked).await?.into_iter().collect();
        let has = |blob: &BlobDigest| {
            let travels =
                || borrowed.offered.contains_key(blob) || borrowed.embedded.contains_key(blob);
            !missing.contains(blob) || travels()
        };
        let mut forms: BTreeMap<LayerId, Vec<StoredBlob>> = BTreeMap::new();
        for (layer, form) in told.into_iter().filter(|(_, form)| blobs_of(form).iter().all(has)) {
            forms.entry(layer).or_default().push(form);
        }
        let hashed: BTreeMap<LayerDigest, HashedBase> = bases.into_iter().collect();
        let (layers, bases, blobs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (left, missing) = (0, missing.clone());
        let mut choice = Choice { records, left, forms, hashed, missing, layers, bases, blobs };
        choice.keep_whole(&has);
        Ok(choice)
    }

    /// Leaves what needs a blob that did not come.
    fn leave(&mut self, damaged: &BTreeSet<BlobDigest>) {
        if damaged.is_empty() {
            return;
        }
        self.forms.retain(|_, forms| {
            forms.retain(|form| !blobs_of(form).iter().any(|blob| damaged.contains(blob)));
            !forms.is_empty()
        });
        self.keep_whole(&|blob| !damaged.contains(blob));
    }

    /// Keeps the records of which each layer is described and can be read, and what they need.
    fn keep_whole(&mut self, has: &dyn Fn(&BlobDigest) -> bool) {
        let before = self.records.len();
        let (forms, hashed) = (&self.forms, &self.hashed);
        let whole = |layer: &LayerRef| {
            let described = match &layer.base {
                Some(base) => hashed.contains_key(&base.digest),
                None => forms.contains_key(&layer.layer),
            };
            described && has(&BlobDigest(layer.layer.0))
        };
        self.records.retain(|(_, record)| record.result.layers.iter().all(whole));
        let left = before - self.records.len();
        self.left = self.left.saturating_add(u64::try_from(left).unwrap_or(u64::MAX));
        self.add_needs();
    }

    fn add_needs(&mut self) {
        self.layers.clear();
        self.bases.clear();
        self.blobs.clear();
        for layer in self.records.iter().flat_map(|(_, record)| &record.result.layers) {
            self.blobs.insert(BlobDigest(layer.layer.0));
            if let Some(base) = &layer.base {
                self.bases.insert(base.digest);
            } else {
                self.layers.insert(layer.layer);
                let forms = self.forms.get(&layer.layer).into_iter().flatten();
                self.blobs.extend(forms.flat_map(blobs_of));
            }
        }
    }
}

/// What is wrong with a blob, where it is that alone; else the place or the store failed, and with it the rest.
fn damage(error: &TakeError) -> Option<String> {
    let other = || "is damaged: its bytes have another digest".to_owned();
    match error {
        TakeError::Store { source: StoreError::DigestMismatch { .. }, .. } => Some(other()),
        TakeError::Store { source: StoreError::Content { source }, .. } => {
            let pulled = source.downcast_ref().and_then(damage_of_pull);
            Some(pulled.unwrap_or_else(|| format!("could not be read to its end: {source}")))
        }
        TakeError::Place { source, .. } => match source {
            PlaceError::Pull(error) => damage_of_pull(error),
            PlaceError::Damaged { .. } => Some(other()),
            PlaceError::Store(StoreError::NotFound { .. }) => Some(IS_MISSING.to_owned()),
            _ => None,
        },
        TakeError::Store { .. } | TakeError::Sealed { .. } | TakeError::Scopes { .. } => None,
    }
}

fn damage_of_pull(error: &PullError) -> Option<String> {
    match error {
        PullError::Digest { .. } => Some("is damaged: its bytes have another digest".to_owned()),
        PullError::Size { wanted, got, .. } => {
            Some(format!("is damaged: it has {got} bytes and should have {wanted}"))
        }
        PullError::NoBlob { .. } => Some(IS_MISSING.to_owned()),
        PullError::Layout { source: LayoutOpenError::Io { source, .. }, .. }
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Some(IS_MISSING.to_owned())
        }
        _ => None,
    }
}

/// Brings the blobs that the store lacks, and notes those that are damaged.
async fn bring(
    choice: &Choice,
    borrowed: &Borrowed,
    place: &dyn Place,
    shelf: &Shelf,
    carried: &mut Carried,
) -> Result<(), TakeError> {
    let failed = |source| TakeError::Store { place: place.name(), source };
    let bring = choice.blobs.intersection(&choice.missing).map(|blob| async move {
        let content = if let Some(bytes) = borrowed.embedded.get(blob) {
            dcbuild_store::stream_of(Bytes::clone(bytes))
        } else {
            let size = borrowed.offered.get(blob).copied().unwrap_or_default();
            let content = place.get(blob, size).await;
            content.map_err(|source| TakeError::Place { place: place.name(), source })?
        };
        shelf.blobs.put(blob, content).await.map_err(failed)
    });
    let bring = bring.zip(choice.blobs.intersection(&choice.missing));
    let bring = bring.map(|(brought, blob)| async move { (*blob, brought.await) });
    let bring: Vec<_> = bring.collect();
    let mut bring = futures::stream::iter(bring).buffer_unordered(BLOBS_AT_ONCE);
    while let Some((blob, brought)) = bring.next().await {
        match brought {
            Ok(size) => {
                carried.blobs += 1;
                carried.bytes = carried.bytes.saturating_add(size);
            }
            Err(error) => {
                let why = damage(&error).ok_or(error)?;
                carried.damaged.insert(blob, why);
            }
        }
    }
    Ok(())
}

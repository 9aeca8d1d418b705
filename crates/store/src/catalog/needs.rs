//! What the things of a store need, for whoever sweeps it.
//!
//! A document that our seal does not open may be another's who has another key, or be of a newer version: what it needs
//! stays as well. All that such a document names is taken for needed; one that is damaged holds for a while what nobody
//! will ask for.

use std::collections::HashMap;

use bytes::Bytes;
use dcbuild_model::limits::MANIFEST_BYTES_MAX;
use dcbuild_model::{Digest, LayerId, UnixTime};
use futures::{StreamExt as _, TryStreamExt as _};

use super::layers::Versioned;
use super::replaced::{Stored, add_record_needs};
use super::steps::StoredRecord;
use super::sweep::{KEYS_AT_ONCE, object};
use super::{AT_ONCE, Catalog, DOCUMENT_BYTES_MAX, Found, field_of};
use crate::attempts::Attempt;
use crate::manifest::blobs_named_by;
use crate::sweep::{Thing, ThingKind};
use crate::{
    CacheVersion, HashedBase, IndexEntry, IndexKey, NamedImage, ObjectName, StoreError, StoredBlob,
};

/// Whose documents a store has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Documents {
    /// Some of them carry our seal, or there are none.
    Ours,
    /// None does: then the key is the wrong one.
    Foreign,
}

/// What a document says.
enum Text {
    /// It carries our seal.
    Ours(Bytes),
    /// It does not: these are all its bytes.
    Unopened(Bytes),
}

/// One document of a thing.
struct Document {
    /// Which of the thing's parts it is.
    name: ObjectName,
    /// Its bytes with its seal.
    size: u64,
    text: Text,
}

/// Things by their names, while what they need is looked up.
#[derive(Default)]
struct Places(HashMap<String, usize>);

impl Places {
    fn blob(&self, digest: &Digest) -> Option<usize> {
        self.0.get(&format!("blob/sha256/{}", digest.hex())).copied()
    }

    fn layer(&self, layer: &LayerId) -> Option<usize> {
        self.0.get(&format!("layer/{}", layer.0.hex())).copied()
    }

    fn base(&self, digest: &Digest) -> Option<usize> {
        self.0.get(&format!("base/{}", digest.hex())).copied()
    }
}

impl Places {
    /// All things that a digest names.
    fn named(&self, digest: Digest) -> impl Iterator<Item = usize> + use<> {
        [self.blob(&digest), self.layer(&LayerId(digest)), self.base(&digest)].into_iter().flatten()
    }
}

impl Catalog {
    /// Adds what records, forms, cache mounts and names of images need; says whose their documents are.
    pub(super) async fn add_needs(&self, things: &mut Vec<Thing>) -> Result<Documents, StoreError> {
        let places = things.iter().enumerate().map(|(at, thing)| (thing.name.clone(), at));
        let places = Places(places.collect());
        let documented: Vec<usize> =
            (0..things.len()).filter(|at| has_documents(&things[*at].kind)).collect();
        let (mut whose, mut records) = (None, Vec::new());
        for some in documented.chunks(KEYS_AT_ONCE) {
            for (at, documents) in self.documents(things, some).await? {
                let kind = things[at].kind.clone();
                let ours = documents.iter().any(|it| matches!(it.text, Text::Ours(_)));
                match kind {
                    // Names of images and cache mounts alone do not show a key to be right or wrong.
                    ThingKind::Image | ThingKind::CacheMount => {}
                    _ if ours => whose = Some(Documents::Ours),
                    _ => whose = whose.or(Some(Documents::Foreign)),
                }
                if matches!(kind, ThingKind::Record { .. }) {
                    let of_key = documents.iter().map(|document| Stored {
                        part: document.name.to_string(),
                        size: document.size,
                        needs: needs_of(&kind, document, &places),
                        attempt: attempt_of(at, document),
                    });
                    records.push((at, of_key.collect()));
                    continue;
                }
                let mut needs: Vec<usize> =
                    documents.iter().flat_map(|it| needs_of(&kind, it, &places)).collect();
                if kind == ThingKind::Image {
                    needs = self.needs_below(needs, things, &places).await?;
                }
                needs.retain(|place| *place != at);
                needs.sort_unstable();
                needs.dedup();
                things[at].needs = needs;
            }
        }
        add_record_needs(things, records);
        Ok(whose.unwrap_or(Documents::Ours))
    }

    /// The documents of these things: from the index where it has what our seal opens, else from the store, which must
    /// give them all, for who lacks one does not know what it needs.
    async fn documents(
        &self,
        things: &[Thing],
        asked: &[usize],
    ) -> Result<Vec<(usize, Vec<Document>)>, StoreError> {
        let keys: Vec<IndexKey> =
            asked.iter().map(|at| IndexKey(things[*at].name.clone())).collect();
        let (_, known) = self.ask_index(&keys).await;
        let (mut found, mut missing) = (Vec::with_capacity(asked.len()), Vec::new());
        for (at, fields) in asked.iter().zip(known) {
            let mut documents = Vec::new();
            for part in &things[*at].parts {
                let name = object(part)?;
                let of_part = |(field, _): &&Found| field == field_of(&name);
                let value = fields.iter().find(of_part).map(|(_, value)| value);
                let opened = value.and_then(|value| Some((value, self.open(&name, value)?)));
                match opened {
                    Some((value, text)) => documents.push(Document {
                        size: size_of(value),
                        text: Text::Ours(text),
                        name,
                    }),
                    None => missing.push((found.len(), *at, name)),
                }
            }
            found.push((*at, documents));
        }
        let reads = missing.into_iter().map(|(place, at, name)| async move {
            let bytes = self.objects().get(&name, DOCUMENT_BYTES_MAX).await?;
            Ok::<_, StoreError>((place, at, name, bytes))
        });
        let mut reads = futures::stream::iter(reads.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        let mut entries = Vec::new();
        while let Some((place, at, name, bytes)) = reads.try_next().await? {
            let Some(bytes) = bytes else { continue };
            let size = size_of(&bytes);
            let text = if let Some(document) = self.open(&name, &bytes) {
                entries.extend(entry_of(&things[at], &name, bytes));
                Text::Ours(document)
            } else {
                self.unsealed(&name);
                Text::Unopened(bytes)
            };
            found[place].1.push(Document { name, size, text });
        }
        if let Err(error) = self.index().put(&entries).await {
            self.index_failed(&error);
        }
        Ok(found)
    }

    /// All that manifests and indexes of images name, and they themselves.
    async fn needs_below(
        &self,
        mut open: Vec<usize>,
        things: &[Thing],
        places: &Places,
    ) -> Result<Vec<usize>, StoreError> {
        let max = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX).min(DOCUMENT_BYTES_MAX);
        let mut needs = Vec::new();
        while let Some(place) = open.pop() {
            if needs.contains(&place) {
                continue;
            }
            needs.push(place);
            let blob = things.get(place).filter(|thing| thing.kind == ThingKind::Blob);
            // What is larger is a layer.
            if let Some(blob) = blob.filter(|blob| blob.size <= max)
                && let Some(bytes) = self.objects().get(&object(&blob.name)?, max).await?
            {
                open.extend(blobs_named_by(&bytes).iter().filter_map(|it| places.blob(it)));
            }
        }
        Ok(needs)
    }
}

fn attempt_of(at: usize, document: &Document) -> Option<Attempt> {
    let Text::Ours(text) = &document.text else { return None };
    let stored: StoredRecord = serde_json::from_slice(text).ok()?;
    Some(Attempt::new(at, stored.decided, &stored.record))
}

fn size_of(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn has_documents(kind: &ThingKind) -> bool {
    match kind {
        ThingKind::Record { .. }
        | ThingKind::Form { .. }
        | ThingKind::Base
        | ThingKind::Image
        | ThingKind::CacheMount => true,
        // Nothing is told apart as replaced before this.
        ThingKind::Replaced | ThingKind::Blob | ThingKind::Quarantined => false,
    }
}

/// A document for the index, which is told of those alone that it answers with.
fn entry_of(thing: &Thing, name: &ObjectName, value: Bytes) -> Option<IndexEntry> {
    match thing.kind {
        ThingKind::Record { .. } | ThingKind::Form { .. } | ThingKind::Base => {
            let (key, field) = (IndexKey(thing.name.clone()), field_of(name).to_owned());
            // To look is no use.
            Some(IndexEntry { key, field, value, used: UnixTime::default() })
        }
        ThingKind::Replaced
        | ThingKind::Image
        | ThingKind::CacheMount
        | ThingKind::Blob
        | ThingKind::Quarantined => None,
    }
}

fn needs_of(kind: &ThingKind, document: &Document, places: &Places) -> Vec<usize> {
    match &document.text {
        // What we sealed and cannot read is of a newer version.
        Text::Ours(bytes) => {
            told_needs(kind, bytes, places).unwrap_or_else(|| named_in(bytes, places))
        }
        Text::Unopened(bytes) => named_in(bytes, places),
    }
}

/// All things that are named anywhere in these bytes.
fn named_in(bytes: &[u8], places: &Places) -> Vec<usize> {
    let words = bytes.split(|byte| !byte.is_ascii_hexdigit());
    let hex = words.filter_map(|word| std::str::from_utf8(word).ok());
    let digests = hex.filter_map(|hex| Digest::from_hex(hex).ok());
    digests.flat_map(|digest| places.named(digest)).collect()
}

/// What a document says that it needs; none if it cannot be understood.
fn told_needs(kind: &ThingKind, document: &[u8], places: &Places) -> Option<Vec<usize>> {
    let mut needs = Vec::new();
    match kind {
        ThingKind::Record { .. } => {
            let stored = serde_json::from_slice::<StoredRecord>(document).ok()?;
            for layer in &stored.record.result.layers {
                needs.extend(places.blob(&layer.layer.0));
                needs.extend(places.layer(&layer.layer));
                if let Some(base) = &layer.base {
                    needs.extend(places.base(&base.digest.0));
                    needs.extend(places.blob(&base.digest.0));
                }
            }
        }
        ThingKind::Form { .. } => {
            let Versioned { value, .. } =
                serde_json::from_slice::<Versioned<StoredBlob>>(document).ok()?;
            needs.extend(places.blob(&value.blob.digest.0));
            needs.extend(places.blob(&value.index.0));
        }
        ThingKind::Base => {
            let Versioned { value, .. } =
                serde_json::from_slice::<Versioned<HashedBase>>(document).ok()?;
            needs.extend(places.blob(&value.layer.0));
        }
        ThingKind::Image => {
            let image = serde_json::from_slice::<NamedImage>(document).ok()?;
            needs.extend(places.blob(&image.manifest.0));
        }
        ThingKind::CacheMount => {
            let version = serde_json::from_slice::<CacheVersion>(document).ok()?;
            let blobs = version.pieces.iter().chain([&version.parcel]);
            needs.extend(blobs.filter_map(|blob| places.blob(&blob.0)));
            needs.extend(version.packs.iter().filter_map(|pack| places.layer(pack)));
        }
        ThingKind::Replaced | ThingKind::Blob | ThingKind::Quarantined => {}
    }
    Some(needs)
}

//! What a folder store holds, for the sweeper: each file is a thing, and its time of change its last use.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use dcbuild_model::{BlobDigest, Digest, LayerId, Record, Scope, UnixTime};

use super::layers::Versioned;
use super::notes::record_of;
use super::prune::{EntryKind, StoreEntry, name, stem};
use super::records::StoredRecord;
use super::{FolderStore, children, stat};
use crate::attempts::{Attempt, Replaced, replaced};
use crate::sweep::{Hold, Inventory, Removal, Swept, Thing, ThingKind};
use crate::{CacheVersion, HashedBase, NamedImage, StoreError, StoredBlob};

/// Where blobs, and what describes layers, stand among the things.
#[derive(Default)]
struct Places {
    blobs: HashMap<String, usize>,
    /// A layer may have several forms.
    layers: HashMap<String, Vec<usize>>,
    bases: HashMap<String, usize>,
}

impl Places {
    fn of(things: &[Thing]) -> Places {
        let mut places = Places::default();
        for (at, thing) in things.iter().enumerate() {
            match &thing.kind {
                ThingKind::Blob => {
                    places.blobs.insert(thing.name.clone(), at);
                }
                ThingKind::Form { layer } => {
                    places.layers.entry(layer.0.hex()).or_default().push(at);
                }
                ThingKind::Base => {
                    let hex = thing.name.rsplit('/').next().unwrap_or_default();
                    places.bases.insert(hex.to_owned(), at);
                }
                ThingKind::Record { .. }
                | ThingKind::Replaced
                | ThingKind::Image
                | ThingKind::CacheMount
                | ThingKind::Quarantined => {}
            }
        }
        places
    }

    fn blob(&self, digest: &Digest) -> Option<usize> {
        self.by_hex(&digest.hex())
    }

    fn by_hex(&self, hex: &str) -> Option<usize> {
        self.blobs.get(hex).copied()
    }
}

impl FolderStore {
    fn list_things(&self) -> Result<Inventory, StoreError> {
        let mut things = Vec::new();
        let since = self.oldest_use()?;
        for entry in self.entries()? {
            let Some(kind) = kind_of(&entry) else { continue };
            let StoreEntry { id, size, last_used, needed, .. } = entry;
            let in_use = since.is_some_and(|since| last_used >= since);
            let hold = match (needed, in_use) {
                (false, _) => Hold::Free,
                (true, true) => Hold::InUse,
                (true, false) => Hold::Named,
            };
            let (written, used, needs) = (last_used, last_used, Vec::new());
            let scope = scope_of(&kind, &id);
            things.push(Thing {
                kind,
                scope,
                parts: vec![id.clone()],
                name: id,
                size,
                written,
                used,
                hold,
                needs,
            });
        }
        let places = Places::of(&things);
        let mut keys: BTreeMap<String, Vec<Attempt>> = BTreeMap::new();
        for (at, thing) in things.iter_mut().enumerate() {
            if let ThingKind::Record { .. } = thing.kind {
                let Some(stored) = self.stored_record(thing)? else { continue };
                thing.needs = record_needs(&stored.record, &places);
                let (key, _) = thing.name.rsplit_once('/').unwrap_or_default();
                let attempt = Attempt::new(at, stored.decided, &stored.record);
                keys.entry(key.to_owned()).or_default().push(attempt);
            } else {
                thing.needs = self.needs(thing, &places)?;
            }
        }
        tell_replaced(&mut things, keys.into_values().collect());
        things.extend(self.named_things(&places)?);
        Ok(Inventory { things, unknown_uses: None })
    }

    /// The names of images, each with the blobs that its image is made of.
    fn named_things(&self, places: &Places) -> Result<Vec<Thing>, StoreError> {
        let mut things = Vec::new();
        for folder in children(&self.inner.dir.join("image"))? {
            for path in children(&folder)? {
                let stored = self.read_document::<Versioned<NamedImage>>(&path)?;
                let (Some((stored, time)), Some(metadata)) = (stored, stat(&path)?) else {
                    continue;
                };
                let name = format!("{}/{}", name(&folder), stem(&path));
                let blobs = self.blobs_of(&stored.value);
                let mut needs: Vec<usize> =
                    blobs.iter().filter_map(|hex| places.by_hex(hex)).collect();
                needs.sort_unstable();
                things.push(Thing {
                    kind: ThingKind::Image,
                    scope: scope_of(&ThingKind::Image, &name),
                    parts: vec![name.clone()],
                    name,
                    size: metadata.len(),
                    written: time,
                    used: time,
                    hold: Hold::Named,
                    needs,
                });
            }
        }
        Ok(things)
    }

    fn needs(&self, thing: &Thing, places: &Places) -> Result<Vec<usize>, StoreError> {
        let dir = &self.inner.dir;
        let mut needs = Vec::new();
        match &thing.kind {
            ThingKind::Form { .. } => {
                let path = dir.join(format!("{}.json", thing.name));
                let form = self.read_document::<Versioned<StoredBlob>>(&path)?;
                if let Some((Versioned { value, .. }, _)) = form {
                    needs.extend(places.blob(&value.blob.digest.0));
                    needs.extend(places.blob(&value.index.0));
                }
            }
            ThingKind::Base => {
                let path = dir.join(format!("{}.json", thing.name));
                let base = self.read_document::<Versioned<HashedBase>>(&path)?;
                needs.extend(base.and_then(|(it, _)| places.blob(&it.value.layer.0)));
            }
            ThingKind::CacheMount => {
                let path = dir.join("cache-mount").join(format!("{}.json", thing.name));
                let version = self.read_document::<Versioned<CacheVersion>>(&path)?;
                if let Some((Versioned { value, .. }, _)) = version {
                    let blobs = value.pieces.iter().chain([&value.parcel]);
                    needs.extend(blobs.filter_map(|blob| places.blob(&blob.0)));
                    let forms = value.packs.iter().map(|pack| places.layers.get(&pack.0.hex()));
                    needs.extend(forms.flatten().flatten());
                }
            }
            // Those of records are told together.
            ThingKind::Record { .. }
            | ThingKind::Replaced
            | ThingKind::Image
            | ThingKind::Blob
            | ThingKind::Quarantined => {}
        }
        needs.sort_unstable();
        needs.dedup();
        Ok(needs)
    }

    fn stored_record(&self, thing: &Thing) -> Result<Option<StoredRecord>, StoreError> {
        let path = self.inner.dir.join("step").join(format!("{}.json", thing.name));
        Ok(self.read_document(&path)?.map(|(stored, _)| stored))
    }

    fn remove_things(&self, things: &[Thing]) -> Result<Removal, StoreError> {
        let mut removal = Removal::default();
        for (at, thing) in things.iter().enumerate() {
            let kind = match thing.kind {
                ThingKind::Record { .. } | ThingKind::Replaced => EntryKind::Record,
                ThingKind::Form { .. } | ThingKind::Base => EntryKind::Layer,
                ThingKind::Blob => EntryKind::Blob,
                ThingKind::Quarantined => EntryKind::Quarantined,
                ThingKind::CacheMount => EntryKind::MountVersion,
                ThingKind::Image => continue,
            };
            let (id, size, last_used) = (thing.name.clone(), thing.size, thing.used);
            let entry = StoreEntry { kind, id, size, last_used, needed: false };
            if self.remove_entry(&entry)? {
                removal.removed.count += 1;
                removal.removed.bytes += size;
            } else {
                removal.stayed.push(at);
            }
        }
        Ok(removal)
    }
}

/// The scope of a thing, from its name.
fn scope_of(kind: &ThingKind, id: &str) -> Option<Scope> {
    match kind {
        ThingKind::Record { scope, .. } => Some(scope.clone()),
        ThingKind::CacheMount | ThingKind::Image => {
            id.split('/').next()?.replace('+', "/").parse().ok()
        }
        ThingKind::Replaced
        | ThingKind::Form { .. }
        | ThingKind::Base
        | ThingKind::Blob
        | ThingKind::Quarantined => None,
    }
}

fn record_needs(record: &Record, places: &Places) -> Vec<usize> {
    let mut needs = Vec::new();
    for layer in &record.result.layers {
        needs.extend(places.blob(&layer.layer.0));
        needs.extend(places.layers.get(&layer.layer.0.hex()).into_iter().flatten());
        if let Some(base) = &layer.base {
            needs.extend(places.bases.get(&base.digest.0.hex()));
            needs.extend(places.blob(&base.digest.0));
        }
    }
    needs
}

/// Says which records newer ones of their keys have replaced, and what was made from those.
fn tell_replaced(things: &mut [Thing], mut keys: Vec<Vec<Attempt>>) {
    let (replaced, needs) = replaced(&mut keys);
    for Replaced { place, .. } in replaced {
        things[place].kind = ThingKind::Replaced;
    }
    for (of, need) in needs {
        things[of].needs.push(need);
    }
    for attempt in keys.iter().flatten() {
        let needs = &mut things[attempt.place].needs;
        needs.sort_unstable();
        needs.dedup();
    }
}

fn kind_of(entry: &StoreEntry) -> Option<ThingKind> {
    match entry.kind {
        EntryKind::Blob => Some(ThingKind::Blob),
        EntryKind::MountVersion => Some(ThingKind::CacheMount),
        EntryKind::Quarantined => Some(ThingKind::Quarantined),
        EntryKind::Record => {
            let (scope, key) = record_of(&entry.id)?;
            Some(ThingKind::Record { scope, key })
        }
        EntryKind::Layer => match entry.id.split_once('/')? {
            ("base", _) => Some(ThingKind::Base),
            (_, rest) => {
                let hex = Path::new(rest).file_stem()?.to_str()?;
                let hex = hex.split('.').next()?;
                Some(ThingKind::Form { layer: LayerId(Digest::from_hex(hex).ok()?) })
            }
        },
        EntryKind::Snapshot | EntryKind::CacheMount => None,
    }
}

#[async_trait::async_trait]
impl Swept for FolderStore {
    async fn inventory(&self) -> Result<Inventory, StoreError> {
        self.blocking(FolderStore::list_things).await
    }

    async fn records(&self, inventory: &Inventory) -> Result<Vec<(usize, Record)>, StoreError> {
        let things = inventory.things.iter().enumerate();
        let records = things.filter(|(_, it)| matches!(it.kind, ThingKind::Record { .. }));
        let names: Vec<(usize, String)> = records.map(|(at, it)| (at, it.name.clone())).collect();
        self.blocking(move |store| {
            let mut found = Vec::new();
            for (place, name) in names {
                let path = store.inner.dir.join("step").join(format!("{name}.json"));
                let stored = store.read_document::<StoredRecord>(&path)?;
                let counts = stored.filter(|(stored, _)| store.counts_now(stored));
                found.extend(counts.map(|(stored, _)| (place, stored.record)));
            }
            Ok(found)
        })
        .await
    }

    async fn take_turn(&self, _: &str) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn remove(&self, things: &[&Thing]) -> Result<Removal, StoreError> {
        let things: Vec<Thing> = things.iter().map(|thing| (*thing).clone()).collect();
        self.blocking(move |store| store.remove_things(&things)).await
    }

    async fn put_aside(&self, blobs: &[BlobDigest]) -> Result<Vec<Option<UnixTime>>, StoreError> {
        let blobs = blobs.to_vec();
        self.blocking(move |store| store.when_put_aside(&blobs)).await
    }
}

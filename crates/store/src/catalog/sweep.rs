//! What a store of objects holds, and its removal. Objects of one key of the index are one thing: their uses are known
//! together.

use std::collections::BTreeMap;
use std::time::Duration;

use dcbuild_model::{BlobDigest, Digest, LayerId, Record, Scope, StepKey, UnixTime};
use futures::{StreamExt as _, TryStreamExt as _};

use super::fill::Filled;
use super::needs::Documents;
use super::steps::StoredRecord;
use super::{AT_ONCE, Catalog};
use crate::sweep::{Hold, Inventory, PutOff, Removal, Removed, Swept, Thing, ThingKind};
use crate::{IndexKey, ListedObject, ObjectName, StoreError};

const PREFIXES: [&str; 5] = ["blob/", "layer/", "base/", "scope/", "quarantine/"];
/// Keys that are looked up at a time.
pub(super) const KEYS_AT_ONCE: usize = 1_000;
/// How long another's filling of the index is waited for: so many times this pause.
const FILL_LOOKS: u32 = 50;
const FILL_PAUSE: Duration = Duration::from_millis(200);
/// How long a sweeper has its turn.
const TURN_SECS: i64 = 300;
/// Clocks of machines may differ by so much.
const SKEW_SECS: i64 = 60;

/// The objects of one key.
struct Group {
    kind: ThingKind,
    objects: Vec<ListedObject>,
}

impl Catalog {
    async fn groups(&self) -> Result<BTreeMap<String, Group>, StoreError> {
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        for prefix in PREFIXES {
            let mut after = None;
            loop {
                let page = self.objects().list(prefix, after.as_ref()).await?;
                after = page.objects.last().map(|object| object.name.clone());
                for object in page.objects {
                    let Some((name, kind)) = thing_of(&object.name) else { continue };
                    let group = groups.entry(name);
                    let new = || Group { kind, objects: Vec::new() };
                    group.or_insert_with(new).objects.push(object);
                }
                if !page.more || after.is_none() {
                    break;
                }
            }
        }
        Ok(groups)
    }

    /// When each was used last: by the index, or when it was written, whichever is later. An index that was flushed knows
    /// of no use, and then the time of writing is all that is left.
    async fn uses(&self, names: &[String]) -> Result<Vec<Option<UnixTime>>, StoreError> {
        let keys: Vec<IndexKey> = names.iter().cloned().map(IndexKey).collect();
        let mut uses = Vec::with_capacity(keys.len());
        for some in keys.chunks(KEYS_AT_ONCE) {
            uses.extend(self.index().last_used(some).await?);
        }
        Ok(uses)
    }

    /// Whether the index knows all that the store has; fills it if need be, or waits a while for whoever does so already.
    async fn knows_all(&self) -> Result<bool, StoreError> {
        for _ in 0..FILL_LOOKS {
            if self.index().find(&[]).await?.complete {
                return Ok(true);
            }
            match self.try_fill().await? {
                Filled::Complete => return Ok(true),
                Filled::Disturbed => return Ok(false),
                Filled::ByOthers => tokio::time::sleep(FILL_PAUSE).await,
            }
        }
        Ok(false)
    }

    /// Which of these were used since they were listed, or are not known any more.
    async fn unused_still(&self, things: &[&Thing]) -> Result<Vec<bool>, StoreError> {
        let names: Vec<String> = things.iter().map(|thing| thing.name.clone()).collect();
        let uses = self.uses(&names).await?;
        let still = |(thing, used): (&&Thing, Option<UnixTime>)| {
            used.is_none_or(|used| used <= to_millis(thing.used))
        };
        Ok(things.iter().zip(uses).map(still).collect())
    }
}

pub(super) fn object(name: &str) -> Result<ObjectName, StoreError> {
    name.parse().map_err(|source| StoreError::Name { source })
}

/// The index counts to the millisecond.
fn to_millis(time: UnixTime) -> UnixTime {
    UnixTime { secs: time.secs, nanos: time.nanos / 1_000_000 * 1_000_000 }
}

/// The scope of a thing, from its name.
fn scope_of(name: &str) -> Option<Scope> {
    let (above, _) = name.strip_prefix("scope/")?.rsplit_once('/')?;
    above.rsplit_once('/')?.0.parse().ok()
}

/// The key and the field of the index that are a record of this name.
fn field_at(name: &str) -> Option<(IndexKey, String)> {
    let (key, field) = name.rsplit_once('/')?;
    Some((IndexKey(key.to_owned()), field.to_owned()))
}

/// The key of the index that an object belongs to, and what it is; none for what is not swept.
fn thing_of(name: &ObjectName) -> Option<(String, ThingKind)> {
    let text = name.as_str();
    let (key, _) = text.rsplit_once('/')?;
    let mut words = text.split('/');
    match words.next()? {
        "blob" => Some((text.to_owned(), ThingKind::Blob)),
        "quarantine" => Some((text.to_owned(), ThingKind::Quarantined)),
        "layer" => {
            let layer = LayerId(Digest::from_hex(words.next()?).ok()?);
            Some((key.to_owned(), ThingKind::Form { layer }))
        }
        "base" => Some((key.to_owned(), ThingKind::Base)),
        "scope" => {
            let (above, last) = key.rsplit_once('/')?;
            let (scope, kind) = above.rsplit_once('/')?;
            let scope: Scope = scope.strip_prefix("scope/")?.parse().ok()?;
            match kind {
                "step" => {
                    let key_of = StepKey(Digest::from_hex(last).ok()?);
                    Some((key.to_owned(), ThingKind::Record { scope, key: key_of }))
                }
                "image" => Some((key.to_owned(), ThingKind::Image)),
                "cache" => Some((key.to_owned(), ThingKind::CacheMount)),
                _ => None,
            }
        }
        _ => None,
    }
}

#[async_trait::async_trait]
impl Swept for Catalog {
    async fn inventory(&self) -> Result<Inventory, StoreError> {
        let knows_all = self.knows_all().await?;
        let marks = self.marks().await?;
        let groups = self.groups().await?;
        let names: Vec<String> = groups.keys().cloned().collect();
        let known = self.uses(&names).await?;
        let mut things = Vec::with_capacity(groups.len());
        for ((name, group), used) in groups.into_iter().zip(known) {
            let Group { kind, objects } = group;
            let written = objects.iter().map(|object| object.modified).max().unwrap_or_default();
            let used = used.map_or(written, |used| used.max(written));
            let hold = Hold::Free;
            let size = objects.iter().map(|object| object.size).sum();
            let parts = objects.into_iter().map(|object| object.name.to_string()).collect();
            let needs = Vec::new();
            let scope = scope_of(&name);
            things.push(Thing { kind, scope, name, parts, size, written, used, hold, needs });
        }
        let documents = self.add_needs(&mut things).await?;
        for thing in &mut things {
            let used = thing.used.secs;
            let lasts = |oldest: UnixTime| used >= oldest.secs.saturating_sub(SKEW_SECS);
            thing.hold = match thing.kind {
                ThingKind::Image => Hold::Named,
                ThingKind::Quarantined => Hold::Free,
                _ if marks.oldest.is_some_and(lasts) => Hold::InUse,
                _ => Hold::Free,
            };
        }
        let unknown_uses = marks
            .unknown
            .or((!knows_all).then_some(PutOff::Filling))
            .or((documents == Documents::Foreign).then_some(PutOff::Foreign));
        Ok(Inventory { things, unknown_uses })
    }

    async fn records(&self, inventory: &Inventory) -> Result<Vec<(usize, Record)>, StoreError> {
        let things = inventory.things.iter().enumerate();
        let records = things.filter(|(_, it)| matches!(it.kind, ThingKind::Record { .. }));
        let places: Vec<usize> = records.map(|(place, _)| place).collect();
        let mut found = Vec::new();
        for some in places.chunks(KEYS_AT_ONCE) {
            let name = |place: &usize| IndexKey(inventory.things[*place].name.clone());
            let keys: Vec<IndexKey> = some.iter().map(name).collect();
            for (place, documents) in some.iter().zip(self.look(&keys).await?) {
                let stored = documents
                    .iter()
                    .filter_map(|(_, it)| serde_json::from_slice::<StoredRecord>(it).ok());
                let newest = stored.max_by_key(|it| (it.decided, it.record.attempt));
                found.extend(newest.map(|stored| (*place, stored.record)));
            }
        }
        Ok(found)
    }

    async fn take_turn(&self, holder: &str) -> Result<bool, StoreError> {
        let now = self.now();
        let until = UnixTime { secs: now.secs + TURN_SECS, ..now };
        self.index().hold("sweeper", holder, now, until).await
    }

    async fn remove(&self, things: &[&Thing]) -> Result<Removal, StoreError> {
        // A build may have begun since; what it has found was told to the index since.
        if self.marks().await?.unknown.is_some() {
            return Ok(Removal::nothing_of(things));
        }
        let (mut going, mut stayed) = (Vec::new(), Vec::new());
        for (at, (thing, still)) in things.iter().zip(self.unused_still(things).await?).enumerate()
        {
            if still { going.push(*thing) } else { stayed.push(at) }
        }
        // First nobody finds it any more. Of several records under a key the others may stay.
        let is_record =
            |thing: &&Thing| matches!(thing.kind, ThingKind::Record { .. } | ThingKind::Replaced);
        let (records, whole): (Vec<&Thing>, Vec<&Thing>) =
            going.iter().copied().partition(is_record);
        let keys: Vec<IndexKey> = whole.iter().map(|thing| IndexKey(thing.name.clone())).collect();
        self.index().remove(&keys).await?;
        let fields = records.iter().flat_map(|thing| &thing.parts);
        let fields: Vec<(IndexKey, String)> = fields.filter_map(|part| field_at(part)).collect();
        self.index().remove_fields(&fields).await?;
        let parts = going.iter().flat_map(|thing| &thing.parts);
        let objects: Vec<ObjectName> = parts.map(|part| object(part)).collect::<Result<_, _>>()?;
        let parts = objects.chunks(KEYS_AT_ONCE).map(|some| self.objects().delete(some));
        let parts: Vec<_> = parts.collect();
        futures::stream::iter(parts).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        self.forget_again(&whole, &keys).await?;
        let bytes = going.iter().map(|thing| thing.size).sum();
        let count = u64::try_from(going.len()).unwrap_or(u64::MAX);
        Ok(Removal { removed: Removed { count, bytes }, stayed })
    }

    async fn put_aside(&self, blobs: &[BlobDigest]) -> Result<Vec<Option<UnixTime>>, StoreError> {
        let looks = blobs.iter().map(|blob| async move {
            let name = format!("quarantine/sha256/{}", blob.0.hex());
            let page = self.objects().list(&name, None).await?;
            let found = page.objects.into_iter().find(|object| object.name.as_str() == name);
            Ok(found.map(|object| object.modified))
        });
        let looks: Vec<_> = looks.collect();
        futures::stream::iter(looks).buffered(AT_ONCE).try_collect().await
    }
}

impl Catalog {
    /// A blob that somebody stored in the very moment of its removal is gone, and the index must not say otherwise.
    async fn forget_again(&self, things: &[&Thing], keys: &[IndexKey]) -> Result<(), StoreError> {
        let known = self.index().last_used(keys).await?;
        let back = things
            .iter()
            .zip(keys)
            .zip(known)
            .filter(|((thing, _), known)| thing.kind == ThingKind::Blob && known.is_some());
        let back: Vec<IndexKey> = back.map(|((_, key), _)| key.clone()).collect();
        if back.is_empty() {
            return Ok(());
        }
        self.index().remove(&back).await
    }
}

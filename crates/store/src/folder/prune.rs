//! What a folder store holds, what of it may go, and its removal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dcbuild_model::limits::MANIFEST_BYTES_MAX;
use dcbuild_model::{BlobDigest, Digest, UnixTime};

use super::{FolderStore, children, modified, stat};
use crate::locks::{self, LockMode};
use crate::{NamedImage, StoreError};

/// How deep indexes of images may nest before their blobs no longer count as needed.
const NESTING_MAX: u32 = 4;

/// The kinds of things that can be pruned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EntryKind {
    /// A blob; its id is the digest's hex form.
    Blob,
    /// A step record; its id is `SCOPE/KEY/ATTEMPT`.
    Record,
    /// What is known of a layer's forms.
    Layer,
    /// The latest version of a cache mount that follows its builds; its id is `SCOPE/HEX`.
    MountVersion,
    /// A corrupt blob that was put aside.
    Quarantined,
    /// A worker's snapshot; never listed by a store, it is here so that one ceiling holds for both.
    Snapshot,
    /// A worker's cache mount; as the snapshots.
    CacheMount,
}

/// One thing that can be pruned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreEntry {
    /// What it is.
    pub kind: EntryKind,
    /// Its name among its kind.
    pub id: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last used.
    pub last_used: UnixTime,
    /// Whether something under way or a named image needs it.
    pub needed: bool,
}

/// What should go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PruneRequest {
    /// Remove the least recently used until the rest fits here.
    pub keep_bytes: Option<u64>,
    /// Remove what was not used for so long.
    pub max_age: Option<Duration>,
    /// Remove everything that is not needed.
    pub all: bool,
    /// Look at these kinds only; at all, if empty.
    pub kinds: BTreeSet<EntryKind>,
}

/// What went.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PruneReport {
    /// The removed things.
    pub removed: Vec<StoreEntry>,
    /// Their bytes.
    pub removed_bytes: u64,
    /// The bytes that stay.
    pub kept_bytes: u64,
}

/// Chooses what should go, the longest unused first; never what is needed. The entries may come from several places.
pub fn victims(entries: &[StoreEntry], request: &PruneRequest, now: UnixTime) -> Vec<StoreEntry> {
    let wanted =
        |entry: &&StoreEntry| request.kinds.is_empty() || request.kinds.contains(&entry.kind);
    // A ceiling is one for what is looked at.
    let mut total: u64 = entries.iter().filter(wanted).map(|entry| entry.size).sum();
    let mut candidates: Vec<&StoreEntry> =
        entries.iter().filter(wanted).filter(|entry| !entry.needed).collect();
    candidates.sort_by_key(|entry| (entry.last_used, entry.kind, &entry.id));
    let mut chosen = Vec::new();
    for entry in candidates {
        let age = now.secs.saturating_sub(entry.last_used.secs).max(0).unsigned_abs();
        let old = request.max_age.is_some_and(|max| age > max.as_secs());
        let over = request.keep_bytes.is_some_and(|keep| total > keep) && entry.size > 0;
        if request.all || old || over {
            total -= entry.size;
            chosen.push(entry.clone());
        }
    }
    chosen
}

impl FolderStore {
    /// Lists everything that can be pruned.
    pub fn entries(&self) -> Result<Vec<StoreEntry>, StoreError> {
        let needed_since = self.oldest_use()?;
        let named = self.named_blobs()?;
        let mut entries = Vec::new();
        for (kind, path, id) in self.files()? {
            // A file that vanished meanwhile is not there.
            let Some(metadata) = stat(&path)? else { continue };
            let last_used = modified(&metadata);
            let in_use = needed_since.is_some_and(|since| last_used >= since);
            let needed = (in_use && kind != EntryKind::Quarantined)
                || (kind == EntryKind::Blob && named.contains(&id));
            entries.push(StoreEntry { kind, id, size: metadata.len(), last_used, needed });
        }
        Ok(entries)
    }

    /// Removes what a request names and says what that was.
    pub fn prune(&self, request: &PruneRequest) -> Result<PruneReport, StoreError> {
        let entries = self.entries()?;
        let total: u64 = entries.iter().map(|entry| entry.size).sum();
        let mut report = PruneReport { kept_bytes: total, ..PruneReport::default() };
        for entry in victims(&entries, request, self.now()) {
            if self.remove_entry(&entry)? {
                report.removed_bytes += entry.size;
                report.kept_bytes -= entry.size;
                report.removed.push(entry);
            }
        }
        Ok(report)
    }

    /// Removes one entry that [`FolderStore::entries`] listed, unless it is gone or was used since; says whether it did.
    pub fn remove_entry(&self, entry: &StoreEntry) -> Result<bool, StoreError> {
        let Some(path) = self.entry_path(entry) else { return Ok(false) };
        let _gate = self.gate_alone()?;
        match stat(&path)? {
            Some(metadata) if modified(&metadata) == entry.last_used => {}
            _ => return Ok(false),
        }
        // The clock of files ticks slowly: one that was used in the very tick of its listing looks as it did then.
        if entry.kind != EntryKind::Quarantined && self.is_in_use(entry.last_used)? {
            return Ok(false);
        }
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StoreError::io(path)(error)),
        }
        if entry.kind == EntryKind::Record
            && let Some(parent) = path.parent()
        {
            // Other attempts under the key keep the folder, and then this rightly fails.
            drop(std::fs::remove_dir(parent));
        }
        Ok(true)
    }

    /// The time by the clock that `last_used` is counted in.
    pub fn time(&self) -> UnixTime {
        self.now()
    }

    fn entry_path(&self, entry: &StoreEntry) -> Option<PathBuf> {
        let dir = &self.inner.dir;
        match entry.kind {
            EntryKind::Blob => Some(self.path_of(&BlobDigest(Digest::from_hex(&entry.id).ok()?))),
            EntryKind::Record => Some(dir.join("step").join(format!("{}.json", entry.id))),
            EntryKind::Layer => Some(dir.join(format!("{}.json", entry.id))),
            EntryKind::MountVersion => {
                Some(dir.join("cache-mount").join(format!("{}.json", entry.id)))
            }
            EntryKind::Quarantined => Some(dir.join("quarantine").join(&entry.id)),
            EntryKind::Snapshot | EntryKind::CacheMount => None,
        }
    }

    fn files(&self) -> Result<Vec<(EntryKind, PathBuf, String)>, StoreError> {
        let dir = &self.inner.dir;
        let mut files = Vec::new();
        for folder in children(&dir.join("blobs/sha256"))? {
            for path in children(&folder)? {
                let id = name(&path);
                files.push((EntryKind::Blob, path, id));
            }
        }
        for scope in children(&dir.join("step"))? {
            for key in children(&scope)? {
                for path in children(&key)? {
                    let id = format!("{}/{}/{}", name(&scope), name(&key), stem(&path));
                    files.push((EntryKind::Record, path, id));
                }
            }
        }
        for folder in ["layer", "base"] {
            for path in children(&dir.join(folder))? {
                let id = format!("{folder}/{}", stem(&path));
                files.push((EntryKind::Layer, path, id));
            }
        }
        for scope in children(&dir.join("cache-mount"))? {
            for path in children(&scope)? {
                let id = format!("{}/{}", name(&scope), stem(&path));
                files.push((EntryKind::MountVersion, path, id));
            }
        }
        for path in children(&dir.join("quarantine"))? {
            let id = name(&path);
            files.push((EntryKind::Quarantined, path, id));
        }
        Ok(files)
    }

    /// Whether what was used at this time may still be needed by somebody, in any process.
    pub fn is_in_use(&self, last_used: UnixTime) -> Result<bool, StoreError> {
        Ok(self.oldest_use()?.is_some_and(|began| last_used >= began))
    }

    /// When the oldest time of use that still lasts began; files of dead ones are removed on the way.
    pub(super) fn oldest_use(&self) -> Result<Option<UnixTime>, StoreError> {
        let mut oldest: Option<UnixTime> = None;
        for path in children(&self.inner.dir.join("use"))? {
            let dead = locks::acquire(&path, LockMode::Exclusive).map_err(StoreError::io(&path))?;
            if dead.is_some() {
                continue;
            }
            let Some(metadata) = stat(&path)? else { continue };
            let began = modified(&metadata);
            oldest = Some(oldest.map_or(began, |oldest| oldest.min(began)));
        }
        Ok(oldest)
    }

    fn named_blobs(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut blobs = BTreeSet::new();
        for scope in children(&self.inner.dir.join("image"))? {
            for image in self.images_below(&scope)? {
                self.add_needed(image.manifest.0, NESTING_MAX, &mut blobs);
            }
        }
        Ok(blobs)
    }

    /// The blobs of a named image, in hex form.
    pub(super) fn blobs_of(&self, image: &NamedImage) -> BTreeSet<String> {
        let mut blobs = BTreeSet::new();
        self.add_needed(image.manifest.0, NESTING_MAX, &mut blobs);
        blobs
    }

    /// Adds a manifest and all that it names. What cannot be read keeps its name only: nothing more is known of it.
    fn add_needed(&self, manifest: Digest, nesting: u32, blobs: &mut BTreeSet<String>) {
        if !blobs.insert(manifest.hex()) || nesting == 0 {
            return;
        }
        let path = self.path_of(&BlobDigest(manifest));
        let limit = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        if !matches!(stat(&path), Ok(Some(metadata)) if metadata.len() <= limit) {
            return;
        }
        let Ok(bytes) = std::fs::read(&path) else { return };
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return };
        let list = |key: &str| document.get(key).and_then(serde_json::Value::as_array).cloned();
        let digest_of = |value: &serde_json::Value| {
            value.get("digest").and_then(serde_json::Value::as_str)?.parse::<Digest>().ok()
        };
        for child in list("manifests").unwrap_or_default().iter().filter_map(digest_of) {
            self.add_needed(child, nesting - 1, blobs);
        }
        let layers = list("layers").unwrap_or_default();
        let config = document.get("config").and_then(digest_of);
        blobs.extend(layers.iter().filter_map(digest_of).chain(config).map(|blob| blob.hex()));
    }
}

pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

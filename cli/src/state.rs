//! The state folder of builds on this machine: where each part of it lies, what it takes, and taking it back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use dcbuild_model::{LayerId, UnixTime};
use dcbuild_process::{ByteSize, Clock, SystemClock};
use dcbuild_progress::text::bytes as bytes_text;
use dcbuild_snapshot::{Removal, Snapshots};
use dcbuild_store::{EntryKind, FolderStore, PruneRequest, StoreEntry, victims};
use dcbuild_worker::caches::{CacheMount, Caches};

/// A folder by its whole path: the sandbox's helper works in a folder of its own, where a relative one leads nowhere.
pub(crate) fn absolute(dir: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(dir).with_context(|| format!("'{}' is no folder", dir.display()))
}

/// What dcbuild keeps in a folder of its own: where one of these is, the folder is that.
const OWN: [&str; 4] = ["log-1", "near", "snapshots", "worker/snapshots"];

/// Makes a folder that other accounts of the machine may not enter: logs, what steps print and what they leave lies there.
/// One that is there already is closed to them if it is dcbuild's.
pub(crate) fn make_private(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
    if let Some(above) = dir.parent() {
        std::fs::create_dir_all(above)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let found = std::fs::metadata(dir)?;
    let is_ours = found.uid() == rustix::process::geteuid().as_raw()
        && OWN.iter().any(|name| dir.join(name).exists());
    if found.mode() & 0o077 != 0 && is_ours {
        let private = std::fs::Permissions::from_mode(found.mode() & 0o7700);
        std::fs::set_permissions(dir, private)?;
    }
    Ok(())
}

/// What to do where the state folder cannot be written.
pub(crate) const ELSEWHERE: &str =
    "DCBUILD_STATE_DIR, or build.state_dir in the configuration, can name another";

/// The folders below a state folder.
pub(crate) struct State {
    dir: PathBuf,
}

impl State {
    pub(crate) fn at(dir: &Path) -> anyhow::Result<State> {
        Ok(State { dir: absolute(dir)? })
    }

    /// Blobs, records and image names.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// What the worker in this process keeps: snapshots and cache mounts.
    pub(crate) fn worker(&self) -> PathBuf {
        self.dir.join("worker")
    }

    /// The digests of context files by their stat.
    pub(crate) fn stat_cache(&self) -> PathBuf {
        self.dir.join("context")
    }

    /// Files that ADD fetched.
    pub(crate) fn fetched(&self) -> PathBuf {
        self.dir.join("fetched")
    }

    /// Notes of what a bucket is still to get.
    pub(crate) fn waiting(&self, url: &str) -> PathBuf {
        self.dir.join("waiting").join(dcbuild_model::Digest::of(url.as_bytes()).hex())
    }
    fn snapshots(&self) -> PathBuf {
        self.worker().join("snapshots")
    }

    fn open(&self) -> anyhow::Result<Kept> {
        let store = self.open_store()?;
        let locks = store.locks().context("could not open the locks of the store")?;
        let snapshots = Snapshots::open(&self.snapshots()).with_context(|| {
            format!("could not open the snapshots in {}", self.snapshots().display())
        })?;
        Ok(Kept { store, snapshots, caches: Caches::of(&self.worker(), locks) })
    }

    /// Opens the store of this machine.
    pub(crate) fn open_store(&self) -> anyhow::Result<FolderStore> {
        let dir = self.store();
        // What cannot be made private cannot be opened either, and that is told.
        let _private = make_private(&self.dir);
        FolderStore::open(&dir)
            .with_context(|| format!("could not open the store in {} ({ELSEWHERE})", dir.display()))
    }

    /// What everything takes, by kind; in full also what each cache mount takes.
    pub(crate) fn usage(&self, format: Format, detail: Detail) -> anyhow::Result<String> {
        let kept = self.open()?;
        let caches = kept.caches.list()?;
        let entries = kept.entries(&caches)?;
        Ok(match format {
            Format::Text => usage_text(&entries, &caches, detail),
            Format::Json => usage_json(&entries, &caches),
        })
    }

    /// Removes what the request names; all kinds count against one ceiling.
    pub(crate) fn prune(&self, request: &PruneRequest) -> anyhow::Result<String> {
        let kept = self.open()?;
        kept.sweep()?;
        let entries = kept.entries(&kept.caches.list()?)?;
        let total: u64 = entries.iter().map(|entry| entry.size).sum();
        let (count, bytes) = kept.remove_all(&entries, request)?;
        let stay = bytes_text(total.saturating_sub(bytes));
        if count == 0 && !request.all {
            return Ok(format!("nothing to remove: {stay} stay{}\n", more(request)));
        }
        Ok(format!("removed {count} entries, {}; {stay} stay\n", bytes_text(bytes)))
    }

    /// Holds the ceiling after a build; what is in use stays.
    pub(crate) fn hold_ceiling(&self, keep: ByteSize) -> anyhow::Result<()> {
        let request = PruneRequest { keep_bytes: Some(keep.0), ..PruneRequest::default() };
        let kept = self.open()?;
        let entries = kept.entries(&kept.caches.list()?)?;
        kept.remove_all(&entries, &request).map(drop)
    }
}

/// What would remove more than a request that found nothing.
fn more(request: &PruneRequest) -> &'static str {
    match (request.max_age, request.keep_bytes) {
        (Some(_), _) => "; all of it was used since then",
        // The usual ceiling.
        (None, _) if request.kinds.is_empty() => "; --all removes what nobody uses",
        (None, _) => "",
    }
}

/// All that builds on this machine have left.
struct Kept {
    store: FolderStore,
    snapshots: Snapshots,
    caches: Caches,
}

impl Kept {
    /// Removes what dead processes left half done.
    fn sweep(&self) -> anyhow::Result<()> {
        // No attempt of a machine's own builds outlives its process.
        self.snapshots.sweep(&BTreeSet::new()).context("could not sweep the snapshots")
    }

    /// Removes what the request names of these, and says how many that were and their bytes.
    fn remove_all(
        &self,
        entries: &[StoreEntry],
        request: &PruneRequest,
    ) -> anyhow::Result<(u64, u64)> {
        let victims = victims(entries, request, SystemClock.now());
        // Nothing goes of which nobody can say why; where there is no space for a word, it is said when there is.
        let noted = self.store.note_victims(&victims, request);
        let is_late = matches!(&noted, Err(error) if error.is_for_want_of_space());
        if !is_late {
            noted?;
        }
        let (mut count, mut bytes) = (0, 0);
        for entry in &victims {
            if self.remove(entry)? {
                count += 1;
                bytes += entry.size;
            }
        }
        if is_late {
            self.store.note_victims(&victims, request)?;
        }
        Ok((count, bytes))
    }

    fn entries(&self, caches: &[CacheMount]) -> anyhow::Result<Vec<StoreEntry>> {
        let mut entries = self.store.entries()?;
        for usage in self.snapshots.usage()? {
            entries.push(StoreEntry {
                kind: EntryKind::Snapshot,
                id: usage.layer.0.hex(),
                size: usage.bytes,
                last_used: usage.last_used,
                needed: self.store.is_in_use(usage.last_used)?,
            });
        }
        // A build that goes on and has none mounted finds another one empty: that is what a cache mount may be.
        entries.extend(caches.iter().map(|cache| StoreEntry {
            kind: EntryKind::CacheMount,
            id: cache.name.clone(),
            size: cache.bytes,
            last_used: cache.last_used,
            needed: cache.in_use,
        }));
        Ok(entries)
    }

    /// Removes an entry, unless somebody has come to need it.
    fn remove(&self, entry: &StoreEntry) -> anyhow::Result<bool> {
        match entry.kind {
            EntryKind::Snapshot => {
                let Ok(digest) = dcbuild_model::Digest::from_hex(&entry.id) else {
                    bail!("the snapshot '{}' has no layer's name", entry.id);
                };
                let is_needed = |last_used| {
                    // What cannot be told is taken for the worse.
                    last_used != entry.last_used || self.store.is_in_use(last_used).unwrap_or(true)
                };
                let removal = self.snapshots.remove_unless(&LayerId(digest), is_needed)?;
                Ok(removal == Removal::Removed)
            }
            EntryKind::CacheMount => Ok(self.caches.remove(&entry.id, entry.last_used)?),
            EntryKind::Blob
            | EntryKind::Record
            | EntryKind::Layer
            | EntryKind::MountVersion
            | EntryKind::Quarantined => Ok(self.store.remove_entry(entry)?),
        }
    }
}

/// How much is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Detail {
    Sums,
    Full,
}

/// How a table is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    // For people, and for programs; comments for the help would take three lines for each flag.
    Text,
    Json,
}

const KINDS: [(EntryKind, &str); 7] = [
    (EntryKind::Blob, "blobs"),
    (EntryKind::Snapshot, "snapshots"),
    (EntryKind::CacheMount, "cache mounts"),
    (EntryKind::Record, "records"),
    (EntryKind::Layer, "layer forms"),
    (EntryKind::MountVersion, "versions"),
    (EntryKind::Quarantined, "quarantined"),
];

fn sums(entries: &[StoreEntry]) -> impl Iterator<Item = (&'static str, u64, u64)> {
    KINDS.into_iter().map(|(kind, name)| {
        let of_kind = || entries.iter().filter(|entry| entry.kind == kind);
        let count = u64::try_from(of_kind().count()).unwrap_or(u64::MAX);
        (name, count, of_kind().map(|entry| entry.size).sum())
    })
}

fn usage_text(entries: &[StoreEntry], caches: &[CacheMount], detail: Detail) -> String {
    let mut text = format!("{:<14}{:>10}{:>14}\n", "KIND", "COUNT", "SIZE");
    let mut total = 0;
    for (name, count, bytes) in sums(entries) {
        total += bytes;
        text.push_str(&format!("{name:<14}{count:>10}{:>14}\n", bytes_text(bytes)));
    }
    text.push_str(&format!("{:<14}{:>10}{:>14}\n", "total", entries.len(), bytes_text(total)));
    if detail == Detail::Full && !caches.is_empty() {
        text.push_str(&format!("\n{:<40}{:>14}  {:<22}USED\n", "CACHE MOUNT", "SIZE", "LAST"));
        for cache in caches {
            let used = if cache.in_use { "now" } else { "" };
            let size = bytes_text(cache.bytes);
            text.push_str(
                format!("{:<40}{size:>14}  {:<22}{used}", cache.id, second(cache.last_used))
                    .trim_end(),
            );
            text.push('\n');
        }
    }
    text
}

fn usage_json(entries: &[StoreEntry], caches: &[CacheMount]) -> String {
    let kinds: Vec<serde_json::Value> = sums(entries)
        .map(|(name, count, bytes)| serde_json::json!({ "kind": name, "count": count, "bytes": bytes }))
        .collect();
    let caches: Vec<serde_json::Value> = caches
        .iter()
        .map(|cache| {
            serde_json::json!({
                "id": cache.id,
                "bytes": cache.bytes,
                "last_used": second(cache.last_used),
                "in_use": cache.in_use,
            })
        })
        .collect();
    let total: u64 = entries.iter().map(|entry| entry.size).sum();
    let all = serde_json::json!({ "kinds": kinds, "cache_mounts": caches, "total_bytes": total });
    format!("{all}\n")
}

fn second(time: UnixTime) -> String {
    UnixTime { nanos: 0, ..time }.rfc3339()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_named_an_age_is_not_told_of_all() {
        let age = Some(std::time::Duration::from_hours(24));
        let with =
            |max_age, keep_bytes| PruneRequest { max_age, keep_bytes, ..PruneRequest::default() };
        assert!(more(&with(age, None)).contains("used since then"));
        assert!(more(&with(None, Some(7))).contains("--all"));
    }
}

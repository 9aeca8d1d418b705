//! The state folder of builds on this machine: where each part of it lies, what it takes, and taking it back.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use dcbuild_model::LayerId;
use dcbuild_process::{ByteSize, Clock, SystemClock};
use dcbuild_progress::text::bytes as bytes_text;
use dcbuild_snapshot::{Removal, Snapshots};
use dcbuild_store::{EntryKind, FolderStore, PruneRequest, StoreEntry, victims};

/// A folder by its whole path: the sandbox's helper works in a folder of its own, where a relative one leads nowhere.
pub(crate) fn absolute(dir: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(dir).with_context(|| format!("'{}' is no folder", dir.display()))
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

    fn snapshots(&self) -> PathBuf {
        self.worker().join("snapshots")
    }

    fn open(&self) -> anyhow::Result<(FolderStore, Snapshots)> {
        let store = self.open_store()?;
        let snapshots = Snapshots::open(&self.snapshots()).with_context(|| {
            format!("could not open the snapshots in {}", self.snapshots().display())
        })?;
        Ok((store, snapshots))
    }

    /// Opens the store of this machine.
    pub(crate) fn open_store(&self) -> anyhow::Result<FolderStore> {
        let dir = self.store();
        FolderStore::open(&dir)
            .with_context(|| format!("could not open the store in {} ({ELSEWHERE})", dir.display()))
    }

    fn entries(store: &FolderStore, snapshots: &Snapshots) -> anyhow::Result<Vec<StoreEntry>> {
        let mut entries = store.entries()?;
        entries.extend(snapshots.usage()?.into_iter().map(|usage| StoreEntry {
            kind: EntryKind::Snapshot,
            id: usage.layer.0.hex(),
            size: usage.bytes,
            last_used: usage.last_used,
            needed: false,
        }));
        Ok(entries)
    }

    /// What everything takes, by kind.
    pub(crate) fn usage(&self, format: Format) -> anyhow::Result<String> {
        let (store, snapshots) = self.open()?;
        let entries = State::entries(&store, &snapshots)?;
        Ok(match format {
            Format::Text => usage_text(&entries),
            Format::Json => usage_json(&entries),
        })
    }

    /// Removes what the request names; snapshots and blobs count against one ceiling.
    pub(crate) fn prune(&self, request: &PruneRequest) -> anyhow::Result<String> {
        let (store, snapshots) = self.open()?;
        let entries = State::entries(&store, &snapshots)?;
        let total: u64 = entries.iter().map(|entry| entry.size).sum();
        let (mut count, mut bytes) = (0u64, 0u64);
        for entry in victims(&entries, request, SystemClock.now()) {
            if remove(&store, &snapshots, &entry)? {
                count += 1;
                bytes += entry.size;
            }
        }
        let kept = total.saturating_sub(bytes);
        if count == 0 && !request.all {
            return Ok(format!(
                "nothing to remove: {} stay; --all removes what nobody uses\n",
                bytes_text(kept)
            ));
        }
        Ok(format!("removed {count} entries, {}; {} stay\n", bytes_text(bytes), bytes_text(kept)))
    }

    /// Holds the ceiling after a build; what is in use stays.
    pub(crate) fn hold_ceiling(&self, keep: ByteSize) -> anyhow::Result<()> {
        let request = PruneRequest { keep_bytes: Some(keep.0), ..PruneRequest::default() };
        let (store, snapshots) = self.open()?;
        let entries = State::entries(&store, &snapshots)?;
        for entry in victims(&entries, &request, SystemClock.now()) {
            remove(&store, &snapshots, &entry)?;
        }
        Ok(())
    }
}

fn remove(store: &FolderStore, snapshots: &Snapshots, entry: &StoreEntry) -> anyhow::Result<bool> {
    if entry.kind != EntryKind::Snapshot {
        return Ok(store.remove_entry(entry)?);
    }
    let Ok(digest) = dcbuild_model::Digest::from_hex(&entry.id) else {
        bail!("the snapshot '{}' has no layer's name", entry.id);
    };
    Ok(snapshots.remove(&LayerId(digest))? == Removal::Removed)
}

/// How a table is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    // For people, and for programs; comments for the help would take three lines for each flag.
    Text,
    Json,
}

const KINDS: [(EntryKind, &str); 5] = [
    (EntryKind::Blob, "blobs"),
    (EntryKind::Snapshot, "snapshots"),
    (EntryKind::Record, "records"),
    (EntryKind::Layer, "layer forms"),
    (EntryKind::Quarantined, "quarantined"),
];

fn sums(entries: &[StoreEntry]) -> impl Iterator<Item = (&'static str, u64, u64)> {
    KINDS.into_iter().map(|(kind, name)| {
        let of_kind = || entries.iter().filter(|entry| entry.kind == kind);
        let count = u64::try_from(of_kind().count()).unwrap_or(u64::MAX);
        (name, count, of_kind().map(|entry| entry.size).sum())
    })
}

fn usage_text(entries: &[StoreEntry]) -> String {
    let mut text = format!("{:<14}{:>10}{:>14}\n", "KIND", "COUNT", "SIZE");
    let mut total = 0;
    for (name, count, bytes) in sums(entries) {
        total += bytes;
        text.push_str(&format!("{name:<14}{count:>10}{:>14}\n", bytes_text(bytes)));
    }
    text.push_str(&format!("{:<14}{:>10}{:>14}\n", "total", entries.len(), bytes_text(total)));
    text
}

fn usage_json(entries: &[StoreEntry]) -> String {
    let kinds: Vec<serde_json::Value> = sums(entries)
        .map(|(name, count, bytes)| serde_json::json!({ "kind": name, "count": count, "bytes": bytes }))
        .collect();
    let total: u64 = entries.iter().map(|entry| entry.size).sum();
    format!("{}\n", serde_json::json!({ "kinds": kinds, "total_bytes": total }))
}

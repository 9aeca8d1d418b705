//! What waits, on disk: so that another process sends what this one could not.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use dcbuild_model::{BlobDigest, Digest};

use super::queue::Item;
use crate::{ObjectName, StoreError};

const BLOB: &str = "blob-";
const DOCUMENT: &str = "document-";

/// A folder with a file for each thing that waits.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    /// Held from the look at what waits to the note of it.
    noting: Mutex<()>,
}

impl Disk {
    pub(super) fn open(dir: &Path) -> Result<Disk, StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::io(dir))?;
        Ok(Disk { dir: dir.to_owned(), noting: Mutex::new(()) })
    }

    fn path(&self, item: &Item) -> PathBuf {
        self.dir.join(match item {
            Item::Blob(blob, _) => format!("{BLOB}{}", blob.0.hex()),
            Item::Document(name, _) => {
                format!("{DOCUMENT}{}", Digest::of(name.as_str().as_bytes()).hex())
            }
        })
    }

    /// Makes the note of something what `waiting` says just then.
    pub(super) fn set(
        &self,
        item: &Item,
        waiting: impl FnOnce() -> Option<Item>,
    ) -> Result<(), StoreError> {
        let _noting = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting() {
            Some(waits) => self.add(&waits),
            None => self.remove(item),
        }
    }

    /// Notes that something waits, whole or not at all.
    fn add(&self, item: &Item) -> Result<(), StoreError> {
        let path = self.path(item);
        let mut file =
            tempfile::NamedTempFile::new_in(&self.dir).map_err(StoreError::io(&self.dir))?;
        let content = match item {
            Item::Blob(_, size) => size.to_string().into_bytes(),
            Item::Document(name, bytes) => [name.as_str().as_bytes(), b"\n", bytes].concat(),
        };
        file.write_all(&content).map_err(StoreError::io(&path))?;
        let placed = file.persist(&path);
        placed.map(drop).map_err(|error| StoreError::io(&path)(error.error))
    }

    /// Takes the note away.
    fn remove(&self, item: &Item) -> Result<(), StoreError> {
        let path = self.path(item);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io(path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What an earlier process left: the blobs first, for its documents may lean on any of them.
    pub(super) fn left(&self) -> Result<Vec<Item>, StoreError> {
        let (mut blobs, mut documents) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.dir).map_err(StoreError::io(&self.dir))? {
            let path = entry.map_err(StoreError::io(&self.dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let bytes = std::fs::read(&path).map_err(StoreError::io(&path))?;
            match read(name, bytes.into()) {
                Some(item @ Item::Blob(..)) => blobs.push(item),
                Some(item @ Item::Document(..)) => documents.push(item),
                // A crash left it half written.
                None => std::fs::remove_file(&path).map_err(StoreError::io(&path))?,
            }
        }
        blobs.append(&mut documents);
        Ok(blobs)
    }
}

fn read(name: &str, bytes: Bytes) -> Option<Item> {
    if let Some(hex) = name.strip_prefix(BLOB) {
        let size = std::str::from_utf8(&bytes).ok()?.parse().ok()?;
        return Some(Item::Blob(BlobDigest(Digest::from_hex(hex).ok()?), size));
    }
    name.strip_prefix(DOCUMENT)?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let name: ObjectName = std::str::from_utf8(bytes.get(..end)?).ok()?.parse().ok()?;
    Some(Item::Document(name, bytes.slice(end + 1..)))
}

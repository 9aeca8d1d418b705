//! The blobs of a folder store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dcbuild_model::limits::CHUNK_BYTES;
use dcbuild_model::{BlobDigest, Digest, UnixTime};
use futures::StreamExt;
use sha2::Digest as _;

use super::gate::Gate;
use super::{FolderStore, children, modified, open, stat};
use crate::{BlobStore, BlobStream, ByteRange, StoreError};

/// How many uses are noted at one passage of the gate; whoever removes waits as long.
const NOTED_AT_ONCE: usize = 256;

/// A read under way.
struct Reading {
    store: FolderStore,
    blob: BlobDigest,
    file: File,
    left: u64,
    /// Kept for whole reads only.
    hash: Option<sha2::Sha256>,
}

impl Reading {
    /// Reads the next piece; the end of a whole read is where its digest is compared.
    fn next(mut self) -> Result<Option<(Bytes, Reading)>, StoreError> {
        let path = self.store.path_of(&self.blob);
        let want = usize::try_from(self.left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let mut piece = Vec::with_capacity(want);
        let limit = u64::try_from(want).unwrap_or(0);
        (&mut self.file).take(limit).read_to_end(&mut piece).map_err(StoreError::io(path))?;
        if !piece.is_empty() {
            if let Some(hash) = &mut self.hash {
                hash.update(&piece);
            }
            self.left -= u64::try_from(piece.len()).unwrap_or(0);
            return Ok(Some((piece.into(), self)));
        }
        let found = self.hash.map(|hash| Digest(hash.finalize().into()));
        if found.is_some_and(|found| found != self.blob.0) {
            return Err(self.store.quarantine(self.blob)?);
        }
        Ok(None)
    }
}

impl FolderStore {
    /// Whether the blob is there; a note of its use is made.
    pub fn has(&self, blob: &BlobDigest) -> Result<bool, StoreError> {
        self.has_within(&self.gate()?, blob)
    }

    fn has_within(&self, _gate: &Gate, blob: &BlobDigest) -> Result<bool, StoreError> {
        let path = self.path_of(blob);
        let Some(metadata) = stat(&path)? else { return Ok(false) };
        // A crash can leave the name without the bytes: the file is then empty.
        if metadata.len() == 0 && blob.0 != Digest::of(b"") {
            return Ok(false);
        }
        self.touch(&path, modified(&metadata));
        Ok(true)
    }

    /// Reads and verifies a whole blob that is expected to be small; one larger than `max` is an error.
    pub fn get_bytes(&self, blob: &BlobDigest, max: u64) -> Result<Bytes, StoreError> {
        let mut file = self.open_blob(blob)?;
        let path = self.path_of(blob);
        let mut bytes = Vec::new();
        let limit = max.saturating_add(1);
        (&mut file).take(limit).read_to_end(&mut bytes).map_err(StoreError::io(path))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
            return Err(StoreError::TooLarge { blob: *blob, max });
        }
        if Digest::of(&bytes) != blob.0 {
            return Err(self.quarantine(*blob)?);
        }
        Ok(bytes.into())
    }

    /// Opens a blob's file for reading in place; who reads it verifies it.
    pub fn open_blob(&self, blob: &BlobDigest) -> Result<File, StoreError> {
        let path = self.path_of(blob);
        let _gate = self.gate()?;
        let file = open(&path)?.ok_or(StoreError::NotFound { blob: *blob })?;
        self.touch(&path, modified(&file.metadata().map_err(StoreError::io(&path))?));
        Ok(file)
    }

    /// Puts a corrupt blob out of the way, for a person to look at, and returns what to answer.
    pub fn quarantine(&self, blob: BlobDigest) -> Result<StoreError, StoreError> {
        let path = self.path_of(&blob);
        let number = self.inner.names.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{number}", blob.0.hex(), std::process::id());
        match std::fs::rename(&path, self.inner.dir.join("quarantine").join(name)) {
            Ok(()) => {
                self.inner.quarantined.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%blob, "a corrupt blob was put in quarantine");
            }
            // Another reader was quicker.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io(path)(error)),
        }
        Ok(StoreError::Corrupt { blob })
    }

    /// When each of these blobs was put in quarantine. A file that is moved keeps the time of its bytes, and carries the time
    /// of its move beside it.
    pub(super) fn when_put_aside(
        &self,
        blobs: &[BlobDigest],
    ) -> Result<Vec<Option<UnixTime>>, StoreError> {
        use std::os::unix::fs::MetadataExt as _;
        let mut moved: BTreeMap<String, UnixTime> = BTreeMap::new();
        for path in children(&self.inner.dir.join("quarantine"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some((hex, _)) = name.split_once('-') else { continue };
            let Some(metadata) = stat(&path)? else { continue };
            let nanos = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
            let time = UnixTime { secs: metadata.ctime(), nanos };
            let last = moved.entry(hex.to_owned()).or_insert(time);
            *last = (*last).max(time);
        }
        Ok(blobs.iter().map(|blob| moved.get(&blob.0.hex()).copied()).collect())
    }

    fn start_reading(&self, blob: BlobDigest, range: ByteRange) -> Result<Reading, StoreError> {
        let mut file = self.open_blob(&blob)?;
        if range.start > 0 {
            let path = self.path_of(&blob);
            file.seek(SeekFrom::Start(range.start)).map_err(StoreError::io(path))?;
        }
        let hash = (range == ByteRange::ALL).then(sha2::Sha256::new);
        let left = range.length.unwrap_or(u64::MAX);
        Ok(Reading { store: self.clone(), blob, file, left, hash })
    }
}

#[async_trait::async_trait]
impl BlobStore for FolderStore {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        let blobs = blobs.to_vec();
        self.blocking(move |store| {
            let mut missing = Vec::new();
            for some in blobs.chunks(NOTED_AT_ONCE) {
                let gate = store.gate()?;
                for blob in some {
                    if !store.has_within(&gate, blob)? {
                        missing.push(*blob);
                    }
                }
            }
            Ok(missing)
        })
        .await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let blob = *blob;
        let reading = self.blocking(move |store| store.start_reading(blob, range)).await?;
        let pieces = futures::stream::try_unfold(reading, |reading| async move {
            tokio::task::spawn_blocking(move || reading.next())
                .await
                .unwrap_or(Err(StoreError::Stopped))
        });
        Ok(pieces.boxed())
    }

    async fn put(&self, blob: &BlobDigest, mut content: BlobStream) -> Result<u64, StoreError> {
        let blob = *blob;
        let tmp = self.inner.tmp.clone();
        let mut writer = self.blocking(FolderStore::blob_writer).await?;
        while let Some(piece) = content.next().await {
            let piece = piece?;
            let tmp = tmp.clone();
            let work = move || {
                writer.write_all(&piece).map_err(StoreError::io(tmp))?;
                Ok(writer)
            };
            writer = tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Stopped))?;
        }
        self.blocking(move |_| writer.finish_as(&blob)).await
    }
}

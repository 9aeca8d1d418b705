//! Writing a blob from blocking code.

use std::io::{self, Write};
use std::path::Path;

use dcbuild_model::{BlobDigest, Digest};
use sha2::Digest as _;

use super::{FolderStore, modified, stat};
use crate::StoreError;

/// Takes a blob's bytes and hashes them on the way; dropped unfinished, it leaves nothing.
pub struct BlobWriter {
    store: FolderStore,
    file: tempfile::NamedTempFile,
    hash: sha2::Sha256,
    size: u64,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        let (taken, _) = bytes.split_at(written);
        self.hash.update(taken);
        self.size += u64::try_from(written).unwrap_or(0);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter {
    /// Gives the blob its name and says it, with its size.
    pub fn finish(self) -> Result<(BlobDigest, u64), StoreError> {
        let blob = BlobDigest(Digest(self.hash.clone().finalize().into()));
        if !self.is_there(&blob)? {
            self.store.publish(self.file, &self.store.path_of(&blob))?;
        }
        Ok((blob, self.size))
    }

    /// Whether somebody stored it already; a note of its use is made then.
    fn is_there(&self, blob: &BlobDigest) -> Result<bool, StoreError> {
        let path = self.store.path_of(blob);
        let _gate = self.store.gate()?;
        let there = stat(&path)?.filter(|there| there.len() == self.size);
        if let Some(there) = &there {
            self.store.touch(&path, modified(there));
        }
        Ok(there.is_some())
    }

    /// As [`BlobWriter::finish`], but only if the bytes are those of this blob.
    pub fn finish_as(self, expected: &BlobDigest) -> Result<u64, StoreError> {
        let found = BlobDigest(Digest(self.hash.clone().finalize().into()));
        if found != *expected {
            return Err(StoreError::DigestMismatch { expected: *expected, found });
        }
        self.finish().map(|(_, size)| size)
    }
}

impl FolderStore {
    /// Starts a blob whose name is not known yet.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        let file = tempfile::NamedTempFile::new_in(&self.inner.tmp)
            .map_err(StoreError::io(&self.inner.tmp))?;
        Ok(BlobWriter { store: self.clone(), file, hash: sha2::Sha256::new(), size: 0 })
    }

    /// Stores bytes that are in memory.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<BlobDigest, StoreError> {
        let mut writer = self.blob_writer()?;
        writer.write_all(bytes).map_err(StoreError::io(&self.inner.tmp))?;
        Ok(writer.finish()?.0)
    }

    /// Stores a copy of a file.
    pub fn put_file(&self, path: &Path) -> Result<(BlobDigest, u64), StoreError> {
        let mut file = std::fs::File::open(path).map_err(StoreError::io(path))?;
        let mut writer = self.blob_writer()?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = io::Read::read(&mut file, &mut buffer).map_err(StoreError::io(path))?;
            if count == 0 {
                return writer.finish();
            }
            let (piece, _) = buffer.split_at(count);
            writer.write_all(piece).map_err(StoreError::io(&self.inner.tmp))?;
        }
    }
}

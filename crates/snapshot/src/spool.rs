//! Unpacks a blob while it streams by: contents go to numbered files first, so that no name of the layer's is used
//! before the whole layer is known.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use dcbuild_layer::{LayerForm, LayerSink, ReadLayer, ReadLayerError, read_layer};
use dcbuild_model::{ContentDigest, TreePath};
use dcbuild_tree::{FileBody, Origin};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::Mode;

use crate::beneath;
use crate::fault::{at, inside};
use crate::materialise::{MakeFile, MaterialiseError, build};
use crate::reap;
use crate::snapshots::{Keeps, Snapshot, Snapshots};

/// Says why a blob could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The blob is wrong, or its reader failed.
    #[error(transparent)]
    Read(#[from] ReadLayerError),
    /// What it holds could not be written as a folder.
    #[error(transparent)]
    Write(#[from] MaterialiseError),
    /// The blob is not the one that was asked for.
    #[error("the blob's digest is not the one that was asked for")]
    Refused,
}

impl Snapshots {
    /// Streams a blob once, unpacks it and keeps the folder if `accept` finds its digests right, and completes it where
    /// its tar could not say all.
    pub fn unpack(
        &self,
        input: impl Read + Send,
        form: LayerForm,
        accept: impl FnOnce(&mut ReadLayer) -> bool,
    ) -> Result<(Snapshot, ReadLayer), UnpackError> {
        let temp = self.temp(Snapshots::unique()).map_err(MaterialiseError::Io)?;
        match unpack_into((&temp.fd, self.keeps), input, form, accept) {
            Ok(read) => {
                let published = self.publish(temp, read.layer, &read.changes);
                let snapshot = published.map_err(MaterialiseError::Io)?;
                Ok((snapshot, read))
            }
            Err(error) => {
                self.discard(temp).map_err(MaterialiseError::Io)?;
                Err(error)
            }
        }
    }
}

fn unpack_into(
    (temp, keeps): (&OwnedFd, Keeps),
    input: impl Read + Send,
    form: LayerForm,
    accept: impl FnOnce(&mut ReadLayer) -> bool,
) -> Result<ReadLayer, UnpackError> {
    let root = TreePath::root();
    let io = |error: rustix::io::Errno| {
        MaterialiseError::Io(inside("spool the contents of", &root)(error))
    };
    rustix::fs::mkdirat(temp, "spool", Mode::RWXU).map_err(io)?;
    let folder = beneath::open_child(temp, b"spool").map_err(io)?;
    let mut spool = Spool { folder, next: 0, open: None, kept: HashMap::new() };
    let mut read = read_layer(input, form, &mut spool)?;
    if !accept(&mut read) {
        return Err(UnpackError::Refused);
    }
    let Spool { folder, kept, .. } = spool;
    let maker = MoveContent { folder, kept: Mutex::new(kept) };
    build((temp, keeps), &read.changes, &maker)?;
    reap::remove(temp, b"spool").map_err(io)?;
    Ok(read)
}

struct Spool {
    folder: OwnedFd,
    next: u64,
    open: Option<(String, File)>,
    kept: HashMap<ContentDigest, Vec<String>>,
}

impl LayerSink for Spool {
    fn begin(&mut self, _: &TreePath, _: u64) -> io::Result<()> {
        let name = self.next.to_string();
        self.next += 1;
        let file = beneath::create_file(&self.folder, name.as_bytes())?;
        self.open = Some((name, file.into()));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.open {
            Some((_, file)) => file.write_all(bytes),
            None => Ok(()),
        }
    }

    fn end(&mut self, content: &ContentDigest) -> io::Result<Option<Origin>> {
        if let Some((name, _)) = self.open.take() {
            self.kept.entry(*content).or_default().push(name);
        }
        Ok(None)
    }
}

/// Each inode of a layer comes from one member of its tar, so each finds a spooled file of its own.
struct MoveContent {
    folder: OwnedFd,
    kept: Mutex<HashMap<ContentDigest, Vec<String>>>,
}

impl MakeFile for MoveContent {
    fn make(
        &self,
        folder: BorrowedFd<'_>,
        path: &TreePath,
        body: &FileBody,
    ) -> Result<OwnedFd, MaterialiseError> {
        let kept = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get_mut(&body.content).and_then(Vec::pop)
        };
        let kept = kept.ok_or_else(|| MaterialiseError::Content {
            path: path.clone(),
            source: io::Error::from(io::ErrorKind::NotFound),
        })?;
        let name = path.name().unwrap_or_default();
        rustix::fs::renameat(&self.folder, kept.as_str(), folder, name)
            .map_err(inside("place", path))?;
        let place = TreePath::root().join(name);
        Ok(beneath::open_file(folder, &place).map_err(at("open", std::path::Path::new(&kept)))?)
    }
}

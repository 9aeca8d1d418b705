//! Gives the bytes of a client's files out of the packs that hold them.
//!
//! A pack of small files is fetched whole when the first of them is wanted, and written to a temporary file where all
//! others are read; the more packs are wanted, the more are fetched at once. A large file is read by range, once for all
//! who want it.

mod kept;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dcbuild_layer::{ArchiveKind, LayerForm, LayerSink, Ratio, ReadContent, as_tar, read_layer};
use dcbuild_model::{BlobDigest, Compression, ContentDigest, LayerId, TreePath};
use dcbuild_parcel::cut::PACK_BYTES_MAX;
use dcbuild_parcel::{Pack, PackedFile};
use dcbuild_store::{StoreError, StoredBlob, read_bytes};
use dcbuild_tree::{FileBody, Origin};
use futures::{StreamExt as _, TryStreamExt as _};

use self::kept::{Kept, Open};
use crate::contents::{Contents, Reworded};
use crate::error::Failed;
use crate::layers::Layers;

/// Packs that are fetched at a time.
const PACKS_AT_ONCE: usize = 16;
/// The blob of a pack of small files is smaller: tar and zstd add to their bytes, but not that much.
const BLOB_BYTES_MAX: u64 = 4 * PACK_BYTES_MAX;
/// And so is its tar: each file has a header, and is padded.
const TAR_BYTES_MAX: u64 = 4 * PACK_BYTES_MAX;
/// A larger file is not kept: whoever wants it reads it from the store.
const KEPT_BYTES_MAX: u64 = 4 << 30;

/// The packs of one parcel; what was fetched of them is gone when this is dropped.
pub(crate) struct Packs {
    layers: Arc<Layers>,
    all: Vec<Found>,
    /// The pack of each content.
    places: HashMap<ContentDigest, usize>,
    /// Reads large files.
    contents: Arc<Contents>,
    large: Mutex<HashMap<ContentDigest, Arc<Kept>>>,
    tmp: PathBuf,
    spool: Mutex<Spool>,
    /// Held by the one thread that fetches.
    fetching: Mutex<Fetching>,
}

/// A pack with its blob.
struct Found {
    layer: LayerId,
    stored: StoredBlob,
    small: bool,
}

/// Where in the temporary file each content begins.
#[derive(Default)]
struct Spool {
    file: Option<Arc<File>>,
    begins: HashMap<ContentDigest, u64>,
}

#[derive(Default)]
struct Fetching {
    done: Vec<bool>,
    end: u64,
    /// How many packs were fetched at once the last time.
    window: usize,
}

impl Packs {
    /// Finds the blobs of packs, all at once; that they are there counts as their use. Blocks.
    pub(crate) fn find(
        layers: Arc<Layers>,
        packs: Vec<(LayerId, Pack)>,
        tmp: PathBuf,
    ) -> Result<Packs, Failed> {
        let ids: Vec<LayerId> = packs.iter().map(|(layer, _)| *layer).collect();
        let (forms, missing) = layers.handle.block_on(find(&layers, &ids))?;
        let (mut found, mut places) = (Vec::with_capacity(packs.len()), HashMap::new());
        for (place, ((layer, pack), forms)) in packs.into_iter().zip(forms).enumerate() {
            let is_there =
                |stored: &StoredBlob| blobs_of(stored).iter().all(|blob| !missing.contains(blob));
            let stored = forms.into_iter().find(is_there).ok_or(Failed::Lost { layer })?;
            let small = pack.bytes() <= PACK_BYTES_MAX;
            places.extend(pack.files().iter().map(|file| (file.content, place)));
            found.push(Found { layer, stored, small });
        }
        let fetching = Fetching { done: vec![false; found.len()], ..Fetching::default() };
        Ok(Packs {
            contents: Arc::new(Contents::new(layers.clone())),
            large: Mutex::default(),
            layers,
            all: found,
            places,
            tmp,
            spool: Mutex::default(),
            fetching: Mutex::new(fetching),
        })
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spooled(&self, body: &FileBody) -> Option<Range> {
        let spool = self.spool();
        let begin = spool.begins.get(&body.content)?;
        Some(Range { file: spool.file.clone()?, at: *begin, left: body.size })
    }

    /// Opens a file that has a pack of its own.
    fn open_large(&self, layer: LayerId, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        let path = PackedFile { content: body.content, size: body.size }.path();
        let origin = Origin::Layer { layer, path };
        let (contents, body) = (self.contents.clone(), FileBody { origin, ..body.clone() });
        // A pack is a layer that no step makes again.
        let reword = |error| match Failed::sandbox(&error) {
            Failed::Lost { .. } => io::Error::other(Failed::ContextLost),
            _ => error,
        };
        let (content, size) = (body.content, body.size);
        let open: Open = Box::new(move || {
            let inner = contents.open(&body).map_err(reword)?;
            Ok(Box::new(Reworded { inner, reword }))
        });
        if size > KEPT_BYTES_MAX {
            return open();
        }
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match large.entry(content) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(place) => {
                place.insert(Arc::new(Kept::new(content, size, &self.tmp)?)).clone()
            }
        };
        drop(large);
        // What another reader fetched and this one followed turned out to be nonsense.
        let reword = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => io::Error::other(Failed::ContextLost),
            _ => error,
        };
        Ok(Box::new(Reworded { inner: kept.open(open)?, reword }))
    }

    /// Fetches the pack at a place, and others behind it if this is not the first.
    fn fetch(&self, place: usize) -> io::Result<()> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if fetching.done.get(place).copied().unwrap_or(true) {
            return Ok(());
        }
        fetching.window = (2 * fetching.window).clamp(1, PACKS_AT_ONCE);
        let places = (place..self.all.len()).filter(|place| {
            let done = fetching.done.get(*place).copied().unwrap_or(true);
            !done && self.all.get(*place).is_some_and(|pack| pack.small)
        });
        let places: Vec<usize> = places.take(fetching.window).collect();
        let fetch = |place: usize| async move {
            let pack = self.all.get(place).ok_or_else(absent)?;
            let blob = BlobDigest(pack.stored.blob.digest.0);
            let bytes = read_bytes(self.layers.blobs.as_ref(), &blob, BLOB_BYTES_MAX).await;
            let bytes = bytes.map_err(|error| io::Error::other(Failed::of_context(error)));
            Ok::<_, io::Error>((place, bytes?))
        };
        let fetched = futures::stream::iter(places.into_iter().map(fetch));
        let fetched = fetched.buffer_unordered(PACKS_AT_ONCE).try_collect::<Vec<_>>();
        for (place, bytes) in self.layers.handle.block_on(fetched)? {
            self.keep(place, &bytes, &mut fetching)?;
        }
        Ok(())
    }

    /// Writes the files of a pack to the temporary file, once all of the pack was checked.
    fn keep(&self, place: usize, blob: &Bytes, fetching: &mut Fetching) -> io::Result<()> {
        let pack = self.all.get(place).ok_or_else(absent)?;
        let tar = tar_of(blob)?;
        let form = LayerForm { compression: Some(Compression::None), ratio: Ratio::Free };
        let mut files = Unpacked::default();
        let read = read_layer(&*tar, form, &mut files).map_err(io::Error::other)?;
        if read.layer != pack.layer {
            return Err(another());
        }
        let file = match self.spool().file.clone() {
            Some(file) => file,
            None => Arc::new(tempfile::tempfile_in(&self.tmp)?),
        };
        file.write_all_at(&files.bytes, fetching.end)?;
        let mut spool = self.spool();
        spool.file = Some(file);
        for (content, begin) in files.begins {
            spool.begins.insert(content, fetching.end + begin);
        }
        drop(spool);
        fetching.end += u64::try_from(files.bytes.len()).unwrap_or(u64::MAX);
        if let Some(done) = fetching.done.get_mut(place) {
            *done = true;
        }
        Ok(())
    }
}

/// The blobs of packs, and which of them are gone.
async fn find(
    layers: &Layers,
    ids: &[LayerId],
) -> Result<(Vec<Option<StoredBlob>>, HashSet<BlobDigest>), StoreError> {
    if ids.is_empty() {
        return Ok((Vec::new(), HashSet::new()));
    }
    let forms =
        layers.index.find_forms(ids).await?.into_iter().map(|forms| {
            forms.into_iter().find(|stored| stored.blob.compression == Compression::Zstd)
        });
    let forms: Vec<Option<StoredBlob>> = forms.collect();
    let asked: Vec<BlobDigest> = forms.iter().flatten().flat_map(blobs_of).collect();
    let missing = layers.blobs.find_missing(&asked).await?;
    Ok((forms, missing.into_iter().collect()))
}

fn blobs_of(stored: &StoredBlob) -> [BlobDigest; 2] {
    [BlobDigest(stored.blob.digest.0), stored.index]
}

/// The tar of a pack of small files. Whoever sent it says what it is; until that is known it gets no more memory than
/// such a pack needs.
fn tar_of(blob: &[u8]) -> io::Result<Vec<u8>> {
    let mut tar = Vec::new();
    let bytes = as_tar(ArchiveKind::Zstd, Cursor::new(blob))?;
    bytes.take(TAR_BYTES_MAX + 1).read_to_end(&mut tar)?;
    let fits = u64::try_from(tar.len()).is_ok_and(|len| len <= TAR_BYTES_MAX);
    if fits { Ok(tar) } else { Err(another()) }
}

fn another() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a pack is not what it is called")
}

fn absent() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no pack has the bytes of the file")
}

impl ReadContent for Packs {
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        if let Origin::Inline(bytes) = &body.origin {
            return Ok(Box::new(Cursor::new(bytes.clone())));
        }
        if body.size == 0 {
            return Ok(Box::new(io::empty()));
        }
        let place = *self.places.get(&body.content).ok_or_else(absent)?;
        let pack = self.all.get(place).ok_or_else(absent)?;
        if !pack.small {
            return self.open_large(pack.layer, body);
        }
        if let Some(range) = self.spooled(body) {
            return Ok(Box::new(range));
        }
        self.fetch(place)?;
        Ok(Box::new(self.spooled(body).ok_or_else(absent)?))
    }
}

/// Takes the files of a pack.
#[derive(Default)]
struct Unpacked {
    bytes: Vec<u8>,
    begin: u64,
    begins: Vec<(ContentDigest, u64)>,
}

impl LayerSink for Unpacked {
    fn begin(&mut self, _: &TreePath, _: u64) -> io::Result<()> {
        self.begin = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self, content: &ContentDigest) -> io::Result<Option<Origin>> {
        self.begins.push((*content, self.begin));
        Ok(None)
    }
}

/// A part of the temporary file.
struct Range {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let (buffer, _) = buffer.split_at_mut(most);
        let count = self.file.read_at(buffer, self.at)?;
        let count_64 = u64::try_from(count).unwrap_or(u64::MAX);
        self.at += count_64;
        self.left = self.left.saturating_sub(count_64);
        Ok(count)
    }
}

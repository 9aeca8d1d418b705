//! The bytes of files by their origin, wherever a layer has them: a snapshot, a recipe, a blob.

#[cfg(test)]
mod tests;
mod windows;

use std::collections::HashMap;
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dcbuild_layer::{BlobIndex, ReadContent, Stretch, open_extent};
use dcbuild_model::{BlobDigest, ContentDigest, Digest, LayerId, TreePath};
use dcbuild_proto::document::StepErrorKind;
use dcbuild_remote::{Peer, Peers};
use dcbuild_snapshot::SnapshotContents;
use dcbuild_store::{ByteRange, forms_of, read_bytes};
use dcbuild_tree::{Change, FileBody, Kind, Origin};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::blobs::{self, Blocking};
use crate::error::{Failed, is_of_store};
use crate::layers::{Layers, Recipe, Search};
use crate::shared::can_snapshot;

use self::windows::Windows;

/// From so many files on, all of a layer is taken from its maker instead of one after the other; large ones are not more
/// for less.
const FILES_OF_PEER: u32 = 16;
const LARGE_FILE: u64 = 4 << 20;
/// A larger blob index is not one of ours.
const INDEX_BYTES_MAX: u64 = 2 << 30;

/// Where one layer's files are read.
enum Place {
    Snapshot(SnapshotContents),
    Recipe(Arc<Recipe>),
    Blob(BlobDigest, Box<BlobIndex>),
    /// The worker that made it, and how many files were taken from there.
    Peer(Peer, AtomicU32),
}

/// How far bytes are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// Here, in the store, and at whoever made the layer, for as long as it may still come.
    Far,
    /// Here, and in the store if it is there already.
    Near,
}

/// Gives the bytes of files of any layer, for one operation: the places that it found stay open until it is dropped.
pub(crate) struct Contents {
    layers: Arc<Layers>,
    /// The recipe whose own files are wanted.
    recipe: Option<Arc<Recipe>>,
    places: Mutex<HashMap<LayerId, Arc<Place>>>,
    /// Since when the maker of a layer gives no file of it.
    refused: Mutex<HashMap<LayerId, Instant>>,
    windows: Windows,
    reach: Reach,
}

impl Contents {
    pub(crate) fn new(layers: Arc<Layers>) -> Contents {
        let (places, refused) = (Mutex::default(), Mutex::default());
        let windows = Windows::default();
        Contents { layers, recipe: None, places, refused, windows, reach: Reach::Far }
    }

    /// Also gives the files of a recipe by the origins that its changes have.
    pub(crate) fn of_recipe(layers: Arc<Layers>, recipe: Arc<Recipe>) -> Contents {
        Contents { recipe: Some(recipe), ..Contents::new(layers) }
    }

    /// The same, with bytes looked for so far only.
    pub(crate) fn within(self, reach: Reach) -> Contents {
        Contents { reach, ..self }
    }

    fn place(&self, layer: &LayerId) -> io::Result<Arc<Place>> {
        let known = self.places.lock().unwrap_or_else(PoisonError::into_inner).get(layer).cloned();
        if let Some(place) = known {
            return Ok(place);
        }
        let place = Arc::new(self.find(layer)?);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(places.entry(*layer).or_insert(place).clone())
    }

    fn find(&self, layer: &LayerId) -> io::Result<Place> {
        let snapshot = |snapshot| Place::Snapshot(SnapshotContents::new([snapshot]));
        if let Some(found) = self.layers.snapshots.find(layer).map_err(io::Error::other)? {
            return Ok(snapshot(found));
        }
        if let Some(recipe) = self.layers.recipe(layer) {
            return Ok(Place::Recipe(recipe));
        }
        let search = PlaceSearch { contents: self, layer };
        let found = match self.reach {
            Reach::Near => return self.find_blob(layer)?.ok_or_else(absent),
            // A base layer comes from its registry.
            Reach::Far if self.layers.base(layer).is_some() => self.find_blob(layer)?,
            Reach::Far => self.layers.search(layer, &search).map_err(io::Error::other)?,
        };
        match found {
            Some(place) => Ok(place),
            None => self.layers.snapshot(layer).map(snapshot).map_err(io::Error::other),
        }
    }

    /// Reads a file at the worker that made its layer; another place is looked for, and none is given, where that does not
    /// give it, or where so many are wanted that all of the layer is had for less.
    fn of_peer(
        &self,
        (layer, place): (&LayerId, &Arc<Place>),
        (peer, taken): (&Peer, &AtomicU32),
        body: &FileBody,
    ) -> io::Result<Option<Box<dyn Read + Send>>> {
        let many = taken.fetch_add(1, Ordering::Relaxed) >= FILES_OF_PEER
            && can_snapshot()
            && body.size < LARGE_FILE;
        if !many {
            let file = self.layers.file_of(peer, *layer, body);
            self.note_refusal(layer, file.is_none())?;
            if file.is_some() {
                return Ok(file);
            }
        }
        let found = if many {
            let found = self.layers.snapshot(layer).map_err(io::Error::other)?;
            Place::Snapshot(SnapshotContents::new([found]))
        } else {
            self.find(layer)?
        };
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have found one meanwhile.
        if places.get(layer).is_some_and(|known| Arc::ptr_eq(known, place)) {
            places.insert(*layer, Arc::new(found));
        }
        Ok(None)
    }

    /// Notes whether a maker gave a file: one that has too much to do is asked again as long as its layer is on its way,
    /// but not for ever. The layer is lost then.
    fn note_refusal(&self, layer: &LayerId, is_refused: bool) -> io::Result<()> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_refused {
            refused.remove(layer);
            return Ok(());
        }
        let since = *refused.entry(*layer).or_insert_with(Instant::now);
        if since.elapsed() < self.layers.sending_max {
            return Ok(());
        }
        let minutes = self.layers.sending_max.as_secs() / 60;
        tracing::warn!(%layer, minutes, "the worker that made a layer gives no file of it; it is not waited for");
        self.layers.give_up(layer);
        Err(io::Error::other(Failed::Lost { layer: *layer }))
    }

    /// Finds the places of all layers that a recipe reads; blocks until what others made has come.
    pub(crate) fn find_all(&self, recipe: &Recipe) -> io::Result<()> {
        recipe.reads.iter().try_for_each(|layer| self.place(layer).map(drop))
    }

    fn find_blob(&self, layer: &LayerId) -> io::Result<Option<Place>> {
        let store = self.layers.blobs.as_ref();
        let find = async {
            for stored in forms_of(self.layers.index.as_ref(), layer).await? {
                let blob = BlobDigest(stored.blob.digest.0);
                if store.find_missing(&[blob, stored.index]).await?.is_empty() {
                    let index = read_bytes(store, &stored.index, INDEX_BYTES_MAX).await?;
                    return Ok(Some((blob, index)));
                }
            }
            Ok::<_, dcbuild_store::StoreError>(None)
        };
        let found = match self.layers.handle.block_on(find) {
            Err(error) if error.is_miss() => None,
            found => found.map_err(io::Error::other)?,
        };
        let Some((blob, index)) = found else { return Ok(None) };
        let index = BlobIndex::decode(&index).map_err(io::Error::other)?;
        Ok(Some(Place::Blob(blob, Box::new(index))))
    }

    fn of_layer(&self, layer: &LayerId, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        let Origin::Layer { path, .. } = &body.origin else { return Err(absent()) };
        loop {
            let place = self.place(layer)?;
            let Place::Peer(peer, taken) = &*place else {
                return self.of_place(&place, (layer, path), body);
            };
            // Where it is not given, another place is known now.
            if let Some(file) = self.of_peer((layer, &place), (peer, taken), body)? {
                return Ok(file);
            }
        }
    }

    /// Reads a file at a place that has all of its layer.
    fn of_place(
        &self,
        place: &Place,
        (layer, path): (&LayerId, &TreePath),
        body: &FileBody,
    ) -> io::Result<Box<dyn Read + Send>> {
        match place {
            Place::Peer(..) => Err(absent()),
            Place::Snapshot(contents) => contents.open(body),
            Place::Recipe(recipe) => {
                let inner = file_of(recipe, path).ok_or_else(absent)?;
                self.of_recipe_body(recipe, inner)
            }
            Place::Blob(blob, index) => {
                let inner = self.of_blob(layer, blob, (index, path))?;
                Ok(Box::new(self.checked(layer, *blob, (inner, body.content))))
            }
        }
    }

    /// Finds a part of a blob that is not what its table says: then the layer is lost, and the blob examined.
    fn checked(
        &self,
        layer: &LayerId,
        blob: BlobDigest,
        (inner, content): (Box<dyn Read + Send>, ContentDigest),
    ) -> impl Read + Send + use<> {
        let (layers, layer) = (self.layers.clone(), *layer);
        let reword = move |error: io::Error| damaged(&layers, (layer, blob), error);
        Reworded { inner: Hashed::new(inner, content), reword }
    }

    fn of_recipe_body(&self, recipe: &Recipe, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        match &body.origin {
            Origin::Inline(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            Origin::Layer { layer, .. } => self.of_layer(layer, body),
            Origin::Context { .. } => self.of_sources(recipe, body),
        }
    }

    /// Bytes of a context that cannot be had any more make the recipe worthless: its step runs again, on a context that
    /// the client sends again.
    fn of_sources(&self, recipe: &Recipe, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        let (layers, layer) = (self.layers.clone(), recipe.layer);
        let reword = move |error: io::Error| match Failed::sandbox(&error) {
            Failed::ContextLost | Failed::Lost { .. } => {
                layers.drop_recipe(&layer);
                io::Error::other(Failed::Lost { layer })
            }
            _ => error,
        };
        match recipe.sources.open(body) {
            Ok(inner) => Ok(Box::new(Reworded { inner, reword })),
            Err(error) => Err(reword(error)),
        }
    }

    /// A small file comes out of a window, a large one out of a stream of its own.
    fn of_blob(
        &self,
        layer: &LayerId,
        blob: &BlobDigest,
        (index, path): (&BlobIndex, &TreePath),
    ) -> io::Result<Box<dyn Read + Send>> {
        let extent = index.locate(path).ok_or_else(absent)?;
        if extent.len == 0 {
            return Ok(Box::new(io::empty()));
        }
        let found = (*layer, *blob);
        if let Some(window) = self.windows.of(blob, index, &extent) {
            let fetch = |stretch: &Stretch| {
                let fetched = self.fetch((layer, blob), &stretch.blob)?;
                let plain = stretch.decompress(fetched);
                plain.map_err(|error| damaged(&self.layers, found, error))
            };
            return Ok(Box::new(window.read(&extent, fetch)?));
        }
        let fetched = self.fetch((layer, blob), &extent.blob)?;
        let opened = open_extent(fetched, &extent, index.compression());
        opened.map_err(|error| damaged(&self.layers, found, error))
    }

    fn fetch(
        &self,
        (layer, blob): (&LayerId, &BlobDigest),
        part: &Range<u64>,
    ) -> io::Result<Blocking> {
        let range = ByteRange::new(part.start, part.end - part.start);
        let handle = self.layers.handle.clone();
        let stream = handle.block_on(self.layers.blobs.get(blob, range));
        let stream = stream.map_err(|error| blobs::lost(*layer, error))?;
        Ok(Blocking::new(handle, blobs::of_layer(stream, *layer)))
    }
}

/// What bytes that make no sense mean; a store that failed is another matter.
fn damaged(layers: &Layers, (layer, blob): (LayerId, BlobDigest), error: io::Error) -> io::Error {
    if is_of_store(&error) {
        return error;
    }
    tracing::warn!(%layer, %error, "a layer's blob is damaged");
    layers.examine(&blob);
    io::Error::other(Failed::Lost { layer })
}

/// Says a reader's errors in other words.
pub(crate) struct Reworded<R, F> {
    pub(crate) inner: R,
    pub(crate) reword: F,
}

impl<R: Read, F: Fn(io::Error) -> io::Error> Read for Reworded<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(&self.reword)
    }
}

/// What is read is not what it was when its key was made.
#[derive(Debug, thiserror::Error)]
#[error("a file has another content")]
struct AnotherContent;

/// A failure to read because of that.
pub(crate) fn another(kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, AnotherContent)
}

/// Whether a failure to read is that the content is another.
pub(crate) fn is_another(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<AnotherContent>)
}

/// Ends with an error if what was read was another content.
pub(crate) struct Hashed<R> {
    inner: R,
    hash: Option<Sha256>,
    content: ContentDigest,
}

impl<R: Read> Hashed<R> {
    pub(crate) fn new(inner: R, content: ContentDigest) -> Hashed<R> {
        Hashed { inner, hash: Some(Sha256::new()), content }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let (Some(hash), Some(bytes)) = (&mut self.hash, buffer.get(..count)) {
            hash.update(bytes);
        }
        if count == 0
            && !buffer.is_empty()
            && let Some(hash) = self.hash.take()
            && Digest(hash.finalize().into()) != self.content.0
        {
            return Err(another(io::ErrorKind::InvalidData));
        }
        Ok(count)
    }
}

impl ReadContent for Contents {
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        match (&body.origin, &self.recipe) {
            (Origin::Inline(bytes), _) => Ok(Box::new(Cursor::new(bytes.clone()))),
            (Origin::Layer { layer, .. }, _) => self.of_layer(layer, body),
            (Origin::Context { .. }, Some(recipe)) => self.of_sources(recipe, body),
            (Origin::Context { .. }, None) => Err(absent()),
        }
    }
}

/// Finds where a layer's files are read.
struct PlaceSearch<'a> {
    contents: &'a Contents,
    layer: &'a LayerId,
}

impl Search for PlaceSearch<'_> {
    type Found = Place;

    fn find(&self) -> Result<Option<Place>, Failed> {
        self.contents
            .find_blob(self.layer)
            .map_err(|error| Failed::of(StepErrorKind::Store {}, &error))
    }

    fn take(&self, _: &Peers, peer: Peer) -> Result<Option<Place>, Failed> {
        tracing::info!(layer = %self.layer, worker = %peer.worker, "files come from the worker that made them");
        Ok(Some(Place::Peer(peer, AtomicU32::new(0))))
    }
}

fn absent() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "nobody has the bytes of the file")
}

fn file_of<'a>(recipe: &'a Recipe, path: &TreePath) -> Option<&'a FileBody> {
    match recipe.changes.0.get(path)? {
        Change::Put(entry) | Change::Replace(entry) => match &entry.kind {
            Kind::File(body) => Some(body),
            _ => None,
        },
        Change::Remove => None,
    }
}

//! Making a step's result durable, behind the back of whoever goes on with it.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dcbuild_layer::{BlobForm, WrittenBlob};
use dcbuild_model::{BlobDigest, Compression, Digest, LayerBlob, LayerDigest, LayerId, UnixTime};
use dcbuild_proto::document::{LayerCompression, StepErrorKind};
use dcbuild_store::{HashedBase, StoredBlob, form_of};
use dcbuild_tree::{Changes, toc};

use crate::base::Base;
use crate::blobs::Blocking;
use crate::contents::Contents;
use crate::error::{Failed, blocking};
use crate::layers::Layers;
use crate::shared::Shared;

/// How often a result that could not be made durable is tried again, and the pause before the first of these times.
const TRIES: u32 = 5;
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// What a layer was copied from is made again soon, if it is at all, and others wait to hear that this one is not to be had.
const PAUSE_FOR_LOST_MAX: Duration = Duration::from_secs(2);

/// Held by whoever makes a blob.
type Turn = tokio::sync::Mutex<()>;

/// The blobs that are being made: a turn for each layer and compression, as long as somebody wants it.
#[derive(Debug, Default)]
pub(crate) struct Making(Mutex<HashMap<(LayerId, &'static str), Weak<Turn>>>);

impl Making {
    fn of(&self, layer: LayerId, compression: Compression) -> Arc<Turn> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turn| turn.strong_count() > 0);
        let key = (layer, compression.name());
        if let Some(turn) = all.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        all.insert(key, Arc::downgrade(&turn));
        turn
    }
}

/// What is left to do until a step's result is durable, besides its tables.
#[derive(Clone, Debug)]
pub(crate) enum Publish {
    /// It lies in blobs of others: what was learned of them.
    Bases(Vec<(LayerDigest, HashedBase)>),
    /// A layer that is a snapshot here.
    Snapshot(LayerId),
    /// A layer that is a recipe.
    Recipe(LayerId),
}

/// A result that is to be made durable.
#[derive(Clone, Debug)]
pub(crate) struct Publishing {
    pub(crate) what: Publish,
    /// How an output wants it compressed, if one will hold it.
    pub(crate) ships: Option<LayerCompression>,
    /// Its layers, whose tables may lie here only.
    pub(crate) tables: Vec<LayerId>,
}

impl Publishing {
    /// Whether the layer itself is lost: nobody else makes it, so to look for it would be to wait for oneself. One that it
    /// is copied from may be made again meanwhile.
    fn is_lost(&self, error: &Failed) -> bool {
        let (Publish::Recipe(own) | Publish::Snapshot(own)) = self.what else { return false };
        matches!(error, Failed::Lost { layer } if *layer == own)
    }
}

/// Makes a layer durable: as the blob that an output wants, where there is one; else as a snapshot in the process of its
/// coordinator, as a blob in the store of a cluster.
pub(crate) async fn publish(shared: &Arc<Shared>, result: &Publishing) -> Result<(), Failed> {
    let Publishing { what, ships, tables } = result;
    let in_process = shared.config.in_process;
    // Others wait for these, and they are small.
    for layer in tables {
        shared.layers.send_table(*layer).await?;
    }
    let layer = match what {
        Publish::Bases(bases) => {
            for (digest, hashed) in bases {
                shared.layers.index.put_base(digest, hashed).await?;
            }
            return Ok(());
        }
        Publish::Snapshot(_) if in_process => return Ok(()),
        Publish::Snapshot(layer) => *layer,
        Publish::Recipe(layer) => {
            let layer = *layer;
            // Waits for others without a turn: their turns may be waiting for this worker's layers.
            let layers = shared.layers.clone();
            blocking(move || find_sources(&layers, layer)).await?;
            layer
        }
    };
    // The semaphore is never closed.
    let _turn = shared.publishing.acquire().await.map_err(|_| Failed::Stopped)?;
    let threads = shared.cores;
    match *ships {
        // It is compressed once, and no folder is made beside it unless a RUN wants one.
        Some(LayerCompression { compression, level, force: _ }) => {
            layer_blob(shared, layer, BlobForm { compression, level, threads }).await?;
        }
        None if in_process && crate::shared::can_snapshot() => {
            let layers = shared.layers.clone();
            blocking(move || layers.snapshot(&layer).map(drop)).await?;
        }
        None => {
            let form = BlobForm { compression: Compression::Zstd, level: None, threads };
            layer_blob(shared, layer, form).await?;
        }
    }
    shared.layers.drop_recipe(&layer);
    Ok(())
}

/// Makes of a recipe a snapshot, so that it lies here as long as its result is held; false if that cannot be.
pub(crate) async fn settle(shared: &Arc<Shared>, result: &Publishing) -> bool {
    let Publish::Recipe(layer) = result.what else { return true };
    let layers = shared.layers.clone();
    let settled = blocking(move || {
        find_sources(&layers, layer)?;
        layers.snapshot(&layer).map(drop)
    });
    match settled.await {
        Ok(()) => {
            shared.layers.drop_recipe(&layer);
            true
        }
        Err(error) => {
            tracing::info!(%error, %layer, "a result is sent, for it cannot lie here");
            false
        }
    }
}

/// Finds where all that a layer is copied from lies, if it is a recipe; blocks.
pub(crate) fn find_sources(layers: &Arc<Layers>, layer: LayerId) -> Result<(), Failed> {
    let Some(recipe) = layers.recipe(&layer) else { return Ok(()) };
    let contents = Contents::of_recipe(layers.clone(), recipe.clone());
    contents.find_all(&recipe).map_err(|error| Failed::of(StepErrorKind::Store {}, &error))
}

/// Whether it would be refused again.
fn is_rejected(error: &Failed) -> bool {
    matches!(error, Failed::Step(error) if error.kind == (StepErrorKind::Rejected {}))
}

/// Tries again, with longer and longer pauses, until the worker is to stop; gives the last error.
pub(crate) async fn again(
    shared: &Arc<Shared>,
    result: &Publishing,
    mut error: Failed,
) -> Result<(), Failed> {
    let mut pause = PAUSE_FIRST;
    for _ in 0..TRIES {
        if matches!(error, Failed::Stopped) || is_rejected(&error) || result.is_lost(&error) {
            break;
        }
        tracing::info!(%error, "a step's result is tried again to be kept");
        if matches!(error, Failed::Lost { .. }) {
            pause = pause.min(PAUSE_FOR_LOST_MAX);
        }
        tokio::select! {
            () = shared.ending.cancelled() => break,
            () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))) => {}
        }
        match publish(shared, result).await {
            Ok(()) => return Ok(()),
            Err(again) => error = again,
        }
        pause *= 4;
    }
    Err(error)
}

/// The blob of a layer in one compression, made unless the store has it.
pub(crate) async fn layer_blob(
    shared: &Arc<Shared>,
    layer: LayerId,
    form: BlobForm,
) -> Result<LayerBlob, Failed> {
    let source = shared.layers.clone();
    blob_of(shared, layer, form, move || bytes_of(&source, layer)).await
}

/// The blob of a base's layer in one compression: the same tar, so that the image still has its base's diff ids.
pub(crate) async fn base_blob(
    shared: &Arc<Shared>,
    base: &Base,
    form: BlobForm,
) -> Result<LayerBlob, Failed> {
    let name = format!("recompressed/1 {} {:?}", base.layer.digest, form.level);
    let (source, tmp, base) = (shared.layers.clone(), shared.tmp(), base.clone());
    let write = move || {
        let from = base.compression()?.unwrap_or(Compression::None);
        base.read(&source, |pieces| {
            let reader = Blocking::new(source.handle.clone(), pieces);
            put(&source, &tmp, |out| {
                let made = dcbuild_layer::recompress(reader, from, &form, out)?;
                let (read, diff_id) = (made.read, made.written.blob.diff_id);
                if (read, diff_id) != (base.layer.digest, base.layer.diff_id) {
                    let message = format!(
                        "the base image's layer {} has other bytes than its name says",
                        base.layer.digest
                    );
                    return Err(Failed::rejected(message));
                }
                Ok(made.written)
            })
        })
    };
    stored(shared, (LayerId(Digest::of(name.as_bytes())), form.compression), write).await
}

/// As [`layer_blob`], of the layer that it is once no entry of it is younger than `latest`.
pub(crate) async fn clamped_blob(
    shared: &Arc<Shared>,
    layer: LayerId,
    form: BlobForm,
    latest: UnixTime,
) -> Result<LayerBlob, Failed> {
    let source = shared.layers.clone();
    let (clamped, contents) = blocking(move || {
        let (changes, contents) = bytes_of(&source, layer)?;
        let mut clamped = Changes::clone(&changes);
        clamped.set_times(|time| time.min(latest));
        Ok((Arc::new(clamped), contents))
    })
    .await?;
    let clamped_layer = toc::layer_id(&toc::encode(&clamped));
    blob_of(shared, clamped_layer, form, move || Ok((clamped, contents))).await
}

async fn blob_of(
    shared: &Arc<Shared>,
    layer: LayerId,
    form: BlobForm,
    bytes: impl FnOnce() -> Result<(Arc<Changes>, Contents), Failed> + Send + 'static,
) -> Result<LayerBlob, Failed> {
    let (source, tmp) = (shared.layers.clone(), shared.tmp());
    let write = move || {
        let (changes, contents) = bytes()?;
        write(&source, &changes, &contents, &form, &tmp)
    };
    stored(shared, (layer, form.compression), write).await
}

/// What the store has of a layer in one compression; written unless it is there.
async fn stored(
    shared: &Arc<Shared>,
    (layer, compression): (LayerId, Compression),
    write: impl FnOnce() -> Result<StoredBlob, Failed> + Send + 'static,
) -> Result<LayerBlob, Failed> {
    let layers = &shared.layers;
    // Who wants the same blob waits for the one that makes it.
    let turn = shared.making.of(layer, compression);
    let _held = turn.lock().await;
    if let Some(stored) = form_of(layers.index.as_ref(), &layer, compression).await? {
        let blobs = [BlobDigest(stored.blob.digest.0), stored.index];
        if layers.blobs.find_missing(&blobs).await?.is_empty() {
            return Ok(stored.blob);
        }
    }
    let written = blocking(write).await?;
    layers.index.put_form(&layer, &written).await?;
    Ok(written.blob)
}

/// A layer's changes with origins that its contents can read.
fn bytes_of(layers: &Arc<Layers>, layer: LayerId) -> Result<(Arc<Changes>, Contents), Failed> {
    if let Some(recipe) = layers.recipe(&layer) {
        let contents = Contents::of_recipe(layers.clone(), recipe.clone());
        return Ok((recipe.changes.clone(), contents));
    }
    Ok((layers.table(&layer)?, Contents::new(layers.clone())))
}

/// Writes a blob and its index into the store; blocks.
pub(crate) fn write(
    layers: &Layers,
    changes: &Changes,
    contents: &Contents,
    form: &BlobForm,
    tmp: &Path,
) -> Result<StoredBlob, Failed> {
    put(layers, tmp, |out| Ok(dcbuild_layer::write_blob(changes, contents, form, out)?))
}

/// Puts what is written, and its index, into the store; blocks.
fn put(
    layers: &Layers,
    tmp: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<WrittenBlob, Failed>,
) -> Result<StoredBlob, Failed> {
    if let Some(folder) = &layers.folder {
        let mut writer = folder.blob_writer()?;
        let written = write(&mut writer)?;
        writer.finish_as(&BlobDigest(written.blob.digest.0))?;
        let index = folder.put_bytes(&written.index.encode())?;
        return Ok(StoredBlob { blob: written.blob, index });
    }
    let failed = |error: std::io::Error| Failed::sandbox(&error);
    let mut file = tempfile::tempfile_in(tmp).map_err(failed)?;
    let written = write(&mut file)?;
    std::io::Seek::rewind(&mut file).map_err(failed)?;
    let digest = BlobDigest(written.blob.digest.0);
    let index = written.index.encode();
    let index_digest = BlobDigest(Digest::of(&index));
    layers.handle.block_on(async {
        let file = tokio::fs::File::from_std(file);
        layers.blobs.put(&digest, stream_of_file(file)).await?;
        layers.blobs.put(&index_digest, dcbuild_store::stream_of(index)).await
    })?;
    Ok(StoredBlob { blob: written.blob, index: index_digest })
}

fn stream_of_file(file: tokio::fs::File) -> dcbuild_store::BlobStream {
    use futures::StreamExt as _;
    let pieces = tokio_util::io::ReaderStream::with_capacity(file, 1 << 20);
    pieces
        .map(|piece| {
            piece.map_err(|source| dcbuild_store::StoreError::Content { source: Box::new(source) })
        })
        .boxed()
}

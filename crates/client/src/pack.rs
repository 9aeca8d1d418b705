//! A part of a folder as a layer in the store, for workers elsewhere.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::sync::Arc;

use dcbuild_context::{ContextReader, LocalContext, LocalError};
use dcbuild_layer::{BlobForm, ReadContent, WriteBlobError, write_blob};
use dcbuild_model::{BlobDigest, Compression, Digest, LayerId, Selection, SelectionForm, TreePath};
use dcbuild_store::{
    BlobStore, BlobStream, LayerIndex, StoreError, StoredBlob, form_of, stream_of,
};
use dcbuild_tree::source::{Filter, find};
use dcbuild_tree::{Changes, FileBody, Kind, LastLink, Origin, SelectError, Tree, select, toc};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::task::{JoinError, spawn_blocking};

const READ_BYTES: usize = 1 << 20;

/// Says why a part of a folder could not be packed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    /// It could not be read.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// It holds nothing that was asked for.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Its layer could not be written.
    #[error("could not pack the context")]
    Write(#[from] WriteBlobError),
    /// The store failed.
    #[error("could not store the context")]
    Store(#[from] StoreError),
    /// The disk failed.
    #[error("could not write a temporary file")]
    Spool(#[source] io::Error),
    /// The process is going down.
    #[error("packing was stopped")]
    Stopped(#[source] JoinError),
}

/// Where a pack goes.
pub(crate) struct Packer {
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) layers: Arc<dyn LayerIndex>,
}

impl Packer {
    /// Puts what a selection reads into the store, unless it is there already.
    pub(crate) async fn pack(
        &self,
        context: Arc<LocalContext>,
        selection: Selection,
    ) -> Result<LayerId, PackError> {
        let reader = context.reader();
        let changes = blocking(move || {
            let tree = context.tree(&selection)?;
            Ok(pruned(&tree, &selection)?.as_changes())
        })
        .await?;
        let table = toc::encode(&changes);
        let layer = toc::layer_id(&table);
        if self.has(&layer).await? {
            return Ok(layer);
        }
        let (file, stored, index) = blocking(move || spool(&changes, reader)).await?;
        let blob = BlobDigest(stored.digest.0);
        self.blobs.put(&blob, stream_of_file(file)).await?;
        let index_digest = BlobDigest(Digest::of(&index));
        self.blobs.put(&index_digest, stream_of(index)).await?;
        self.blobs.put(&BlobDigest(layer.0), stream_of(table)).await?;
        let stored = StoredBlob { blob: stored, index: index_digest };
        self.layers.put_form(&layer, &stored).await?;
        Ok(layer)
    }

    async fn has(&self, layer: &LayerId) -> Result<bool, StoreError> {
        let Some(stored) = form_of(self.layers.as_ref(), layer, Compression::Zstd).await? else {
            return Ok(false);
        };
        let needed = [BlobDigest(layer.0), BlobDigest(stored.blob.digest.0), stored.index];
        Ok(self.blobs.find_missing(&needed).await?.is_empty())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PackError> + Send + 'static,
) -> Result<T, PackError> {
    spawn_blocking(work).await.map_err(PackError::Stopped)?
}

fn spool(
    changes: &Changes,
    reader: ContextReader,
) -> Result<(File, dcbuild_model::LayerBlob, Vec<u8>), PackError> {
    let mut file = tempfile::tempfile().map_err(PackError::Spool)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let form = BlobForm { compression: Compression::Zstd, level: None, threads };
    let contents = ContextContents(reader);
    let written = write_blob(changes, &contents, &form, BufWriter::new(&mut file))?;
    io::Seek::rewind(&mut file).map_err(PackError::Spool)?;
    Ok((file, written.blob, written.index.encode()))
}

fn stream_of_file(file: File) -> BlobStream {
    let file = tokio::fs::File::from_std(file);
    let pieces = tokio_util::io::ReaderStream::with_capacity(file, READ_BYTES);
    pieces.map_err(|source| StoreError::Content { source: source.into() }).boxed()
}

struct ContextContents(ContextReader);

impl ReadContent for ContextContents {
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        match &body.origin {
            Origin::Context { path, .. } => Ok(Box::new(self.0.open(path)?)),
            Origin::Inline(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Origin::Layer { .. } => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// The tree less what the selection does not see. Links stay: a path may lead through any of them.
fn pruned(tree: &Tree, selection: &Selection) -> Result<Tree, SelectError> {
    let mut kept = BTreeSet::new();
    let mut keep = |path: TreePath| {
        let mut above = Some(path);
        while let Some(path) = above {
            above = path.parent();
            if !kept.insert(path) {
                break;
            }
        }
    };
    for (path, entry) in tree.walk() {
        if matches!(entry.kind, Kind::Symlink(_)) {
            keep(path);
        }
    }
    match selection.form {
        SelectionForm::Copy => {
            let filter = Filter::new(&selection.exclude, selection.parents)?;
            for source in &selection.sources {
                for found in find(tree, source, &filter)? {
                    for item in &found.items {
                        keep(
                            item.path
                                .names()
                                .fold(found.path.clone(), |path, name| path.join(name)),
                        );
                    }
                    keep(found.path);
                }
            }
        }
        SelectionForm::Mount => {
            let source = selection.sources.first().map_or("", String::as_str);
            let top = tree.resolve(source.as_bytes(), LastLink::Follow)?;
            tree.walk_from(&top).for_each(|(path, _)| keep(path));
            keep(top);
        }
    }
    let entries = tree.walk().filter(|(path, _)| kept.contains(path));
    let smaller = Tree::from_entries(entries.map(|(path, entry)| (path, entry.clone())));
    match smaller {
        Ok(smaller) if select(&smaller, selection)? == select(tree, selection)? => Ok(smaller),
        // Whatever was cut away wrongly, the whole tree has it.
        Ok(_) | Err(_) => Ok(tree.clone()),
    }
}

#[cfg(test)]
mod tests {
    use dcbuild_model::UnixTime;
    use dcbuild_tree::Ignore;

    use super::*;

    fn paths(tree: &Tree) -> Vec<String> {
        tree.walk().map(|(path, _)| path.to_string()).collect()
    }

    #[test]
    fn a_pack_holds_what_is_read_and_the_links_on_the_way() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in ["src/deep", "other"] {
            std::fs::create_dir_all(folder.path().join(dir)).unwrap();
        }
        for file in ["src/a", "src/deep/b", "other/c", "d"] {
            std::fs::write(folder.path().join(file), file).unwrap();
        }
        std::os::unix::fs::symlink("src/deep", folder.path().join("link")).unwrap();
        let local = LocalContext::open_folder(
            folder.path(),
            Ignore::default(),
            cache.path(),
            0,
            UnixTime::default(),
        );
        let local = local.unwrap();
        let check = |form, source: &str, want: &[&str]| {
            let sources = vec![source.to_owned()];
            let selection = Selection { form, sources, exclude: Vec::new(), parents: false };
            let tree = local.tree(&selection).unwrap();
            assert_eq!(paths(&pruned(&tree, &selection).unwrap()), want, "{source}");
        };
        check(SelectionForm::Copy, "d", &["/d", "/link"]);
        check(SelectionForm::Copy, "link", &["/link", "/src", "/src/deep", "/src/deep/b"]);
        check(
            SelectionForm::Mount,
            "src",
            &["/link", "/src", "/src/a", "/src/deep", "/src/deep/b"],
        );
    }
}

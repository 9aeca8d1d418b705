//! OCI layouts in a folder, as a source of images.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dcbuild_model::limits::MANIFEST_BYTES_MAX;
use dcbuild_model::{Digest, Fault, ManifestDigest};
use dcbuild_oci::layout::{
    INDEX_FILE, LAYOUT_FILE, blob_path, check_layout_file, find_entry, parse_index_file,
};
use dcbuild_oci::{Descriptor, InvalidLayout, LayoutRef, Tags};
use futures::StreamExt as _;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::client::FetchedManifest;
use crate::error::PullError;
use crate::source::{BlobStream, ImageSource};
use crate::verify::Verifier;

const READ_BYTES: usize = 256 << 10;

/// Says why a layout could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LayoutOpenError {
    /// A file could not be opened or read.
    #[error("could not read '{}'", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is no plain file, or too large to be what it should be.
    #[error("'{}' is no plain file of reasonable size", path.display())]
    File {
        /// The file.
        path: PathBuf,
    },
    /// The layout is wrong, or lacks the image.
    #[error(transparent)]
    Invalid(#[from] InvalidLayout),
}

impl LayoutOpenError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        Fault::Request
    }
}

/// A folder in the OCI layout; its files are opened below it and nowhere else.
#[derive(Clone)]
pub struct OciLayout {
    folder: PathBuf,
    root: Arc<File>,
}

impl OciLayout {
    /// Opens the folder and checks that it is a layout.
    pub fn open(folder: &Path) -> Result<OciLayout, LayoutOpenError> {
        let io = |source| LayoutOpenError::Io { path: folder.into(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(folder, flags, Mode::empty()).map_err(|e| io(e.into()))?;
        let layout = OciLayout { folder: folder.into(), root: Arc::new(root.into()) };
        check_layout_file(&layout.read(LAYOUT_FILE)?)?;
        Ok(layout)
    }

    /// The image that a reference means.
    pub fn image(&self, reference: LayoutRef) -> LayoutImage {
        LayoutImage { layout: self.clone(), reference }
    }

    fn io(&self, path: &str, source: io::Error) -> LayoutOpenError {
        LayoutOpenError::Io { path: self.folder.join(path), source }
    }

    /// Opens a file below the folder; links may lead inside it only, and nothing but a plain file is read.
    fn open_file(&self, path: &str) -> Result<(File, u64), LayoutOpenError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), inside)
            .map_err(|error| self.io(path, error.into()))?;
        let file = File::from(file);
        let about = file.metadata().map_err(|error| self.io(path, error))?;
        if !about.is_file() {
            return Err(LayoutOpenError::File { path: self.folder.join(path) });
        }
        Ok((file, about.len()))
    }

    fn read(&self, path: &str) -> Result<Bytes, LayoutOpenError> {
        let (file, size) = self.open_file(path)?;
        let max = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        if size > max {
            return Err(LayoutOpenError::File { path: self.folder.join(path) });
        }
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes).map_err(|error| self.io(path, error))?;
        Ok(bytes.into())
    }
}

/// An image of a layout.
#[derive(Clone)]
pub struct LayoutImage {
    layout: OciLayout,
    reference: LayoutRef,
}

impl LayoutImage {
    fn failed(&self, source: LayoutOpenError) -> PullError {
        PullError::Layout { image: self.name(), source }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OciLayout) -> Result<T, LayoutOpenError> + Send + 'static,
    ) -> Result<T, PullError> {
        let layout = self.layout.clone();
        let done = tokio::task::spawn_blocking(move || work(&layout)).await;
        let lost = |error: tokio::task::JoinError| {
            Err(LayoutOpenError::Io { path: self.layout.folder.clone(), source: error.into() })
        };
        done.unwrap_or_else(lost).map_err(|error| self.failed(error))
    }
}

#[async_trait]
impl ImageSource for LayoutImage {
    fn name(&self) -> String {
        self.reference.to_string()
    }

    async fn root(&self) -> Result<FetchedManifest, PullError> {
        let bytes = self.blocking(|layout| layout.read(INDEX_FILE)).await?;
        let index = parse_index_file(&bytes).map_err(|error| self.failed(error.into()))?;
        let entry =
            find_entry(&index, &self.reference).map_err(|error| self.failed(error.into()))?;
        let (digest, media_type) = match (entry, self.reference.digest) {
            (Some(entry), _) => (ManifestDigest(entry.digest), Some(entry.media_type.clone())),
            (None, Some(digest)) => (digest, None),
            (None, None) => {
                let wanted = self.name();
                return Err(
                    self.failed(InvalidLayout::NoEntry { wanted, tags: Tags::default() }.into())
                );
            }
        };
        let fetched = self.manifest(digest).await?;
        let media_type = media_type.filter(|text| !text.is_empty());
        Ok(FetchedManifest { media_type, ..fetched })
    }

    async fn manifest(&self, digest: ManifestDigest) -> Result<FetchedManifest, PullError> {
        let bytes = self.blocking(move |layout| layout.read(&blob_path(&digest.0))).await?;
        let got = Digest::of(&bytes);
        if got != digest.0 {
            return Err(PullError::Digest { image: self.name(), wanted: digest.0, got });
        }
        Ok(FetchedManifest { digest, media_type: None, bytes })
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<BlobStream, PullError> {
        let path = blob_path(&descriptor.digest);
        let (file, size) = self.blocking(move |layout| layout.open_file(&path)).await?;
        if size != descriptor.size {
            return Err(PullError::Size {
                image: self.name(),
                digest: descriptor.digest,
                wanted: descriptor.size,
                got: size,
            });
        }
        let verifier = Verifier::new(self.name(), descriptor.digest, descriptor.size);
        let path = self.layout.folder.join(blob_path(&descriptor.digest));
        let file = tokio::fs::File::from_std(file);
        let reader = tokio_util::io::ReaderStream::with_capacity(file, READ_BYTES);
        let state = (reader, verifier, self.name(), path);
        let stream = futures::stream::try_unfold(state, |mut state| async move {
            let (reader, verifier, name, path) = &mut state;
            match reader.next().await {
                None if verifier.is_complete() && verifier.seen() > 0 => Ok(None),
                None => verifier.finish().map(|()| None),
                Some(Err(source)) => {
                    let source = LayoutOpenError::Io { path: path.clone(), source };
                    Err(PullError::Layout { image: name.clone(), source })
                }
                Some(Ok(chunk)) => {
                    verifier.take(&chunk)?;
                    if verifier.is_complete() {
                        verifier.finish()?;
                    }
                    Ok(Some((chunk, state)))
                }
            }
        });
        Ok(stream.boxed())
    }
}

//! Writes images as OCI layouts and docker archives, the same bytes for the same image.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::{Digest, Fault};
use dcbuild_oci::layout::{
    IMAGE_NAME, INDEX_FILE, InvalidLayout, LAYOUT_FILE, LAYOUT_JSON, REF_NAME, add_entries,
    blob_path, parse_index_file,
};
use dcbuild_oci::{ArchiveItem, Descriptor, ImageRef, Index};
use futures::TryStreamExt as _;
use sha2::Digest as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::source::{BlobReader, BytesBlob};

/// Says why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file or the stream could not be written.
    #[error("could not write '{name}'")]
    Write {
        /// The file, or the entry of the archive.
        name: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A blob could not be read.
    #[error("could not read blob {digest}")]
    Read {
        /// The blob.
        digest: Digest,
        /// Why not.
        source: std::io::Error,
    },
    /// A blob has other bytes than its digest and size say.
    #[error("blob {digest} reads as {got}")]
    Corrupt {
        /// The blob.
        digest: Digest,
        /// What its bytes hash to.
        got: Digest,
    },
    /// A blob has other bytes than its size says.
    #[error("blob {digest} has not {size} bytes")]
    Size {
        /// The blob.
        digest: Digest,
        /// How many it should have.
        size: u64,
    },
    /// The folder holds something that is no layout.
    #[error("'{}' is no OCI layout that an image could be added to", folder.display())]
    Layout {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        source: InvalidLayout,
    },
    /// An entry is too large for a tar.
    #[error("'{name}' of {size} bytes is too large for a tar")]
    Large {
        /// The entry.
        name: String,
        /// Its size.
        size: u64,
    },
}

impl WriteError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            WriteError::Write { .. } | WriteError::Layout { .. } | WriteError::Large { .. } => {
                Fault::Request
            }
            WriteError::Read { .. } => Fault::Cluster,
            WriteError::Corrupt { .. } | WriteError::Size { .. } => Fault::Bug,
        }
    }
}

/// An image, ready to be written.
pub struct ArchiveImage {
    /// What the reference means: a manifest, or an index of several.
    pub root: Descriptor,
    /// Every blob: the root's own bytes, manifests, configs and layers; a blob named twice is written once.
    pub blobs: Vec<Arc<dyn BlobReader>>,
    /// The image's names; may be empty.
    pub names: Vec<ImageRef>,
}

enum Content {
    Folder,
    Blob(Arc<dyn BlobReader>),
}

impl ArchiveImage {
    fn entries(&self, more: Vec<(&str, Vec<u8>)>) -> BTreeMap<String, Content> {
        let mut entries = BTreeMap::new();
        entries.insert("blobs/".to_owned(), Content::Folder);
        entries.insert("blobs/sha256/".to_owned(), Content::Folder);
        for blob in &self.blobs {
            entries.insert(blob_path(&blob.digest()), Content::Blob(blob.clone()));
        }
        for (name, bytes) in more {
            entries.insert(name.to_owned(), Content::Blob(Arc::new(BytesBlob::new(bytes))));
        }
        entries
    }

    /// The image under each of its names.
    fn manifests(&self) -> Vec<Descriptor> {
        let named = |name: &ImageRef| {
            let mut entry = self.root.clone();
            entry.annotations.insert(IMAGE_NAME.into(), name.to_string());
            let short = name.tag().map_or_else(|| name.target(), str::to_owned);
            entry.annotations.insert(REF_NAME.into(), short);
            entry
        };
        let mut manifests: Vec<Descriptor> = self.names.iter().map(named).collect();
        if manifests.is_empty() {
            manifests.push(self.root.clone());
        }
        manifests
    }

    fn layout_files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let index = Index { manifests: self.manifests(), ..Index::default() };
        vec![(LAYOUT_FILE, LAYOUT_JSON.as_bytes().to_vec()), (INDEX_FILE, index.to_json())]
    }
}

/// Writes an OCI layout as a tar: entries sorted, times and owners zero.
pub async fn write_oci_tar<W>(image: &ArchiveImage, out: W) -> Result<W, WriteError>
where
    W: AsyncWrite + Unpin + Send,
{
    write_tar(image.entries(image.layout_files()), out).await
}

/// Writes a docker archive that is an OCI layout too, so that old and new daemons load it.
pub async fn write_docker_tar<W>(
    image: &ArchiveImage,
    config: &Digest,
    layers: &[Digest],
    out: W,
) -> Result<W, WriteError>
where
    W: AsyncWrite + Unpin + Send,
{
    let item = ArchiveItem {
        config: blob_path(config),
        repo_tags: image.names.iter().filter(|name| name.tag().is_some()).map(tagged).collect(),
        layers: layers.iter().map(blob_path).collect(),
    };
    let mut files = image.layout_files();
    files.push(("manifest.json", ArchiveItem::list_to_json(&[item])));
    write_tar(image.entries(files), out).await
}

fn tagged(name: &ImageRef) -> String {
    format!("{}:{}", name.repository().familiar(), name.tag().unwrap_or("latest"))
}

/// Writes an OCI layout into a folder; one that is a layout already keeps what it holds under other names.
pub async fn write_oci_dir(image: &ArchiveImage, folder: &Path) -> Result<(), WriteError> {
    let failed = |name: &str| {
        let name = folder.join(name).display().to_string();
        move |source| WriteError::Write { name, source }
    };
    tokio::fs::create_dir_all(folder.join("blobs/sha256")).await.map_err(failed("blobs"))?;
    for (name, content) in image.entries(Vec::new()) {
        let Content::Blob(blob) = content else { continue };
        put_file(folder, &name, &*blob).await?;
    }
    // Two builds may add to one layout at once.
    let locked = folder.to_owned();
    let lock = move || {
        let folder = std::fs::File::open(locked)?;
        folder.lock()?;
        Ok(folder)
    };
    let lock = tokio::task::spawn_blocking(lock).await.unwrap_or_else(|error| Err(error.into()));
    let lock = lock.map_err(failed(""))?;
    let index = index_with(folder, image.manifests()).await?;
    for (name, bytes) in [(INDEX_FILE, index), (LAYOUT_FILE, LAYOUT_JSON.as_bytes().to_vec())] {
        put_file(folder, name, &BytesBlob::new(bytes)).await?;
    }
    drop(lock);
    Ok(())
}

/// The list of a layout, these entries added.
async fn index_with(folder: &Path, entries: Vec<Descriptor>) -> Result<Vec<u8>, WriteError> {
    let path = folder.join(INDEX_FILE);
    let mut index = match tokio::fs::read(&path).await {
        Ok(bytes) if bytes.is_empty() => Index::default(),
        Ok(bytes) => parse_index_file(&bytes)
            .map_err(|source| WriteError::Layout { folder: folder.to_owned(), source })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Index::default(),
        Err(source) => {
            return Err(WriteError::Write { name: path.display().to_string(), source });
        }
    };
    add_entries(&mut index, entries);
    Ok(index.to_json())
}

/// Puts a file into a folder: its name appears only with all its bytes behind it.
async fn put_file(folder: &Path, name: &str, blob: &dyn BlobReader) -> Result<(), WriteError> {
    let failed = |source| {
        let name = folder.join(name).display().to_string();
        WriteError::Write { name, source }
    };
    let path = folder.join(name);
    // Another process, perhaps of another machine, may write the same blob.
    let mode = std::fs::Permissions::from_mode(0o666);
    let partial = tempfile::Builder::new()
        .prefix(".dcbuild-")
        .permissions(mode)
        .tempfile_in(path.parent().unwrap_or(folder))
        .map_err(failed)?;
    let (file, partial) = partial.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    copy_blob(blob, name, &mut file).await?;
    settled(&mut file).await.map_err(failed)?;
    partial.persist(path).map_err(|error| failed(error.error))
}

/// Waits for all that was written. To sync alone would not say that the last write has failed.
async fn settled(file: &mut tokio::fs::File) -> std::io::Result<()> {
    file.flush().await?;
    file.sync_all().await
}

async fn write_tar<W>(entries: BTreeMap<String, Content>, mut out: W) -> Result<W, WriteError>
where
    W: AsyncWrite + Unpin + Send,
{
    for (name, content) in &entries {
        let failed = |source| WriteError::Write { name: name.clone(), source };
        let size = match content {
            Content::Folder => 0,
            Content::Blob(blob) => blob.size(),
        };
        let header = tar_header(name, size)?;
        out.write_all(&header).await.map_err(failed)?;
        if let Content::Blob(blob) = content {
            copy_blob(&**blob, name, &mut out).await?;
            let padding = usize::try_from((512 - size % 512) % 512).unwrap_or(0);
            out.write_all(&vec![0; padding]).await.map_err(failed)?;
        }
    }
    let failed = |source| WriteError::Write { name: "end of archive".into(), source };
    out.write_all(&[0; 1024]).await.map_err(failed)?;
    out.flush().await.map_err(failed)?;
    Ok(out)
}

fn tar_header(name: &str, size: u64) -> Result<[u8; 512], WriteError> {
    let large = || WriteError::Large { name: name.to_owned(), size };
    let folder = name.ends_with('/');
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| match header.get_mut(at..at + text.len()) {
        Some(place) => {
            place.copy_from_slice(text);
            Ok(())
        }
        None => Err(large()),
    };
    if name.len() > 99 {
        return Err(large());
    }
    put(0, name.as_bytes())?;
    put(100, if folder { b"0000755\0" } else { b"0000644\0" })?;
    put(108, b"0000000\0")?;
    put(116, b"0000000\0")?;
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes())?;
    } else {
        // Past 8 GiB the octal field overflows; GNU's form holds a big-endian number.
        let mut number = [0u8; 12];
        number[0] = 0x80;
        number[4..].copy_from_slice(&size.to_be_bytes());
        put(124, &number)?;
    }
    put(136, b"00000000000\0")?;
    put(148, b"        ")?;
    put(156, if folder { b"5" } else { b"0" })?;
    put(257, b"ustar\x0000")?;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    header[148..156].copy_from_slice(text.as_bytes());
    Ok(header)
}

/// Copies a blob and holds it to its digest and size.
async fn copy_blob<W>(blob: &dyn BlobReader, name: &str, out: &mut W) -> Result<(), WriteError>
where
    W: AsyncWrite + Unpin + Send,
{
    let (digest, size) = (blob.digest(), blob.size());
    let read = |source| WriteError::Read { digest, source };
    let mut stream = blob.open(0).await.map_err(read)?;
    let mut hash = sha2::Sha256::new();
    let mut left = size;
    while let Some(chunk) = stream.try_next().await.map_err(read)? {
        let chunk: Bytes = chunk;
        let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        left = left.checked_sub(length).ok_or(WriteError::Size { digest, size })?;
        hash.update(&chunk);
        let failed = |source| WriteError::Write { name: name.to_owned(), source };
        out.write_all(&chunk).await.map_err(failed)?;
    }
    if left != 0 {
        return Err(WriteError::Size { digest, size });
    }
    let got = Digest(hash.finalize().into());
    if got == digest { Ok(()) } else { Err(WriteError::Corrupt { digest, got }) }
}

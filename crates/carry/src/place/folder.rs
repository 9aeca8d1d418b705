//! A cache in a folder: an OCI layout, which may hold several under their tags.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::{BlobDigest, Digest, ManifestDigest, limits};
use dcbuild_oci::layout::{
    INDEX_FILE, LAYOUT_FILE, LAYOUT_JSON, REF_NAME, blob_path, parse_index_file,
};
use dcbuild_oci::{Descriptor, Index, InvalidLayout, LayoutRef};
use dcbuild_registry::{BlobReader, ImageSource as _, LayoutOpenError, OciLayout, PullError};
use dcbuild_store::BlobStream;
use futures::TryStreamExt as _;

use super::registry::for_store;
use super::{Place, PlaceError};

/// The tag of a cache that has none, as BuildKit names it.
const USUAL_TAG: &str = "latest";

/// A folder in the OCI layout.
#[derive(Clone, Debug)]
pub struct FolderPlace {
    folder: PathBuf,
    tag: Option<String>,
    digest: Option<ManifestDigest>,
}

impl FolderPlace {
    /// The cache of this tag or digest; without either the only one, or that of the usual tag.
    pub fn new(
        folder: PathBuf,
        tag: Option<String>,
        digest: Option<ManifestDigest>,
    ) -> FolderPlace {
        FolderPlace { folder, tag, digest }
    }

    fn reference(&self) -> LayoutRef {
        let folder = self.folder.display().to_string();
        LayoutRef { folder, tag: self.tag.clone(), digest: self.digest }
    }

    /// Opens the layout; none if there is none.
    fn open(&self) -> Result<Option<OciLayout>, PlaceError> {
        match OciLayout::open(&self.folder) {
            Ok(layout) => Ok(Some(layout)),
            Err(LayoutOpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(source) => Err(PullError::Layout { image: self.name(), source }.into()),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FolderPlace) -> Result<T, PlaceError> + Send + 'static,
    ) -> Result<T, PlaceError> {
        let place = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&place)).await;
        let failed = |error: tokio::task::JoinError| PlaceError::File {
            path: self.folder.clone(),
            source: error.into(),
        };
        done.map_err(failed)?
    }

    /// What the layout lists so far.
    fn index(&self) -> Result<Index, PlaceError> {
        let path = self.folder.join(INDEX_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
            Err(source) => return Err(PlaceError::File { path, source }),
        };
        parse_index_file(&bytes).map_err(|source| PlaceError::Index { path, source })
    }

    /// What a cache is listed as that is written here.
    fn own_tag(&self) -> &str {
        self.tag.as_deref().unwrap_or(USUAL_TAG)
    }

    fn is_listed_as(&self, entry: &Descriptor) -> bool {
        entry.annotations.get(REF_NAME).is_some_and(|tag| tag == self.own_tag())
    }

    /// The manifest that the list has under the tag.
    fn listed(&self) -> Result<Option<Bytes>, PlaceError> {
        let index = self.index()?;
        let Some(entry) = index.manifests.iter().find(|entry| self.is_listed_as(entry)) else {
            return Ok(None);
        };
        let max = u64::try_from(limits::MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        let path = self.folder.join(blob_path(&entry.digest));
        let read = || {
            let mut bytes = Vec::new();
            std::fs::File::open(&path)?.take(max + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(source) if io::Error::kind(&source) == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PlaceError::File { path, source }),
        }
    }

    /// Names a manifest in the list; another one of the tag leaves it.
    fn list(&self, manifest: &[u8], media_type: &str) -> Result<(), PlaceError> {
        let failed = |source| PlaceError::File { path: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        // Whoever else adds to the list waits, as for an image.
        let lock = std::fs::File::open(&self.folder).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut index = self.index()?;
        index.manifests.retain(|entry| !self.is_listed_as(entry));
        let size = u64::try_from(manifest.len()).unwrap_or(u64::MAX);
        let mut entry = Descriptor::new(media_type, Digest::of(manifest), size);
        entry.artifact_type = crate::artifact::ARTIFACT_TYPE.into();
        entry.annotations.insert(REF_NAME.into(), self.own_tag().into());
        index.manifests.push(entry);
        self.write(&blob_path(&Digest::of(manifest)), manifest)?;
        self.write(LAYOUT_FILE, LAYOUT_JSON.as_bytes())?;
        self.write(INDEX_FILE, &index.to_json())
    }

    /// Writes a file, which is there whole or not at all.
    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), PlaceError> {
        let path = self.folder.join(path);
        let folder = path.parent().unwrap_or(&self.folder);
        let written = std::fs::create_dir_all(folder).and_then(|()| {
            let mut file = new_file(folder)?;
            file.write_all(bytes)?;
            file.persist(&path).map_err(|error| error.error)
        });
        written.map(drop).map_err(|source| PlaceError::File { path, source })
    }
}

/// A new file with the mode that the user's mask leaves.
fn new_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(".dcbuild-").permissions(mode).tempfile_in(folder)
}

#[async_trait::async_trait]
impl Place for FolderPlace {
    fn name(&self) -> String {
        let folder = self.folder.display();
        match &self.tag {
            Some(tag) => format!("{folder}:{tag}"),
            None => folder.to_string(),
        }
    }

    async fn manifest(&self, digest: Option<ManifestDigest>) -> Result<Option<Bytes>, PlaceError> {
        let Some(layout) = self.blocking(FolderPlace::open).await? else { return Ok(None) };
        let image = layout.image(self.reference());
        let fetched = match digest {
            Some(digest) => image.manifest(digest).await,
            None => image.root().await,
        };
        match fetched {
            Ok(fetched) => Ok(Some(fetched.bytes)),
            Err(PullError::Layout {
                source: LayoutOpenError::Invalid(InvalidLayout::NoEntry { .. }),
                ..
            }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn former(&self) -> Result<Option<Bytes>, PlaceError> {
        self.blocking(FolderPlace::listed).await
    }

    async fn get(&self, blob: &BlobDigest, size: u64) -> Result<BlobStream, PlaceError> {
        let Some(layout) = self.blocking(FolderPlace::open).await? else {
            return Err(PullError::NoBlob { image: self.name(), digest: blob.0 }.into());
        };
        let descriptor = Descriptor::new("application/octet-stream", blob.0, size);
        Ok(for_store(layout.image(self.reference()).blob(&descriptor).await?))
    }

    async fn put(&self, blob: Arc<dyn BlobReader>) -> Result<bool, PlaceError> {
        let path = self.folder.join(blob_path(&blob.digest()));
        let size = blob.size();
        if std::fs::metadata(&path).is_ok_and(|about| about.is_file() && about.len() == size) {
            return Ok(false);
        }
        let failed = |source| PlaceError::File { path: path.clone(), source };
        let folder = path.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(folder).map_err(failed)?;
        let (file, partial) = new_file(folder).map_err(failed)?.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let mut content = blob.open(0).await.map_err(failed)?;
        while let Some(piece) = content.try_next().await.map_err(failed)? {
            tokio::io::AsyncWriteExt::write_all(&mut file, &piece).await.map_err(failed)?;
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(failed)?;
        partial.persist(&path).map_err(|error| failed(error.error))?;
        Ok(true)
    }

    async fn put_manifest(&self, manifest: Bytes) -> Result<(), PlaceError> {
        let path = blob_path(&Digest::of(&manifest));
        self.blocking(move |place| place.write(&path, &manifest)).await
    }

    async fn finish(&self, manifest: Bytes, media_type: &str) -> Result<(), PlaceError> {
        let media_type = media_type.to_owned();
        self.blocking(move |place| place.list(&manifest, &media_type)).await
    }
}

//! A cache in an OCI layout: records as its config, everything that they speak of as its layers. Any tool that copies images
//! carries it to a registry and back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use dcbuild_model::{BlobDigest, Digest, LayerDigest, LayerId, Record, Scope};
use dcbuild_oci::layout::{INDEX_FILE, LAYOUT_FILE, LAYOUT_JSON};
use dcbuild_store::sweep::ThingKind;
use dcbuild_store::{BlobStream, ByteRange, HashedBase, StoreError, StoredBlob, base_of, forms_of};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;

use crate::config::Stores;

const VERSION: u32 = 1;
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const ARTIFACT_TYPE: &str = "application/vnd.dcbuild.cache.v1";
const CONFIG_TYPE: &str = "application/vnd.dcbuild.cache.records.v1+json";
const BLOB_TYPE: &str = "application/vnd.dcbuild.cache.blob.v1";
/// A larger list of records is none of ours.
const CONFIG_BYTES_MAX: u64 = 1 << 30;

/// Makes blobs of layers that have none yet.
#[async_trait::async_trait]
pub trait Packs: Send + Sync {
    /// Makes the blob of a layer; false if its bytes are not to be had.
    async fn pack(&self, layer: LayerId) -> bool;
}

/// What was carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// Records.
    pub records: u64,
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were left, since a layer of theirs is not to be had.
    pub left: u64,
}

/// Says why a cache was not carried.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The store failed.
    #[error("could not use the store")]
    Store(#[from] StoreError),
    /// A file or folder failed.
    #[error("could not use {path}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The folder holds something already.
    #[error("the folder {path} is not empty: a cache is exported into a new one", path = path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The folder is no exported cache.
    #[error("{path} holds no exported cache: {reason}", path = path.display())]
    NoCache {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
}

impl CarryError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> CarryError {
        let path = path.to_owned();
        move |source| CarryError::File { path, source }
    }
}

/// The records of a cache, with what describes their layers.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    version: u32,
    records: Vec<Record>,
    forms: Vec<(LayerId, StoredBlob)>,
    bases: Vec<(LayerDigest, HashedBase)>,
}

#[derive(Serialize, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: BlobDigest,
    size: u64,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    #[serde(rename = "schemaVersion")]
    schema: u32,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    #[serde(rename = "artifactType", default)]
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
struct Index {
    #[serde(rename = "schemaVersion")]
    schema: u32,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    manifests: Vec<Descriptor>,
}

fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

/// Writes the records of a scope, and all that they speak of, into a new folder.
pub async fn export(
    stores: &Stores,
    scope: &Scope,
    packs: &dyn Packs,
    dir: &Path,
) -> Result<Carried, CarryError> {
    let blobs = dir.join("blobs/sha256");
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CarryError::NotEmpty { path: dir.to_owned() });
    }
    std::fs::create_dir_all(&blobs).map_err(CarryError::file(&blobs))?;
    let inventory = stores.swept.inventory().await?;
    let (mut exported, mut carried) = (Exported::default(), Carried::default());
    exported.version = VERSION;
    let (mut wanted, mut known) = (BTreeSet::new(), BTreeMap::new());
    for (place, record) in stores.swept.records(&inventory).await? {
        let ours = inventory.things.get(place).is_some_and(|thing| {
            matches!(&thing.kind, ThingKind::Record { scope: of, key } if of == scope && record.recipe == *key)
        });
        if !ours {
            continue;
        }
        if describe(stores, packs, &record, (&mut exported, &mut known)).await? {
            exported.records.push(record);
        } else {
            carried.left += 1;
        }
    }
    let tables = exported.records.iter().flat_map(|record| &record.result.layers);
    wanted.extend(tables.map(|layer| BlobDigest(layer.layer.0)));
    for (_, form) in &exported.forms {
        wanted.extend([BlobDigest(form.blob.digest.0), form.index]);
    }
    let mut layers = Vec::new();
    for blob in wanted {
        let size = copy_out(stores, &blob, &blob_path(dir, &blob.0)).await?;
        carried.blobs += 1;
        carried.bytes += size;
        layers.push(Descriptor { media_type: BLOB_TYPE.into(), digest: blob, size });
    }
    carried.records = u64::try_from(exported.records.len()).unwrap_or(u64::MAX);
    let config = put_json(dir, &exported, CONFIG_TYPE)?;
    let (schema, media_type) = (2, MANIFEST_TYPE.to_owned());
    let manifest =
        Manifest { schema, media_type, artifact_type: ARTIFACT_TYPE.into(), config, layers };
    let manifests = vec![put_json(dir, &manifest, MANIFEST_TYPE)?];
    let index = Index { schema, media_type: INDEX_TYPE.into(), manifests };
    write(&dir.join(INDEX_FILE), &json(&index)?)?;
    write(&dir.join(LAYOUT_FILE), LAYOUT_JSON.as_bytes())?;
    Ok(carried)
}

/// Notes what describes a record's layers; false if a layer is not to be had.
async fn describe(
    stores: &Stores,
    packs: &dyn Packs,
    record: &Record,
    (exported, known): (&mut Exported, &mut BTreeMap<LayerId, bool>),
) -> Result<bool, CarryError> {
    for layer in &record.result.layers {
        let (id, index) = (layer.layer, stores.layers.as_ref());
        if let Some(there) = known.get(&id) {
            if *there {
                continue;
            }
            return Ok(false);
        }
        let table = stores.blobs.find_missing(&[BlobDigest(id.0)]).await?.is_empty();
        let there = if !table {
            false
        } else if let Some(base) = &layer.base {
            let hashed = base_of(index, &base.digest).await?;
            let there = hashed.is_some();
            exported.bases.extend(hashed.map(|hashed| (base.digest, hashed)));
            there
        } else {
            let mut form = whole_form(stores, &id).await?;
            if form.is_none() && packs.pack(id).await {
                form = whole_form(stores, &id).await?;
            }
            let there = form.is_some();
            exported.forms.extend(form.map(|form| (id, form)));
            there
        };
        known.insert(id, there);
        if !there {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A form of a layer whose blobs are there.
async fn whole_form(stores: &Stores, layer: &LayerId) -> Result<Option<StoredBlob>, StoreError> {
    for form in forms_of(stores.layers.as_ref(), layer).await? {
        let blobs = [BlobDigest(form.blob.digest.0), form.index];
        if stores.blobs.find_missing(&blobs).await?.is_empty() {
            return Ok(Some(form));
        }
    }
    Ok(None)
}

async fn copy_out(stores: &Stores, blob: &BlobDigest, path: &Path) -> Result<u64, CarryError> {
    let mut content = stores.blobs.get(blob, ByteRange::ALL).await?;
    let mut file = tokio::fs::File::create(path).await.map_err(CarryError::file(path))?;
    let mut size = 0;
    while let Some(piece) = content.next().await {
        let piece = piece?;
        size += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        file.write_all(&piece).await.map_err(CarryError::file(path))?;
    }
    file.flush().await.map_err(CarryError::file(path))?;
    Ok(size)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, CarryError> {
    let encoded = serde_json::to_vec(value);
    encoded.map_err(|source| StoreError::Encode { what: "an exported cache", source }.into())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), CarryError> {
    std::fs::write(path, bytes).map_err(CarryError::file(path))
}

fn put_json(dir: &Path, value: &impl Serialize, kind: &str) -> Result<Descriptor, CarryError> {
    let bytes = json(value)?;
    let digest = Digest::of(&bytes);
    write(&blob_path(dir, &digest), &bytes)?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Ok(Descriptor { media_type: kind.into(), digest: BlobDigest(digest), size })
}

/// Takes an exported cache into a scope: blobs first, each hashed on its way in, then what describes layers, then records.
pub async fn import(stores: &Stores, scope: &Scope, dir: &Path) -> Result<Carried, CarryError> {
    let index: Index = read_json(dir, &dir.join(INDEX_FILE), None)?;
    let none = |reason: &str| CarryError::NoCache { path: dir.to_owned(), reason: reason.into() };
    let [only] = &index.manifests[..] else { return Err(none("it has not one manifest")) };
    let manifest: Manifest = read_json(dir, &blob_path(dir, &only.digest.0), Some(&only.digest.0))?;
    if manifest.artifact_type != ARTIFACT_TYPE {
        return Err(none("its manifest is of another kind"));
    }
    let config = &manifest.config.digest.0;
    let exported: Exported = read_json(dir, &blob_path(dir, config), Some(config))?;
    if exported.version != VERSION {
        return Err(none("it was exported by another version of dcbuild"));
    }
    let mut carried = Carried::default();
    let blobs: Vec<BlobDigest> = manifest.layers.iter().map(|layer| layer.digest).collect();
    for blob in stores.blobs.find_missing(&blobs).await? {
        let path = blob_path(dir, &blob.0);
        let file = tokio::fs::File::open(&path).await.map_err(CarryError::file(&path))?;
        carried.bytes += stores.blobs.put(&blob, stream(file)).await?;
        carried.blobs += 1;
    }
    for (layer, form) in &exported.forms {
        stores.layers.put_form(layer, form).await?;
    }
    for (digest, base) in &exported.bases {
        stores.layers.put_base(digest, base).await?;
    }
    for record in &exported.records {
        stores.steps.put(scope, record).await?;
        carried.records += 1;
    }
    Ok(carried)
}

fn stream(file: tokio::fs::File) -> BlobStream {
    let pieces = tokio_util::io::ReaderStream::with_capacity(file, 1 << 20);
    let failed = |source| StoreError::Content { source: Box::new(source) };
    pieces.map(move |piece| piece.map_err(failed)).boxed()
}

/// Reads a document, which must have this digest.
fn read_json<T: serde::de::DeserializeOwned>(
    dir: &Path,
    path: &Path,
    digest: Option<&Digest>,
) -> Result<T, CarryError> {
    let none = |reason: String| CarryError::NoCache { path: dir.to_owned(), reason };
    let name = path.file_name().unwrap_or_default().display().to_string();
    let size = std::fs::metadata(path).map_err(|error| none(format!("{name}: {error}")))?.len();
    if size > CONFIG_BYTES_MAX {
        return Err(none(format!("{name} is too large")));
    }
    let bytes = std::fs::read(path).map_err(CarryError::file(path))?;
    if digest.is_some_and(|digest| Digest::of(&bytes) != *digest) {
        return Err(none(format!("{name} is damaged")));
    }
    serde_json::from_slice(&bytes).map_err(|error| none(format!("{name}: {error}")))
}

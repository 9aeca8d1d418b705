//! `--cache-from` and `--cache-to`: which places are meant, and this client's way to them.

mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use dcbuild_carry::{
    Artifact, BucketPlace, FolderPlace, Found, Place, PlaceError, RegistryPlace, Seen, SendError,
    look, recognise, send,
};
use dcbuild_model::{BlobDigest, Fault, limits};
use dcbuild_proto::document::{CacheDest, CacheSource, MadeCache};
use dcbuild_registry::{CredentialError, DockerLogins, HttpError, RegistryClient, RegistryConfig};
use dcbuild_store::{BlobStore, BlobStream, ByteRange, StoreError, read_bytes};
use futures::StreamExt as _;
use tokio::sync::Semaphore;

pub use parse::{CacheFlags, CacheFrom, CacheTo, Where};

/// Blobs of a cache that are fetched at a time.
const FETCHED_AT_ONCE: usize = 8;
/// Documents that are read to be sent.
const DOCUMENTS_BYTES_MAX: u64 = dcbuild_carry::documents::DOCUMENTS_BYTES_MAX;

/// Says why a cache was not written, or cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The credentials for registries could not be read.
    #[error("could not get credentials for the registries of caches")]
    Credentials(#[from] CredentialError),
    /// Nothing can be asked of registries.
    #[error("could not prepare connections to registries")]
    Registry(#[from] HttpError),
    /// The coordinator could not put it together.
    #[error("could not make the cache for {title}: {message}")]
    Made {
        /// Where it was to go.
        title: String,
        /// What the coordinator said.
        message: String,
    },
    /// The store did not give it.
    #[error("could not fetch the cache for {title}")]
    Store {
        /// Where it was to go.
        title: String,
        /// Why not.
        source: StoreError,
    },
    /// What the coordinator made is no cache.
    #[error("the cache for {title} is none")]
    OtherKind {
        /// Where it was to go.
        title: String,
    },
    /// The place did not take it.
    #[error(transparent)]
    Send(#[from] SendError),
}

impl CacheError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            CacheError::Credentials(_) => Fault::Request,
            CacheError::Registry(error) => error.fault(),
            CacheError::Made { .. } => Fault::Cluster,
            CacheError::Store { source, .. } => source.fault(),
            CacheError::OtherKind { .. } => Fault::Bug,
            CacheError::Send(error) => error.fault(),
        }
    }
}

/// How places are reached.
#[derive(Clone, Debug)]
pub struct Reach {
    /// How registries are reached.
    pub registries: RegistryConfig,
    /// Where docker keeps its credentials.
    pub logins: DockerLogins,
    /// What relative paths start from.
    pub working: PathBuf,
}

/// How long a registry is asked what there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asking {
    /// Not for long: a build can do without, and waits.
    Briefly,
    /// As long as anything is asked of a registry.
    Patiently,
}

/// A place, ready to be read or written; nothing is asked of it yet.
pub async fn place_of(
    at: &Where,
    reach: &Reach,
    asking: Asking,
) -> Result<Arc<dyn Place>, CacheError> {
    Ok(match at {
        Where::Registry(image) => {
            let credentials = Arc::new(reach.logins.load().await?);
            let client = RegistryClient::new(reach.registries.clone(), credentials)?;
            let place = RegistryPlace::new(client, image.clone());
            Arc::new(match asking {
                Asking::Briefly => place.in_a_hurry(),
                Asking::Patiently => place,
            })
        }
        Where::Folder { folder, tag, digest } => {
            Arc::new(FolderPlace::new(reach.working.join(folder), tag.clone(), *digest))
        }
        Where::Bucket(settings) => Arc::new(BucketPlace::new((**settings).clone())),
    })
}

/// A place that records are taken from.
struct Source {
    place: Arc<dyn Place>,
    /// What it says it has, once it was looked at.
    offered: Mutex<BTreeMap<BlobDigest, u64>>,
}

/// A place that records are written to.
pub struct Dest {
    /// What people know it by.
    pub title: String,
    /// Whether a failure fails nothing.
    pub ignore_error: bool,
    place: Arc<dyn Place>,
}

/// The caches of a build.
pub struct Caches {
    from: Vec<Source>,
    /// Those that are written, in the order of the submission.
    pub to: Vec<Dest>,
    fetching: Arc<Semaphore>,
}

impl Default for Caches {
    fn default() -> Caches {
        let fetching = Arc::new(Semaphore::new(FETCHED_AT_ONCE));
        Caches { from: Vec::new(), to: Vec::new(), fetching }
    }
}

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, to) = (self.from.len(), self.to.len());
        f.debug_struct("Caches").field("from", &from).field("to", &to).finish_non_exhaustive()
    }
}

impl Caches {
    /// The places that flags name.
    pub async fn open(flags: &CacheFlags, reach: &Reach) -> Result<Caches, CacheError> {
        let mut caches = Caches::default();
        for from in &flags.from {
            let (place, offered) =
                (place_of(&from.place, reach, Asking::Briefly).await?, Mutex::default());
            caches.from.push(Source { place, offered });
        }
        for to in &flags.to {
            let (title, place) =
                (to.place.title(), place_of(&to.place, reach, Asking::Patiently).await?);
            caches.to.push(Dest { title, ignore_error: to.ignore_error, place });
        }
        Ok(caches)
    }

    fn source(&self, source: u32) -> Option<&Source> {
        self.from.get(usize::try_from(source).ok()?)
    }

    /// Looks at a source; none if there is no such source.
    pub(crate) async fn look(&self, source: u32) -> Option<Result<Found, PlaceError>> {
        let source = self.source(source)?;
        let found = look(&*source.place).await;
        if let Ok(Found::Records(borrowed)) = &found {
            let mut offered = source.offered.lock().unwrap_or_else(PoisonError::into_inner);
            offered.clone_from(&borrowed.offered);
        }
        Some(found)
    }

    /// A blob of a source, whose reader hashes it; none if there is no such source.
    pub(crate) async fn blob(
        &self,
        source: u32,
        blob: &BlobDigest,
    ) -> Option<Result<BlobStream, PlaceError>> {
        let source = self.source(source)?;
        let turn = self.fetching.clone().acquire_owned().await;
        let size = {
            let offered = source.offered.lock().unwrap_or_else(PoisonError::into_inner);
            offered.get(blob).copied().unwrap_or_default()
        };
        let content = source.place.get(blob, size).await;
        Some(content.map(|content| {
            let held = content.inspect(move |_| {
                let _held = &turn;
            });
            held.boxed()
        }))
    }
}

/// The store, and what the sources of the build have of what it lacks: records may go from one place to another whose
/// layers nobody needed meanwhile.
struct OrSource {
    store: Arc<dyn BlobStore>,
    caches: Arc<Caches>,
}

#[async_trait::async_trait]
impl BlobStore for OrSource {
    async fn find_missing(&self, blobs: &[BlobDigest]) -> Result<Vec<BlobDigest>, StoreError> {
        self.store.find_missing(blobs).await
    }

    async fn get(&self, blob: &BlobDigest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let found = self.store.get(blob, range).await;
        let Err(error) = &found else { return found };
        if !error.is_miss() || range != ByteRange::ALL {
            return found;
        }
        for (at, source) in (0..).zip(&self.caches.from) {
            let offers =
                source.offered.lock().unwrap_or_else(PoisonError::into_inner).contains_key(blob);
            if offers && let Some(Ok(content)) = self.caches.blob(at, blob).await {
                return Ok(content);
            }
        }
        found
    }

    async fn put(&self, blob: &BlobDigest, content: BlobStream) -> Result<u64, StoreError> {
        self.store.put(blob, content).await
    }
}

impl Dest {
    /// Takes a cache to its place; says what is to be known of it.
    pub(crate) async fn write(
        &self,
        made: &MadeCache,
        (caches, blobs): (&Arc<Caches>, &Arc<dyn BlobStore>),
    ) -> Result<Vec<String>, CacheError> {
        let source = OrSource { store: blobs.clone(), caches: caches.clone() };
        let blobs: Arc<dyn BlobStore> = Arc::new(source);
        let title = || self.title.clone();
        let (manifest, left) = match made {
            MadeCache::Made { manifest, left, .. } => (manifest, *left),
            MadeCache::Failed { message } => {
                return Err(CacheError::Made { title: title(), message: message.clone() });
            }
        };
        let failed = |source| CacheError::Store { title: title(), source };
        let manifest_max = u64::try_from(limits::MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
        let manifest = read_bytes(&*blobs, manifest, 8 * manifest_max).await.map_err(failed)?;
        let Seen::Records { key, config, blobs: carried, .. } = recognise(&manifest) else {
            return Err(CacheError::OtherKind { title: title() });
        };
        let config = read_bytes(&*blobs, &config.0, DOCUMENTS_BYTES_MAX).await.map_err(failed)?;
        let artifact = Artifact { key, manifest, config, blobs: carried };
        let sent = send(&artifact, &blobs, &*self.place).await?;
        tracing::debug!(title = self.title, ?sent, "a cache is at its place");
        let left = (left > 0).then(|| {
            format!(
                "{left} records are not in the cache of {title}: their layers are not to be had",
                title = self.title
            )
        });
        let replaced =
            sent.replaced.map(|what| format!("cache at {title}: {what}", title = title()));
        Ok(replaced.into_iter().chain(left).collect())
    }
}

impl CacheFlags {
    /// What the coordinator is told of them.
    pub(crate) fn submitted(&self) -> dcbuild_proto::document::Caches {
        let from = |from: &CacheFrom| CacheSource { title: from.place.title() };
        let to = |to: &CacheTo| CacheDest {
            title: to.place.title(),
            mode: to.mode,
            compression: to.compression,
        };
        dcbuild_proto::document::Caches {
            from: self.from.iter().map(from).collect(),
            to: self.to.iter().map(to).collect(),
        }
    }
}

//! A store in a bucket, and what it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use dcbuild_model::BlobDigest;
use dcbuild_store::{GuardCounts, StoreError};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::S3Config;
use crate::connect;
use crate::failure::{Failure, FailureKind};
use crate::keys::Keys;
use crate::wire::Wire;

/// So many parts wait to be sent at most, however small they are.
const PARTS_WAITING_MAX: usize = 1024;

/// Roles are asked over the network.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps blobs and objects in a bucket; clones are the same store.
#[derive(Clone)]
pub struct S3Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: S3Config,
    /// As messages name it.
    pub(crate) name: String,
    pub(crate) keys: Keys,
    pub(crate) wire: Arc<Wire>,
    pub(crate) counters: Counters,
    /// Where bytes to be sent wait: one permit for each part.
    pub(crate) parts: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) bytes_up: AtomicU64,
    pub(crate) bytes_down: AtomicU64,
    pub(crate) quarantined: AtomicU64,
    pub(crate) faults: AtomicU64,
}

/// What a store has done since it was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct S3Counts {
    /// Bytes of blobs and objects that were sent.
    pub bytes_up: u64,
    /// Bytes of blobs and objects that were received.
    pub bytes_down: u64,
    /// Corrupt blobs that were put aside.
    pub quarantined: u64,
    /// What was asked of the store, or was to be written to it, and failed; that nothing was there is no failure.
    pub faults: u64,
    /// Requests, and what was done about those that failed.
    pub guard: GuardCounts,
}

/// An access key; its secret parts are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// The token of a session, where it belongs to one.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

pub(crate) fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl S3Store {
    /// Finds region, endpoint and credentials by the usual chain of AWS; whether the store answers shows in use.
    pub async fn connect(config: S3Config) -> Result<S3Store, StoreError> {
        let client = connect::client(&config, None).await?;
        S3Store::over(client, config).await
    }

    /// Connects with credentials that come from elsewhere.
    pub async fn connect_as(
        config: S3Config,
        credentials: impl ProvideCredentials + 'static,
    ) -> Result<S3Store, StoreError> {
        let credentials = SharedCredentialsProvider::new(credentials);
        let client = connect::client(&config, Some(credentials)).await?;
        S3Store::over(client, config).await
    }

    /// Connects with an access key that is at hand.
    pub async fn connect_with_key(config: S3Config, key: AccessKey) -> Result<S3Store, StoreError> {
        let AccessKey { id, secret, session_token } = key;
        S3Store::connect_as(config, Credentials::new(id, secret, session_token, None, "dcbuild"))
            .await
    }

    async fn over(client: Client, config: S3Config) -> Result<S3Store, StoreError> {
        let parts = (config.upload_bytes_max / config.part_bytes.max(1)).max(1);
        let parts = usize::try_from(parts).unwrap_or(usize::MAX).min(PARTS_WAITING_MAX);
        let inner = Inner {
            name: config.to_string(),
            keys: Keys::new(&config.prefix),
            wire: Arc::new(Wire::new(client, &config)),
            counters: Counters::default(),
            parts: Arc::new(Semaphore::new(parts)),
            tasks: TaskTracker::new(),
            config,
        };
        inner.find_credentials().await?;
        Ok(S3Store { inner: Arc::new(inner) })
    }

    /// What lies below a prefix in the same store, by the same connections and under the same guard; it counts by itself.
    #[must_use]
    pub fn below(&self, prefix: &str) -> S3Store {
        let Inner { config, wire, parts, .. } = &*self.inner;
        let config = config.below(prefix);
        let inner = Inner {
            name: config.to_string(),
            keys: Keys::new(&config.prefix),
            wire: wire.clone(),
            counters: Counters::default(),
            parts: parts.clone(),
            tasks: TaskTracker::new(),
            config,
        };
        S3Store { inner: Arc::new(inner) }
    }

    /// What it has done so far.
    pub fn counts(&self) -> S3Counts {
        let Counters { bytes_up, bytes_down, quarantined, faults } = &self.inner.counters;
        S3Counts {
            bytes_up: bytes_up.load(Ordering::Relaxed),
            bytes_down: bytes_down.load(Ordering::Relaxed),
            quarantined: quarantined.load(Ordering::Relaxed),
            faults: faults.load(Ordering::Relaxed),
            guard: self.inner.wire.counts(),
        }
    }

    /// Waits until uploads that were given up are away; nothing may be stored afterwards.
    pub async fn close(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    /// A signature needs credentials, and whoever gave them is asked only once: the first request need not wait for a
    /// role's. What does not answer in time may do so when it is asked again.
    async fn find_credentials(&self) -> Result<(), StoreError> {
        let signed = PresigningConfig::expires_in(self.config.grant_lifetime);
        let signed = signed.map_err(|error| {
            self.error(Failure::new(FailureKind::Refused, "a signature", error.to_string()))
        })?;
        let key = self.keys.below("blob/");
        match timeout(CREDENTIALS_TIMEOUT, self.wire.presign_get(&key, signed)).await {
            Ok(Err(failure)) if failure.kind == FailureKind::NoCredentials => {
                Err(self.error(failure))
            }
            _ => Ok(()),
        }
    }

    /// What a failed request means for whoever wanted something of the store.
    pub(crate) fn error(&self, failure: Failure) -> StoreError {
        self.counters.faults.fetch_add(1, Ordering::Relaxed);
        let store = self.name.clone();
        let source = Box::new(failure);
        match source.kind {
            FailureKind::Denied
            | FailureKind::Unknown
            | FailureKind::NoCredentials
            | FailureKind::ClockSkew => StoreError::Denied { store, source },
            FailureKind::NoBucket | FailureKind::WrongRegion => {
                StoreError::Misplaced { store, source }
            }
            FailureKind::Full => StoreError::Full { store, source },
            _ => StoreError::Unavailable { store, source },
        }
    }

    /// The same, where a missing object is a missing blob.
    pub(crate) fn blob_error(&self, blob: &BlobDigest, failure: Failure) -> StoreError {
        match failure.kind {
            FailureKind::Absent => StoreError::NotFound { blob: *blob },
            _ => self.error(failure),
        }
    }

    /// Puts a corrupt blob aside, so that it is a miss from now on.
    pub(crate) async fn quarantine(&self, blob: &BlobDigest) {
        self.counters.quarantined.fetch_add(1, Ordering::Relaxed);
        let (from, to) = (self.keys.blob(blob), self.keys.quarantine(blob));
        let copied = self.wire.copy(&from, &to).await;
        // Without a copy nobody can look into it, but served it must not be.
        let deleted = self.wire.delete(&[from]).await;
        for failure in [copied.err(), deleted.err()].into_iter().flatten() {
            warn!(%blob, %failure, "a corrupt blob could not be put aside");
        }
    }
}

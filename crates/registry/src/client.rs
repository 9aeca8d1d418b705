//! The registry client: one per build or worker, shared by all its pulls and pushes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dcbuild_model::{Digest, ManifestDigest};
use dcbuild_oci::{Descriptor, ImageRef, Repository};

use crate::config::{Endpoint, RegistryConfig};
use crate::credentials::CredentialSource;
use crate::error::{HttpError, PullError, PushError};
use crate::patience::{Ear, Patience};
use crate::pull;
use crate::push::{self, Pushed};
use crate::source::{BlobReader, BlobStream, ImageSource};
use crate::transport::Transport;

/// Pulls from and pushes to registries; clones share connections and tokens.
#[derive(Clone)]
pub struct RegistryClient {
    pub(crate) transport: Arc<Transport>,
}

/// A manifest or index whose bytes were hashed here.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// The digest of the bytes.
    pub digest: ManifestDigest,
    /// The media type that it came under.
    pub media_type: Option<String>,
    /// The bytes.
    pub bytes: Bytes,
}

/// What a registry says about a manifest without sending it; nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadManifest {
    /// The digest, if the registry names one.
    pub digest: Option<ManifestDigest>,
    /// The media type.
    pub media_type: Option<String>,
}

impl RegistryClient {
    /// Prepares connections; nothing is sent yet.
    pub fn new(
        config: RegistryConfig,
        credentials: Arc<dyn CredentialSource>,
    ) -> Result<RegistryClient, HttpError> {
        Ok(RegistryClient { transport: Arc::new(Transport::new(config, credentials)?) })
    }

    /// The same client, who tells somebody when a registry says nothing for long.
    #[must_use]
    pub fn heard_by(&self, ear: Ear) -> RegistryClient {
        self.with(self.transport.patience.heard_by(ear))
    }

    /// The same client with little patience, for what need not be there.
    #[must_use]
    pub fn in_a_hurry(&self) -> RegistryClient {
        self.with(self.transport.patience.little())
    }

    fn with(&self, patience: Patience) -> RegistryClient {
        RegistryClient { transport: Arc::new(self.transport.with(patience)) }
    }

    /// The image as a source that can be resolved for a platform.
    pub fn image(&self, image: ImageRef) -> RegistryImage {
        RegistryImage { client: self.clone(), image }
    }

    /// Asks whether a manifest is there.
    pub async fn head_manifest(&self, image: &ImageRef) -> Result<Option<HeadManifest>, PullError> {
        pull::head_manifest(&self.transport, image).await
    }

    /// Fetches a manifest or index; if the reference has a digest, the bytes have it.
    pub async fn manifest(&self, image: &ImageRef) -> Result<FetchedManifest, PullError> {
        pull::manifest(&self.transport, image).await
    }

    /// Streams a blob, verified at its end; a cut download goes on where it stopped.
    pub async fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<BlobStream, PullError> {
        pull::blob(self.transport.clone(), repository, descriptor).await
    }

    /// Asks whether a repository has a blob.
    pub async fn has_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, PushError> {
        push::has_blob(&self.transport, repository, digest).await
    }

    /// Makes sure that a repository has a blob: finds it, mounts it from a repository beside it, or uploads it.
    pub async fn push_blob(
        &self,
        repository: &Repository,
        blob: Arc<dyn BlobReader>,
        mounts: &[Repository],
    ) -> Result<Pushed, PushError> {
        push::push_blob(&self.transport, repository, blob, mounts).await
    }

    /// Mounts a blob from another repository of the same registry; false if the registry does not.
    pub async fn mount_blob(
        &self,
        to: &Repository,
        digest: &Digest,
        from: &Repository,
    ) -> Result<bool, PushError> {
        push::mount_blob(&self.transport, to, digest, from).await
    }

    /// Puts a manifest or index under the reference's tag, or else under its digest.
    pub async fn push_manifest(
        &self,
        image: &ImageRef,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<ManifestDigest, PushError> {
        push::push_manifest(&self.transport, image, media_type, bytes).await
    }
}

/// An image of a registry.
#[derive(Clone)]
pub struct RegistryImage {
    client: RegistryClient,
    image: ImageRef,
}

#[async_trait]
impl ImageSource for RegistryImage {
    fn name(&self) -> String {
        self.image.to_string()
    }

    async fn root(&self) -> Result<FetchedManifest, PullError> {
        self.client.manifest(&self.image).await
    }

    async fn manifest(&self, digest: ManifestDigest) -> Result<FetchedManifest, PullError> {
        self.client.manifest(&self.image.with_digest(digest)).await
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<BlobStream, PullError> {
        self.client.blob(self.image.repository(), descriptor).await
    }
}

/// The registry's own endpoint.
pub(crate) async fn endpoint(
    transport: &Transport,
    repository: &Repository,
) -> Result<Endpoint, HttpError> {
    let host = repository.host();
    let endpoint = transport.config.endpoint(host).ok_or_else(|| HttpError::Setup {
        host: host.to_owned(),
        what: "its name is no host".into(),
    })?;
    Ok(transport.settled(endpoint).await)
}

/// The URL of something in a repository.
pub(crate) fn url_in(
    endpoint: &Endpoint,
    repository: &Repository,
    rest: &str,
) -> Result<url::Url, HttpError> {
    let joined = endpoint.base.join(&format!("{}/{rest}", repository.path()));
    let mut url = joined.map_err(|_| HttpError::Setup {
        host: endpoint.name.clone(),
        what: "its address makes no URL".into(),
    })?;
    if let Some(namespace) = &endpoint.namespace {
        url.query_pairs_mut().append_pair("ns", namespace);
    }
    Ok(url)
}

//! Finds the images that a plan asks for: by name in the store, at a registry, or in a layout of the client.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use dcbuild_model::limits::{CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX};
use dcbuild_model::{BlobDigest, Fault, LayerDigest, ManifestDigest, Platform, Scope};
use dcbuild_oci::{Descriptor, ImageRef, ParseReferenceError};
use dcbuild_plan as plan;
use dcbuild_process::story;
use dcbuild_proto::document::{Answer, Question};
use dcbuild_registry::{
    BlobStream, Credential, CredentialError, CredentialSource, Ear, FetchedManifest, ImageSource,
    Login, PullError, RegistryClient, RegistryConfig, ResolvedImage, Secret,
};
use dcbuild_store::{NamedImage, StoreError};
use futures::StreamExt as _;

use crate::build::Build;
use crate::config::Stores;
use crate::questions::Reply;

/// How often a client is asked for the image of a layout that the store has lost a part of.
const LAYOUT_TRIES: u32 = 3;

/// Asks the build's client for credentials when a registry wants some.
struct ClientCredentials(Arc<Build>);

#[async_trait]
impl CredentialSource for ClientCredentials {
    async fn credential(&self, registry: &str) -> Result<Option<Login>, CredentialError> {
        // A build that ended gets no credentials; the pull then fails by itself.
        let found = self.0.credentials(registry).await.ok().flatten();
        Ok(found.map(|found| {
            let credential = if found.is_nothing() {
                Credential::Nothing {}
            } else if !found.identity_token.is_empty() {
                Credential::Identity { token: Secret::new(found.identity_token) }
            } else if !found.registry_token.is_empty() {
                Credential::Bearer { token: Secret::new(found.registry_token) }
            } else {
                let password = Secret::new(found.password);
                Credential::Basic { username: found.username, password }
            };
            Login { credential, source: found.source }
        }))
    }
}

/// Finds images for one build.
pub(crate) struct Images {
    build: Arc<Build>,
    stores: Stores,
    scope: Scope,
    client: Result<RegistryClient, String>,
}

impl Images {
    pub(crate) fn new(
        build: Arc<Build>,
        stores: Stores,
        scope: Scope,
        registries: RegistryConfig,
    ) -> Images {
        let credentials = Arc::new(ClientCredentials(build.clone()));
        let client = RegistryClient::new(registries, credentials).map_err(|error| story(&error));
        Images { build, stores, scope, client }
    }

    /// Finds an image for a platform, or says why not; `ear` hears when a registry says nothing for long.
    pub(crate) async fn resolve(
        &self,
        reference: &str,
        platform: &Platform,
        ear: Ear,
    ) -> plan::ImageAnswer {
        if let Some(context) = reference.strip_prefix("layout:") {
            return self.in_layout(context, platform).await;
        }
        if self.build.submission.request.pull == plan::PullPolicy::IfMissing
            && let Some(found) = self.by_name(reference, platform).await?
        {
            return Ok(found);
        }
        self.at_registry(reference, platform, ear).await
    }

    /// Asks the client, which sends what the store lacks; and again where that turns out to be more than was known.
    async fn in_layout(&self, context: &str, platform: &Platform) -> plan::ImageAnswer {
        let mut tries = LAYOUT_TRIES;
        loop {
            let (context, platform_text) = (context.to_owned(), platform.to_string());
            let name = format!("layout {context}");
            let question = Question::Layout { context: context.clone(), platform: platform_text };
            let manifest = match self.build.ask(question).await {
                Ok(Reply::Answer(Answer::Layout { manifest })) => manifest,
                Ok(_) => return Err("the client gave another answer".into()),
                Err(error) => return Err(error.to_string().into()),
            };
            let image = StoredImage::new(&self.stores, name, manifest);
            tries -= 1;
            match image.resolve(platform).await {
                Ok(found) => return Ok(resolved(found, plan::ImageSource::Layout { context })),
                Err(_) if tries > 0 && image.take_failure().is_some_and(|it| it.is_miss()) => {
                    tracing::warn!(
                        context,
                        "the store has lost a part of a layout's image: it is sent again"
                    );
                }
                Err(error) => return Err(unresolved(&error)),
            }
        }
    }

    /// What has the name in the build's scope, else in the nearest of its parents that has one of that name.
    async fn named(&self, reference: &str) -> Result<Option<NamedImage>, StoreError> {
        for scope in self.scope.readable() {
            if let Some(found) = self.stores.names.find(&scope, reference).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// An image that was kept under this name. One of which something is lost is an error: whoever named it does not mean
    /// what a registry may have under the same name.
    async fn by_name(
        &self,
        reference: &str,
        platform: &Platform,
    ) -> Result<Option<plan::ResolvedImage>, plan::Unresolved> {
        let NamedImage { manifest, .. } = match self.named(reference).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // A registry may have another image of that name.
            Err(error) => return Err(unnamed(reference, &error)),
        };
        let image = StoredImage::new(&self.stores, reference.into(), manifest);
        let found = match image.resolve(platform).await {
            Ok(found) => found,
            Err(error) => {
                match image.take_failure() {
                    Some(failure) if failure.is_miss() => return Err(not_whole(reference)),
                    Some(failure) => return Err(unnamed(reference, &failure)),
                    None => {}
                }
                tracing::debug!(reference, error = story(&error), "the kept image does not do");
                return Ok(None);
            }
        };
        match self.has_layers(&found).await {
            Ok(true) => Ok(Some(resolved(found, plan::ImageSource::Store {}))),
            Ok(false) => Err(not_whole(reference)),
            Err(error) => Err(unnamed(reference, &error)),
        }
    }

    /// Whether all layers are in the store, or known from where they came.
    async fn has_layers(&self, image: &ResolvedImage) -> Result<bool, StoreError> {
        let layers = image.layers().iter().map(|layer| BlobDigest(layer.digest));
        let missing = self.stores.blobs.find_missing(&layers.collect::<Vec<_>>()).await?;
        let bases: Vec<LayerDigest> = missing.iter().map(|blob| LayerDigest(blob.0)).collect();
        Ok(self.stores.layers.find_bases(&bases).await?.iter().all(Option::is_some))
    }

    async fn at_registry(
        &self,
        reference: &str,
        platform: &Platform,
        ear: Ear,
    ) -> plan::ImageAnswer {
        let client = self.client.as_ref().map_err(Clone::clone)?.heard_by(ear);
        let image: ImageRef =
            reference.parse().map_err(|error: ParseReferenceError| story(&error))?;
        let repository = image.repository().to_string();
        let found = client.image(image).resolve(platform).await;
        let found = found.map_err(|error| unresolved(&error))?;
        Ok(resolved(found, plan::ImageSource::Registry { repository }))
    }
}

fn unnamed(reference: &str, error: &StoreError) -> plan::Unresolved {
    plan::Unresolved {
        reason: format!(
            "an image was kept under the name {reference}, and the store does not give it: {}",
            story(error)
        ),
        hint: Some(format!(
            "try again when the store does well; `dcbuild rmi {reference}` forgets it, and --pull takes the one of a registry"
        )),
        fault: Fault::Cluster,
    }
}

fn not_whole(reference: &str) -> plan::Unresolved {
    plan::Unresolved {
        reason: format!(
            "the image that was kept under the name {reference} is not whole: the store lost a part of it, or has it damaged"
        ),
        hint: Some(format!(
            "build it again with -t {reference}; `dcbuild rmi {reference}` forgets it, and --pull takes the one of a registry"
        )),
        fault: Fault::Request,
    }
}

fn unresolved(error: &PullError) -> plan::Unresolved {
    plan::Unresolved { reason: story(error), hint: error.hint(), fault: error.fault() }
}

fn resolved(found: ResolvedImage, source: plan::ImageSource) -> plan::ResolvedImage {
    let layers = found.manifest.layers.iter().zip(&found.config.diff_ids);
    let layer = |(layer, diff_id): (&Descriptor, &dcbuild_model::DiffId)| plan::ImageLayer {
        digest: LayerDigest(layer.digest),
        diff_id: *diff_id,
        size: layer.size,
        media_type: layer.media_type.clone(),
    };
    plan::ResolvedImage {
        manifest: found.manifest_digest,
        named: found.root,
        config_digest: found.config_digest,
        layers: layers.map(layer).collect(),
        config: found.config,
        source,
    }
}

/// An image whose manifest and config are blobs of the store.
struct StoredImage {
    stores: Stores,
    name: String,
    manifest: ManifestDigest,
    /// Why the store did not give a part of it.
    failure: Mutex<Option<StoreError>>,
}

impl StoredImage {
    fn new(stores: &Stores, name: String, manifest: ManifestDigest) -> StoredImage {
        StoredImage { stores: stores.clone(), name, manifest, failure: Mutex::default() }
    }

    /// What the store failed with, if it did: a miss where a part is not there any more, or damaged.
    fn take_failure(&self) -> Option<StoreError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn read(&self, digest: dcbuild_model::Digest, max: usize) -> Result<Bytes, PullError> {
        let max = u64::try_from(max).unwrap_or(u64::MAX);
        let blob = BlobDigest(digest);
        let read = dcbuild_store::read_bytes(&*self.stores.blobs, &blob, max);
        read.await.map_err(|error| self.missing(digest, error))
    }

    fn missing(&self, digest: dcbuild_model::Digest, error: StoreError) -> PullError {
        tracing::debug!(error = story(&error), "a blob of a stored image is missing");
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        PullError::NoBlob { image: self.name.clone(), digest }
    }
}

#[async_trait]
impl ImageSource for StoredImage {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn root(&self) -> Result<FetchedManifest, PullError> {
        self.manifest(self.manifest).await
    }

    async fn manifest(&self, digest: ManifestDigest) -> Result<FetchedManifest, PullError> {
        let bytes = self.read(digest.0, MANIFEST_BYTES_MAX).await?;
        Ok(FetchedManifest { digest, media_type: None, bytes })
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<BlobStream, PullError> {
        // Only configs are read here; layers are the worker's.
        let bytes = self.read(descriptor.digest, CONFIG_BYTES_MAX).await?;
        Ok(futures::stream::once(std::future::ready(Ok(bytes))).boxed())
    }
}

//! Pushing: blobs once each, whole or in chunks, and manifests after them.

use std::sync::Arc;

use bytes::Bytes;
use dcbuild_model::limits::MANIFEST_BYTES_MAX;
use dcbuild_model::{Digest, ManifestDigest};
use dcbuild_oci::{ImageRef, Repository};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response};
use url::Url;

use crate::client::{endpoint, url_in};
use crate::config::Endpoint;
use crate::error::{Asked, HttpError, PushError};
use crate::pull::manifest_call;
use crate::source::BlobReader;
use crate::transport::{Call, Payload, TRIES_MAX, Transport, backoff, location, read_limited};

/// How a blob came to be in its repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry linked it from another repository.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// Where blobs go: a repository, and the right to write there.
struct Upload<'a> {
    transport: &'a Transport,
    endpoint: Endpoint,
    repository: &'a Repository,
    digest: Digest,
    scopes: Vec<String>,
}

impl<'a> Upload<'a> {
    async fn new(
        transport: &'a Transport,
        repository: &'a Repository,
        digest: Digest,
    ) -> Result<Upload<'a>, PushError> {
        let endpoint = endpoint(transport, repository)
            .await
            .map_err(|error| PushError::blob(&repository.to_string(), digest, error))?;
        let scopes = vec![format!("repository:{}:pull,push", repository.path())];
        Ok(Upload { transport, endpoint, repository, digest, scopes })
    }

    fn failed(&self, error: HttpError) -> PushError {
        PushError::blob(&self.repository.to_string(), self.digest, error)
    }

    fn call(&self, method: Method, rest: &str) -> Result<Call, HttpError> {
        let url = url_in(&self.endpoint, self.repository, rest)?;
        Ok(Call { method, url, scopes: self.scopes.clone(), ..Call::default() })
    }

    async fn exists(&self) -> Result<bool, HttpError> {
        let call = self.call(Method::HEAD, &format!("blobs/{}", self.digest))?;
        match self.transport.send(&self.endpoint, &call).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks for a mount; the registry links the blob, or begins an upload that is left to expire.
    async fn mount(&self, from: &Repository) -> Result<bool, HttpError> {
        let mut call = self.call(Method::POST, "blobs/uploads/")?;
        call.url
            .query_pairs_mut()
            .append_pair("mount", &self.digest.to_string())
            .append_pair("from", from.path());
        call.scopes.push(format!("repository:{}:pull", from.path()));
        match self.transport.send(&self.endpoint, &call).await {
            Ok(response) => Ok(response.status().as_u16() == 201),
            // A registry that may not read the other repository for us refuses; an upload does as well.
            Err(error) if matches!(error.status(), Some(400..=405)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn begin(&self) -> Result<Url, HttpError> {
        let call = self.call(Method::POST, "blobs/uploads/")?;
        let response = self.transport.send(&self.endpoint, &call).await?;
        location(&self.endpoint.whole(), &response)
    }

    fn with_digest(&self, mut url: Url) -> Url {
        url.query_pairs_mut().append_pair("digest", &self.digest.to_string());
        url
    }

    fn step(&self, method: Method, url: Url, payload: Payload) -> Call {
        let octets = HeaderValue::from_static("application/octet-stream");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, octets)]);
        Call { method, url, headers, payload, scopes: self.scopes.clone(), like: None }
    }

    /// Sends once: an upload has a state, so that only its owner knows how to try again.
    async fn send_once(
        &self,
        call: &Call,
    ) -> Result<Response, (HttpError, Option<std::time::Duration>)> {
        let response = self.transport.once(&self.endpoint, call).await.map_err(|e| (e, None))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.transport.refused(&self.endpoint, call, response).await)
    }

    /// Sends the blob in one request, beginning anew when it fails.
    async fn whole(&self, blob: &Arc<dyn BlobReader>) -> Result<(), HttpError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let url = self.with_digest(self.begin().await?);
            let payload = Payload::Blob { blob: blob.clone(), offset: 0, length: blob.size() };
            let call = self.step(Method::PUT, url, payload);
            let Err((error, pause)) = self.send_once(&call).await else { return Ok(()) };
            // A session that the registry lost answers 404; a fresh one is as good as a retry.
            let lost = error.status() == Some(404);
            if tries >= TRIES_MAX || !(error.is_transient() || lost) {
                return Err(error);
            }
            tracing::debug!(blob = %self.digest, %error, tries, "upload failed, beginning anew");
            tokio::time::sleep(pause.unwrap_or_else(|| backoff(tries))).await;
        }
    }

    /// Sends the blob chunk by chunk, asking where to go on after a failure.
    async fn chunked(&self, blob: &Arc<dyn BlobReader>, chunk: u64) -> Result<(), HttpError> {
        let mut url = self.begin().await?;
        let (mut offset, mut furthest, mut tries) = (0, 0, 0);
        while offset < blob.size() {
            let length = chunk.min(blob.size() - offset);
            let payload = Payload::Blob { blob: blob.clone(), offset, length };
            let mut call = self.step(Method::PATCH, url.clone(), payload);
            let range = format!("{offset}-{}", offset + length - 1);
            if let Ok(value) = HeaderValue::from_str(&range) {
                call.headers.insert(CONTENT_RANGE, value);
            }
            match self.send_once(&call).await {
                Ok(response) => {
                    url = location(&self.endpoint.whole(), &response)?;
                    let begun = offset;
                    offset = received(&response).unwrap_or(offset + length);
                    if offset > furthest {
                        (furthest, tries) = (offset, 0);
                    } else if offset <= begun {
                        tries += 1;
                        if tries >= TRIES_MAX {
                            return Err(self.stuck(offset, blob.size()));
                        }
                    }
                }
                Err((error, pause)) => {
                    tries += 1;
                    let astray = error.status() == Some(416);
                    if tries >= TRIES_MAX || !(error.is_transient() || astray) {
                        return Err(error);
                    }
                    tokio::time::sleep(pause.unwrap_or_else(|| backoff(tries))).await;
                    (url, offset) = self.progress(url).await?;
                }
            }
            if offset > blob.size() {
                let what = "it claims more bytes than were sent".to_owned();
                return Err(HttpError::Answer { host: self.endpoint.whole(), what });
            }
        }
        let call = self.step(Method::PUT, self.with_digest(url), Payload::None);
        self.transport.send(&self.endpoint, &call).await.map(|_| ())
    }

    /// Says of a registry that it takes chunks and does not keep them.
    fn stuck(&self, has: u64, size: u64) -> HttpError {
        let what = format!(
            "it took a chunk {TRIES_MAX} times, and says that it still has only {has} of {size} bytes"
        );
        HttpError::Answer { host: self.endpoint.whole(), what }
    }

    async fn progress(&self, url: Url) -> Result<(Url, u64), HttpError> {
        let call = Call { url, scopes: self.scopes.clone(), ..Call::default() };
        let response = self.transport.send(&self.endpoint, &call).await?;
        Ok((location(&self.endpoint.whole(), &response)?, received(&response).unwrap_or(0)))
    }
}

/// How many bytes of an upload the registry has: `Range: 0-N` names the last one.
fn received(response: &Response) -> Option<u64> {
    let text = response.headers().get(RANGE)?.to_str().ok()?;
    let text = text.trim().strip_prefix("bytes=").unwrap_or(text.trim());
    let last: u64 = text.strip_prefix("0-")?.parse().ok()?;
    // An empty upload also says 0-0.
    if last == 0 { None } else { last.checked_add(1) }
}

pub(crate) async fn has_blob(
    transport: &Transport,
    repository: &Repository,
    digest: &Digest,
) -> Result<bool, PushError> {
    let upload = Upload::new(transport, repository, *digest).await?;
    upload.exists().await.map_err(|error| upload.failed(error))
}

pub(crate) async fn mount_blob(
    transport: &Transport,
    to: &Repository,
    digest: &Digest,
    from: &Repository,
) -> Result<bool, PushError> {
    if to.host() != from.host() {
        return Ok(false);
    }
    let upload = Upload::new(transport, to, *digest).await?;
    upload.mount(from).await.map_err(|error| upload.failed(error))
}

pub(crate) async fn push_blob(
    transport: &Transport,
    repository: &Repository,
    blob: Arc<dyn BlobReader>,
    mounts: &[Repository],
) -> Result<Pushed, PushError> {
    let upload = Upload::new(transport, repository, blob.digest()).await?;
    if upload.exists().await.map_err(|error| upload.failed(error))? {
        return Ok(Pushed::Existed);
    }
    for from in mounts.iter().filter(|from| from.host() == repository.host()) {
        if from != repository && upload.mount(from).await.map_err(|error| upload.failed(error))? {
            return Ok(Pushed::Mounted);
        }
    }
    let host = transport.config.host(repository.host());
    let sent = match host.and_then(|host| host.upload_chunk_bytes) {
        Some(chunk) => upload.chunked(&blob, chunk).await,
        None => upload.whole(&blob).await,
    };
    sent.map_err(|error| upload.failed(error))?;
    Ok(Pushed::Uploaded)
}

pub(crate) async fn push_manifest(
    transport: &Transport,
    image: &ImageRef,
    media_type: &str,
    bytes: Bytes,
) -> Result<ManifestDigest, PushError> {
    let digest = ManifestDigest(Digest::of(&bytes));
    let failed = |error| PushError::manifest(&image.to_string(), error);
    let endpoint = endpoint(transport, image.repository()).await.map_err(failed)?;
    let place = image.tag().map_or_else(|| digest.to_string(), str::to_owned);
    let url = url_in(&endpoint, image.repository(), &format!("manifests/{place}"));
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(media_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    let call = Call {
        method: Method::PUT,
        url: url.map_err(failed)?,
        headers,
        payload: Payload::Bytes(bytes),
        scopes: vec![format!("repository:{}:pull,push", image.repository().path())],
        like: None,
    };
    let response = transport.send(&endpoint, &call).await.map_err(failed)?;
    let status = response.status().as_u16();
    let unkept = |why| failed(HttpError::Unkept { host: endpoint.whole(), status, why });
    match response.headers().get("docker-content-digest").and_then(|it| it.to_str().ok()) {
        Some(named) if named == digest.to_string() => Ok(digest),
        Some(named) => {
            let named: String = named.chars().take(100).collect();
            Err(unkept(format!("it has {named} instead of {digest}")))
        }
        // The specification's answer of success.
        None if status == 201 => Ok(digest),
        None => match has_manifest(transport, &endpoint, image, digest).await.map_err(failed)? {
            None => Ok(digest),
            Some(why) => Err(unkept(why)),
        },
    }
}

/// Asks a registry for a manifest that it took without a word of what it took; says why it does not have it. Whoever says
/// yes to everything, such as the page of a network that wants a login, is no registry.
async fn has_manifest(
    transport: &Transport,
    endpoint: &Endpoint,
    image: &ImageRef,
    digest: ManifestDigest,
) -> Result<Option<String>, HttpError> {
    let call = manifest_call(endpoint, &image.with_digest(digest), Method::GET)?;
    let asked = Asked::new(&Method::GET, &call.url);
    let response = match transport.send(endpoint, &call).await {
        Ok(response) => response,
        Err(HttpError::Status(refusal)) if refusal.status < 500 => {
            return Ok(Some(format!("{} is answered with {}", asked.what, refusal.status)));
        }
        Err(error) => return Err(error),
    };
    let bytes = read_limited(&transport.patience, &asked, response, MANIFEST_BYTES_MAX).await?;
    let is_it = Digest::of(&bytes) == digest.0;
    Ok((!is_it).then(|| format!("{} is answered with something else", asked.what)))
}

//! Pulling: manifests, and blobs that survive a cut connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use dcbuild_model::limits::MANIFEST_BYTES_MAX;
use dcbuild_model::{Digest, ManifestDigest};
use dcbuild_oci::{Descriptor, ImageRef, Repository, media_type};
use futures::StreamExt as _;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response};

use crate::client::{FetchedManifest, HeadManifest, url_in};
use crate::config::Endpoint;
use crate::connections::chain;
use crate::error::{Asked, HttpError, PullError};
use crate::source::BlobStream;
use crate::transport::{Call, SILENCE_MAX, TRIES_MAX, Transport, backoff, read_limited};
use crate::verify::Verifier;

const RESUMES_MAX: u32 = 100;

fn scopes(repository: &Repository) -> Vec<String> {
    vec![format!("repository:{}:pull", repository.path())]
}

pub(crate) fn manifest_call(
    endpoint: &Endpoint,
    image: &ImageRef,
    method: Method,
) -> Result<Call, HttpError> {
    let url = url_in(endpoint, image.repository(), &format!("manifests/{}", image.target()))?;
    let accepted = [
        media_type::INDEX,
        media_type::MANIFEST,
        media_type::DOCKER_INDEX,
        media_type::DOCKER_MANIFEST,
    ];
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&accepted.join(", ")) {
        headers.insert(ACCEPT, value);
    }
    Ok(Call { method, url, headers, scopes: scopes(image.repository()), ..Call::default() })
}

/// Tries mirrors, then the registry, whose error is the one that counts; what the mirrors said goes with it.
async fn ask_each(
    transport: &Transport,
    image: &ImageRef,
    method: Method,
) -> Result<Response, HttpError> {
    let endpoints = transport.config.pull_endpoints(image.host());
    let mut mirrors = Vec::new();
    for endpoint in endpoints {
        let endpoint = transport.settled(endpoint).await;
        let call = manifest_call(&endpoint, image, method.clone())?;
        match transport.send(&endpoint, &call).await {
            Ok(response) => return Ok(response),
            Err(error) if endpoint.namespace.is_some() => {
                tracing::debug!(endpoint = %endpoint.name, %error, "mirror has no manifest");
                mirrors.push(chain(&error));
            }
            Err(error) => return Err(error.after(&mirrors)),
        }
    }
    Err(no_endpoint(image.repository()).after(&mirrors))
}

fn no_endpoint(repository: &Repository) -> HttpError {
    HttpError::Setup { host: repository.host().to_owned(), what: "its name is no host".into() }
}

pub(crate) async fn head_manifest(
    transport: &Transport,
    image: &ImageRef,
) -> Result<Option<HeadManifest>, PullError> {
    let response = match ask_each(transport, image, Method::HEAD).await {
        Ok(response) => response,
        Err(error) if error.status() == Some(404) => return Ok(None),
        Err(error) => return Err(PullError::of(&image.to_string(), error)),
    };
    let text = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    let digest = text("docker-content-digest").and_then(|text| text.parse().ok());
    Ok(Some(HeadManifest { digest, media_type: text("content-type") }))
}

pub(crate) async fn manifest(
    transport: &Transport,
    image: &ImageRef,
) -> Result<FetchedManifest, PullError> {
    let name = image.to_string();
    let response = ask_each(transport, image, Method::GET).await;
    let response = response.map_err(|error| PullError::of(&name, error))?;
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = kind.map(str::to_owned);
    let asked = Asked::new(&Method::GET, response.url());
    let bytes = read_limited(&transport.patience, &asked, response, MANIFEST_BYTES_MAX).await;
    let bytes = bytes.map_err(|error| PullError::of(&name, error))?;
    let got = Digest::of(&bytes);
    if let Some(wanted) = image.digest()
        && wanted.0 != got
    {
        return Err(PullError::Digest { image: name, wanted: wanted.0, got });
    }
    Ok(FetchedManifest { digest: ManifestDigest(got), media_type, bytes })
}

/// A download under way.
struct Download {
    transport: Arc<Transport>,
    image: String,
    repository: Repository,
    digest: Digest,
    endpoints: VecDeque<Endpoint>,
    /// What mirrors said that did not have it.
    mirrors: Vec<String>,
    verifier: Verifier,
    body: Option<Response>,
    /// Bytes of the answer that we already have, where the registry ignored the range.
    skip: u64,
    failures: u32,
    resumes: u32,
    ended: bool,
}

pub(crate) async fn blob(
    transport: Arc<Transport>,
    repository: &Repository,
    descriptor: &Descriptor,
) -> Result<BlobStream, PullError> {
    let image = repository.to_string();
    let mut download = Download {
        endpoints: transport.config.pull_endpoints(repository.host()).into(),
        transport,
        verifier: Verifier::new(image.clone(), descriptor.digest, descriptor.size),
        image,
        repository: repository.clone(),
        digest: descriptor.digest,
        mirrors: Vec::new(),
        body: None,
        skip: 0,
        failures: 0,
        resumes: 0,
        ended: false,
    };
    // The first answer is awaited here, so that a missing blob is an error of the call and not of the stream.
    download.open().await?;
    let stream = futures::stream::try_unfold(download, |mut download| async move {
        Ok(download.next().await?.map(|chunk| (chunk, download)))
    });
    Ok(stream.boxed())
}

impl Download {
    /// Asks for the rest of the blob, at the first endpoint that has it.
    async fn open(&mut self) -> Result<(), PullError> {
        loop {
            let Some(endpoint) = self.endpoints.front().cloned() else {
                return Err(PullError::of(&self.image, no_endpoint(&self.repository)));
            };
            let endpoint = self.transport.settled(endpoint).await;
            match self.open_at(&endpoint).await {
                Ok(()) => return Ok(()),
                Err(error) if self.endpoints.len() > 1 => {
                    tracing::debug!(endpoint = %endpoint.name, %error, "mirror failed for a blob");
                    self.mirrors.push(chain(&error));
                    self.endpoints.pop_front();
                }
                Err(error) if error.status() == Some(404) => {
                    return Err(PullError::NoBlob {
                        image: self.image.clone(),
                        digest: self.digest,
                    });
                }
                Err(error) => return Err(PullError::of(&self.image, error.after(&self.mirrors))),
            }
        }
    }

    async fn open_at(&mut self, endpoint: &Endpoint) -> Result<(), HttpError> {
        let seen = self.verifier.seen();
        let url = url_in(endpoint, &self.repository, &format!("blobs/{}", self.digest))?;
        let mut headers = HeaderMap::new();
        if seen > 0
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={seen}-"))
        {
            headers.insert(RANGE, value);
        }
        let call = Call { url, headers, scopes: scopes(&self.repository), ..Call::default() };
        let response = self.transport.send(endpoint, &call).await?;
        self.skip = match response.status().as_u16() {
            206 if starts_at(&response) == Some(seen) => 0,
            206 => {
                let what = "another range than was asked for".to_owned();
                return Err(HttpError::Answer { host: endpoint.whole(), what });
            }
            _ => seen,
        };
        self.body = Some(response);
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, PullError> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let Some(body) = &mut self.body else {
                self.open().await?;
                continue;
            };
            let asked = Asked::new(&Method::GET, body.url());
            let (patience, still) = (&self.transport.patience, AtomicU64::new(0));
            let limit = patience.answer;
            let chunk = patience.while_moving((&asked.host, limit), &still, body.chunk()).await;
            let error = match chunk {
                Some(Ok(Some(chunk))) => {
                    let chunk = self.without_skipped(chunk);
                    if chunk.is_empty() {
                        continue;
                    }
                    self.verifier.take(&chunk)?;
                    self.failures = 0;
                    if self.verifier.is_complete() && self.is_last().await {
                        // The digest is checked before the last bytes are handed out.
                        self.verifier.finish()?;
                        self.ended = true;
                    }
                    return Ok(Some(chunk));
                }
                Some(Ok(None)) if self.verifier.is_complete() => {
                    self.verifier.finish()?;
                    return Ok(None);
                }
                Some(Ok(None)) => {
                    HttpError::Answer { host: asked.host, what: "it ended early".into() }
                }
                Some(Err(source)) => HttpError::Connect { asked, source: source.without_url() },
                None => HttpError::Stalled { asked, seconds: limit.as_secs() },
            };
            self.cut(error).await?;
        }
    }

    fn without_skipped(&mut self, mut chunk: Bytes) -> Bytes {
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
        self.skip -= u64::try_from(known).unwrap_or(0);
        chunk.split_off(known)
    }

    /// Whether nothing follows the bytes that complete the blob; more is put before the verifier, which refuses it.
    async fn is_last(&mut self) -> bool {
        let Some(body) = &mut self.body else { return true };
        match tokio::time::timeout(SILENCE_MAX, body.chunk()).await {
            Ok(Ok(Some(more))) => {
                let over = self.verifier.take(&more).is_err();
                tracing::debug!(blob = %self.digest, over, "bytes follow the end of a blob");
                true
            }
            _ => true,
        }
    }

    /// Notes that the connection was cut, and waits before it is taken up again.
    async fn cut(&mut self, error: HttpError) -> Result<(), PullError> {
        self.body = None;
        self.failures += 1;
        self.resumes += 1;
        // What says nothing twice, with nothing in between, is waited for no longer.
        let is_mute = matches!(error, HttpError::Stalled { .. }) && self.failures > 1;
        if self.failures >= TRIES_MAX || is_mute || self.resumes > RESUMES_MAX {
            if self.endpoints.len() > 1 {
                self.endpoints.pop_front();
                self.failures = 0;
                return Ok(());
            }
            return match error {
                HttpError::Answer { .. } => self.verifier.finish(),
                other => Err(PullError::of(&self.image, other)),
            };
        }
        tracing::debug!(blob = %self.digest, %error, "download was cut, going on");
        tokio::time::sleep(backoff(self.failures)).await;
        Ok(())
    }
}

fn starts_at(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

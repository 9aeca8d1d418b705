//! One exchange with a registry: proofs, redirects, retries, and an end to every wait.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::auth::{Proofs, answer_challenge};
use crate::config::{Endpoint, RegistryConfig};
use crate::connections::Connections;
use crate::credentials::{CredentialSource, Login};
use crate::error::{ApiError, Asked, HttpError};
use crate::obstacle::Obstacle;
use crate::origin::Origin;
use crate::patience::Patience;
use crate::source::BlobReader;

pub(crate) const SILENCE_MAX: Duration = Duration::from_mins(1);
const REDIRECTS_MAX: usize = 10;
pub(crate) const TRIES_MAX: u32 = 5;
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(8);
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// A request, ready to be sent as often as it takes.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    /// What the token must allow.
    pub(crate) scopes: Vec<String>,
    /// Whose certificates count where nothing is configured for the place itself.
    pub(crate) like: Option<Origin>,
}

/// What a request carries.
#[derive(Clone)]
pub(crate) enum Payload {
    None,
    Bytes(Bytes),
    Blob { blob: Arc<dyn BlobReader>, offset: u64, length: u64 },
}

impl Default for Call {
    fn default() -> Call {
        Call {
            method: Method::GET,
            url: Url::parse("http://localhost/").expect("it is a URL"),
            headers: HeaderMap::new(),
            payload: Payload::None,
            scopes: Vec::new(),
            like: None,
        }
    }
}

/// Connections to registries, and what was learned about them; clones share both.
#[derive(Clone)]
pub(crate) struct Transport {
    pub(crate) config: Arc<RegistryConfig>,
    credentials: Arc<dyn CredentialSource>,
    pub(crate) proofs: Arc<Proofs>,
    connections: Arc<Connections>,
    /// The hosts that may do without TLS and were asked whether they do.
    plain: Arc<tokio::sync::Mutex<BTreeMap<String, bool>>>,
    pub(crate) patience: Patience,
}

impl Transport {
    pub(crate) fn new(
        config: RegistryConfig,
        credentials: Arc<dyn CredentialSource>,
    ) -> Result<Transport, HttpError> {
        Ok(Transport {
            credentials,
            proofs: Arc::default(),
            connections: Arc::new(Connections::new(&config)?),
            plain: Arc::default(),
            patience: Patience::default(),
            config: Arc::new(config),
        })
    }

    /// The same connections with another patience.
    pub(crate) fn with(&self, patience: Patience) -> Transport {
        Transport { patience, ..self.clone() }
    }

    /// An endpoint as it is reached: one that may do without TLS is asked once whether it does.
    pub(crate) async fn settled(&self, endpoint: Endpoint) -> Endpoint {
        if !endpoint.may_be_plain {
            return endpoint;
        }
        let mut known = self.plain.lock().await;
        let is_plain = if let Some(is_plain) = known.get(&endpoint.name) {
            *is_plain
        } else {
            let url = endpoint.base.clone();
            let asked = self.exchange(&Call { url, ..Call::default() }).await;
            let is_plain = matches!(&asked, Err(HttpError::Connect { source, .. })
                if Obstacle::of(source) == Some(Obstacle::NoTls));
            known.insert(endpoint.name.clone(), is_plain);
            is_plain
        };
        if is_plain { endpoint.clone().in_the_clear().unwrap_or(endpoint) } else { endpoint }
    }

    pub(crate) async fn login(&self, endpoint: &Endpoint) -> Result<Option<Login>, HttpError> {
        let found = self.credentials.credential(&endpoint.name).await;
        found.map_err(|source| HttpError::Credentials { host: endpoint.whole(), source })
    }

    /// Why an answer is none of success, and how long the registry asks us to wait.
    pub(crate) async fn refused(
        &self,
        endpoint: &Endpoint,
        call: &Call,
        response: Response,
    ) -> (HttpError, Option<Duration>) {
        let pause = retry_after(response.headers());
        let asked = Asked::new(&call.method, response.url());
        let error = HttpError::from(refusal(&self.patience, asked, response).await);
        if !matches!(error.status(), Some(401 | 403)) {
            return (error, pause);
        }
        let login = self.login(endpoint).await.ok().flatten();
        (error.with_login(crate::auth::login_words(login.as_ref())), pause)
    }

    /// Sends a request until it is answered by success, by a refusal that stands, or too often by failure.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        call: &Call,
    ) -> Result<Response, HttpError> {
        let (mut tries, begun) = (0, Instant::now());
        loop {
            tries += 1;
            let (error, pause) = match self.once(endpoint, call).await {
                Ok(response) if !response.status().is_success() => {
                    self.refused(endpoint, call, response).await
                }
                Ok(response) => return Ok(response),
                Err(error) => (error, None),
            };
            let pause = pause.unwrap_or_else(|| backoff(tries));
            let is_late = self.patience.ends_before(begun, pause);
            if tries >= TRIES_MAX || is_late || !error.is_transient() {
                return Err(error);
            }
            tracing::debug!(host = %endpoint.name, %error, tries, "registry exchange failed, trying again");
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends a request once; a 401 is answered, and redirects are followed.
    pub(crate) async fn once(
        &self,
        endpoint: &Endpoint,
        call: &Call,
    ) -> Result<Response, HttpError> {
        let response = self.follow(endpoint, call).await?;
        let asked = response.status() == StatusCode::UNAUTHORIZED
            && Origin::of(response.url()).as_ref() == Some(&endpoint.origin);
        if !asked {
            return Ok(response);
        }
        self.proofs.forget(&endpoint.origin, &call.scopes);
        if answer_challenge(self, endpoint, &call.scopes, response.headers()).await? {
            return self.follow(endpoint, call).await;
        }
        Ok(response)
    }

    async fn follow(&self, endpoint: &Endpoint, call: &Call) -> Result<Response, HttpError> {
        let mut step = call.clone();
        for _ in 0..=REDIRECTS_MAX {
            step.headers.remove(AUTHORIZATION);
            if Origin::of(&step.url).as_ref() == Some(&endpoint.origin)
                && let Some(proof) = self.proofs.find(&endpoint.origin, &call.scopes)
            {
                step.headers.insert(AUTHORIZATION, proof);
            }
            let response = self.exchange(&step).await?;
            let followed = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
                && response.headers().contains_key(LOCATION);
            if !followed {
                return Ok(response);
            }
            step.url = location(&endpoint.whole(), &response)?;
        }
        Err(HttpError::Redirects { host: endpoint.whole(), max: REDIRECTS_MAX })
    }

    /// Sends a request that stands alone until something answers it; redirects are not followed.
    pub(crate) async fn patiently(&self, call: &Call) -> Result<Response, HttpError> {
        let (mut tries, begun) = (0, Instant::now());
        loop {
            tries += 1;
            let outcome = self.exchange(call).await;
            let again = match &outcome {
                Ok(response) => matches!(response.status().as_u16(), 429 | 500..=599),
                Err(error) => error.is_transient(),
            };
            let asked = outcome.as_ref().ok().and_then(|response| retry_after(response.headers()));
            let pause = asked.unwrap_or_else(|| backoff(tries));
            if tries >= TRIES_MAX || !again || self.patience.ends_before(begun, pause) {
                return outcome;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One request, one answer.
    async fn exchange(&self, call: &Call) -> Result<Response, HttpError> {
        let asked = Asked::new(&call.method, &call.url);
        let Some(origin) = Origin::of(&call.url) else {
            return Err(refused_location(
                &asked.host,
                &call.url,
                "it is no plain http or https URL",
            ));
        };
        let client = self.connections.of(&origin, call.like.as_ref())?;
        let request =
            client.request(call.method.clone(), call.url.clone()).headers(call.headers.clone());
        let moved = Arc::new(AtomicU64::new(0));
        let request = match &call.payload {
            Payload::None if call.method == Method::GET || call.method == Method::HEAD => request,
            Payload::None => request.header(CONTENT_LENGTH, HeaderValue::from_static("0")),
            Payload::Bytes(bytes) => request.body(bytes.clone()),
            Payload::Blob { blob, offset, length } => {
                let read = |source| HttpError::Read { host: asked.host.clone(), source };
                let stream = blob.open(*offset).await.map_err(read)?;
                let body = counted(stream, *length, moved.clone());
                request.header(CONTENT_LENGTH, *length).body(body)
            }
        };
        let sends = matches!(call.method, Method::PUT | Method::PATCH);
        let limit = if sends { self.patience.stored } else { self.patience.answer };
        let sent = self.patience.while_moving((&asked.host, limit), &moved, request.send()).await;
        let Some(outcome) = sent else {
            return Err(HttpError::Stalled { asked, seconds: limit.as_secs() });
        };
        outcome.map_err(|source| self.connections.failed(asked, &call.url, source))
    }
}

fn counted(stream: crate::source::ByteStream, length: u64, moved: Arc<AtomicU64>) -> reqwest::Body {
    let mut left = usize::try_from(length).unwrap_or(usize::MAX);
    let stream = stream.map_ok(move |mut chunk: Bytes| {
        chunk.truncate(left);
        left -= chunk.len();
        moved.fetch_add(1, Ordering::Relaxed);
        chunk
    });
    reqwest::Body::wrap_stream(stream.boxed())
}

/// Where an answer points, if it may be followed.
pub(crate) fn location(host: &str, response: &Response) -> Result<Url, HttpError> {
    let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let Some(text) = text else {
        let what = "it should have a Location".to_owned();
        return Err(HttpError::Answer { host: host.to_owned(), what });
    };
    let base = response.url();
    let Ok(url) = base.join(text) else {
        return Err(HttpError::Answer {
            host: host.to_owned(),
            what: "its Location is no URL".into(),
        });
    };
    if Origin::of(&url).is_none() {
        return Err(refused_location(host, &url, "it is no plain http or https URL"));
    }
    if base.scheme() == "https" && url.scheme() == "http" {
        return Err(refused_location(host, &url, "it would leave TLS"));
    }
    Ok(url)
}

fn refused_location(host: &str, url: &Url, why: &'static str) -> HttpError {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Neither can fail for a URL with a host; without one there is nothing to hide.
    let _hidden = shown.set_username("").and_then(|()| shown.set_password(None));
    let target = shown.as_str().chars().take(200).collect();
    HttpError::Location { host: host.to_owned(), target, why }
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<RefusalItem>,
}

#[derive(Deserialize)]
struct RefusalItem {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// Reads what a registry says when it refuses; a body that says nothing leaves the status.
pub(crate) async fn refusal(patience: &Patience, asked: Asked, response: Response) -> ApiError {
    let status = response.status().as_u16();
    let body =
        read_limited(patience, &asked, response, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let parsed: Option<Refusal> = serde_json::from_slice(&body).ok();
    let first = parsed.and_then(|refusal| refusal.errors.into_iter().next());
    let plain = |text: Option<String>, max: usize| -> String {
        let text = text.unwrap_or_default();
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(max).collect()
    };
    let (code, message) = first.map_or((None, None), |item| (item.code, item.message));
    let (code, message) = (plain(code, 100), plain(message, 500));
    ApiError { asked, status, code, message, login: None }
}

/// Reads a small body whole.
pub(crate) async fn read_limited(
    patience: &Patience,
    asked: &Asked,
    mut response: Response,
    bytes_max: usize,
) -> Result<Bytes, HttpError> {
    let read = async {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > bytes_max {
                break;
            }
        }
        Ok(bytes)
    };
    // A small body has a limit as a whole, so that a drip of bytes cannot hold a build.
    let (asked, limit, still) = (asked.clone(), patience.answer, AtomicU64::new(0));
    match patience.while_moving((&asked.host, limit), &still, read).await {
        Some(Ok(bytes)) if bytes.len() > bytes_max => {
            let what = format!("more than {bytes_max} bytes");
            Err(HttpError::Answer { host: asked.host, what })
        }
        Some(Ok(bytes)) => Ok(bytes.into()),
        Some(Err(source)) => {
            let source: reqwest::Error = source;
            Err(HttpError::Connect { asked, source: source.without_url() })
        }
        None => Err(HttpError::Slow { asked, seconds: limit.as_secs() }),
    }
}

/// How long a registry asks us to wait, within reason.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The pause after so many tries: it doubles, and half of it is chance, so that a farm does not knock in step.
pub(crate) fn backoff(tries: u32) -> Duration {
    let full = BACKOFF_FIRST.saturating_mul(1 << tries.min(10)).min(BACKOFF_MAX);
    let chance = std::collections::hash_map::RandomState::new().build_hasher().finish();
    full / 2 + full.mul_f64(f64::from(u32::try_from(chance % 1000).unwrap_or(0)) / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_stops_in_its_middle_is_waited_for_like_one_that_never_begins() {
        let heard = Arc::new(std::sync::Mutex::new(0));
        let count = heard.clone();
        let ear = Arc::new(move |_: &str, _: Duration| *count.lock().unwrap() += 1);
        let usual = Patience::default().heard_by(ear);
        for (patience, seconds) in [(usual.little(), 10), (usual, 60)] {
            let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from("{"))]);
            let stream = first.chain(futures::stream::pending());
            let body = reqwest::Body::wrap_stream(stream);
            let response = Response::from(axum::http::Response::new(body));
            let asked = Asked::new(&Method::GET, &Url::parse("http://h:80/v2/").unwrap());
            let begun = Instant::now();
            let error = read_limited(&patience, &asked, response, 100).await.unwrap_err();
            assert_eq!(begun.elapsed().as_secs(), seconds);
            let want = format!("http://h:80 did not get done with GET /v2/ in {seconds} seconds");
            assert_eq!(error.to_string(), want);
            assert!(error.is_lasting() && error.fault() == dcbuild_model::Fault::Cluster);
        }
        assert_eq!(*heard.lock().unwrap(), 5);
    }
}

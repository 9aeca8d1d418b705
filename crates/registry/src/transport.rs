//! One exchange with a registry: proofs, redirects, retries, and an end to every wait.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::auth::{Proofs, answer_challenge};
use crate::config::{Endpoint, HostConfig, RegistryConfig};
use crate::credentials::{CredentialSource, Login};
use crate::error::{ApiError, Asked, HttpError};
use crate::names::SystemNames;
use crate::origin::{Origin, is_local};
use crate::source::BlobReader;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
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
        }
    }
}

/// Connections to registries, and what was learned about them.
pub(crate) struct Transport {
    pub(crate) config: RegistryConfig,
    credentials: Arc<dyn CredentialSource>,
    pub(crate) proofs: Proofs,
    plain: Client,
    local: Client,
    tls: OnceLock<Result<Client, String>>,
    own: BTreeMap<String, Client>,
}

impl Transport {
    pub(crate) fn new(
        config: RegistryConfig,
        credentials: Arc<dyn CredentialSource>,
    ) -> Result<Transport, HttpError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may install it first, which is as good.
            let _installed = rustls::crypto::ring::default_provider().install_default();
        }
        let setup = |host: &str, what: String| HttpError::Setup { host: host.to_owned(), what };
        // These two never speak TLS: https goes to `tls` or to a host's own client.
        let plain = base_client().tls_danger_accept_invalid_certs(true).build();
        let local = base_client().no_proxy().tls_danger_accept_invalid_certs(true).build();
        let mut own = BTreeMap::new();
        for (name, host) in config.hosts() {
            if host.insecure || !host.ca.is_empty() {
                own.insert(name.clone(), own_client(name, host).map_err(|what| setup(name, what))?);
            }
        }
        Ok(Transport {
            credentials,
            proofs: Proofs::default(),
            plain: plain.map_err(|error| setup("registries", error.to_string()))?,
            local: local.map_err(|error| setup("registries", error.to_string()))?,
            tls: OnceLock::new(),
            own,
            config,
        })
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
        let error = HttpError::from(refusal(asked, response).await);
        if !matches!(error.status(), Some(401 | 403)) {
            return (error, pause);
        }
        let login = self.login(endpoint).await.ok().flatten();
        (error.with_login(crate::auth::login_words(login.as_ref())), pause)
    }

    fn client(&self, origin: &Origin) -> Result<&Client, HttpError> {
        if !origin.is_tls() {
            return Ok(if is_local(origin.host()) { &self.local } else { &self.plain });
        }
        if let Some(own) = self.own.get(&origin.name()) {
            return Ok(own);
        }
        let tls = self.tls.get_or_init(|| base_client().build().map_err(|error| chain(&error)));
        tls.as_ref().map_err(|what| HttpError::Setup { host: origin.name(), what: what.clone() })
    }

    /// Sends a request until it is answered by success, by a refusal that stands, or too often by failure.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        call: &Call,
    ) -> Result<Response, HttpError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (error, pause) = match self.once(endpoint, call).await {
                Ok(response) if !response.status().is_success() => {
                    self.refused(endpoint, call, response).await
                }
                Ok(response) => return Ok(response),
                Err(error) => (error, None),
            };
            if tries >= TRIES_MAX || !error.is_transient() {
                return Err(error);
            }
            tracing::debug!(host = %endpoint.name, %error, tries, "registry exchange failed, trying again");
            tokio::time::sleep(pause.unwrap_or_else(|| backoff(tries))).await;
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
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = self.exchange(call).await;
            let again = match &outcome {
                Ok(response) => matches!(response.status().as_u16(), 429 | 500..=599),
                Err(error) => error.is_transient(),
            };
            if tries >= TRIES_MAX || !again {
                return outcome;
            }
            let asked = outcome.ok().and_then(|response| retry_after(response.headers()));
            tokio::time::sleep(asked.unwrap_or_else(|| backoff(tries))).await;
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
        let client = self.client(&origin)?;
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
        let sent = while_moving(&moved, request.send()).await;
        let Some(outcome) = sent else {
            return Err(HttpError::Stalled { asked, seconds: SILENCE_MAX.as_secs() });
        };
        outcome.map_err(|source| HttpError::Connect { asked, source: source.without_url() })
    }
}

fn base_client() -> reqwest::ClientBuilder {
    Client::builder()
        .user_agent(concat!("dcbuild/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .dns_resolver(Arc::new(SystemNames))
        .connect_timeout(CONNECT_TIME_MAX)
        .pool_idle_timeout(Duration::from_secs(30))
        .tcp_keepalive(Duration::from_secs(30))
}

fn own_client(name: &str, host: &HostConfig) -> Result<Client, String> {
    let mut builder = base_client();
    if is_local(name) {
        builder = builder.no_proxy();
    }
    if host.insecure {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    let mut certificates = Vec::new();
    for path in &host.ca {
        certificates.extend(read_certificates(path)?);
    }
    if !certificates.is_empty() {
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| chain(&error))
}

pub(crate) fn read_certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, String> {
    let shown = path.display();
    let pem = std::fs::read(path).map_err(|error| format!("could not read '{shown}': {error}"))?;
    match reqwest::Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("'{shown}' holds no certificate")),
        Err(error) => Err(format!("'{shown}' holds no certificate: {}", chain(&error))),
    }
}

/// An error with all that caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let links = std::iter::successors(Some(error), |error| error.source());
    links.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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

/// Waits for a future as long as bytes move; none when they stopped.
async fn while_moving<T>(moved: &AtomicU64, work: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(work);
    loop {
        let before = moved.load(Ordering::Relaxed);
        match tokio::time::timeout(SILENCE_MAX, &mut work).await {
            Ok(done) => return Some(done),
            Err(_) if moved.load(Ordering::Relaxed) == before => return None,
            Err(_) => {}
        }
    }
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
pub(crate) async fn refusal(asked: Asked, response: Response) -> ApiError {
    let status = response.status().as_u16();
    let body = read_limited(&asked, response, REFUSAL_BYTES_MAX).await.unwrap_or_default();
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
    asked: &Asked,
    mut response: Response,
    bytes_max: usize,
) -> Result<Bytes, HttpError> {
    let asked = || asked.clone();
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
    match tokio::time::timeout(SILENCE_MAX, read).await {
        Ok(Ok(bytes)) if bytes.len() > bytes_max => Err(HttpError::Answer {
            host: asked().host,
            what: format!("more than {bytes_max} bytes"),
        }),
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(source)) => {
            let source: reqwest::Error = source;
            Err(HttpError::Connect { asked: asked(), source: source.without_url() })
        }
        Err(_) => Err(HttpError::Stalled { asked: asked(), seconds: SILENCE_MAX.as_secs() }),
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

//! Proves who we are to a registry: Basic, or a token from the service that it names.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::challenge::{self, Challenge};
use crate::config::Endpoint;
use crate::credentials::{Credential, Login};
use crate::error::{Asked, HttpError};
use crate::origin::Origin;
use crate::transport::{Call, Payload, Transport, read_limited};

const TOKEN_ANSWER_BYTES_MAX: usize = 1 << 20;
const TOKEN_LIFE_DEFAULT: u64 = 60;
const TOKEN_LIFE_MAX: u64 = 3_600;

/// The proofs that worked, by the origin that they are for and what they allow.
#[derive(Default)]
pub(crate) struct Proofs(Mutex<HashMap<(Origin, String), (HeaderValue, Instant)>>);

impl Proofs {
    pub(crate) fn find(&self, origin: &Origin, scopes: &[String]) -> Option<HeaderValue> {
        let proofs = self.0.lock().ok()?;
        let (value, until) = proofs.get(&(origin.clone(), scopes.join(" ")))?;
        (*until > Instant::now()).then(|| value.clone())
    }

    fn keep(&self, origin: &Origin, scopes: &[String], value: HeaderValue, life: Duration) {
        if let Ok(mut proofs) = self.0.lock() {
            let now = Instant::now();
            proofs.retain(|_, (_, until)| *until > now);
            proofs.insert((origin.clone(), scopes.join(" ")), (value, now + life));
        }
    }

    pub(crate) fn forget(&self, origin: &Origin, scopes: &[String]) {
        if let Ok(mut proofs) = self.0.lock() {
            proofs.remove(&(origin.clone(), scopes.join(" ")));
        }
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Answers a registry's 401: keeps a proof for the next try, or says that there is none.
pub(crate) async fn answer_challenge(
    transport: &Transport,
    endpoint: &Endpoint,
    scopes: &[String],
    headers: &HeaderMap,
) -> Result<bool, HttpError> {
    let offers: Vec<Challenge> = headers
        .get_all("www-authenticate")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .collect();
    let login = transport.login(endpoint).await?;
    let credential = login.as_ref().map(|login| login.credential.clone());
    let bearer = offers.iter().find(|offer| offer.scheme == "bearer");
    let basic = offers.iter().any(|offer| offer.scheme == "basic");
    let long = Duration::from_secs(TOKEN_LIFE_MAX);
    let (value, life) = match (bearer, &credential) {
        (Some(_), Some(Credential::Bearer { token })) => {
            (header(&endpoint.name, &format!("Bearer {}", token.reveal()))?, long)
        }
        (Some(offer), _) => fetch_token(transport, endpoint, offer, scopes, login.as_ref()).await?,
        (None, Some(Credential::Basic { username, password })) if basic => {
            (header(&endpoint.name, &basic_text(username, password.reveal()))?, long)
        }
        _ => return Ok(false),
    };
    transport.proofs.keep(&endpoint.origin, scopes, value, life);
    Ok(true)
}

/// Who we said we are when we were refused.
pub(crate) fn login_words(login: Option<&Login>) -> String {
    login.map_or_else(|| "asked without credentials: none are known for it".into(), Login::words)
}

fn basic_text(username: &str, password: &str) -> String {
    let pair = format!("{username}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

fn header(host: &str, text: &str) -> Result<HeaderValue, HttpError> {
    let Ok(mut value) = HeaderValue::from_str(text) else {
        let what = "the credential or token has characters that no header may have".into();
        return Err(HttpError::Setup { host: host.to_owned(), what });
    };
    value.set_sensitive(true);
    Ok(value)
}

async fn fetch_token(
    transport: &Transport,
    endpoint: &Endpoint,
    offer: &Challenge,
    scopes: &[String],
    login: Option<&Login>,
) -> Result<(HeaderValue, Duration), HttpError> {
    let host = endpoint.whole();
    let realm = offer.params.get("realm").map(String::as_str).unwrap_or_default();
    let refused = |why| HttpError::Location {
        host: host.clone(),
        target: realm.split('?').next().unwrap_or_default().chars().take(200).collect(),
        why,
    };
    let url = Url::parse(realm).map_err(|_| refused("it is no URL"))?;
    let origin = Origin::of(&url).ok_or_else(|| refused("it is no plain http or https URL"))?;
    if endpoint.origin.is_tls() && !origin.is_tls() {
        return Err(refused("it would leave TLS"));
    }
    let trusted = endpoint.origin.trusts_realm(&origin) || endpoint.token_origins.contains(&origin);
    if login.is_some() && !trusted {
        tracing::warn!(
            registry = %endpoint.name, realm = %origin,
            "token service is foreign to its registry; no credentials are sent to it unless token_origins of the registry lists it"
        );
    }
    let credential = login.filter(|_| trusted).map(|login| &login.credential);
    let call = token_call(url, offer, scopes, credential, &host)?;
    // As with docker: whoever names a registry's authority means its token service too.
    let like = (endpoint.origin.host() == origin.host()).then(|| endpoint.origin.clone());
    let call = Call { like, ..call };
    let answer = ask(transport, endpoint, &call).await;
    answer.map_err(|source| {
        let words = match login {
            Some(_) if !trusted => {
                let (name, realm) = (&endpoint.name, origin.whole());
                format!("asked without credentials: it is foreign to the registry, unless `token_origins = [\"{realm}\"]` stands in the configuration's table [registry.\"{name}\"]")
            }
            login => login_words(login),
        };
        let source = Box::new(source.with_login(words));
        HttpError::Token { host: host.clone(), realm: origin.whole(), source }
    })
}

/// The request to a token service: a form with a refresh token, or a GET with or without Basic.
fn token_call(
    mut url: Url,
    offer: &Challenge,
    scopes: &[String],
    credential: Option<&Credential>,
    host: &str,
) -> Result<Call, HttpError> {
    let mut wanted = scopes.to_vec();
    if let Some(scope) = offer.params.get("scope").filter(|scope| !scope.is_empty()) {
        wanted.extend(
            scope.split(' ').filter(|one| !scopes.iter().any(|s| s == one)).map(Into::into),
        );
    }
    let service = offer.params.get("service").map(String::as_str).unwrap_or_default();
    let mut headers = HeaderMap::new();
    if let Some(Credential::Identity { token }) = credential {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", service)
            .append_pair("client_id", "dcbuild")
            .append_pair("scope", &wanted.join(" "))
            .append_pair("refresh_token", token.reveal())
            .finish();
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, form_type);
        let call = Call { method: Method::POST, url, headers, ..Call::default() };
        return Ok(Call { payload: Payload::Bytes(form.into()), ..call });
    }
    {
        let mut query = url.query_pairs_mut();
        if !service.is_empty() {
            query.append_pair("service", service);
        }
        for scope in &wanted {
            query.append_pair("scope", scope);
        }
    }
    if let Some(Credential::Basic { username, password }) = credential {
        let text = basic_text(username, password.reveal());
        headers.insert(AUTHORIZATION, header(host, &text)?);
    }
    Ok(Call { method: Method::GET, url, headers, ..Call::default() })
}

async fn ask(
    transport: &Transport,
    endpoint: &Endpoint,
    call: &Call,
) -> Result<(HeaderValue, Duration), HttpError> {
    let asked = Asked::new(&call.method, &call.url);
    // No redirect is followed with credentials in hand, and a token service has no reason to send one.
    let response = transport.patiently(call).await?;
    if !response.status().is_success() {
        return Err(crate::transport::refusal(&transport.patience, asked, response).await.into());
    }
    let body = read_limited(&transport.patience, &asked, response, TOKEN_ANSWER_BYTES_MAX).await?;
    let nonsense =
        |what: &str| HttpError::Answer { host: asked.host.clone(), what: what.to_owned() };
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|_| nonsense("no token in its JSON"))?;
    let token = answer.token.filter(|text| !text.is_empty()).or(answer.access_token);
    let token = token.ok_or_else(|| nonsense("no token in its JSON"))?;
    let life =
        answer.expires_in.unwrap_or(TOKEN_LIFE_DEFAULT).clamp(TOKEN_LIFE_DEFAULT, TOKEN_LIFE_MAX);
    let value = header(&endpoint.name, &format!("Bearer {token}"))?;
    Ok((value, Duration::from_secs(life.saturating_sub(10))))
}

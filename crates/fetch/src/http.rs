//! One file over http: redirects followed and checked one by one, bytes and time bounded, hashed while it comes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::http_proxy::is_unreached;
use dcbuild_model::remote::shown;
use dcbuild_model::{Digest, HttpProxies, limits};
use dcbuild_trust::Roots;
use reqwest::header::{
    AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, LAST_MODIFIED, LOCATION,
};
use reqwest::{Client, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::cache::Version;
use crate::{Ear, FetchError, Reach, TOLD_EVERY, Tokens, has_said_nothing, io};

const TRIES_MAX: u32 = 4;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(15);

/// A file that is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedFile {
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many they are.
    pub size: u64,
    /// When the server says that it was changed, in seconds since 1970.
    pub modified: Option<i64>,
}

/// What a server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Got {
    /// The file is what it was.
    Unchanged,
    /// It is here, with the server's name for this version.
    New { file: FetchedFile, version: Option<Version> },
}

/// Fetches files.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    reach: Reach,
    ear: Option<Ear>,
    proxies: HttpProxies,
}

/// Looks names up as the reach says.
#[derive(Debug)]
struct Names(Reach);

impl reqwest::dns::Resolve for Names {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let (host, reach) = (name.as_str().to_owned(), self.0.clone());
        Box::pin(async move {
            let found = reach.look_up(&host, 0).await?;
            let addresses: Box<dyn Iterator<Item = SocketAddr> + Send> =
                Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

impl Http {
    pub(crate) fn new(
        reach: Reach,
        ear: Option<Ear>,
        proxies: HttpProxies,
    ) -> Result<Http, FetchError> {
        let trusted = Roots::of_system().verifier();
        let tls = trusted.and_then(|trusted| dcbuild_trust::client(trusted, None));
        let tls = tls.map_err(|error| FetchError::Setup(error.with_cause()))?;
        let names = Names(reach.clone());
        let mut builder = Client::builder()
            .user_agent(concat!("dcbuild/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT_TIME_MAX)
            .dns_resolver(Arc::new(names))
            .tls_backend_preconfigured(tls)
            .no_proxy();
        // Elsewhere a proxy would look names up itself.
        let proxies = if reach == Reach::Anywhere { proxies } else { HttpProxies::default() };
        if proxies != HttpProxies::default() {
            let proxies = proxies.clone();
            builder = builder.proxy(reqwest::Proxy::custom(move |url| {
                let port = url.port_or_known_default()?;
                proxies.proxy(url.scheme(), url.host_str()?, port).map(str::to_owned)
            }));
        }
        let client = builder.build().map_err(|error| FetchError::Setup(error.to_string()))?;
        Ok(Http { client, reach, ear, proxies })
    }

    pub(crate) async fn get(
        &self,
        url: &str,
        known: Option<&Version>,
        tokens: &Tokens,
        to: &Path,
    ) -> Result<Got, FetchError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.once(url, known, tokens, to).await {
                Err(error) if error.is_transient() && tries < TRIES_MAX => {
                    tracing::debug!(%error, tries, "a fetch failed, trying again");
                    tokio::time::sleep(Duration::from_millis(250 << tries)).await;
                }
                done => return done,
            }
        }
    }

    async fn once(
        &self,
        url: &str,
        known: Option<&Version>,
        tokens: &Tokens,
        to: &Path,
    ) -> Result<Got, FetchError> {
        let response = self.follow(url, known, tokens).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if is_asked(response.url(), known) => {
                return Ok(Got::Unchanged);
            }
            status => {
                let transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                let problem = format!("the server answered {status}");
                return Err(FetchError::Answer { url: shown(url), problem, transient });
            }
        }
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let at = place_of(response.url());
        let version = text(ETAG).map(|etag| Version { etag: etag.to_owned(), at });
        let modified = text(LAST_MODIFIED).and_then(http_date);
        let (digest, size) = self.save(url, response, to).await?;
        Ok(Got::New { file: FetchedFile { digest, size, modified }, version })
    }

    /// Asks, and asks where the answer points, as often as is allowed.
    async fn follow(
        &self,
        url: &str,
        known: Option<&Version>,
        tokens: &Tokens,
    ) -> Result<Response, FetchError> {
        let bad = |problem: String| FetchError::Address { url: shown(url), problem };
        let mut at = Url::parse(url).map_err(|error| bad(error.to_string()))?;
        for _ in 0..=limits::FETCH_REDIRECTS_MAX {
            let host = self.checked(&at).await?;
            let mut own = HeaderMap::new();
            if is_asked(&at, known)
                && let Some(known) = known
                && let Ok(value) = HeaderValue::from_str(&known.etag)
            {
                own.insert(IF_NONE_MATCH, value);
            }
            let shown_to = (host.as_str(), at.port());
            if let Some(mut value) =
                tokens.header("HTTP", shown_to).and_then(|(_, it)| HeaderValue::from_str(&it).ok())
            {
                value.set_sensitive(true);
                own.insert(AUTHORIZATION, value);
            }
            let sent = self.client.get(at.clone()).headers(own).send();
            let response = self.heard(&at, sent).await.ok_or_else(|| silent(url))?;
            let response = response.map_err(|error| self.failed((url, &at), error))?;
            let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = response.headers().get(LOCATION).filter(|_| moved) else {
                return Ok(response);
            };
            let location = location.to_str().map_err(|error| bad(error.to_string()))?;
            let next = at.join(location).map_err(|error| bad(error.to_string()))?;
            if at.scheme() == "https" && next.scheme() != "https" {
                return Err(bad("a redirect would leave TLS".into()));
            }
            at = next;
        }
        Err(FetchError::Redirects { url: shown(url), max: limits::FETCH_REDIRECTS_MAX })
    }

    /// Why nothing was answered. Where a proxy stands on the way, a connection that nobody took is one to the proxy.
    fn failed(&self, (url, at): (&str, &Url), error: reqwest::Error) -> FetchError {
        let proxy = at.host_str().zip(at.port_or_known_default());
        let proxy = proxy.and_then(|(host, port)| self.proxies.words(at.scheme(), host, port));
        match proxy.filter(|proxy| error.is_connect() && is_of_proxy(proxy, &error)) {
            Some(proxy) => {
                FetchError::Proxy { url: shown(url), proxy, source: error.without_url() }
            }
            None => refused(url, error),
        }
    }

    /// The host of an address that may be reached; a host that is an address is never looked up, so it is checked here.
    async fn checked(&self, url: &Url) -> Result<String, FetchError> {
        let bad = |problem: &str| FetchError::Address {
            url: shown(url.as_str()),
            problem: problem.to_owned(),
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("only http and https are fetched"));
        }
        let host = url.host_str().ok_or_else(|| bad("it names no host"))?;
        if matches!(url.host(), Some(url::Host::Ipv4(_) | url::Host::Ipv6(_))) {
            self.reach.look_up(host, url.port_or_known_default().unwrap_or(80)).await?;
        }
        Ok(host.to_owned())
    }

    /// Waits for what a server says next, and tells of its silence; none where that lasts too long.
    async fn heard<T>(&self, at: &Url, next: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(next);
        let mut silent = Duration::ZERO;
        loop {
            if let Ok(said) = timeout(TOLD_EVERY, &mut next).await {
                return Some(said);
            }
            silent += TOLD_EVERY;
            if silent >= limits::FETCH_SILENCE_MAX {
                return None;
            }
            if let Some(ear) = &self.ear {
                let server = at.origin().ascii_serialization();
                ear.tell(&has_said_nothing(&server, silent, limits::FETCH_SILENCE_MAX));
            }
        }
    }

    async fn save(
        &self,
        url: &str,
        mut response: Response,
        to: &Path,
    ) -> Result<(Digest, u64), FetchError> {
        let at = response.url().clone();
        let failed = || io("write", to);
        let mut file = tokio::fs::File::create(to).await.map_err(failed())?;
        let (mut hash, mut size) = (Sha256::new(), 0_u64);
        let until = Instant::now() + limits::FETCH_TIME_MAX;
        loop {
            let chunk = self.heard(&at, response.chunk()).await.ok_or_else(|| silent(url))?;
            let chunk = chunk.map_err(|error| refused(url, error))?;
            let Some(chunk) = chunk else { break };
            size = size.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            if size > limits::FETCH_BYTES_MAX {
                let limit = format!("it is larger than {} bytes", limits::FETCH_BYTES_MAX);
                return Err(FetchError::Limit { url: shown(url), limit });
            }
            if Instant::now() > until {
                let minutes = limits::FETCH_TIME_MAX.as_secs() / 60;
                let limit = format!("it takes longer than {minutes} minutes");
                return Err(FetchError::Slow { url: shown(url), limit });
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(failed())?;
        }
        file.flush().await.map_err(failed())?;
        Ok((Digest(hash.finalize().into()), size))
    }
}

fn silent(url: &str) -> FetchError {
    let limit =
        format!("the server was silent for {} seconds", limits::FETCH_SILENCE_MAX.as_secs());
    FetchError::Slow { url: shown(url), limit }
}

/// Whether it is the proxy that was not reached. Of a SOCKS proxy the name that is looked up here may be the server's.
fn is_of_proxy(proxy: &str, error: &reqwest::Error) -> bool {
    let first = std::error::Error::source(error);
    let unknown = std::iter::successors(first, |cause| cause.source())
        .any(|cause| matches!(cause.downcast_ref(), Some(FetchError::Lookup { .. })));
    is_unreached(error) || (unknown && proxy.starts_with("http"))
}

/// A refusal of ours comes out of the client as a failed connection: it is told apart by its kind.
fn refused(url: &str, error: reqwest::Error) -> FetchError {
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        match inner.downcast_ref() {
            Some(FetchError::Forbidden { host, address }) => {
                return FetchError::Forbidden { host: host.clone(), address: address.clone() };
            }
            Some(FetchError::Lookup { source, .. }) => {
                return FetchError::Lookup { url: shown(url), source: source.clone() };
            }
            _ => {}
        }
        cause = inner.source();
    }
    FetchError::Exchange { url: shown(url), source: error.without_url() }
}

/// Hashes a file that is here already.
pub(crate) async fn hashed(path: &Path, modified: Option<i64>) -> Result<FetchedFile, FetchError> {
    use tokio::io::AsyncReadExt as _;
    let failed = || io("read", path);
    let mut file = tokio::fs::File::open(path).await.map_err(failed())?;
    let (mut hash, mut size, mut piece) = (Sha256::new(), 0_u64, vec![0; 256 << 10]);
    loop {
        let count = file.read(&mut piece).await.map_err(failed())?;
        if count == 0 {
            return Ok(FetchedFile { digest: Digest(hash.finalize().into()), size, modified });
        }
        hash.update(piece.get(..count).unwrap_or_default());
        size = size.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// Whether a version that is known is one of this resource.
fn is_asked(url: &Url, known: Option<&Version>) -> bool {
    known.is_some_and(|known| known.at == place_of(url))
}

/// What a URL is of; a query may hold a signature that is new each time.
fn place_of(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// Reads the date of a header: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let parts: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = parts[..] else { return None };
    let month = i64::try_from(MONTHS.iter().position(|known| *known == month)?).ok()? + 1;
    let (day, year): (i64, i64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<i64> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hours, minutes, seconds] = clock[..] else { return None };
    // Days since 1970 of a date of the Gregorian calendar, whose year is taken to begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day
            - 1
            - 719_468;
    Some(days * 86_400 + hours * 3_600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_heard_of() {
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = told.clone();
        let ear = Ear::new(move |line| heard.lock().unwrap().push(line.to_owned()));
        let http = Http::new(Reach::Anywhere, Some(ear), HttpProxies::default()).unwrap();
        let at = Url::parse("http://h:81/x?y").unwrap();
        let begun = Instant::now();
        assert_eq!(http.heard(&at, std::future::pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), limits::FETCH_SILENCE_MAX);
        assert_eq!(http.heard(&at, std::future::ready(7)).await, Some(7));
        let want = [10, 20, 30, 40, 50].map(|time| {
            format!("http://h:81 has said nothing for {time} s; after 60 s it is given up")
        });
        assert_eq!(*told.lock().unwrap(), want);
    }

    #[tokio::test]
    async fn a_proxy_that_is_down_is_not_laid_to_the_server() {
        // Nothing listens there any more.
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let named = format!("http://user:hunter2@{gone}");
        let proxies = HttpProxies::of(|name| (name == "HTTP_PROXY").then(|| named.clone()));
        let http = Http::new(Reach::Anywhere, None, proxies).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file");
        let url = "http://files.invalid/x";
        let error = http.once(url, None, &Tokens::default(), &to).await.unwrap_err();
        let want = format!(
            "could not fetch {url}: the proxy http://{gone} of http_proxy could not be reached"
        );
        assert_eq!(error.to_string(), want);
        assert!(error.hint().unwrap().contains("no_proxy") && error.is_transient());
        let own = format!("http://{gone}/x");
        let error = http.once(&own, None, &Tokens::default(), &to).await.unwrap_err();
        assert!(matches!(error, FetchError::Exchange { .. }), "{error:?}");
    }

    #[test]
    fn dates_of_headers_are_read() {
        for (text, want) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000)),
            ("yesterday", None),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
        ] {
            assert_eq!(http_date(text), want, "{text}");
        }
    }
}

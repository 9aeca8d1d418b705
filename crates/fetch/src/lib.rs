//! Fetches what lies elsewhere: files behind URLs and parts of git repositories, for contexts and for ADD.
//!
//! Everything that a build takes from outside, but for images, comes through one [`Fetcher`]: it decides which addresses
//! may be reached, looks each name up once and connects to what it found, bounds bytes and time, and sends credentials
//! to the one host that they were given for. Nothing of what it fetched is run: git works without hooks, filters and
//! configuration. Start with [`Fetcher::file`] and [`Fetcher::repository`].

mod cache;
mod error;
mod git;
mod http;
mod proxy;
pub mod reach;
mod times;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dcbuild_model::HttpProxies;
use dcbuild_model::remote::{GitSource, shown};
use dcbuild_plan::policy::GitFacts;

use crate::cache::{Kept, Version};
use crate::http::Got;

pub use cache::Cache;
pub use error::FetchError;
pub use git::Checkout;
pub use http::FetchedFile;
pub use reach::Reach;

/// Credentials that a build's client gave for fetches, by the ids of secrets that BuildKit knows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens(BTreeMap<String, String>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Tokens {
    /// The ids that mean something here: `GIT_AUTH_TOKEN` and its like, perhaps with a host behind them.
    pub fn is_one(id: &str) -> bool {
        ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER", "HTTP_AUTH_TOKEN", "HTTP_AUTH_HEADER"].iter().any(
            |known| {
                id == *known
                    || id
                        .strip_prefix(known)
                        .is_some_and(|it| it.starts_with('.') || it.starts_with('_'))
            },
        )
    }

    /// Takes a secret.
    pub fn insert(&mut self, id: &str, value: &[u8]) {
        if let Ok(value) = std::str::from_utf8(value) {
            self.0.insert(id.to_owned(), value.trim_end_matches(['\r', '\n']).to_owned());
        }
    }

    /// The value of the Authorization header for a host, and the id of the secret that it is of; one that names the host
    /// goes first, one that names its port too before that.
    pub(crate) fn header(
        &self,
        kind: &str,
        (host, port): (&str, Option<u16>),
    ) -> Option<(String, String)> {
        let whole = port.map(|port| format!("{host}:{port}"));
        let places = || whole.iter().map(String::as_str).chain([host]);
        let named = |what: &str| {
            let id = format!("{kind}_AUTH_{what}");
            let own = places().flat_map(|it| [format!("{id}.{it}"), format!("{id}_{it}")]);
            let any = (kind == "GIT").then(|| id.clone());
            own.chain(any).find_map(|id| self.0.get(&id).cloned().map(|value| (id, value)))
        };
        if let Some(header) = named("HEADER") {
            return Some(header);
        }
        let (id, token) = named("TOKEN")?;
        let header = match kind {
            "GIT" => {
                use base64::Engine as _;
                let pair = format!("x-access-token:{token}");
                format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
            }
            _ => format!("Bearer {token}"),
        };
        Some((id, header))
    }
}

/// How often is told what is waited for.
pub(crate) const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What is told of a server that says nothing.
pub(crate) fn has_said_nothing(server: &str, silent: Duration, max: Duration) -> String {
    let (silent, max) = (silent.as_secs(), max.as_secs());
    format!("{server} has said nothing for {silent} s; after {max} s it is given up")
}

type Hears = dyn Fn(&str) + Send + Sync;

/// Hears, in lines for people, what is waited for and for how long.
#[derive(Clone)]
pub struct Ear(Arc<Hears>);

impl Ear {
    /// Somebody who hears it.
    pub fn new(hears: impl Fn(&str) + Send + Sync + 'static) -> Ear {
        Ear(Arc::new(hears))
    }

    pub(crate) fn tell(&self, line: &str) {
        (self.0)(line);
    }
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ear")
    }
}

/// What a fetcher may do, and with what.
#[derive(Clone, Debug, Default)]
pub struct FetchConfig {
    /// Which addresses may be reached.
    pub reach: Reach,
    /// Variables of the environment that git and ssh are given, such as `PATH`, `SSH_AUTH_SOCK` and proxies.
    pub env: Vec<(OsString, OsString)>,
    /// Credentials.
    pub tokens: Tokens,
    /// Where fetched files are kept for the next build, if anywhere.
    pub cache: Option<Cache>,
    /// Who hears of a server that says nothing or takes long, if anybody.
    pub ear: Option<Ear>,
}

/// Fetches files and repositories.
#[derive(Debug)]
pub struct Fetcher {
    config: FetchConfig,
    http: http::Http,
}

impl Fetcher {
    /// Gets ready; nothing is fetched yet.
    pub fn new(config: FetchConfig) -> Result<Fetcher, FetchError> {
        let variable = |name: &str| {
            let found = config.env.iter().find(|(known, _)| known == name);
            found.and_then(|(_, value)| value.to_str()).map(str::to_owned)
        };
        let proxies = HttpProxies::of(variable);
        let http = http::Http::new(config.reach.clone(), config.ear.clone(), proxies)?;
        Ok(Fetcher { config, http })
    }

    /// Fetches a file to a path, or takes it from the cache where the server says that it did not change.
    pub async fn file(&self, url: &str, to: &Path) -> Result<FetchedFile, FetchError> {
        let cache = self.config.cache.as_ref();
        if let Some(cache) = cache
            && let Some(kept) = cache.find(url)
        {
            match self.http.get(url, Some(&kept.version), &self.config.tokens, to).await? {
                Got::New { file, version } => return Ok(self.keep(url, file, version, to).await),
                Got::Unchanged => {}
            }
            if let Some(file) = copied(&kept, to).await {
                return Ok(file);
            }
            tracing::warn!(
                url = shown(url),
                "what was kept of a file is damaged or gone; it is fetched again"
            );
            cache.forget(url, &kept);
        }
        match self.http.get(url, None, &self.config.tokens, to).await? {
            Got::New { file, version } => Ok(self.keep(url, file, version, to).await),
            Got::Unchanged => Err(FetchError::Answer {
                url: shown(url),
                problem: "the server says that nothing changed, which nobody asked".into(),
                transient: false,
            }),
        }
    }

    /// Keeps what was fetched for the next time; what is not kept is fetched again.
    async fn keep(
        &self,
        url: &str,
        file: FetchedFile,
        version: Option<Version>,
        at: &Path,
    ) -> FetchedFile {
        if let (Some(cache), Some(version)) = (self.config.cache.clone(), version) {
            let (url, at, fetched) = (url.to_owned(), at.to_owned(), file.clone());
            let keep = move || cache.keep(&url, &version, &fetched, &at);
            drop(tokio::task::spawn_blocking(keep).await);
        }
        file
    }

    /// Says what a part of a repository is, by way of an empty folder.
    pub async fn describe(
        &self,
        source: &GitSource,
        folder: &Path,
    ) -> Result<GitFacts, FetchError> {
        git::Git::start(&self.config, folder).await?.describe(source).await
    }

    /// Checks a part of a repository out below an empty folder.
    pub async fn repository(
        &self,
        source: &GitSource,
        folder: &Path,
    ) -> Result<Checkout, FetchError> {
        git::Git::start(&self.config, folder).await?.check_out(source).await
    }
}

/// Copies a kept file, if it is what it was.
async fn copied(kept: &Kept, to: &Path) -> Option<FetchedFile> {
    tokio::fs::copy(&kept.file, to).await.ok()?;
    let found = http::hashed(to, kept.fetched.modified).await.ok()?;
    (found == kept.fetched).then_some(found)
}

/// When a commit was made, in seconds.
pub fn commit_time(facts: &GitFacts) -> Option<i64> {
    times::committed(&facts.commit_object)
}

/// The environment variables that [`FetchConfig::env`] should carry over where they are set.
pub const ENVIRONMENT: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FetchError {
    let path: PathBuf = path.into();
    move |source| FetchError::Disk { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_may_name_the_host_with_its_port_or_without() {
        let tokens = |ids: &[&str]| {
            let mut tokens = Tokens::default();
            for id in ids {
                assert!(Tokens::is_one(id), "{id}");
                tokens.insert(id, id.as_bytes());
            }
            tokens
        };
        let place = ("forge.example", Some(8443));
        for (ids, want) in [
            (&["GIT_AUTH_HEADER"][..], Some("GIT_AUTH_HEADER")),
            (
                &["GIT_AUTH_HEADER", "GIT_AUTH_HEADER.forge.example"],
                Some("GIT_AUTH_HEADER.forge.example"),
            ),
            (
                &["GIT_AUTH_HEADER.forge.example", "GIT_AUTH_HEADER.forge.example:8443"],
                Some("GIT_AUTH_HEADER.forge.example:8443"),
            ),
            (&["GIT_AUTH_TOKEN.forge.example:8443"], Some("GIT_AUTH_TOKEN.forge.example:8443")),
            (&["GIT_AUTH_TOKEN.forge.example:8444"], None),
            (&["GIT_AUTH_TOKEN.other.example"], None),
        ] {
            let found = tokens(ids).header("GIT", place).map(|(id, _)| id);
            assert_eq!(found.as_deref(), want, "{ids:?}");
        }
        let found = tokens(&["HTTP_AUTH_TOKEN_forge.example:8443"]).header("HTTP", place);
        assert_eq!(found.unwrap().1, "Bearer HTTP_AUTH_TOKEN_forge.example:8443");
        assert_eq!(tokens(&["HTTP_AUTH_TOKEN"]).header("HTTP", place), None);
    }
}

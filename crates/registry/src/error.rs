//! What can go wrong between dcbuild and a registry, and who can mend it.

use dcbuild_model::{Digest, Fault, Platform};
use dcbuild_oci::{CountMismatch, InvalidConfig, InvalidManifest};
use reqwest::Method;
use url::Url;

use crate::credentials::CredentialError;
use crate::layout::LayoutOpenError;
use crate::obstacle::Obstacle;
use crate::origin::Origin;

/// How much of a path an error shows.
const PATH_CHARS_MAX: usize = 300;

/// What was asked of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Scheme, host and port.
    pub host: String,
    /// Method and path, without a query.
    pub what: String,
}

impl Asked {
    pub(crate) fn new(method: &Method, url: &Url) -> Asked {
        let host = Origin::of(url).map_or_else(|| "nobody".to_owned(), |origin| origin.whole());
        let path: String = url.path().chars().take(PATH_CHARS_MAX).collect();
        Asked { host, what: format!("{method} {path}") }
    }
}

/// What a registry answered when it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// What it was asked.
    pub asked: Asked,
    /// The HTTP status.
    pub status: u16,
    /// The registry's own code, such as `MANIFEST_UNKNOWN`; may be empty.
    pub code: String,
    /// The registry's own words, cut at 500 characters; may be empty.
    pub message: String,
    /// Who we said we are, where that is what it refused.
    pub login: Option<String>,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Asked { host, what } = &self.asked;
        write!(f, "{host} answered {what} with {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(login) = &self.login {
            write!(f, " ({login})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ApiError {}

/// Says why an exchange with a registry failed, all retries included.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The registry could not be reached, or the connection broke.
    #[error("could not reach {} for {}", asked.host, asked.what)]
    Connect {
        /// What was asked.
        asked: Asked,
        /// What the network said.
        source: reqwest::Error,
    },
    /// The proxy on the way to the registry could not be reached.
    #[error("could not reach {} for {}: the proxy {proxy} could not be reached", asked.host, asked.what)]
    Proxy {
        /// What was asked.
        asked: Box<Asked>,
        /// The proxy without its password, and the variable that names it.
        proxy: String,
        /// What the network said.
        source: reqwest::Error,
    },
    /// Nothing moved for too long.
    #[error("{} was silent for {seconds} seconds after {}", asked.host, asked.what)]
    Stalled {
        /// What was asked.
        asked: Asked,
        /// For how long.
        seconds: u64,
    },
    /// The answer began, and took too long.
    #[error("{} did not get done with {} in {seconds} seconds", asked.host, asked.what)]
    Slow {
        /// What was asked.
        asked: Asked,
        /// For how long.
        seconds: u64,
    },
    /// It took something and does not have it.
    #[error("{host} took it with status {status} and does not have it ({why})")]
    Unkept {
        /// The registry.
        host: String,
        /// What it answered when it was sent.
        status: u16,
        /// What it answers who asks for it.
        why: String,
    },
    /// The registry refused.
    #[error(transparent)]
    Status(Box<ApiError>),
    /// The registry redirects without end.
    #[error("{host} redirected more than {max} times")]
    Redirects {
        /// The registry.
        host: String,
        /// How often it may.
        max: usize,
    },
    /// The registry redirects to a place that is not followed.
    #[error("{host} sent us to '{target}', which is not followed ({why})")]
    Location {
        /// The registry.
        host: String,
        /// The place, without its query, cut at 200 characters.
        target: String,
        /// Why not.
        why: &'static str,
    },
    /// The credentials could not be found.
    #[error("could not get credentials for {host}")]
    Credentials {
        /// The registry.
        host: String,
        /// Why not.
        source: CredentialError,
    },
    /// The token service gave no token.
    #[error("token service {realm} gave no token for {host}")]
    Token {
        /// The registry.
        host: String,
        /// The token service.
        realm: String,
        /// Why not.
        source: Box<HttpError>,
    },
    /// An answer has another shape than the specification says.
    #[error("{host} gave an answer that makes no sense: {what}")]
    Answer {
        /// The registry.
        host: String,
        /// What is wrong with it.
        what: String,
    },
    /// Neither a registry nor the mirrors that stand for it answered well.
    #[error("its mirrors failed ({mirrors}), and so did the registry")]
    Mirrored {
        /// What the mirrors said, in the order in which they were asked.
        mirrors: String,
        /// What the registry said.
        source: Box<HttpError>,
    },
    /// The connection's settings cannot be used.
    #[error("could not prepare connections to {host}: {what}")]
    Setup {
        /// The registry.
        host: String,
        /// What is wrong.
        what: String,
    },
    /// The bytes to be sent could not be read.
    #[error("could not read what was to be sent to {host}")]
    Read {
        /// The registry.
        host: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl From<ApiError> for HttpError {
    fn from(error: ApiError) -> HttpError {
        HttpError::Status(Box::new(error))
    }
}

impl HttpError {
    /// Whether another try may go better.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            HttpError::Connect { source, .. } | HttpError::Proxy { source, .. } => {
                Obstacle::of(source).is_none()
            }
            HttpError::Status(api) => matches!(api.status, 408 | 429 | 500..=599),
            HttpError::Token { source, .. } | HttpError::Mirrored { source, .. } => {
                source.is_transient()
            }
            // What said nothing for so long would do so again.
            _ => false,
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            HttpError::Status(api) => Some(api.status),
            HttpError::Token { source, .. } | HttpError::Mirrored { source, .. } => source.status(),
            _ => None,
        }
    }

    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            HttpError::Connect { source, .. } | HttpError::Proxy { source, .. } => {
                Obstacle::of(source).map_or(Fault::Cluster, Obstacle::fault)
            }
            HttpError::Stalled { .. }
            | HttpError::Slow { .. }
            | HttpError::Unkept { .. }
            | HttpError::Answer { .. }
            | HttpError::Redirects { .. }
            | HttpError::Read { .. }
            | HttpError::Location { .. } => Fault::Cluster,
            HttpError::Credentials { .. } | HttpError::Setup { .. } => Fault::Request,
            HttpError::Token { source, .. } | HttpError::Mirrored { source, .. } => source.fault(),
            HttpError::Status(_) => {
                if self.is_transient() {
                    Fault::Cluster
                } else {
                    Fault::Request
                }
            }
        }
    }

    /// Whether it would go the same way at once again: nothing listens there, or what does says nothing.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            HttpError::Connect { source, .. } | HttpError::Proxy { source, .. } => {
                Obstacle::of(source).is_some()
            }
            HttpError::Stalled { .. } | HttpError::Slow { .. } => true,
            HttpError::Token { source, .. } | HttpError::Mirrored { source, .. } => {
                source.is_lasting()
            }
            _ => false,
        }
    }

    /// Adds what the mirrors had answered that were asked before.
    pub(crate) fn after(self, mirrors: &[String]) -> HttpError {
        if mirrors.is_empty() {
            return self;
        }
        HttpError::Mirrored { mirrors: mirrors.join("; "), source: Box::new(self) }
    }

    /// Adds who we said we are, where that is what was refused.
    pub(crate) fn with_login(self, words: String) -> HttpError {
        match self {
            HttpError::Status(api) if matches!(api.status, 401 | 403) => {
                HttpError::from(ApiError { login: Some(words), ..*api })
            }
            other => other,
        }
    }

    fn is_refusal(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }

    /// What the user could do.
    fn hint(&self) -> Option<String> {
        match self {
            HttpError::Connect { asked, source } => {
                Obstacle::of(source).map(|obstacle| obstacle.hint(&asked.host))
            }
            HttpError::Proxy { .. } => Some(
                "start the proxy, or mend the variable; hosts that are reached without it belong into no_proxy"
                    .into(),
            ),
            HttpError::Stalled { asked, .. } | HttpError::Slow { asked, .. } => Some(format!(
                "something takes connections at {} and says nothing: check the registry's name and port, and what stands between, such as a proxy",
                asked.host
            )),
            // What servers of TLS answer to those who speak plain http.
            HttpError::Status(api) if api.status == 400 => {
                let name = api.asked.host.strip_prefix("http://")?;
                Some(format!(
                    "if the registry speaks TLS, name its certificate with ca = [\"FILE\"] under [registry.\"{name}\"], or set insecure = true there"
                ))
            }
            HttpError::Unkept { host, .. } => Some(format!(
                "what answers there is perhaps no registry, but a proxy, or the page of a network that wants a login first: look at {host}/v2/ with a browser"
            )),
            HttpError::Token { source, .. } | HttpError::Mirrored { source, .. } => source.hint(),
            _ => None,
        }
    }
}

/// Says why an image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry does not let us.
    #[error("pull access denied for {image}: it does not exist or needs a login")]
    Denied {
        /// The image.
        image: String,
        /// What the registry said.
        source: HttpError,
    },
    /// There is no such image.
    #[error("manifest unknown: {image} was not found")]
    NotFound {
        /// The image.
        image: String,
        /// What the registry said.
        source: HttpError,
    },
    /// A blob is missing.
    #[error("blob unknown: {image} has no blob {digest}")]
    NoBlob {
        /// The image.
        image: String,
        /// The blob.
        digest: Digest,
    },
    /// The exchange failed.
    #[error("could not pull {image}")]
    Http {
        /// The image.
        image: String,
        /// Why.
        source: HttpError,
    },
    /// The bytes are not those that were asked for.
    #[error("{image}: got {got} where {wanted} was asked for")]
    Digest {
        /// The image.
        image: String,
        /// What was asked for.
        wanted: Digest,
        /// What came.
        got: Digest,
    },
    /// There are more or fewer bytes than the manifest says.
    #[error("{image}: blob {digest} has {got} bytes where its manifest says {wanted}")]
    Size {
        /// The image.
        image: String,
        /// The blob.
        digest: Digest,
        /// How many there should be.
        wanted: u64,
        /// How many came.
        got: u64,
    },
    /// The manifest is wrong.
    #[error("{image} has a bad manifest")]
    Manifest {
        /// The image.
        image: String,
        /// What is wrong.
        source: InvalidManifest,
    },
    /// The config is wrong.
    #[error("{image} has a bad config")]
    Config {
        /// The image.
        image: String,
        /// What is wrong.
        source: InvalidConfig,
    },
    /// Manifest and config do not match.
    #[error("{image} contradicts itself")]
    Counts {
        /// The image.
        image: String,
        /// How.
        source: CountMismatch,
    },
    /// It is something else than an image.
    #[error("{image} is no container image but '{media_type}'")]
    NotAnImage {
        /// The reference.
        image: String,
        /// What it is.
        media_type: String,
    },
    /// The image has no form for the platform.
    #[error("{image} is not made for {platform}, only for {offered}")]
    NoPlatform {
        /// The image.
        image: String,
        /// What was wanted.
        platform: Platform,
        /// What there is.
        offered: String,
    },
    /// Indexes point at indexes at indexes.
    #[error("{image} nests more than {max} indexes")]
    Nested {
        /// The image.
        image: String,
        /// How many there may be.
        max: usize,
    },
    /// The layout on disk could not be read.
    #[error("could not read {image}")]
    Layout {
        /// The image.
        image: String,
        /// Why.
        source: LayoutOpenError,
    },
}

impl PullError {
    /// Sorts the failure of an exchange by what it means for whoever asked for the image.
    pub(crate) fn of(image: &str, source: HttpError) -> PullError {
        let image = image.to_owned();
        match source.status() {
            _ if source.is_refusal() => PullError::Denied { image, source },
            Some(404) => PullError::NotFound { image, source },
            _ => PullError::Http { image, source },
        }
    }

    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            PullError::Http { source, .. } => source.fault(),
            PullError::Digest { .. } | PullError::Size { .. } => Fault::Cluster,
            PullError::Layout { source, .. } => source.fault(),
            _ => Fault::Request,
        }
    }

    /// Whether it would go the same way at once again.
    pub fn is_lasting(&self) -> bool {
        matches!(self, PullError::Http { source, .. } if source.is_lasting())
    }

    /// What the user could do.
    pub fn hint(&self) -> Option<String> {
        match self {
            PullError::Denied { image, .. } => {
                let host = image.split('/').next().unwrap_or(image);
                Some(format!("check the name, or log in with `docker login {host}`"))
            }
            PullError::NotFound { image, .. } => {
                Some(format!("check the name and tag of {image}; it may have been deleted"))
            }
            PullError::Http { source, .. } if source.status() == Some(429) => {
                Some("the registry limits pulls; log in, wait, or configure a mirror".into())
            }
            PullError::NoPlatform { .. } => {
                Some("choose another --platform or another base image".into())
            }
            PullError::Http { source, .. } => source.hint(),
            _ => None,
        }
    }
}

/// Says why something could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry does not let us.
    #[error("push access denied for {target}: the repository does not exist or needs a login")]
    Denied {
        /// The repository or image.
        target: String,
        /// What the registry said.
        source: HttpError,
    },
    /// The registry knows no such repository.
    #[error("could not push to {target}: the registry has no such repository")]
    NotFound {
        /// The repository or image.
        target: String,
        /// What the registry said.
        source: HttpError,
    },
    /// A blob was not taken.
    #[error("could not push blob {digest} to {target}")]
    Blob {
        /// The repository.
        target: String,
        /// The blob.
        digest: Digest,
        /// Why not.
        source: Box<HttpError>,
    },
    /// A manifest was not taken.
    #[error("could not push the manifest of {target}")]
    Manifest {
        /// The image.
        target: String,
        /// Why not.
        source: HttpError,
    },
}

impl PushError {
    /// Whether a registry says that what it got is not what it was to get, or is wrong in another way.
    pub fn is_of_content(&self) -> bool {
        matches!(self, PushError::Blob { source, .. } if source.status() == Some(400))
    }

    pub(crate) fn blob(target: &str, digest: Digest, source: HttpError) -> PushError {
        let target = target.to_owned();
        match source.status() {
            _ if source.is_refusal() => PushError::Denied { target, source },
            Some(404) => PushError::NotFound { target, source },
            _ => PushError::Blob { target, digest, source: Box::new(source) },
        }
    }

    pub(crate) fn manifest(target: &str, source: HttpError) -> PushError {
        let target = target.to_owned();
        match source.status() {
            _ if source.is_refusal() => PushError::Denied { target, source },
            Some(404) => PushError::NotFound { target, source },
            _ => PushError::Manifest { target, source },
        }
    }

    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        match self {
            PushError::Denied { .. } | PushError::NotFound { .. } => Fault::Request,
            PushError::Blob { source, .. } => source.fault(),
            PushError::Manifest { source, .. } => source.fault(),
        }
    }

    /// Whether it would go the same way at once again.
    pub fn is_lasting(&self) -> bool {
        match self {
            PushError::Denied { .. } | PushError::NotFound { .. } => false,
            PushError::Blob { source, .. } => source.is_lasting(),
            PushError::Manifest { source, .. } => source.is_lasting(),
        }
    }

    /// What the user could do.
    pub fn hint(&self) -> Option<String> {
        match self {
            PushError::Denied { target, .. } => {
                let host = target.split('/').next().unwrap_or(target);
                Some(format!(
                    "log in with `docker login {host}`, and check that you may push there"
                ))
            }
            PushError::NotFound { .. } => {
                Some("create the repository first, or check its name".into())
            }
            PushError::Blob { source, .. } => source.hint(),
            PushError::Manifest { source, .. } => source.hint(),
        }
    }
}

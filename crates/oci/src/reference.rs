//! Image references as docker writes them: `alpine` means `docker.io/library/alpine:latest`.

use std::fmt;
use std::str::FromStr;

use dcbuild_model::{Digest, ManifestDigest};

/// The registry that a reference without a host means.
pub const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// Says why a text is no image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseReferenceError {
    /// The text does not follow the grammar.
    #[error("invalid reference format: '{text}'")]
    Format {
        /// The text, cut at 300 characters.
        text: String,
    },
    /// The repository has upper case letters.
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    UpperCase {
        /// The repository's path.
        name: String,
    },
    /// The repository's path is too long.
    #[error("repository name must not be more than {NAME_BYTES_MAX} characters")]
    Long,
    /// The text looks like an image id.
    #[error("invalid repository name ({text}): 64 hexadecimal digits are no name")]
    Identifier {
        /// The text.
        text: String,
    },
    /// The digest is not of a kind that is supported.
    #[error("invalid reference format: '{digest}' is not a sha256 digest")]
    Digest {
        /// The part after the `@`, cut at 100 characters.
        digest: String,
    },
}

/// A repository of a registry, such as `docker.io/library/alpine`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Repository {
    host: String,
    path: String,
}

impl Repository {
    /// The registry, with its port where one was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path inside the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The short form that docker shows: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        if self.host != DEFAULT_HOST {
            return self.to_string();
        }
        match self.path.strip_prefix("library/") {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

impl FromStr for Repository {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Repository, ParseReferenceError> {
        let (host, path) = split_host(text);
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ParseReferenceError::UpperCase { name: clip(&path, 300) });
        }
        if !valid_host(host) || !path.split('/').all(valid_component) {
            return Err(ParseReferenceError::Format { text: clip(text, 300) });
        }
        if path.len() > NAME_BYTES_MAX {
            return Err(ParseReferenceError::Long);
        }
        Ok(Repository { host: host.to_owned(), path })
    }
}

/// What names an image: a repository and a tag, a digest, or both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ImageRef {
    repository: Repository,
    tag: Option<String>,
    digest: Option<ManifestDigest>,
}

impl ImageRef {
    /// The repository that holds the image.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The registry, with its port where one was given.
    pub fn host(&self) -> &str {
        self.repository.host()
    }

    /// The tag; `latest` where neither tag nor digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which decides where there is one.
    pub fn digest(&self) -> Option<ManifestDigest> {
        self.digest
    }

    /// The same name, held to one manifest.
    #[must_use]
    pub fn with_digest(&self, digest: ManifestDigest) -> ImageRef {
        ImageRef { digest: Some(digest), ..self.clone() }
    }

    /// The image of a repository that has this digest.
    pub fn of_digest(repository: Repository, digest: ManifestDigest) -> ImageRef {
        ImageRef { repository, tag: None, digest: Some(digest) }
    }

    /// What a registry is asked for: the digest, or else the tag.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The short form that docker shows.
    pub fn familiar(&self) -> String {
        self.after(self.repository.familiar())
    }

    fn after(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.after(self.repository.to_string()))
    }
}

impl FromStr for ImageRef {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<ImageRef, ParseReferenceError> {
        if Digest::from_hex(text).is_ok() {
            return Err(ParseReferenceError::Identifier { text: text.to_owned() });
        }
        let invalid = || ParseReferenceError::Format { text: clip(text, 300) };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest, invalid)?)),
            None => (text, None),
        };
        let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest.rfind(':').filter(|at| *at >= last_slash) {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..)),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(invalid());
        }
        let repository = match name.parse() {
            Err(ParseReferenceError::Format { .. }) => return Err(invalid()),
            other => other?,
        };
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (None, Some(_)) => None,
        };
        Ok(ImageRef { repository, tag, digest })
    }
}

fn parse_digest(
    text: &str,
    invalid: impl Fn() -> ParseReferenceError,
) -> Result<ManifestDigest, ParseReferenceError> {
    let shaped = text.split_once(':').is_some_and(|(algorithm, digits)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && digits.len() >= 32
            && digits.bytes().all(|b| b.is_ascii_hexdigit())
    });
    if !shaped {
        return Err(invalid());
    }
    text.parse().map_err(|_| ParseReferenceError::Digest { digest: clip(text, 100) })
}

/// Splits host from path: the first part is a host if it looks like one, else the whole is a path on Docker Hub.
fn split_host(name: &str) -> (&str, String) {
    let (host, path) = match name.split_once('/') {
        Some((first, path)) if looks_like_host(first) => (first, path),
        _ => (DEFAULT_HOST, name),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    if host == DEFAULT_HOST && !path.contains('/') {
        return (host, format!("library/{path}"));
    }
    (host, path.to_owned())
}

fn looks_like_host(part: &str) -> bool {
    part.contains(['.', ':'])
        || part == "localhost"
        || part.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn valid_host(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(valid_port));
    }
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label) && port.is_none_or(valid_port)
}

fn valid_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// A component is runs of letters and digits, joined by one dot, one or two underscores, or any number of dashes.
fn valid_component(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = part;
    loop {
        let run = rest.bytes().take_while(|byte| plain(*byte)).count();
        if run == 0 {
            return false;
        }
        rest = rest.get(run..).unwrap_or_default();
        if rest.is_empty() {
            return true;
        }
        let joint = rest.bytes().take_while(|byte| !plain(*byte)).count();
        let text = rest.get(..joint).unwrap_or_default();
        if !matches!(text, "." | "_" | "__") && (text.is_empty() || text.bytes().any(|b| b != b'-'))
        {
            return false;
        }
        rest = rest.get(joint..).unwrap_or_default();
    }
}

fn valid_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=TAG_BYTES_MAX).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn clip(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
mod tests;

//! Which bucket, where, and how much at once.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

/// How requests name the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressStyle {
    /// In the path where the endpoint is an IP address or a name without dots, else in the host.
    Automatic,
    /// `https://ENDPOINT/BUCKET/KEY`
    Path,
    /// `https://BUCKET.ENDPOINT/KEY`
    VirtualHost,
}

/// Where a store in a bucket is, and how much it does at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with, without a slash at either end; may be empty.
    pub prefix: String,
    /// The server; else what the environment and the profile say, else AWS.
    pub endpoint: Option<String>,
    /// The region; else what the environment, the profile and the machine say, else `us-east-1`.
    pub region: Option<String>,
    /// How requests name the bucket.
    pub style: AddressStyle,
    /// A file of certificates, in PEM, that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The size of the parts that larger blobs are moved in.
    pub part_bytes: u64,
    /// How many requests are under way at most.
    pub requests_max: usize,
    /// How many bytes of blobs wait in memory to be sent, at most.
    pub upload_bytes_max: u64,
    /// How long a grant lasts.
    pub grant_lifetime: Duration,
}

/// S3 takes no smaller parts but for the last one of a blob.
pub const PART_BYTES_MIN: u64 = 5 << 20;

const PART_BYTES: u64 = 8 << 20;
const REQUESTS_MAX: usize = 32;
const UPLOAD_BYTES_MAX: u64 = 128 << 20;
const GRANT_LIFETIME: Duration = Duration::from_mins(15);

/// Says why a text does not name a store in a bucket.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{text}' is not the address of a store: {problem}")]
pub struct InvalidS3Url {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: S3UrlProblem,
}

/// What is wrong with the address of a store.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum S3UrlProblem {
    /// Not of the form.
    #[error("write s3://BUCKET/PREFIX, with ?endpoint=http://HOST:PORT where it is not AWS")]
    Form,
    /// The bucket's name.
    #[error(
        "bucket '{0}' needs 3 to 63 small letters, digits, '.' and '-', a letter or digit at both ends"
    )]
    Bucket(String),
    /// The prefix.
    #[error(
        "prefix '{0}' may have letters, digits, '.', '_' and '-', in parts joined by single '/'"
    )]
    Prefix(String),
    /// The endpoint.
    #[error("endpoint '{0}' is not of the form http://HOST:PORT or https://HOST")]
    Endpoint(String),
    /// The region.
    #[error("region '{0}' may have small letters, digits and '-'")]
    Region(String),
    /// `path-style`.
    #[error("path-style is 'true' or 'false', not '{0}'")]
    Style(String),
    /// A key that nobody knows, or one that came twice.
    #[error("'{0}' is unknown or there twice; known are endpoint, region and path-style")]
    Key(String),
    /// Credentials in the address.
    #[error("credentials do not belong there; AWS_ACCESS_KEY_ID, a profile or a role give them")]
    Credentials,
}

impl S3Config {
    /// A store at the top of a bucket of AWS.
    pub fn new(bucket: impl Into<String>) -> S3Config {
        S3Config {
            bucket: bucket.into(),
            prefix: String::new(),
            endpoint: None,
            region: None,
            style: AddressStyle::Automatic,
            ca_file: None,
            part_bytes: PART_BYTES,
            requests_max: REQUESTS_MAX,
            upload_bytes_max: UPLOAD_BYTES_MAX,
            grant_lifetime: GRANT_LIFETIME,
        }
    }

    /// Reads `s3://BUCKET/PREFIX?endpoint=http://127.0.0.1:9000&region=eu-west-1&path-style=true`.
    pub fn from_url(text: &str) -> Result<S3Config, InvalidS3Url> {
        read(text).map_err(|problem| match (&problem, text.rsplit_once('@')) {
            (S3UrlProblem::Credentials, Some((_, rest))) => {
                InvalidS3Url { text: format!("s3://...@{rest}"), problem }
            }
            _ => InvalidS3Url { text: text.into(), problem },
        })
    }

    /// Whether the bucket goes into the path at this endpoint.
    pub(crate) fn is_path_style(&self, endpoint: Option<&str>) -> bool {
        match self.style {
            AddressStyle::Path => true,
            AddressStyle::VirtualHost => false,
            AddressStyle::Automatic => endpoint.is_some_and(has_no_subdomains),
        }
    }
}

impl S3Config {
    /// The same below a prefix, which has no slash at either end.
    #[must_use]
    pub fn below(&self, prefix: &str) -> S3Config {
        let parts = [self.prefix.as_str(), prefix].into_iter().filter(|part| !part.is_empty());
        S3Config { prefix: parts.collect::<Vec<_>>().join("/"), ..self.clone() }
    }
}

impl fmt::Display for S3Config {
    /// As messages name the store.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        match &self.endpoint {
            Some(endpoint) => write!(f, " at {endpoint}"),
            None => Ok(()),
        }
    }
}

fn has_no_subdomains(endpoint: &str) -> bool {
    match Url::parse(endpoint).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => !name.contains('.') || name.parse::<IpAddr>().is_ok(),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        None => false,
    }
}

fn read(text: &str) -> Result<S3Config, S3UrlProblem> {
    // The bucket's name is read from the text, not from the URL: parsers take other characters for it than S3 does.
    let rest = text.strip_prefix("s3://").ok_or(S3UrlProblem::Form)?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    if place.contains('@') {
        return Err(S3UrlProblem::Credentials);
    }
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let mut config = S3Config::new(checked(bucket, is_bucket, S3UrlProblem::Bucket)?);
    config.prefix = checked(prefix, is_prefix, S3UrlProblem::Prefix)?;
    let mut style = None;
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "endpoint" if config.endpoint.is_none() => {
                let endpoint = checked(&value, is_endpoint, S3UrlProblem::Endpoint)?;
                config.endpoint = Some(endpoint.trim_end_matches('/').into());
            }
            "region" if config.region.is_none() => {
                config.region = Some(checked(&value, is_region, S3UrlProblem::Region)?);
            }
            "path-style" if style.is_none() => {
                style = Some(match &*value {
                    "true" => AddressStyle::Path,
                    "false" => AddressStyle::VirtualHost,
                    _ => return Err(S3UrlProblem::Style(value.into())),
                });
            }
            _ => return Err(S3UrlProblem::Key(key.into())),
        }
    }
    config.style = style.unwrap_or(AddressStyle::Automatic);
    Ok(config)
}

fn checked(
    text: &str,
    is_good: impl Fn(&str) -> bool,
    problem: impl Fn(String) -> S3UrlProblem,
) -> Result<String, S3UrlProblem> {
    if is_good(text) { Ok(text.into()) } else { Err(problem(text.into())) }
}

fn is_bucket(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|b| plain(*b) || matches!(b, b'.' | b'-'))
        && [bytes.first(), bytes.last()].iter().all(|b| b.is_some_and(|b| plain(*b)))
}

fn is_prefix(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
    text.is_empty() || (text.len() <= 100 && text.split('/').all(part))
}

fn is_region(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(plain)
}

fn is_endpoint(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        let shown = match S3Config::from_url(text) {
            Ok(config) => {
                format!("{config}, region {:?}, style {:?}", config.region, config.style)
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn addresses_are_read() {
        check("s3://bucket", expect!["s3://bucket, region None, style Automatic"]);
        check("s3://my.bucket-1/", expect!["s3://my.bucket-1, region None, style Automatic"]);
        check(
            "s3://bucket/ci/cache/",
            expect!["s3://bucket/ci/cache, region None, style Automatic"],
        );
        check(
            "s3://bucket/x?endpoint=http://127.0.0.1:9000/&region=eu-west-1&path-style=true",
            expect![[
                r#"s3://bucket/x at http://127.0.0.1:9000, region Some("eu-west-1"), style Path"#
            ]],
        );
        check(
            "s3://bucket?endpoint=https%3A%2F%2Fs3.example&path-style=false",
            expect!["s3://bucket at https://s3.example, region None, style VirtualHost"],
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        check(
            "/var/store",
            expect![
                "'/var/store' is not the address of a store: write s3://BUCKET/PREFIX, with ?endpoint=http://HOST:PORT where it is not AWS"
            ],
        );
        check(
            "s3://ab",
            expect![
                "'s3://ab' is not the address of a store: bucket 'ab' needs 3 to 63 small letters, digits, '.' and '-', a letter or digit at both ends"
            ],
        );
        check(
            "s3://Bucket",
            expect![
                "'s3://Bucket' is not the address of a store: bucket 'Bucket' needs 3 to 63 small letters, digits, '.' and '-', a letter or digit at both ends"
            ],
        );
        check(
            "s3://bucket/a//b",
            expect![
                "'s3://bucket/a//b' is not the address of a store: prefix 'a//b' may have letters, digits, '.', '_' and '-', in parts joined by single '/'"
            ],
        );
        check(
            "s3://bucket/../b",
            expect![
                "'s3://bucket/../b' is not the address of a store: prefix '../b' may have letters, digits, '.', '_' and '-', in parts joined by single '/'"
            ],
        );
        check(
            "s3://key:secret@bucket",
            expect![
                "'s3://...@bucket' is not the address of a store: credentials do not belong there; AWS_ACCESS_KEY_ID, a profile or a role give them"
            ],
        );
        check(
            "s3://bucket?endpoint=127.0.0.1:9000",
            expect![
                "'s3://bucket?endpoint=127.0.0.1:9000' is not the address of a store: endpoint '127.0.0.1:9000' is not of the form http://HOST:PORT or https://HOST"
            ],
        );
        check(
            "s3://bucket?region=",
            expect![
                "'s3://bucket?region=' is not the address of a store: region '' may have small letters, digits and '-'"
            ],
        );
        check(
            "s3://bucket?path-style=yes",
            expect![
                "'s3://bucket?path-style=yes' is not the address of a store: path-style is 'true' or 'false', not 'yes'"
            ],
        );
        check(
            "s3://bucket?region=a&region=b",
            expect![
                "'s3://bucket?region=a&region=b' is not the address of a store: 'region' is unknown or there twice; known are endpoint, region and path-style"
            ],
        );
    }

    #[test]
    fn a_local_server_has_the_bucket_in_the_path() {
        let style = |endpoint| S3Config::new("bucket").is_path_style(endpoint);
        for local in [
            "http://127.0.0.1:9000",
            "http://localhost:1",
            "http://minio:9000",
            "http://[::1]:9",
            "https://10.0.0.1",
        ] {
            assert!(style(Some(local)), "{local}");
        }
        assert!(!style(Some("https://s3.example")) && !style(None));
    }
}

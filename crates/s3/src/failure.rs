//! What a server of S3 may answer instead of what it was asked for.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use dcbuild_process::{NOT_AN_AUTHORITY, TlsFault};
use dcbuild_store::says_full;

/// Where S3 says in which region a bucket is.
const BUCKET_REGION: &str = "x-amz-bucket-region";

/// The kinds of failures that something different is done about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// There is no such object.
    Absent,
    /// The range begins behind the object's end.
    PastEnd,
    /// There is no such bucket.
    NoBucket,
    /// There are no credentials.
    NoCredentials,
    /// The server does not know the credentials, or not any more.
    Unknown,
    /// The credentials may not.
    Denied,
    /// The clocks of this machine and the server are too far apart.
    ClockSkew,
    /// The bucket is in another region.
    WrongRegion,
    /// The server has no space left.
    Full,
    /// The server wants fewer requests.
    SlowDown,
    /// The bytes arrived otherwise than they were sent.
    Damaged,
    /// No connection, or one that broke.
    Unreachable,
    /// The server's certificate is not trusted, or it has none.
    Untrusted,
    /// The server's certificate is an authority's.
    Authority,
    /// The server's own fault.
    Server,
    /// It failed too often just now, and was not asked.
    Resting,
    /// Whatever else a server does not want of us.
    Refused,
}

impl FailureKind {
    /// What whoever runs the store can do about it.
    pub fn hint(self) -> Option<&'static str> {
        Some(match self {
            FailureKind::NoBucket => "create the bucket, or mend its name in the store's address",
            FailureKind::NoCredentials => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role"
            }
            FailureKind::Unknown => {
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile or role that they \
                 come from: the server does not know them, or not any more"
            }
            FailureKind::Denied => {
                "the credentials need s3:GetObject, PutObject, DeleteObject and AbortMultipartUpload on the \
                 store's keys, and s3:ListBucket and ListBucketMultipartUploads on the bucket"
            }
            FailureKind::ClockSkew => "set this machine's clock; NTP keeps it right",
            FailureKind::WrongRegion => {
                "name the bucket's region with ?region= in the store's address"
            }
            FailureKind::Full => {
                "make space: `dcbuild cache prune` removes what was not used for longest, and coordinator.keep_storage is a \
                 ceiling below the server's own"
            }
            FailureKind::Untrusted => {
                "name the CA of the server's certificate with AWS_CA_BUNDLE or the store's key `ca`; http:// in the \
                 endpoint is for a server without TLS"
            }
            FailureKind::Authority => NOT_AN_AUTHORITY,
            FailureKind::Unreachable => {
                "check the endpoint, its port and certificate, and what lies between; a server without names \
                 for its buckets wants ?path-style=true"
            }
            FailureKind::Absent
            | FailureKind::PastEnd
            | FailureKind::SlowDown
            | FailureKind::Damaged
            | FailureKind::Server
            | FailureKind::Resting
            | FailureKind::Refused => return None,
        })
    }
}

/// A request that failed, and why.
#[derive(Debug)]
pub struct Failure {
    /// What to do about it.
    pub kind: FailureKind,
    /// The request, as S3 names it.
    pub request: &'static str,
    /// What the server wrote, or what was wrong with the connection.
    pub answer: String,
    /// How long the server wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.request, self.answer)?;
        match self.kind.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl Error for Failure {}

impl Failure {
    pub(crate) fn new(
        kind: FailureKind,
        request: &'static str,
        answer: impl Into<String>,
    ) -> Failure {
        Failure { kind, request, answer: answer.into(), retry_after: None }
    }

    /// What the client's error means.
    pub(crate) fn of<E>(request: &'static str, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let Some(response) = error.raw_response() else {
            return Failure::new(without_answer(error), request, chain(error));
        };
        let status = response.status().as_u16();
        let code = error.code().unwrap_or_default();
        let message = error.message().unwrap_or_default();
        let kind = kind(status, code, message);
        let words = [code, message];
        let mut answer = status.to_string();
        for word in words.iter().filter(|word| !word.is_empty()) {
            answer.push(' ');
            answer.push_str(word);
        }
        if code.is_empty() && !matches!(error, SdkError::ServiceError(_)) {
            answer = format!("{answer} {}", chain(error));
        }
        if kind == FailureKind::WrongRegion
            && let Some(region) = region_of(response)
        {
            answer = format!("{answer}; its region is {region}");
        }
        let after = response.headers().get("retry-after").and_then(|text| text.parse().ok());
        let retry_after = after.map(Duration::from_secs);
        Failure { kind, request, answer, retry_after }
    }
}

/// An error with its causes; credentials are in none of them.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn without_answer(error: &(dyn Error + 'static)) -> FailureKind {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(
            CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_),
        ) = cause.downcast_ref::<CredentialsError>()
        {
            return FailureKind::NoCredentials;
        }
        next = cause.source();
    }
    match TlsFault::find(error) {
        Some(TlsFault::Authority) => FailureKind::Authority,
        Some(_) => FailureKind::Untrusted,
        None => FailureKind::Unreachable,
    }
}

/// The region in which the bucket is, where the server says so: in a header, or in its error's document.
fn region_of(response: &HttpResponse) -> Option<String> {
    let body = || {
        let body = std::str::from_utf8(response.body().bytes()?).ok()?;
        Some(body.split_once("<Region>")?.1.split_once("</Region>")?.0)
    };
    let region = response.headers().get(BUCKET_REGION).or_else(body)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!region.is_empty() && region.len() < 64 && region.bytes().all(is_plain))
        .then(|| region.to_owned())
}

fn kind(status: u16, code: &str, message: &str) -> FailureKind {
    if says_full(status, &format!("{code} {message}")) {
        return FailureKind::Full;
    }
    match (status, code) {
        (_, "NoSuchBucket") => FailureKind::NoBucket,
        (_, "RequestTimeTooSkewed") => FailureKind::ClockSkew,
        (
            _,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "ExpiredToken"
            | "InvalidClientTokenId"
            | "TokenRefreshRequired"
            | "UserSuspended"
            | "AccountProblem",
        ) => FailureKind::Unknown,
        (301 | 307, _)
        | (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            FailureKind::WrongRegion
        }
        (429, _)
        | (_, "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded") => {
            FailureKind::SlowDown
        }
        // A 503 without words is what proxies answer for a server that has too much to do.
        (503, _) => FailureKind::SlowDown,
        (401 | 403, _) => FailureKind::Denied,
        (404, _) => FailureKind::Absent,
        (416, _) => FailureKind::PastEnd,
        (
            400,
            "BadDigest"
            | "InvalidDigest"
            | "XAmzContentSHA256Mismatch"
            | "XAmzContentChecksumMismatch",
        ) => FailureKind::Damaged,
        (500.., _) => FailureKind::Server,
        // Where the status was fine, what follows it was not.
        (400, "RequestTimeout" | "IncompleteBody") | (200..=299 | 408, _) => {
            FailureKind::Unreachable
        }
        _ => FailureKind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        for (status, code, expected) in [
            (404, "NoSuchKey", FailureKind::Absent),
            (404, "", FailureKind::Absent),
            (404, "NoSuchBucket", FailureKind::NoBucket),
            (403, "AccessDenied", FailureKind::Denied),
            (403, "QuotaExceeded", FailureKind::Full),
            (403, "RequestTimeTooSkewed", FailureKind::ClockSkew),
            (403, "InvalidAccessKeyId", FailureKind::Unknown),
            (403, "SignatureDoesNotMatch", FailureKind::Unknown),
            (400, "ExpiredToken", FailureKind::Unknown),
            (301, "PermanentRedirect", FailureKind::WrongRegion),
            (400, "AuthorizationHeaderMalformed", FailureKind::WrongRegion),
            (503, "SlowDown", FailureKind::SlowDown),
            (507, "", FailureKind::Full),
            (507, "XMinioStorageFull", FailureKind::Full),
            (416, "InvalidRange", FailureKind::PastEnd),
            (400, "BadDigest", FailureKind::Damaged),
            (500, "InternalError", FailureKind::Server),
            (400, "InvalidArgument", FailureKind::Refused),
        ] {
            assert_eq!(kind(status, code, ""), expected, "{status} {code}");
        }
    }
}

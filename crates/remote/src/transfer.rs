//! Moving bytes over HTTP under grants: one request at a time, nothing kept.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dcbuild_store::{Judged, Progress, Verdict, says_full};
use dcbuild_trust::Roots;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, RANGE};
use reqwest::{Client, Method, Response, StatusCode};

/// How long a connection may take, and how long one may be silent.
const CONNECT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(15);
/// A body is sent in pieces, so that it shows that it gets on.
const PIECE_BYTES: usize = 64 << 10;
/// How much of an error's text is worth showing.
const TEXT_MAX: usize = 300;

/// One HTTP request that the store has granted.
#[derive(Clone)]
pub(crate) struct Leave {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// A part of a blob, and how long the whole is.
pub(crate) struct Part {
    pub(crate) bytes: Bytes,
    pub(crate) total: u64,
}

/// Says why a granted request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// There is no such object.
    #[error("the store does not have it")]
    Absent,
    /// The grant is not taken, or not any more.
    #[error("the store refused the grant ({status}): {text}")]
    Refused { status: StatusCode, text: String },
    /// The store has no room.
    #[error("the store is full: {text}")]
    Full { text: String },
    /// The store answered with an error that may pass.
    #[error("the store answered {status}: {text}")]
    Answer { status: StatusCode, text: String },
    /// No request can be made at all.
    #[error("could not set up HTTP: {what}")]
    Setup { what: String },
    /// The connection failed.
    #[error("could not reach the store")]
    Connection(#[source] reqwest::Error),
    /// The answer is none that a store gives.
    #[error("the store's answer has no {0}")]
    Malformed(&'static str),
}

/// Makes granted requests.
#[derive(Default)]
pub(crate) struct Transfer {
    /// Made for the first request: it reads all certificates of the system, which costs as much as a small build.
    client: OnceLock<Result<Client, String>>,
    /// What is trusted instead of the system's certificates.
    ca: Option<PathBuf>,
}

fn new_client(ca: Option<&Path>) -> Result<Client, String> {
    let roots = ca.map_or_else(|| Ok(Roots::of_system()), Roots::of_file);
    let trusted = roots.and_then(|roots| roots.verifier());
    let tls = trusted.and_then(|trusted| dcbuild_trust::client(trusted, None));
    let tls = tls.map_err(|error| error.with_cause())?;
    let client = Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE);
    let client = client.tls_backend_preconfigured(tls);
    client.no_proxy().build().map_err(|error| error.to_string())
}

impl Transfer {
    /// One that trusts the certificates of a file, or the system's.
    pub(crate) fn trusting(ca: Option<PathBuf>) -> Transfer {
        Transfer { client: OnceLock::new(), ca }
    }

    fn client(&self) -> Result<&Client, TransferError> {
        let client = self.client.get_or_init(|| new_client(self.ca.as_deref())).as_ref();
        client.map_err(|what| TransferError::Setup { what: what.clone() })
    }

    /// Reads up to `length` bytes from `start` on; there may be fewer.
    pub(crate) async fn read(
        &self,
        leave: &Leave,
        (start, length): (u64, u64),
        progress: &Progress,
    ) -> Result<Part, TransferError> {
        if length == 0 {
            return Ok(Part { bytes: Bytes::new(), total: start });
        }
        let last = start.saturating_add(length - 1);
        let request =
            self.request(Method::GET, leave)?.header(RANGE, format!("bytes={start}-{last}"));
        let response = request.send().await.map_err(TransferError::Connection)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let total = total_of(&response).ok_or(TransferError::Malformed("Content-Range"))?;
                let bytes = body(response, progress).await?;
                let wanted = last.saturating_add(1).min(total).saturating_sub(start);
                if u64::try_from(bytes.len()).ok() != Some(wanted) {
                    return Err(TransferError::Malformed("whole range"));
                }
                Ok(Part { bytes, total })
            }
            // Nothing lies behind the end; an object without bytes has no range at all.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(Part { bytes: Bytes::new(), total: total_of(&response).unwrap_or(0) })
            }
            StatusCode::OK => {
                let whole = body(response, progress).await?;
                let at =
                    |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
                let bytes = whole.slice(at(start)..at(last.saturating_add(1)));
                Ok(Part { bytes, total: u64::try_from(whole.len()).unwrap_or(u64::MAX) })
            }
            _ => Err(refusal(response).await),
        }
    }

    /// Writes bytes and gives their `ETag`.
    pub(crate) async fn write(
        &self,
        leave: &Leave,
        bytes: Bytes,
        progress: Progress,
    ) -> Result<String, TransferError> {
        let request = self.request(Method::PUT, leave)?.header(CONTENT_LENGTH, bytes.len());
        let pieces = (0..bytes.len()).step_by(PIECE_BYTES).map(move |at| {
            progress.made();
            Ok::<_, std::convert::Infallible>(bytes.slice(at..(at + PIECE_BYTES).min(bytes.len())))
        });
        let request = request.body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)));
        let response = request.send().await.map_err(TransferError::Connection)?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok());
        Ok(etag.unwrap_or_default().to_owned())
    }

    fn request(
        &self,
        method: Method,
        leave: &Leave,
    ) -> Result<reqwest::RequestBuilder, TransferError> {
        let request = self.client()?.request(method, &leave.url);
        let add = |request: reqwest::RequestBuilder, (name, value): &(String, String)| {
            request.header(name, value)
        };
        Ok(leave.headers.iter().fold(request, add))
    }
}

/// Reads an answer's body, and tells that it comes.
async fn body(mut response: Response, progress: &Progress) -> Result<Bytes, TransferError> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(TransferError::Connection)? {
        progress.made();
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// The length of the whole, as `bytes 0-7/4711` or `bytes */4711` says it.
fn total_of(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.rsplit_once('/')?.1.parse().ok()
}

async fn refusal(response: Response) -> TransferError {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let is_full = says_full(status.as_u16(), &text);
    let text: String = text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
    match status {
        _ if is_full => TransferError::Full { text },
        // What is written is not missed: the bucket is.
        StatusCode::NOT_FOUND if text.contains("NoSuchBucket") => {
            TransferError::Answer { status, text }
        }
        StatusCode::NOT_FOUND => TransferError::Absent,
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => TransferError::Refused { status, text },
        _ => TransferError::Answer { status, text },
    }
}

impl Judged for TransferError {
    fn verdict(&self) -> Verdict {
        match self {
            TransferError::Absent
            | TransferError::Full { .. }
            | TransferError::Refused { .. }
            | TransferError::Setup { .. } => Verdict::Settled,
            TransferError::Answer { status, .. } => match *status {
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                    Verdict::Busy { after: None }
                }
                StatusCode::REQUEST_TIMEOUT => Verdict::Failed,
                status if status.is_server_error() => Verdict::Failed,
                _ => Verdict::Settled,
            },
            TransferError::Connection(_) | TransferError::Malformed(_) => Verdict::Failed,
        }
    }
}

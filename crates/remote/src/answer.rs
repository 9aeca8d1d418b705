//! What a store's failure looks like on the wire, and what it means on the other side.

use dcbuild_model::BlobDigest;
use dcbuild_store::StoreError;
use tonic::{Code, Status};

/// What a store on the other side answered instead of what it was asked for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message} ({code:?})")]
pub struct Answer {
    /// The kind of failure.
    pub code: Code,
    /// The words of the other side, cut at 1,000 characters.
    pub message: String,
}

impl From<Status> for Answer {
    fn from(status: Status) -> Answer {
        Answer { code: status.code(), message: status.message().chars().take(1_000).collect() }
    }
}

/// Says a store's failure on the wire; only what the other side can use goes along.
pub fn status_of(error: &StoreError) -> Status {
    let code = match error {
        StoreError::NotFound { .. } => Code::NotFound,
        StoreError::Corrupt { .. } | StoreError::Damaged { .. } => Code::DataLoss,
        StoreError::DigestMismatch { .. } => Code::InvalidArgument,
        StoreError::TooLarge { .. } | StoreError::ObjectTooLarge { .. } => Code::OutOfRange,
        StoreError::Content { .. } => Code::Aborted,
        StoreError::Encode { .. } | StoreError::Name { .. } => Code::Internal,
        StoreError::Denied { .. } | StoreError::Misplaced { .. } => Code::PermissionDenied,
        StoreError::Full { .. } => Code::ResourceExhausted,
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Code::ResourceExhausted
        }
        StoreError::Io { .. } | StoreError::Unavailable { .. } | StoreError::Stopped => {
            Code::Unavailable
        }
    };
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    Status::new(code, message)
}

/// Reads a failure that speaks of one blob.
pub(crate) fn error_of(store: &str, blob: &BlobDigest, status: Status) -> StoreError {
    match status.code() {
        Code::NotFound => StoreError::NotFound { blob: *blob },
        Code::DataLoss => StoreError::Corrupt { blob: *blob },
        _ => unavailable(store, status),
    }
}

/// Reads a failure that speaks of the store as a whole.
pub(crate) fn unavailable(store: &str, status: Status) -> StoreError {
    let (code, store) = (status.code(), store.to_owned());
    let source = Answer::from(status).into();
    match code {
        Code::PermissionDenied => StoreError::Denied { store, source },
        Code::ResourceExhausted => StoreError::Full { store, source },
        _ => StoreError::Unavailable { store, source },
    }
}

/// Whether asking again could help: the connection failed, not the question.
pub(crate) fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
    )
}
/// What is said of every connection that fails, and says nothing.
const NO_NEWS: &str = "transport error";

/// What a status says; of a connection that failed, also why.
pub fn told(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) && words != NO_NEWS {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

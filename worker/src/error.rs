//! Why a step or an output has no result, in the words of the contract.

use std::error::Error;

use dcbuild_layer::{ReadLayerError, WriteBlobError};
use dcbuild_model::{Fault, LayerId};
use dcbuild_proto::document::{StepError, StepErrorKind};
use dcbuild_registry::{PullError, PushError};
use dcbuild_snapshot::{At, CommitError, MaterialiseError, UnpackError};
use dcbuild_store::{LockError, StoreError};

use crate::contents::is_another;

/// Says why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// Nobody wants it any more.
    #[error("the attempt was stopped")]
    Stopped,
    /// A layer that it stands on is neither here nor in the store.
    #[error("layer {layer} is not to be had")]
    Lost {
        /// The layer.
        layer: LayerId,
    },
    /// What it reads of a client's folder is not in the store.
    #[error("the files of the context are not to be had")]
    ContextLost,
    /// It failed.
    #[error("{}", .0.message)]
    Step(Box<StepError>),
}

impl Failed {
    pub(crate) fn new(kind: StepErrorKind, message: impl Into<String>) -> Failed {
        Failed::Step(Box::new(StepError { kind, message: message.into(), hint: None }))
    }

    pub(crate) fn rejected(message: impl Into<String>) -> Failed {
        Failed::new(StepErrorKind::Rejected {}, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Failed {
        Failed::new(StepErrorKind::Internal {}, message)
    }

    /// An instruction that cannot be carried out, for the reason that an error gives.
    pub(crate) fn refused(error: &(dyn Error + 'static)) -> Failed {
        lost(error).unwrap_or_else(|| Failed::rejected(story(error)))
    }

    pub(crate) fn of(kind: StepErrorKind, error: &(dyn Error + 'static)) -> Failed {
        if let Some(lost) = lost(error) {
            return lost;
        }
        let kind = if is_full(error) { StepErrorKind::NoSpace {} } else { kind };
        Failed::new(kind, story(error))
    }

    /// A part of the context that the store does not give.
    pub(crate) fn of_context(error: StoreError) -> Failed {
        if error.is_miss() { Failed::ContextLost } else { error.into() }
    }

    pub(crate) fn sandbox(error: &(dyn Error + 'static)) -> Failed {
        Failed::of(StepErrorKind::Sandbox {}, error)
    }

    #[must_use]
    pub(crate) fn with_hint(mut self, hint: Option<impl Into<String>>) -> Failed {
        if let Failed::Step(error) = &mut self {
            error.hint = hint.map(Into::into);
        }
        self
    }
}

/// An error and its causes in one line.
pub(crate) fn story(error: &(dyn Error + 'static)) -> String {
    dcbuild_process::story(error)
}

/// What is not to be had, if that is at the bottom of it.
fn lost(error: &(dyn Error + 'static)) -> Option<Failed> {
    let mut next = Some(error);
    while let Some(cause) = next {
        let held = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let held = held.and_then(|held| held.downcast_ref::<Failed>());
        match held {
            Some(Failed::Lost { layer }) => return Some(Failed::Lost { layer: *layer }),
            Some(Failed::ContextLost) => return Some(Failed::ContextLost),
            _ => {}
        }
        next = cause.source();
    }
    None
}

/// Whether a store, and not what came from it, is at the bottom of it.
pub(crate) fn is_of_store(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        let held = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if held.is_some_and(|held| held.is::<StoreError>() || held.is::<Failed>())
            || cause.is::<StoreError>()
        {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Whether a full disk is at the bottom of it.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
        {
            return true;
        }
        let errno = cause.downcast_ref::<rustix::io::Errno>();
        if matches!(errno, Some(&rustix::io::Errno::NOSPC | &rustix::io::Errno::DQUOT)) {
            return true;
        }
        next = cause.source();
    }
    false
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        match error {
            StoreError::Full { .. } => Failed::new(StepErrorKind::DiskLimit {}, story(&error))
                .with_hint(Some("make room in the store, or give it more")),
            // Who knows which layer a missing blob is of says so before it comes to this.
            error => Failed::of(StepErrorKind::Store {}, &error),
        }
    }
}

impl From<PullError> for Failed {
    fn from(error: PullError) -> Failed {
        let kind = of_registry(error.fault(), error.is_lasting());
        Failed::of(kind, &error).with_hint(error.hint())
    }
}

/// What a failure at a registry is, by who can mend it and whether another worker would fare better.
fn of_registry(fault: Fault, is_lasting: bool) -> StepErrorKind {
    match fault {
        Fault::Request | Fault::Step => StepErrorKind::Rejected {},
        Fault::Cluster | Fault::Bug if is_lasting => StepErrorKind::Unreachable {},
        Fault::Cluster | Fault::Bug => StepErrorKind::Network {},
    }
}

impl From<PushError> for Failed {
    fn from(error: PushError) -> Failed {
        let kind = of_registry(error.fault(), error.is_lasting());
        Failed::of(kind, &error).with_hint(error.hint())
    }
}

impl From<WriteBlobError> for Failed {
    fn from(error: WriteBlobError) -> Failed {
        match &error {
            WriteBlobError::ContentChanged { path } => changed(path),
            WriteBlobError::Content { path, source } if is_another(source) => changed(path),
            WriteBlobError::Level(_) => Failed::refused(&error),
            WriteBlobError::Unrepresentable { path, .. } => {
                let whiteout = path.name().is_some_and(|name| name.starts_with(b".wh."));
                let hint = "names that begin with .wh. are how layers say that a file is gone: where a RUN unpacks layers of an \
                            image, let it apply them or remove these files (find DIR -name '.wh.*' -delete), or do it in a \
                            stage that is no image";
                Failed::refused(&error).with_hint(whiteout.then_some(hint))
            }
            _ => Failed::of(StepErrorKind::Store {}, &error),
        }
    }
}

impl From<MaterialiseError> for Failed {
    fn from(error: MaterialiseError) -> Failed {
        match &error {
            MaterialiseError::ContentChanged { path } => changed(path),
            MaterialiseError::Content { path, source } if is_another(source) => changed(path),
            MaterialiseError::NotBelowFolder { .. } => Failed::refused(&error),
            _ => Failed::sandbox(&error),
        }
    }
}

pub(crate) fn changed(path: &dcbuild_model::TreePath) -> Failed {
    let message = format!("context changed during the build: {path}");
    Failed::new(StepErrorKind::ContextChanged {}, message)
        .with_hint(Some("start the build again when nothing writes to the file"))
}

impl From<UnpackError> for Failed {
    fn from(error: UnpackError) -> Failed {
        match error {
            UnpackError::Read(error) => error.into(),
            UnpackError::Write(error) => error.into(),
            UnpackError::Refused => Failed::refused(&error),
        }
    }
}

impl From<ReadLayerError> for Failed {
    fn from(error: ReadLayerError) -> Failed {
        match &error {
            ReadLayerError::Read(_) => Failed::of(StepErrorKind::Network {}, &error),
            ReadLayerError::Sink { .. } => Failed::sandbox(&error),
            _ => Failed::refused(&error),
        }
    }
}

impl From<At> for Failed {
    fn from(error: At) -> Failed {
        Failed::sandbox(&error)
    }
}

impl From<CommitError> for Failed {
    fn from(error: CommitError) -> Failed {
        Failed::sandbox(&error)
    }
}

impl From<LockError> for Failed {
    fn from(error: LockError) -> Failed {
        match &error {
            LockError::Cancelled { .. } => Failed::Stopped,
            LockError::File { .. } => Failed::sandbox(&error),
        }
    }
}

impl From<tokio::task::JoinError> for Failed {
    fn from(error: tokio::task::JoinError) -> Failed {
        if error.is_cancelled() { Failed::Stopped } else { Failed::internal(error.to_string()) }
    }
}

/// Runs blocking work on a thread where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T, Failed> {
    tokio::task::spawn_blocking(work).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_is_lost_is_found_behind_a_reader() {
        let layer = LayerId(dcbuild_model::Digest::of(b"layer"));
        let read = std::io::Error::other(Failed::Lost { layer });
        let error = WriteBlobError::Content { path: dcbuild_model::TreePath::root(), source: read };
        assert!(matches!(Failed::from(error), Failed::Lost { layer: found } if found == layer));
    }
}

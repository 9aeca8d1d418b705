//! One function for each request that is made of the server; who calls them knows nothing of the client.

mod body;
mod ends;
mod multipart;
mod read;
mod write;

use std::error::Error;
use std::time::SystemTime;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use dcbuild_store::{
    CallError, Guard, GuardCounts, GuardLimits, Judged, Patience, Progress, Verdict,
};

pub(crate) use multipart::{Part, Upload};

use crate::S3Config;
use crate::failure::{Failure, FailureKind};
use ends::Ends;

/// The bucket, as requests see it.
pub(crate) struct Wire {
    client: Client,
    bucket: String,
    guard: Guard,
    ends: Ends,
}

impl Wire {
    pub(crate) fn new(client: Client, config: &S3Config) -> Wire {
        let calls_max = u32::try_from(config.requests_max).unwrap_or(u32::MAX);
        let limits = GuardLimits { calls_max, ..GuardLimits::default() };
        let guard = Guard::new(config.to_string(), limits);
        Wire { client, bucket: config.bucket.clone(), guard, ends: Ends::default() }
    }

    /// The time, by the clock that signatures are made with.
    pub(crate) fn now(&self) -> SystemTime {
        self.client.config().time_source().map_or(SystemTime::UNIX_EPOCH, |clock| clock.now())
    }

    /// What the guard saw so far.
    pub(crate) fn counts(&self) -> GuardCounts {
        self.guard.counts()
    }

    /// Makes a request under the guard.
    async fn call<T, W: Future<Output = Result<T, Failure>>>(
        &self,
        request: &'static str,
        patience: Patience,
        work: impl Fn(Progress) -> W,
    ) -> Result<T, Failure> {
        // The client's futures are large, and there may be many of them.
        let boxed = |progress| Box::pin(work(progress));
        let called = self.guard.call(request, patience, boxed).await;
        called.map_err(|error| match error {
            CallError::Answered(failure) => failure,
            CallError::Late { .. } => {
                Failure::new(FailureKind::Unreachable, request, error.to_string())
            }
            CallError::Resting { .. } => {
                Failure::new(FailureKind::Resting, request, error.to_string())
            }
        })
    }
}

impl Judged for Failure {
    fn verdict(&self) -> Verdict {
        match self.kind {
            FailureKind::SlowDown => Verdict::Busy { after: self.retry_after },
            FailureKind::Damaged
            | FailureKind::Unreachable
            | FailureKind::Untrusted
            | FailureKind::Authority
            | FailureKind::Server => Verdict::Failed,
            FailureKind::Absent
            | FailureKind::PastEnd
            | FailureKind::NoBucket
            | FailureKind::NoCredentials
            | FailureKind::Unknown
            | FailureKind::Denied
            | FailureKind::ClockSkew
            | FailureKind::WrongRegion
            | FailureKind::Full
            | FailureKind::Resting
            | FailureKind::Refused => Verdict::Settled,
        }
    }
}

/// Turns the client's error into ours.
fn failed<E>(request: &'static str) -> impl FnOnce(SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    move |error| Failure::of(request, &error)
}

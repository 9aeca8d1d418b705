//! The client's part of a build's outputs: each on its own, so that one that fails takes no other with it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use dcbuild_process::Hint as _;
use dcbuild_progress::{Failure, Warning};
use dcbuild_proto::document::{MadeCache, Outcome, OutputKind, OutputResult};
use tokio_util::sync::CancellationToken;

use super::{BuildRequest, Client};
use crate::deliver::{DeliverError, Deliverer, is_special, title, write_file};
use crate::metadata::{image_id, metadata};
use crate::output::ClientOutput;
use crate::show::Show;

/// How many seconds an output waits before it is begun anew, each time that the coordinator is away.
const PAUSES_SECS: [u64; 5] = [1, 2, 4, 8, 16];

/// What became of a build's outputs.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// Those that are where they belong, in words.
    pub(crate) arrived: Vec<String>,
    /// What those are.
    pub(crate) results: Vec<OutputResult>,
    /// Why others are not.
    pub(crate) errors: Vec<DeliverError>,
    /// How many were asked for.
    pub(crate) asked: usize,
    /// What did not come out as asked, and fails nothing.
    pub(crate) warnings: Vec<String>,
    /// Whether the user stopped it.
    pub(crate) stopped: bool,
}

impl Delivery {
    /// What a person is told of the outputs that came out well beside one that did not.
    pub(crate) fn notes(&self) -> Vec<String> {
        match (self.asked, self.arrived.as_slice()) {
            (0 | 1, _) => Vec::new(),
            (_, []) => vec!["no other output was delivered".into()],
            (_, arrived) => vec![format!("delivered all the same: {}", arrived.join("; "))],
        }
    }

    /// The first failure of the client's own part, ready to print, with the exit code for it.
    pub(crate) fn failure(&self) -> Option<(Failure, u8)> {
        let first = self.errors.first()?;
        let stories = self.errors.iter().map(|error| crate::answer::chain(error));
        let failure = Failure {
            error: stories.collect::<Vec<_>>().join("; "),
            notes: self.notes(),
            hint: first.hint(),
            ..Failure::default()
        };
        Some((failure, first.fault().exit_code()))
    }
}

impl Client {
    /// Puts outputs where they belong, those of a build that failed beside them too.
    pub(super) async fn deliver(
        &self,
        request: &BuildRequest,
        made: &[Option<OutputResult>],
        show: &mut Show<'_>,
        stop: &CancellationToken,
    ) -> Delivery {
        let deliverer = Deliverer {
            blobs: self.blobs.clone(),
            docker: self.config.docker.clone(),
            working: self.config.working.clone(),
        };
        let mut delivery = Delivery { asked: request.outputs.len(), ..Delivery::default() };
        for (at, output) in request.outputs.iter().enumerate() {
            let Some(made) = made.get(at).and_then(Option::as_ref) else { continue };
            if let Some(title) = title(output) {
                let work = Box::pin(patiently(&deliverer, (output, made), (&title, show)));
                match stop.run_until_cancelled(work).await {
                    Some(Ok(left)) => delivery.warnings.extend(left),
                    Some(Err(error)) => {
                        delivery.errors.push(error);
                        continue;
                    }
                    None => return Delivery { stopped: true, ..delivery },
                }
            }
            let kind = request.submission.outputs.get(at).map(|spec| &spec.kind);
            delivery.arrived.push(words(output, kind));
            delivery.results.push(made.clone());
        }
        delivery
    }

    /// Takes caches to their places. One that fails says so, and fails the build only where that is asked for.
    pub(super) async fn deliver_caches(
        &self,
        request: &BuildRequest,
        made: &[MadeCache],
        (show, delivery): (&mut Show<'_>, &mut Delivery),
        stop: &CancellationToken,
    ) {
        let message = "the coordinator was stopped before it had packed it".to_owned();
        let lost = MadeCache::Failed { message };
        for (at, dest) in request.caches.to.iter().enumerate() {
            let made = made.get(at).unwrap_or(&lost);
            if delivery.stopped {
                return;
            }
            let title = format!("writing cache to {}", dest.title);
            let work = show.during(&title, dest.write(made, (&request.caches, &self.blobs)));
            match stop.run_until_cancelled(work).await {
                Some(Ok(left)) => delivery.warnings.extend(left),
                Some(Err(error)) if dest.ignore_error => {
                    let story = crate::answer::chain(&error);
                    delivery.warnings.push(format!("{story}; the build goes on without"));
                }
                Some(Err(error)) => {
                    delivery.errors.push(DeliverError::Cache(Box::new(error)));
                }
                None => delivery.stopped = true,
            }
        }
    }

    /// Tells programs what was made, unless the user does not wait for who is to read it.
    pub(super) async fn tell(
        &self,
        request: &BuildRequest,
        delivery: &mut Delivery,
        told: (&Outcome, &[Warning]),
        stop: &CancellationToken,
    ) {
        let writing = self.write_told(request, &delivery.results, told);
        let written = tokio::select! {
            biased;
            written = writing => Some(written),
            () = stop.cancelled() => None,
        };
        match written {
            Some(written) => delivery.errors.extend(written.err()),
            None => delivery.stopped = true,
        }
    }

    /// Writes the files that tell it: of outputs that are where they belong, and of no other.
    async fn write_told(
        &self,
        request: &BuildRequest,
        results: &[OutputResult],
        (outcome, warned): (&Outcome, &[Warning]),
    ) -> Result<(), DeliverError> {
        if let (Some(path), Some(id)) = (&request.iidfile, image_id(results)) {
            write_aside(self.config.working.join(path), id).await?;
        }
        if let Some(path) = &request.metadata_file {
            let provenance = match outcome {
                Outcome::Done { provenance, .. } => provenance.as_slice(),
                _ => &[],
            };
            let warned = if request.tells_warnings { warned } else { &[] };
            let text = metadata(request, results, (provenance, warned));
            write_aside(self.config.working.join(path), text).await?;
        }
        Ok(())
    }

    /// Takes an image's id away that an earlier build left: if this one fails, nobody shall take it for its own.
    pub(super) fn forget_id(&self, request: &BuildRequest) -> Result<(), DeliverError> {
        let Some(path) = &request.iidfile else { return Ok(()) };
        let path = self.config.working.join(path);
        if is_special(&path) || !std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            return Ok(());
        }
        let removed = match std::fs::remove_file(&path) {
            // It is mounted there: it stays, with nothing in it.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::fs::File::options().write(true).truncate(true).open(&path).map(drop)
            }
            removed => removed,
        };
        removed.map_err(|source| DeliverError::File { path, source })
    }
}

/// Writes a small file. A pipe keeps its writer waiting until somebody reads it, and nobody else shall wait for that.
async fn write_aside(path: PathBuf, text: String) -> Result<(), DeliverError> {
    if !is_special(&path) {
        return write_file(&path, text.as_bytes());
    }
    tokio::task::spawn_blocking(move || write_file(&path, text.as_bytes())).await?
}

/// Puts an output where it belongs; begins anew while the coordinator is away, unless what was written is gone.
async fn patiently(
    deliverer: &Deliverer,
    (output, made): (&ClientOutput, &OutputResult),
    (title, show): (&str, &mut Show<'_>),
) -> Result<Option<String>, DeliverError> {
    let again = deliverer.may_begin_anew(output);
    let mut pauses = PAUSES_SECS.into_iter().filter(|_| again);
    loop {
        match show.during(title, deliverer.deliver(output, made)).await {
            Err(error) if error.is_unanswered() => match pauses.next() {
                Some(secs) => tokio::time::sleep(Duration::from_secs(secs)).await,
                None => return Err(error),
            },
            done => return done,
        }
    }
}

/// What has been done with an output.
fn words(output: &ClientOutput, kind: Option<&OutputKind>) -> String {
    if let Some(title) = title(output) {
        return title.replacen("writing ", "wrote ", 1).replacen("loading ", "loaded ", 1);
    }
    match kind {
        Some(OutputKind::Image { names, push: true, .. }) => format!("pushed {}", names.join(", ")),
        Some(OutputKind::Image { names, .. }) if !names.is_empty() => {
            format!("kept image {}", names.join(", "))
        }
        Some(OutputKind::Image { .. } | OutputKind::Files { .. }) | None => "made the image".into(),
    }
}

//! What is printed last of a build: why it failed, or what it made.

use dcbuild_plan::report::show::{json as report_json, text as report_text};
use dcbuild_plan::{Report, Request};
use dcbuild_progress::{Excerpt, Failure, Mode, VertexId, quiet_line};
use dcbuild_proto::document::{Failed, Outcome};
use tokio_util::sync::CancellationToken;

use crate::call::{CallWanted, FindingStatus, ReportFormat};
use crate::client::delivery::Delivery;
use crate::client::{BuildRequest, Ended, INTERRUPTED};
use crate::metadata::image_id;
use crate::show::{Show, Tail};

const CACHE_ONLY: &str = "No output was asked for: the result stays in the build cache. \
                          Name it with -t, or use --load, --push or -o.\n";

/// Says how a build ended: on the screen, on standard output, and by the exit code.
pub(crate) fn conclude(
    request: &BuildRequest,
    outcome: Outcome,
    delivery: &Delivery,
    (show, stop): (&mut Show<'_>, &CancellationToken),
) -> Ended {
    let ending = Ending { request: Some(&request.submission.request), notes: delivery.notes() };
    let mut code = failed(&outcome, ending, show, stop);
    if let Some((failure, own)) = delivery.failure() {
        show.write(&failure.render());
        code = code.or(Some(own));
    }
    let mut stdout = String::new();
    if let (Outcome::Reported { report }, Some(wanted)) = (&outcome, &request.call) {
        stdout = match wanted.format {
            ReportFormat::Text => report_text(report, &request.submission.request),
            ReportFormat::Json => report_json(report, &request.submission.request),
        };
        code = reported(report, *wanted, &request.submission.request, show);
    }
    if let Outcome::Done { outputs, .. } = &outcome
        && code.is_none()
    {
        if let (Mode::Quiet, Some(id)) = (request.mode, image_id(outputs)) {
            stdout = quiet_line(&id);
        }
        let shown = matches!(request.mode, Mode::Auto | Mode::Tty | Mode::Plain);
        if outputs.is_empty() && shown {
            show.write(CACHE_ONLY);
        }
    }
    Ended { outcome: Some(outcome), stdout, code: code.unwrap_or(0) }
}

/// Prints why a Dockerfile that was checked cannot be built, and says the exit code of a report.
fn reported(
    report: &Report,
    wanted: CallWanted,
    request: &Request,
    show: &mut Show<'_>,
) -> Option<u8> {
    let Report::Check(check) = report else { return None };
    if let (Some(error), ReportFormat::Text) = (&check.error, wanted.format) {
        let failure = Failure {
            excerpt: error.lines.map(|lines| excerpt(lines, request)),
            error: error.message.clone(),
            hint: error.hint.clone(),
            ..Failure::default()
        };
        show.write(&failure.render());
    }
    let is_bad = check.error.is_some()
        || (wanted.status == FindingStatus::Fail && !check.findings.is_empty());
    is_bad.then_some(1)
}

/// What is known beside a build's outcome.
pub(crate) struct Ending<'a> {
    /// What was asked, for the lines of the Dockerfile.
    pub(crate) request: Option<&'a Request>,
    /// What else is to be said.
    pub(crate) notes: Vec<String>,
}

/// Prints why a build failed, if it did, and says the exit code for that.
pub(crate) fn failed(
    outcome: &Outcome,
    ending: Ending<'_>,
    show: &mut Show<'_>,
    stop: &CancellationToken,
) -> Option<u8> {
    let (block, code) = match outcome {
        Outcome::Done { .. } | Outcome::Planned { .. } | Outcome::Reported { .. } => return None,
        Outcome::Failed(failed) => (failure(failed, ending, show), failed.fault.exit_code()),
        Outcome::Canceled { reason } => {
            let error = format!("the build was cancelled: {reason}");
            let code = if stop.is_cancelled() { INTERRUPTED } else { 1 };
            (Failure { error, ..Failure::default() }, code)
        }
    };
    show.write(&block.render());
    Some(code)
}

/// Puts a failure together: the step's last lines, the lines of the Dockerfile, the story and the hint.
fn failure(failed: &Failed, ending: Ending<'_>, show: &Show<'_>) -> Failure {
    let vertex = failed.vertex.as_ref().and_then(|id| id.parse().ok()).map(VertexId);
    let tail = vertex.and_then(|id| show.tail(&id));
    let excerpt = failed.lines.zip(ending.request).map(|(lines, request)| excerpt(lines, request));
    Failure {
        step: tail.map(|tail| tail.name.clone()).filter(|name| !name.is_empty()),
        log: tail.map(Tail::lines).unwrap_or_default(),
        excerpt,
        error: failed.message.clone(),
        causes: Vec::new(),
        notes: ending.notes,
        hint: failed.hint.clone(),
    }
}

fn excerpt((first, last): (u32, u32), request: &Request) -> Excerpt {
    let line = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Excerpt {
        file: request.filename.clone(),
        text: request.dockerfile.clone(),
        first: line(first),
        last: line(last),
    }
}

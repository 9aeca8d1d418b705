//! What is printed last of a build that failed.

use dcbuild_plan::Request;
use dcbuild_progress::{Excerpt, Failure, VertexId};
use dcbuild_proto::document::Failed;

use crate::show::{Show, Tail};

/// Puts a failure together: the step's last lines, the lines of the Dockerfile, the story and the hint.
pub(crate) fn failure(failed: &Failed, request: Option<&Request>, show: &Show<'_>) -> Failure {
    let vertex = failed.vertex.as_ref().and_then(|id| id.parse().ok()).map(VertexId);
    let tail = vertex.and_then(|id| show.tail(&id));
    let line = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let excerpt = failed.lines.zip(request).map(|((first, last), request)| Excerpt {
        file: request.filename.clone(),
        text: request.dockerfile.clone(),
        first: line(first),
        last: line(last),
    });
    Failure {
        step: tail.map(|tail| tail.name.clone()).filter(|name| !name.is_empty()),
        log: tail.map(Tail::lines).unwrap_or_default(),
        excerpt,
        error: failed.message.clone(),
        causes: Vec::new(),
        hint: failed.hint.clone(),
    }
}

//! Builds that wait for a worker of a kind that is not there: their watchers are told, now and then again, until one
//! joins or the wait has lasted too long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dcbuild_model::{BuildId, Fault, Platform, UnixTime};
use dcbuild_progress::{Log, Stream, Update, Vertex, VertexId, VertexState};
use dcbuild_proto::document::Outcome;
use dcbuild_scheduler::Event;
use tokio::time::Instant;

use super::Book;

/// How long a worker may take to join before anybody is told that it is missing.
const TOLD_AFTER: Duration = Duration::from_millis(500);
/// How often those who wait are told that they still do.
const TOLD_AGAIN: Duration = Duration::from_secs(30);

/// A build's wait for a worker.
pub(super) struct Wait {
    since: Instant,
    /// What was told, when it began, and when something was said last.
    told: Option<(String, UnixTime, Instant)>,
}

impl Book {
    /// Looks which builds wait for a worker that is not there.
    pub(super) fn watch_unmet(&mut self) {
        let unmet = self.scheduler.unmet();
        let over: Vec<BuildId> =
            self.waits.keys().filter(|build| !unmet.contains_key(build)).copied().collect();
        for build in over {
            self.end_wait(build, None);
        }
        let connected = connected(&self.scheduler.kinds(), self.scheduler.full());
        let now = self.now.instant;
        for (build, platforms) in unmet {
            let wait = self.waits.entry(build).or_insert(Wait { since: now, told: None });
            let waited = now - wait.since;
            if waited >= self.no_worker_max {
                self.give_up(build, &platforms, &connected);
            } else if waited >= TOLD_AFTER {
                self.tell_wait(
                    build,
                    waited,
                    format!("waits for {}; {connected}", wanted(&platforms)),
                );
            }
        }
    }

    /// Says what a build waits for: at first, when that is something else by now, and seldom in between.
    fn tell_wait(&mut self, build: BuildId, waited: Duration, words: String) {
        let (wall, now) = (self.now.wall, self.now.instant);
        let Some(wait) = self.waits.get_mut(&build) else { return };
        let line = match &mut wait.told {
            None => {
                wait.told = Some((words.clone(), wall, now));
                let state = VertexState::Running { started: wall };
                return self.tell(build, Update::Vertex(vertex(words, state)));
            }
            Some((_, _, last)) if now - *last >= TOLD_AGAIN => {
                *last = now;
                format!("still {words}, after {} s\n", waited.as_secs())
            }
            Some((said, _, last)) if *said != words => {
                *last = now;
                said.clone_from(&words);
                format!("{words}\n")
            }
            Some(_) => return,
        };
        let (vertex, stream) = (vertex_id(), Stream::Stderr);
        let log = Log { vertex, stream, bytes: line.into_bytes(), time: wall };
        self.tell(build, Update::Log(log));
    }

    fn give_up(&mut self, build: BuildId, platforms: &BTreeSet<Option<Platform>>, connected: &str) {
        let limit = self.no_worker_max.as_secs();
        let message = format!("{} did not come within {limit} s; {connected}", wanted(platforms));
        self.end_wait(build, Some(message.clone()));
        let hint = "start one with `dcbuild worker --coordinator URL`; a worker runs other platforms than its own \
                    too where it has an interpreter when it starts (apt-get install qemu-user-static); or build for a \
                    platform that is there with --platform";
        let failed = crate::driver::failed(Fault::Cluster, "NO_WORKER", message);
        let failed = dcbuild_proto::document::Failed { hint: Some(hint.into()), ..failed };
        self.end(build, Outcome::Failed(failed));
        self.apply(Event::Cancel { build });
    }

    /// Shows that a build waits no more, for whatever reason.
    pub(super) fn end_wait(&mut self, build: BuildId, error: Option<String>) {
        let Some(Wait { told: Some((words, started, _)), .. }) = self.waits.remove(&build) else {
            return;
        };
        let completed = self.now.wall;
        let state = match error {
            None => VertexState::Done { started, completed },
            Some(error) => VertexState::Failed { started, completed, error },
        };
        self.tell(build, Update::Vertex(vertex(words, state)));
    }
}

fn vertex_id() -> VertexId {
    VertexId::of("wait for a worker")
}

fn vertex(name: String, state: VertexState) -> Vertex {
    Vertex { id: vertex_id(), name, inputs: Vec::new(), state }
}

fn wanted(platforms: &BTreeSet<Option<Platform>>) -> String {
    let kind = |platform: &Option<Platform>| match platform {
        Some(platform) => format!("a worker of {platform}"),
        None => "a worker".to_owned(),
    };
    platforms.iter().map(kind).collect::<Vec<_>>().join(" and ")
}

fn connected(kinds: &BTreeMap<BTreeSet<Platform>, usize>, full: usize) -> String {
    let kind = |(platforms, count): (&BTreeSet<Platform>, &usize)| {
        let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        format!("{count} of {}", names.join(" and "))
    };
    let mut all: Vec<String> = kinds.iter().map(kind).collect();
    if full > 0 {
        all.push(format!("{full} with no space left on the disk"));
    }
    if all.is_empty() {
        "none is connected".into()
    } else {
        format!("connected: {}", all.join(", "))
    }
}

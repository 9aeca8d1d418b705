//! What a build did and where its time went.

use std::collections::BTreeMap;
use std::time::Duration;

use dcbuild_model::UnixTime;

use crate::text::{bytes, line, printable, seconds};
use crate::trace::Trace;
use crate::update::{Update, VertexId, VertexState, between, is_internal};

/// How many of the slowest vertices are named.
const TOP: usize = 5;

/// Counts what passes by, for a summary at the end.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    trace: Trace,
    moved: BTreeMap<(VertexId, String), u64>,
}

/// What a build did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// How long it took.
    pub took: Duration,
    /// Vertices that ran to their end.
    pub ran: usize,
    /// Vertices whose result was there.
    pub cached: usize,
    /// Vertices that failed.
    pub failed: usize,
    /// Vertices that were cancelled or never ended.
    pub canceled: usize,
    /// The bytes of all transfers.
    pub moved: u64,
    /// The slowest vertices by name, slowest first.
    pub slowest: Vec<(String, Duration)>,
    /// How many tries came before the last one.
    pub earlier: usize,
}

impl Tally {
    /// Takes one update.
    pub fn update(&mut self, update: &Update) {
        match update {
            Update::Vertex(vertex) => {
                self.trace.put(vertex);
            }
            Update::Status(status) => {
                self.moved.insert((status.vertex, status.id.clone()), status.current);
            }
            Update::Log(_) | Update::Warning(_) => {}
        }
    }

    /// When the last vertex ended.
    pub fn ended(&self) -> Option<UnixTime> {
        self.trace.ended()
    }

    /// The summary as of now.
    pub fn summary(&self, now: UnixTime) -> Summary {
        let mut summary = Summary {
            took: self.trace.started().map(|from| between(from, now)).unwrap_or_default(),
            moved: self.moved.values().fold(0, |sum, count| sum.saturating_add(*count)),
            ..Summary::default()
        };
        let work = self.trace.begun().filter(|vertex| !is_internal(&vertex.name));
        for vertex in work {
            // What dcbuild does besides the steps is in the time, not in the counts: of a build that took everything
            // from the cache it is wrong to say that something ran.
            match &vertex.state {
                _ if !is_step(&vertex.name) => {}
                VertexState::Done { .. } => summary.ran += 1,
                VertexState::Cached { .. } => summary.cached += 1,
                VertexState::Failed { .. } => summary.failed += 1,
                VertexState::Waiting
                | VertexState::Running { .. }
                | VertexState::Canceled { .. } => summary.canceled += 1,
            }
            if !matches!(vertex.state, VertexState::Cached { .. }) {
                summary.slowest.push((vertex.name.clone(), vertex.state.took(now)));
            }
        }
        summary.slowest.retain(|(_, took)| *took >= Duration::from_millis(50));
        summary.rank();
        summary
    }
}

/// Whether a name is a step's, `[build 2/3] RUN make` or `FROM image`, and not an export's.
fn is_step(name: &str) -> bool {
    name.starts_with('[') || name.starts_with("FROM ")
}

impl Summary {
    fn rank(&mut self) {
        self.slowest.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        self.slowest.truncate(TOP);
    }

    /// What a build did that was begun again after an earlier try.
    #[must_use]
    pub fn after(mut self, earlier: Summary) -> Summary {
        self.took += earlier.took;
        self.ran += earlier.ran;
        self.cached += earlier.cached;
        self.failed += earlier.failed;
        self.canceled += earlier.canceled;
        self.moved = self.moved.saturating_add(earlier.moved);
        self.slowest.extend(earlier.slowest);
        self.rank();
        self.earlier += earlier.earlier + 1;
        self
    }

    /// The block that is printed below a build.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut counts = vec![format!("{} ran", self.ran), format!("{} cached", self.cached)];
        for (count, word) in [(self.failed, "failed"), (self.canceled, "cancelled")] {
            if count > 0 {
                counts.push(format!("{count} {word}"));
            }
        }
        if self.moved > 0 {
            counts.push(format!("{} moved", bytes(self.moved)));
        }
        let tries = match self.earlier {
            0 => String::new(),
            earlier => format!(" ({} tries)", earlier.saturating_add(1)),
        };
        let (took, counts) = (seconds(self.took), counts.join(", "));
        line(&mut out, format_args!("Built in {took}{tries}: {counts}"));
        for (name, took) in &self.slowest {
            line(&mut out, format_args!("{:>8}  {}", seconds(*took), printable(name)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::tests::{Script, at};

    #[test]
    fn a_summary_says_where_the_time_went() {
        let script = Script::default()
            .start(0, "[internal] load build context")
            .done(900, "[internal] load build context")
            .start(0, "[linux/amd64 internal] load metadata for docker.io/library/busybox:1")
            .done(900, "[linux/amd64 internal] load metadata for docker.io/library/busybox:1")
            .cached(0, "[a 1/3] FROM busybox")
            .start(0, "[a 2/3] RUN make")
            .start(0, "[a 3/3] COPY \x1b[31m. .")
            .start(0, "[b 1/1] RUN false")
            .start(100, "export")
            .status(200, "export", ("push", 5_000, Some(9_000)))
            .status(900, "export", ("push", 9_000, Some(9_000)))
            .done(2500, "[a 2/3] RUN make")
            .start(0, "exporting to image")
            .done(1, "exporting to image")
            .done(20, "[a 3/3] COPY \x1b[31m. .")
            .failed(900, "[b 1/1] RUN false", "exit code: 1");
        let mut tally = Tally::default();
        for (_, update) in &script.updates {
            tally.update(update);
        }
        expect![[r#"
            Built in 3.0s: 2 ran, 1 cached, 1 failed, 9.00kB moved
                2.9s  export
                2.5s  [a 2/3] RUN make
                0.9s  [b 1/1] RUN false
        "#]]
        .assert_eq(&tally.summary(at(3000)).render());
    }

    #[test]
    fn a_build_of_several_tries_is_summed_up_as_a_whole() {
        let slow = |name: &str, secs| (name.to_owned(), Duration::from_secs(secs));
        let first = Summary {
            took: Duration::from_secs(5),
            ran: 3,
            moved: 1000,
            slowest: vec![slow("[a 1/2] RUN make", 4)],
            ..Summary::default()
        };
        let second = Summary {
            took: Duration::from_secs(2),
            ran: 1,
            cached: 2,
            slowest: vec![slow("[a 2/2] RUN make test", 6), slow("[b 1/1] RUN true", 1)],
            ..Summary::default()
        };
        expect![[r#"
            Built in 7.0s (2 tries): 4 ran, 2 cached, 1.00kB moved
                6.0s  [a 2/2] RUN make test
                4.0s  [a 1/2] RUN make
                1.0s  [b 1/1] RUN true
        "#]]
        .assert_eq(&second.after(first).render());
    }
}

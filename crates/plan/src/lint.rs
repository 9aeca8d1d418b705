//! What is questionable in a Dockerfile: `BuildKit`'s build checks, by its names and in its words.
//!
//! A [`Finding`] never stops a build, unless the Dockerfile says `# check=error=true`. What can be said of the text
//! alone is in [`file`], of what stands behind FROM in [`from`], of instructions and their variables in [`stage`]. What is
//! not wrong and could be better is in [`advice`], which is asked for by itself.

pub(crate) mod advice;
pub mod checks;
pub(crate) mod file;
pub(crate) mod from;
mod ignored;
pub mod leftover;
pub mod rule;
pub(crate) mod stage;

use serde::{Deserialize, Serialize};

pub use checks::Checks;
pub use leftover::Leftover;
pub use rule::Rule;

/// Something questionable, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The check that found it.
    pub rule: Rule,
    /// What it found, in one line.
    pub detail: String,
    /// The lines of the Dockerfile, first and last, from 1.
    pub lines: (u32, u32),
    /// What it says stays in a layer, where it says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leftover: Option<Leftover>,
    /// The bytes that following it would save, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_bytes: Option<u64>,
}

impl Finding {
    pub(crate) fn new(rule: Rule, lines: (u32, u32), detail: impl Into<String>) -> Finding {
        Finding { rule, detail: detail.into(), lines, leftover: None, saved_bytes: None }
    }

    /// The finding in one line, as a build shows it.
    pub fn short(&self) -> String {
        format!("{}: {} (line {})", self.rule.name(), self.detail, self.lines.0)
    }
}

/// Gathers findings of the checks that are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    checks: Checks,
    found: Vec<Finding>,
}

impl Findings {
    pub(crate) fn new(checks: Checks) -> Findings {
        Findings { checks, found: Vec::new() }
    }

    pub(crate) fn add(&mut self, rule: Rule, lines: (u32, u32), detail: impl Into<String>) {
        self.put(Finding::new(rule, lines, detail));
    }

    pub(crate) fn put(&mut self, finding: Finding) {
        if self.checks.wants(finding.rule) {
            self.found.push(finding);
        }
    }

    /// Takes in what was found for a further platform; what is known is not said again.
    pub(crate) fn join(&mut self, further: Findings) {
        let new = |finding: &Finding| !self.found.contains(finding);
        let new: Vec<Finding> = further.found.into_iter().filter(new).collect();
        self.found.extend(new);
    }

    pub(crate) fn take(self) -> Vec<Finding> {
        self.found
    }

    /// The error that findings are, where the Dockerfile says that they are one.
    pub(crate) fn violation(&self) -> Option<String> {
        if !self.checks.are_errors() || self.found.is_empty() {
            return None;
        }
        let mut names: Vec<&str> = self.found.iter().map(|finding| finding.rule.name()).collect();
        names.sort_unstable();
        names.dedup();
        Some(format!("lint violation found for rules: {}", names.join(", ")))
    }
}

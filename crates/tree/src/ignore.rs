//! `.dockerignore` files and `--exclude` patterns: which paths of a tree are left out.
//!
//! The last pattern that matches a path, or a folder above it, decides; `!` takes in again.

mod glob;
#[cfg(test)]
mod tests;

use crate::pattern::{BadPattern, Pattern};
use glob::Glob;

/// Says why patterns are no ignore patterns.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum IgnoreError {
    /// A `!` stands alone.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneBang,
    /// A pattern is malformed.
    #[error(transparent)]
    Bad(#[from] BadPattern),
}

/// Patterns of which the last match decides.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// Written with `!`.
    takes_in: bool,
    glob: Glob,
}

/// What is known of a folder on the way down; it spares looking at the folders above again.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    matched: Vec<bool>,
}

/// The patterns of a `.dockerignore` file, as one by one they would be given to [`Ignore::new`].
pub fn patterns(file: &[u8]) -> Vec<Vec<u8>> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut patterns = Vec::new();
    for line in file.split(|byte| *byte == b'\n') {
        if line.starts_with(b"#") {
            continue;
        }
        let line = trim(line);
        let (bang, pattern) = match line.strip_prefix(b"!") {
            Some(rest) => (true, trim(rest)),
            None => (false, line),
        };
        if line.is_empty() {
            continue;
        }
        let mut out = if bang { b"!".to_vec() } else { Vec::new() };
        if !pattern.is_empty() {
            let cleaned = clean(pattern);
            let inner = cleaned.strip_prefix(b"/").filter(|inner| !inner.is_empty());
            out.extend_from_slice(inner.unwrap_or(&cleaned));
        }
        patterns.push(out);
    }
    patterns
}

impl Ignore {
    /// Reads a `.dockerignore` file.
    pub fn parse(file: &[u8]) -> Result<Ignore, IgnoreError> {
        Ignore::new(patterns(file))
    }

    /// Takes patterns one by one, as `--exclude` gives them.
    pub fn new(
        patterns: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<Ignore, IgnoreError> {
        let mut rules = Vec::new();
        for pattern in patterns {
            let pattern = trim(pattern.as_ref());
            if pattern.is_empty() {
                continue;
            }
            let cleaned = clean(pattern);
            let (takes_in, glob) = match cleaned.strip_prefix(b"!") {
                Some([]) => return Err(IgnoreError::LoneBang),
                Some(rest) => (true, rest),
                None => (false, cleaned.as_slice()),
            };
            Pattern::parse(glob)?;
            rules.push(Rule { takes_in, glob: Glob::compile(glob) });
        }
        Ok(Ignore { rules })
    }

    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a path (relative, cleaned) is left out.
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut seen = Seen::default();
        let mut out = false;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in ends.chain([path.len()]) {
            (out, seen) = self.matches_below(path.get(..end).unwrap_or(path), &seen);
        }
        out
    }

    /// Whether a path is left out, given what was seen of its folder; [`Seen::default`] at the top.
    pub fn matches_below(&self, path: &[u8], folder: &Seen) -> (bool, Seen) {
        let mut out = false;
        let mut seen = Seen { matched: vec![false; self.rules.len()] };
        for (place, (rule, slot)) in self.rules.iter().zip(&mut seen.matched).enumerate() {
            let above = folder.matched.get(place).copied().unwrap_or(false);
            // A rule that could not change the verdict is not asked, and counts as unmatched further down too.
            let matched = above || (rule.takes_in == out && rule.glob.matches(path));
            *slot = matched;
            if matched {
                out = !rule.takes_in;
            }
        }
        (out, seen)
    }

    /// Whether a folder that is left out can be skipped with all that is in it.
    ///
    /// It cannot where a `!` pattern might take in something below: then the folder itself appears with it.
    pub fn skips_whole(&self, folder: &[u8]) -> bool {
        self.rules
            .iter()
            .filter(|rule| rule.takes_in)
            .all(|rule| !rule.glob.may_match_below(folder))
    }
}

fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

/// Go's `filepath.Clean`: lexical, and a leading `..` of a relative path stays.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if names.last().is_some_and(|last| *last != b"..") => {
                names.pop();
            }
            b".." if rooted => {}
            name => names.push(name),
        }
    }
    let mut out = if rooted { b"/".to_vec() } else { Vec::new() };
    out.extend_from_slice(&names.join(&b'/'));
    if out.is_empty() { b".".to_vec() } else { out }
}

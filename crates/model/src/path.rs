//! Paths inside a tree: bytes, relative to the tree's root, already cleaned.

use std::fmt;

use crate::limits;

/// A path inside a tree: names joined by `/`, never `.`, `..` or empty ones. The root is the empty path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(Vec<u8>);

/// Says why bytes are no path inside a tree.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{path}' is not a path inside a tree: {reason}")]
pub struct InvalidPath {
    /// The path, made printable.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl TreePath {
    /// The root of every tree.
    pub fn root() -> TreePath {
        TreePath(Vec::new())
    }

    /// Cleans a path as if the tree's root were `/`: `..` never leaves it.
    pub fn clean(path: &[u8]) -> Result<TreePath, InvalidPath> {
        let invalid = |reason| InvalidPath {
            path: String::from_utf8_lossy(path).chars().take(200).collect(),
            reason,
        };
        if path.contains(&0) {
            return Err(invalid("it holds a NUL byte"));
        }
        if path.len() > limits::PATH_BYTES_MAX {
            return Err(invalid("it is longer than 16 KiB"));
        }
        let mut names: Vec<&[u8]> = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    names.pop();
                }
                name => names.push(name),
            }
        }
        if names.len() > limits::DEPTH_MAX {
            return Err(invalid("it is deeper than 4096 folders"));
        }
        Ok(TreePath(names.join(&b'/')))
    }

    /// The path's bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the root down.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// The last name; none for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.names().next_back()
    }

    /// The folder that holds this path; none for the root.
    pub fn parent(&self) -> Option<TreePath> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Some(TreePath(self.0[..cut].to_vec()))
    }

    /// One name further down; the name must be one that [`TreePath::clean`] would keep.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> TreePath {
        debug_assert!(
            !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/'),
            "a plain name"
        );
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        TreePath(path)
    }

    /// A path further down, given as it is from here.
    #[must_use]
    pub fn below(&self, rest: &TreePath) -> TreePath {
        match (self.is_root(), rest.is_root()) {
            (_, true) => self.clone(),
            (true, false) => rest.clone(),
            (false, false) => TreePath([&self.0, b"/".as_slice(), &rest.0].concat()),
        }
    }

    /// Whether `self` is `other` or lies below it.
    pub fn is_within(&self, other: &TreePath) -> bool {
        other.is_root()
            || self.0 == other.0
            || (self.0.starts_with(&other.0) && self.0.get(other.0.len()) == Some(&b'/'))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, clean) in
            [("", "/"), ("/", "/"), ("./a//b/", "/a/b"), ("../../a", "/a"), ("/a/../b/.", "/b")]
        {
            assert_eq!(TreePath::clean(path.as_bytes()).unwrap().to_string(), clean, "{path}");
        }
        assert!(TreePath::clean(b"a\0b").is_err());
    }

    #[test]
    fn within_is_by_whole_names() {
        let path = |text: &str| TreePath::clean(text.as_bytes()).unwrap();
        assert!(path("a/b").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")));
        assert!(path("a").is_within(&path("")));
    }
}

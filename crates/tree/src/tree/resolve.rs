//! Following symbolic links inside a tree, never out of it.

use dcbuild_model::{InvalidPath, TreePath, limits};

use super::Tree;
use crate::Kind;

/// What happens when the last name of a path is a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastLink {
    /// It is followed, as `open` does.
    Follow,
    /// It is what the path means, as for `lstat`.
    Keep,
}

/// Says why a path leads nowhere.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResolveError {
    /// More links than [`limits::LINKS_MAX`] were met.
    #[error("too many links in '{path}'")]
    TooManyLinks {
        /// The path, made printable.
        path: String,
    },
    /// The path, or what a link says, is no path.
    #[error("'{path}' is not a path inside a tree: {reason}")]
    Invalid {
        /// The path, made printable.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl From<InvalidPath> for ResolveError {
    fn from(InvalidPath { path, reason }: InvalidPath) -> ResolveError {
        ResolveError::Invalid { path, reason }
    }
}

impl Tree {
    /// Follows the links of a path inside the tree; absolute targets start at the root, and `..` stops there.
    ///
    /// What does not exist is kept as written, so that the answer names what would be made.
    pub fn resolve(&self, path: &[u8], last: LastLink) -> Result<TreePath, ResolveError> {
        self.resolve_in(&TreePath::root(), path, last)
    }

    /// The same with a folder for a root, as after a `chroot` into it; the answer counts from the tree's root.
    pub(crate) fn resolve_in(
        &self,
        top: &TreePath,
        path: &[u8],
        last: LastLink,
    ) -> Result<TreePath, ResolveError> {
        // Checks the bytes and the length once; the names are walked as written, since `..` after a link is not lexical.
        TreePath::clean(path)?;
        let mut rest: Vec<Vec<u8>> = names(path);
        rest.reverse();
        let mut done = top.clone();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                if done != *top {
                    done = done.parent().unwrap_or_default();
                }
                continue;
            }
            let here = done.join(&name);
            let target = match self.get(&here).map(|entry| &entry.kind) {
                Some(Kind::Symlink(target)) if last == LastLink::Follow || !rest.is_empty() => {
                    target
                }
                _ => {
                    done = here;
                    continue;
                }
            };
            links += 1;
            if links > limits::LINKS_MAX {
                let path = String::from_utf8_lossy(path).chars().take(200).collect();
                return Err(ResolveError::TooManyLinks { path });
            }
            TreePath::clean(target)?;
            if target.starts_with(b"/") {
                done = top.clone();
            }
            rest.extend(names(target).into_iter().rev());
        }
        Ok(TreePath::clean(done.as_bytes())?)
    }
}

fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/');
    names.filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec).collect()
}

//! Who may read and write a record: tenant, repository, trust level.

use std::fmt;
use std::str::FromStr;

/// A scope such as `local` or `acme/shop/main`; its parents are the shorter prefixes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Scope(String);

/// Says why a text is no scope.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not a scope (up to 4 parts of a-z, 0-9, '.', '_' and '-', joined by '/')")]
pub struct InvalidScope {
    /// The text, cut at 100 characters.
    pub text: String,
}

impl Scope {
    /// The scope of a build on one's own machine.
    pub fn local() -> Scope {
        Scope("local".into())
    }

    /// The scopes that a build of this one may read too, the nearest first.
    pub fn parents(&self) -> impl Iterator<Item = Scope> {
        let mut text = self.0.as_str();
        std::iter::from_fn(move || {
            text = text.rsplit_once('/')?.0;
            Some(Scope(text.to_owned()))
        })
    }

    /// The scopes whose records a build of this one may take: its own, and then its parents.
    pub fn readable(&self) -> impl Iterator<Item = Scope> {
        std::iter::once(self.clone()).chain(self.parents())
    }

    /// Whether it is that scope, or lies below it.
    pub fn is_within(&self, outer: &Scope) -> bool {
        self.readable().any(|scope| scope == *outer)
    }

    /// The scope as a path that is safe in a folder or a bucket.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Scope, InvalidScope> {
        let plain = |part: &str| {
            (1..=64).contains(&part.len())
                && !part.starts_with('.')
                && part.bytes().all(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
                })
        };
        let parts = text.split('/').count();
        if parts <= 4 && text.split('/').all(plain) {
            return Ok(Scope(text.into()));
        }
        Err(InvalidScope { text: text.chars().take(100).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_the_shorter_prefixes() {
        let parents = |text: &str| -> Vec<String> {
            let scope: Scope = text.parse().unwrap();
            scope.parents().map(|parent| parent.to_string()).collect()
        };
        assert_eq!(parents("acme/shop/main"), ["acme/shop", "acme"]);
        assert_eq!(parents("local"), [""; 0]);
    }

    #[test]
    fn a_scope_lies_within_itself_and_its_parents_alone() {
        let scope = |text: &str| -> Scope { text.parse().unwrap() };
        assert!(scope("acme/shop").is_within(&scope("acme/shop")));
        assert!(scope("acme/shop/pr/7").is_within(&scope("acme/shop")));
        assert!(!scope("acme/shop").is_within(&scope("acme/shop/pr")));
        assert!(!scope("acme/shop-2").is_within(&scope("acme/shop")));
        let readable: Vec<String> = scope("a/b").readable().map(|it| it.to_string()).collect();
        assert_eq!(readable, ["a/b", "a"]);
    }
}

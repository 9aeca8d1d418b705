//! Small named objects in a place outside this machine: what a remote cache keeps beside its blobs.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use dcbuild_model::UnixTime;

use crate::StoreError;

/// The name of an object: parts of letters, digits, `.`, `_`, `-` and `:`, joined by `/`; none is `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectName(String);

/// Says why a text is no object name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not the name of an object")]
pub struct InvalidObjectName {
    /// The text, cut at 100 characters.
    pub text: String,
}

/// An object's name may have this many bytes: S3 allows 1,024, and a prefix takes some of them.
const NAME_BYTES_MAX: usize = 900;

impl ObjectName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ObjectName {
    type Err = InvalidObjectName;

    fn from_str(text: &str) -> Result<ObjectName, InvalidObjectName> {
        let plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'))
        };
        if text.len() <= NAME_BYTES_MAX && text.split('/').all(plain) {
            return Ok(ObjectName(text.into()));
        }
        Err(InvalidObjectName { text: text.chars().take(100).collect() })
    }
}

/// An object, as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedObject {
    /// Its name.
    pub name: ObjectName,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written.
    pub modified: UnixTime,
}

/// A part of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObjectPage {
    /// Objects by name, as bytes.
    pub objects: Vec<ListedObject>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// Keeps named objects; the last write of a name counts, and there are no conditions on writes.
#[async_trait::async_trait]
pub trait Objects: Send + Sync {
    /// Writes an object; readers see all of it or what was there before.
    async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError>;

    /// Reads an object of at most `max` bytes; nothing if there is none, an error if it is larger.
    async fn get(&self, name: &ObjectName, max: u64) -> Result<Option<Bytes>, StoreError>;

    /// Lists the objects whose names begin with `prefix`, those behind `after` only.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
    ) -> Result<ObjectPage, StoreError>;

    /// Removes objects; one that is not there is no error.
    async fn delete(&self, names: &[ObjectName]) -> Result<(), StoreError>;

    /// Those below `prefix` that are on this machine and still on their way, which are to be had even where `list` fails.
    fn on_their_way(&self, prefix: &str) -> Vec<(ObjectName, Bytes)> {
        let _ = prefix;
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "local/step/0123/4567", "t/blob/sha256/ab", "x/sha256:ab"] {
            assert_eq!(good.parse::<ObjectName>().map(|name| name.to_string()), Ok(good.into()));
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "a\n", "ä"] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad}");
        }
        assert!("x".repeat(901).parse::<ObjectName>().is_err());
    }
}

//! Ids: 26 characters of `[a-z0-9]`, so that one can stand in a path, a cgroup name or a URL without a thought.

use std::fmt;
use std::str::FromStr;

/// Says why a text is no id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not an id (26 characters of a-z and 0-9)")]
pub struct InvalidId {
    /// The text, cut at 100 characters.
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Text([u8; 26]);

impl Text {
    fn parse(text: &str) -> Result<Text, InvalidId> {
        let plain =
            |bytes: &[u8; 26]| bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        match <[u8; 26]>::try_from(text.as_bytes()) {
            Ok(bytes) if plain(&bytes) => Ok(Text(bytes)),
            _ => Err(InvalidId { text: text.chars().take(100).collect() }),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.0).expect("an id is ASCII"))
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Text);

        impl $name {
            /// Makes an id of 128 bits that the caller has drawn, the time in their upper 48 bits (ULID).
            pub fn from_bits(bits: u128) -> $name {
                const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
                let mut text = [0; 26];
                for (place, byte) in text.iter_mut().rev().enumerate() {
                    let digit = usize::try_from((bits >> (5 * place)) & 31).unwrap_or(0);
                    *byte = DIGITS[digit];
                }
                $name(Text(text))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<$name, InvalidId> {
                Text::parse(text).map($name)
            }
        }
    )*};
}

ids! {
    /// A submitted build; made by the client, so that a repeated submit is the same build.
    BuildId;
    /// One execution of a job by one worker; fences all that it touches.
    AttemptId;
    /// A worker, for as long as its process lives.
    WorkerId;
    /// A segment of a build that is queued or leased.
    JobId;
    /// A note beside the records of a store; of two, the later one has the greater id.
    NoteId;
}

impl From<BuildId> for NoteId {
    fn from(build: BuildId) -> NoteId {
        NoteId(build.0)
    }
}

impl From<NoteId> for BuildId {
    fn from(note: NoteId) -> BuildId {
        BuildId(note.0)
    }
}

/// Counts the leases of a job; what an older epoch reports is refused.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Epoch(pub u64);

/// A stage, by its place in the Dockerfile, from 0.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
pub struct StageIndex(pub u32);

/// A step, by its place in the plan, from 0.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
pub struct StepIndex(pub u32);

impl StepIndex {
    /// The step's place as an index into the plan's steps.
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("usize has 32 bits or more")
    }
}

impl StageIndex {
    /// The stage's place as an index into the Dockerfile's stages.
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("usize has 32 bits or more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = BuildId::from_bits(u128::MAX);
        assert_eq!(id.to_string(), "7zzzzzzzzzzzzzzzzzzzzzzzzz");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn texts_that_could_be_paths_are_refused() {
        for text in [
            "",
            "../../../../../../../../aa",
            "A0000000000000000000000000",
            "0000000000000000000000000\0",
        ] {
            assert!(text.parse::<BuildId>().is_err(), "{text:?}");
        }
    }
}

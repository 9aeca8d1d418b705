//! Words in stored and sent documents: as the text that `Display` writes and `FromStr` reads, refused like any other text.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

fn read<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                read(deserializer)
            }
        }
    )*};
}

as_text!(
    crate::AttemptId,
    crate::BlobDigest,
    crate::BuildId,
    crate::ChangeDigest,
    crate::ConfigDigest,
    crate::ContentDigest,
    crate::DiffId,
    crate::JobId,
    crate::LayerDigest,
    crate::LayerId,
    crate::ManifestDigest,
    crate::Platform,
    crate::Scope,
    crate::SelectionDigest,
    crate::StateDigest,
    crate::StepKey,
    crate::WorkerId
);

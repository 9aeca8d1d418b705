//! Digests, one type per meaning: two names for different bytes never pass for each other.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

/// A SHA-256 digest; written `sha256:` and 64 hex digits, as OCI writes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// Says why a text is no digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not a sha256 digest (sha256: and 64 hex digits)")]
pub struct ParseDigestError {
    /// The text, cut at 100 characters.
    pub text: String,
}

impl Digest {
    /// Hashes bytes that are already in memory.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(sha2::Sha256::digest(bytes).into())
    }

    /// Returns the 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Parses 64 hex digits, without the algorithm.
    pub fn from_hex(text: &str) -> Result<Digest, ParseDigestError> {
        let mut bytes = [0; 32];
        let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if lower => Ok(Digest(bytes)),
            _ => Err(ParseDigestError { text: text.chars().take(100).collect() }),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", &self.hex()[..12])
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Digest, ParseDigestError> {
        let whole = |_| ParseDigestError { text: text.chars().take(100).collect() };
        Digest::from_hex(text.strip_prefix("sha256:").unwrap_or("")).map_err(whole)
    }
}

macro_rules! digest_types {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<$name, ParseDigestError> {
                text.parse().map($name)
            }
        }
    )*};
}

digest_types! {
    /// Names any object in a blob store: the SHA-256 of its bytes.
    BlobDigest;
    /// Names the bytes of one file.
    ContentDigest;
    /// Names the compressed bytes of a layer, as a registry does.
    LayerDigest;
    /// Names the uncompressed tar of a layer, as an image config does.
    DiffId;
    /// Names an image config.
    ConfigDigest;
    /// Names an image manifest or index.
    ManifestDigest;
    /// Names a layer by its table of contents, in every form that the layer has; also the digest of the stored TOC.
    LayerId;
    /// Names what a layer changes with times normalised: two runs with the same outcome share it.
    ChangeDigest;
    /// Names the state of a stage: the chain of its layers' change digests.
    StateDigest;
    /// Names what a COPY, ADD or read-only bind sees of its input: a Merkle digest without times.
    SelectionDigest;
    /// What a step's result is looked up by.
    StepKey;
}

impl StateDigest {
    /// The state of `FROM scratch`.
    pub fn empty() -> StateDigest {
        StateDigest(crate::Encoder::new("state/scratch/1").finish())
    }

    /// The state after one more layer.
    #[must_use]
    pub fn then(&self, change: &ChangeDigest) -> StateDigest {
        let mut encoder = crate::Encoder::new("state/1");
        encoder.digest(&self.0);
        encoder.digest(&change.0);
        StateDigest(encoder.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(
            digest.hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "sha256:",
            "sha512:00",
            "SHA256:00",
            "sha256:zz",
            &format!("sha256:{}", "A".repeat(64)),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}

//! Records inside an image's config: docker pulls the image as any other, and a build that names it finds its steps.
//!
//! The layers of the records are the image's own. Their tables of contents and indexes travel in the config as well, so
//! they must be small; what has no room stays behind.

use std::collections::BTreeMap;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dcbuild_model::{BlobDigest, Digest};
use dcbuild_store::{BlobStore, StoreError, read_bytes};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::documents::Documents;
use crate::pack::Packed;

/// The field of an image's config that holds our documents.
pub const INLINE_FIELD: &str = "dcbuild.cache.v2";
/// What the field may take: tools that copy images read no config above 4 MiB.
const FIELD_BYTES_MAX: usize = 3 << 20;
/// What may come out of it.
const INSIDE_BYTES_MAX: u64 = 256 << 20;
const LEVEL: i32 = 9;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inside {
    documents: String,
    blobs: Vec<String>,
}

/// Says why inline records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidInline {
    /// The text is no base64.
    #[error("the records in the image's config are no base64")]
    Base64(#[from] base64::DecodeError),
    /// It could not be decompressed, or is too large.
    #[error("the records in the image's config are damaged")]
    Zstd(#[from] std::io::Error),
    /// It has another shape.
    #[error("the records in the image's config are malformed")]
    Json(#[from] serde_json::Error),
    /// The documents are none.
    #[error(transparent)]
    Documents(#[from] crate::documents::InvalidDocuments),
}

/// What an image's config holds.
#[derive(Debug)]
pub struct Inline {
    /// The documents.
    pub documents: Documents,
    /// Small blobs that came with them, by what they hash to.
    pub embedded: BTreeMap<BlobDigest, Bytes>,
}

/// Writes records for a config; none if they have no room. `layers` are the blobs that the image has anyway.
pub async fn encode(
    packed: &Packed,
    layers: &[BlobDigest],
    blobs: &dyn BlobStore,
) -> Result<Option<String>, StoreError> {
    let mut inside = Inside {
        documents: String::from_utf8_lossy(&packed.documents.to_json()).into_owned(),
        blobs: Vec::new(),
    };
    let mut bytes = 0_u64;
    for (blob, size) in packed.blobs.iter().filter(|(blob, _)| !layers.contains(blob)) {
        bytes = bytes.saturating_add(*size);
        if bytes > INSIDE_BYTES_MAX / 2 {
            return Ok(None);
        }
        let content = read_bytes(blobs, blob, INSIDE_BYTES_MAX).await?;
        inside.blobs.push(STANDARD.encode(content));
    }
    let json = serde_json::to_vec(&inside);
    let json = json.map_err(|source| StoreError::Encode { what: "inline records", source })?;
    let packed = zstd::bulk::compress(&json, LEVEL);
    let packed = packed.map_err(|error| StoreError::Content { source: Box::new(error) })?;
    let text = STANDARD.encode(packed);
    Ok((text.len() <= FIELD_BYTES_MAX).then_some(text))
}

/// Reads the records of an image's config; none if it has none.
pub fn decode(config: &[u8]) -> Result<Option<Inline>, InvalidInline> {
    let config: Value = serde_json::from_slice(config)?;
    let Some(text) = config.get(INLINE_FIELD).and_then(Value::as_str) else { return Ok(None) };
    let packed = STANDARD.decode(text)?;
    let mut json = Vec::new();
    zstd::stream::read::Decoder::new(packed.as_slice())?
        .take(INSIDE_BYTES_MAX)
        .read_to_end(&mut json)?;
    let inside: Inside = serde_json::from_slice(&json)?;
    let mut embedded = BTreeMap::new();
    for text in inside.blobs {
        let bytes = Bytes::from(STANDARD.decode(text)?);
        embedded.insert(BlobDigest(Digest::of(&bytes)), bytes);
    }
    let documents = Documents::parse(inside.documents.as_bytes())?;
    Ok(Some(Inline { documents, embedded }))
}

/// Whether a config holds an inline cache of BuildKit.
pub fn is_of_buildkit(config: &[u8]) -> bool {
    serde_json::from_slice::<Value>(config)
        .is_ok_and(|config| config.get(crate::artifact::BUILDKIT_INLINE).is_some())
}

/// Puts records into a config: one more field at its end, all others as they were.
pub fn insert(config: &[u8], records: &str) -> Vec<u8> {
    let end = config.iter().rposition(|byte| *byte == b'}').unwrap_or(config.len());
    let mut whole = config.get(..end).unwrap_or_default().to_vec();
    // Base64 needs no escapes.
    whole.extend_from_slice(format!(",\"{INLINE_FIELD}\":\"{records}\"}}").as_bytes());
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_in_a_config_is_an_error_and_no_panic() {
        assert!(decode(b"{}").unwrap().is_none());
        for text in ["7", "!", "e30=", "KLUv/QRY"] {
            let config = insert(b"{\"a\":1}", text);
            let value: Value = serde_json::from_slice(&config).unwrap();
            assert_eq!((&value["a"], &value[INLINE_FIELD]), (&1.into(), &text.into()));
            assert!(decode(&config).is_err(), "{text}");
        }
        assert!(is_of_buildkit(b"{\"moby.buildkit.cache.v0\":\"x\"}") && !is_of_buildkit(b"{}"));
    }
}

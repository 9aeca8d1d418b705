//! What a manifest or an index of images names.

use dcbuild_model::Digest;
use serde_json::Value;

/// The digests of all that a manifest or index names; nothing, of what is neither.
pub(crate) fn blobs_named_by(bytes: &[u8]) -> Vec<Digest> {
    let Ok(document) = serde_json::from_slice::<Value>(bytes) else { return Vec::new() };
    let digest_of = |value: &Value| value.get("digest")?.as_str()?.parse::<Digest>().ok();
    let list = |key: &str| document.get(key).and_then(Value::as_array).into_iter().flatten();
    let config = document.get("config").and_then(digest_of);
    list("manifests").chain(list("layers")).filter_map(digest_of).chain(config).collect()
}

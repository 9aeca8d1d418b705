//! What lies where in the bucket.

use dcbuild_model::BlobDigest;
use dcbuild_store::ObjectName;

/// Makes keys below the store's prefix.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// The prefix with its slash, or nothing.
    above: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Keys {
        Keys { above: if prefix.is_empty() { String::new() } else { format!("{prefix}/") } }
    }

    pub(crate) fn blob(&self, blob: &BlobDigest) -> String {
        format!("{}blob/sha256/{}", self.above, blob.0.hex())
    }

    /// Where a corrupt blob is put for whoever wants to know what happened to it.
    pub(crate) fn quarantine(&self, blob: &BlobDigest) -> String {
        format!("{}quarantine/sha256/{}", self.above, blob.0.hex())
    }

    pub(crate) fn object(&self, name: &ObjectName) -> String {
        self.below(name.as_str())
    }

    /// The key of what begins with this below the prefix.
    pub(crate) fn below(&self, start: &str) -> String {
        format!("{}{start}", self.above)
    }

    /// The name of an object by its key; none for what is not ours.
    pub(crate) fn name(&self, key: &str) -> Option<ObjectName> {
        key.strip_prefix(&self.above)?.parse().ok()
    }
}

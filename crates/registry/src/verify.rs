//! Counts and hashes bytes as they pass.

use dcbuild_model::Digest;
use sha2::Digest as _;

use crate::error::PullError;

/// Checks a blob while it streams: never more bytes than its size, at the end exactly so many, with its digest.
pub(crate) struct Verifier {
    image: String,
    digest: Digest,
    size: u64,
    seen: u64,
    hash: sha2::Sha256,
}

impl Verifier {
    pub(crate) fn new(image: String, digest: Digest, size: u64) -> Verifier {
        Verifier { image, digest, size, seen: 0, hash: sha2::Sha256::new() }
    }

    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.seen == self.size
    }

    pub(crate) fn take(&mut self, chunk: &[u8]) -> Result<(), PullError> {
        self.seen = self.seen.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if self.seen > self.size {
            return Err(self.wrong_size());
        }
        self.hash.update(chunk);
        Ok(())
    }

    pub(crate) fn finish(&self) -> Result<(), PullError> {
        if self.seen != self.size {
            return Err(self.wrong_size());
        }
        let got = Digest(self.hash.clone().finalize().into());
        if got == self.digest {
            return Ok(());
        }
        Err(PullError::Digest { image: self.image.clone(), wanted: self.digest, got })
    }

    fn wrong_size(&self) -> PullError {
        let (digest, wanted, got) = (self.digest, self.size, self.seen);
        PullError::Size { image: self.image.clone(), digest, wanted, got }
    }
}

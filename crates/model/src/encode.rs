//! The one encoding that is hashed into keys: typed, length-prefixed, versioned; parts never run into each other.

use sha2::Digest as _;

use crate::Digest;

/// Feeds values to a hash so that different sequences of values never give the same bytes.
pub struct Encoder(sha2::Sha256);

impl Encoder {
    /// Starts an encoding; `domain` names what is encoded and the version of its form.
    pub fn new(domain: &str) -> Encoder {
        let mut encoder = Encoder(sha2::Sha256::new());
        encoder.text(domain);
        encoder
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.0.update([tag]);
        self.0.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.tagged(1, bytes);
    }

    /// Adds a text.
    pub fn text(&mut self, text: &str) {
        self.tagged(2, text.as_bytes());
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.0.update([3]);
        self.0.update(number.to_le_bytes());
    }

    /// Adds a truth value.
    pub fn flag(&mut self, flag: bool) {
        self.0.update([4, u8::from(flag)]);
    }

    /// Adds a digest.
    pub fn digest(&mut self, digest: &Digest) {
        self.0.update([5]);
        self.0.update(digest.0);
    }

    /// Adds a sequence: its length, then each item by `each`.
    pub fn list<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut each: impl FnMut(&mut Encoder, T),
    ) {
        self.0.update([6]);
        self.0.update(u64::try_from(items.len()).unwrap_or(u64::MAX).to_le_bytes());
        for item in items {
            each(self, item);
        }
    }

    /// Adds a value that may be absent.
    pub fn option<T>(&mut self, value: Option<T>, each: impl FnOnce(&mut Encoder, T)) {
        self.0.update([7, u8::from(value.is_some())]);
        if let Some(value) = value {
            each(self, value);
        }
    }

    /// Adds the name of an enum's variant.
    pub fn variant(&mut self, name: &str) {
        self.tagged(8, name.as_bytes());
    }

    /// Ends the encoding.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&str]) -> Digest {
        let mut encoder = Encoder::new("test");
        encoder.list(parts.iter(), |encoder, part| encoder.text(part));
        encoder.finish()
    }

    #[test]
    fn joined_parts_do_not_collide() {
        assert_ne!(of(&["a-b", "c"]), of(&["a", "b-c"]));
        assert_ne!(of(&["ab"]), of(&["a", "b"]));
        assert_ne!(of(&[]), of(&[""]));
    }
}

//! The encoding that ssh's messages and key files share: numbers of four bytes, and strings that begin with their length.

/// What is left to be read of a message.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(crate) fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// A message that is being written.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn number(&mut self, number: usize) {
        let number = u32::try_from(number).expect("messages are far shorter than 4 GiB");
        self.0.extend(number.to_be_bytes());
    }

    pub(crate) fn string(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.extend(bytes);
    }

    /// A whole number from its bytes, highest first: without leading zeros, and never with its sign bit set.
    pub(crate) fn mpint(&mut self, bytes: &[u8]) {
        let bytes = crate::mpint::trimmed(bytes);
        let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
        self.number(bytes.len() + usize::from(negative));
        if negative {
            self.byte(0);
        }
        self.0.extend(bytes);
    }
}

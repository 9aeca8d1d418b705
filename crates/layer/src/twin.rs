//! SHA-256 of a tar and, beside it, of the file whose bytes are passing.

mod both;

use dcbuild_model::Digest;
use sha2::block_api::compress256;

use both::{Blocks, State, advance_both};

/// What SHA-256 works on at once.
const BLOCK: usize = 64;
/// How SHA-256 begins.
const BEGIN: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The hash of a tar as it grows, and of the file in it that passes.
///
/// A file's content begins in the tar at a multiple of 512, so the blocks that its own hash works on are those of the
/// tar's hash. A processor's unit for SHA-256 waits for itself a good part of the time when it has one of them only.
pub struct TwinHash {
    tar: Chain,
    file: Chain,
    /// What came after the last whole block; it is the same in the file.
    rest: [u8; BLOCK],
    filled: usize,
}

/// One hash: its state, and how many bytes have come, those of the rest included.
#[derive(Clone, Copy)]
struct Chain {
    state: State,
    bytes: u64,
}

/// Which of the two hashes bytes belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Tar,
    Both,
}

impl Default for TwinHash {
    fn default() -> TwinHash {
        let begun = Chain { state: BEGIN, bytes: 0 };
        TwinHash { tar: begun, file: begun, rest: [0; BLOCK], filled: 0 }
    }
}

impl TwinHash {
    /// Hashes that have seen nothing.
    pub fn new() -> TwinHash {
        TwinHash::default()
    }

    /// Hashes bytes of the tar that are no file's.
    pub fn around(&mut self, bytes: &[u8]) {
        self.feed(bytes, Whose::Tar);
    }

    /// Begins a file, which must be at a multiple of 64 in the tar.
    pub fn begin(&mut self) {
        assert_eq!(self.filled, 0, "a file begins at a block of the tar");
        self.file = Chain { state: BEGIN, bytes: 0 };
    }

    /// Hashes bytes of the file that has begun.
    pub fn content(&mut self, bytes: &[u8]) {
        self.feed(bytes, Whose::Both);
    }

    /// Gives the digest of the file that has begun, of which nothing more may come.
    pub fn end(&self) -> Digest {
        self.file.finish(self.rest())
    }

    /// Gives the digest of the tar.
    pub fn finish(&self) -> Digest {
        self.tar.finish(self.rest())
    }

    fn rest(&self) -> &[u8] {
        self.rest.get(..self.filled).unwrap_or_default()
    }

    fn feed(&mut self, mut bytes: &[u8], whose: Whose) {
        self.tar.count(bytes);
        if whose == Whose::Both {
            self.file.count(bytes);
        }
        if self.filled > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.keep(now);
            bytes = later;
            if self.filled < BLOCK {
                return;
            }
            let block = self.rest;
            self.advance(&[block], whose);
            self.filled = 0;
        }
        let (blocks, tail) = bytes.as_chunks();
        self.advance(blocks, whose);
        self.keep(tail);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        if let Some(room) = self.rest.get_mut(self.filled..end) {
            room.copy_from_slice(bytes);
        }
        self.filled = end;
    }

    fn advance(&mut self, blocks: &Blocks, whose: Whose) {
        match whose {
            Whose::Tar => compress256(&mut self.tar.state, blocks),
            Whose::Both => advance_both(&mut self.tar.state, &mut self.file.state, blocks),
        }
    }
}

impl Chain {
    fn count(&mut self, bytes: &[u8]) {
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }

    /// Hashes what comes after the last whole block, and the padding that ends each SHA-256.
    fn finish(mut self, rest: &[u8]) -> Digest {
        let mut last = [[0; BLOCK]; 2];
        let bytes = last.as_flattened_mut();
        let blocks = if rest.len() < BLOCK - 8 { 1 } else { 2 };
        for (to, from) in bytes.iter_mut().zip(rest.iter().chain(&[0x80])) {
            *to = *from;
        }
        let bits = (self.bytes * 8).to_be_bytes();
        for (to, from) in bytes.iter_mut().take(blocks * BLOCK).rev().zip(bits.iter().rev()) {
            *to = *from;
        }
        compress256(&mut self.state, last.get(..blocks).unwrap_or_default());
        let mut digest = [0; 32];
        for (to, word) in digest.chunks_exact_mut(4).zip(self.state) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        Digest(digest)
    }
}

#[cfg(test)]
mod tests;

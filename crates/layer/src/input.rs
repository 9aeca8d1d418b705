//! The bytes of a foreign blob: hashed as they come, decompressed on a thread of their own, bounded in growth.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender};
use dcbuild_model::{Compression, limits};
use sha2::{Digest as _, Sha256};

const CHUNK: usize = 256 << 10;

/// Whether a blob's growth is bounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ratio {
    /// By [`limits::RATIO_MAX`]: for what others made.
    Limited,
    /// Not at all: for blobs that dcbuild made, whose digest is checked.
    Free,
}

/// A media type that names no layer that can be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{media_type}' is not the media type of a readable layer")]
pub struct UnknownMediaType {
    /// The media type.
    pub media_type: String,
}

/// Says how a layer of a media type is compressed.
pub fn compression_of_media_type(media_type: &str) -> Result<Compression, UnknownMediaType> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Ok(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Compression::Zstd),
        _ => Err(UnknownMediaType { media_type: media_type.chars().take(200).collect() }),
    }
}

/// What a decompressor says when a blob grows beyond measure.
#[derive(Debug, thiserror::Error)]
#[error("it grows to more than {} times its size", limits::RATIO_MAX)]
pub(crate) struct GrowsTooMuch;

/// Hashes and counts the bytes that pass.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    count: Arc<AtomicU64>,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R, count: Arc<AtomicU64>) -> Hashing<R> {
        Hashing { inner, hash: Sha256::new(), count }
    }

    /// Reads what nobody wanted, and gives the digest of everything.
    pub(crate) fn finish(mut self) -> io::Result<[u8; 32]> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hash.finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.hash.update(buf.get(..len).unwrap_or_default());
        self.count.fetch_add(u64::try_from(len).unwrap_or(0), Ordering::Relaxed);
        Ok(len)
    }
}

/// Refuses to go on once more came out than the limit allows for what went in.
pub(crate) struct Bounded<R> {
    pub(crate) inner: R,
    pub(crate) came_in: Arc<AtomicU64>,
    pub(crate) went_out: u64,
    pub(crate) ratio: Ratio,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.went_out = self.went_out.saturating_add(u64::try_from(len).unwrap_or(0));
        let allowed = self.came_in.load(Ordering::Relaxed).saturating_mul(limits::RATIO_MAX);
        let over = self.went_out > limits::RATIO_FREE_BYTES && self.went_out > allowed;
        if self.ratio == Ratio::Limited && over {
            return Err(io::Error::new(io::ErrorKind::InvalidData, GrowsTooMuch));
        }
        Ok(len)
    }
}

/// A piece of the decompressed stream, or why there is none.
pub(crate) type Piece = io::Result<Arc<Vec<u8>>>;

/// Reads to the end, sends all of it to both, and says whether the end was reached with both listening.
pub(crate) fn pump(
    mut from: impl Read,
    parse: &Sender<Piece>,
    hash: &Sender<Arc<Vec<u8>>>,
) -> bool {
    loop {
        let mut piece = Vec::with_capacity(CHUNK);
        let wanted = u64::try_from(CHUNK).unwrap_or(u64::MAX);
        let result = from.by_ref().take(wanted).read_to_end(&mut piece);
        match result {
            Ok(0) => return true,
            Ok(_) => {
                let piece = Arc::new(piece);
                if hash.send(Arc::clone(&piece)).is_err() || parse.send(Ok(piece)).is_err() {
                    return false;
                }
            }
            Err(error) => {
                // The parser is told; where it has gone, nobody asks.
                parse.send(Err(error)).unwrap_or_default();
                return false;
            }
        }
    }
}

/// The pieces of a stream as one reader.
pub(crate) struct Pieces {
    from: Receiver<Piece>,
    piece: Arc<Vec<u8>>,
    at: usize,
}

impl Pieces {
    pub(crate) fn new(from: Receiver<Piece>) -> Pieces {
        Pieces { from, piece: Arc::default(), at: 0 }
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.from.recv() {
                Ok(piece) => (self.piece, self.at) = (piece?, 0),
                Err(_) => return Ok(0),
            }
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(rest.iter().take(len)) {
            *to = *from;
        }
        self.at += len;
        Ok(len)
    }
}

//! Compresses a layer's tar in another way, byte for byte the same tar, so that its diff id stays.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use dcbuild_model::{Compression, DiffId, Digest, LayerBlob, LayerDigest};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::compress::{BlobForm, Compressor};
use crate::cut::FRAME;
use crate::frame::len_of;
use crate::index::{BlobIndex, Frame};
use crate::input::{Bounded, Hashing, Ratio};
use crate::write::{WriteBlobError, WrittenBlob};

/// A blob that was made of another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recompressed {
    /// What was read, as hashed here; the caller compares it.
    pub read: LayerDigest,
    /// What was written; its index has frames and no files.
    pub written: WrittenBlob,
}

/// Reads a blob and writes its tar in another form.
pub fn recompress(
    input: impl Read,
    compression: Compression,
    form: &BlobForm,
    mut out: impl Write,
) -> Result<Recompressed, WriteBlobError> {
    let came_in = Arc::new(AtomicU64::new(0));
    let hashing = Hashing::new(input, Arc::clone(&came_in));
    let mut input = io::BufReader::with_capacity(256 << 10, hashing);
    let (mut tar, mut blob) = (Sha256::new(), Sha256::new());
    let (mut tar_size, mut size, mut frames) = (0, 0, Vec::new());
    let mut compressor = Compressor::new(form)?;
    {
        let inner = decoder(&mut input, compression).map_err(WriteBlobError::Compress)?;
        let mut plain = Bounded { inner, came_in, went_out: 0, ratio: Ratio::Limited };
        let (mut piece, mut packed) = (Vec::with_capacity(FRAME), Vec::new());
        loop {
            piece.clear();
            let most = u64::try_from(FRAME).unwrap_or(u64::MAX);
            plain.by_ref().take(most).read_to_end(&mut piece).map_err(WriteBlobError::Compress)?;
            // A tar of nothing is a frame all the same, for a decompressor wants one.
            if piece.is_empty() && !frames.is_empty() {
                break;
            }
            tar.update(&piece);
            compressor.frame(&piece, &mut packed).map_err(WriteBlobError::Compress)?;
            blob.update(&packed);
            out.write_all(&packed).map_err(WriteBlobError::Write)?;
            frames.push(Frame { tar: tar_size, blob: size });
            tar_size += len_of(&piece);
            size += len_of(&packed);
            if piece.is_empty() {
                break;
            }
        }
    }
    out.flush().map_err(WriteBlobError::Write)?;
    let read = input.into_inner().finish().map_err(WriteBlobError::Compress)?;
    let of = |hash: Sha256| Digest(hash.finalize().into());
    let (diff_id, digest) = (DiffId(of(tar)), LayerDigest(of(blob)));
    let compression = form.compression;
    let index = BlobIndex::new(compression, (tar_size, size), frames, Vec::new());
    let blob = LayerBlob { digest, diff_id, size, compression };
    let written = WrittenBlob { blob, index };
    Ok(Recompressed { read: LayerDigest(Digest(read)), written })
}

fn decoder<'r>(
    input: &'r mut impl BufRead,
    compression: Compression,
) -> io::Result<Box<dyn Read + 'r>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

    #[test]
    fn the_tar_stays_in_every_form() {
        // Longer than a frame, and no whole number of them.
        let tar: Vec<u8> =
            (0..(5_u32 << 19) + 7).map(|at| (at.wrapping_mul(at) >> 7).to_le_bytes()[0]).collect();
        let first = LayerDigest(Digest::of(&tar));
        let mut blob = tar.clone();
        let (mut from, mut named) = (Compression::None, first);
        for compression in FORMS.iter().chain(&FORMS).copied() {
            let form = BlobForm { compression, level: None, threads: 2 };
            let mut out = Vec::new();
            let done = recompress(blob.as_slice(), from, &form, &mut out).unwrap();
            assert_eq!((done.read, done.written.blob.diff_id.0), (named, first.0));
            assert_eq!(done.written.blob.digest, LayerDigest(Digest::of(&out)));
            let (mut again, mut plain) = (io::BufReader::new(out.as_slice()), Vec::new());
            decoder(&mut again, compression).unwrap().read_to_end(&mut plain).unwrap();
            assert!(plain == tar, "{compression:?}");
            (blob, from, named) = (out, compression, done.written.blob.digest);
        }
        let form = BlobForm { compression: Compression::Zstd, level: None, threads: 1 };
        let mut nothing = Vec::new();
        recompress([].as_slice(), Compression::None, &form, &mut nothing).unwrap();
        assert!(!nothing.is_empty() && zstd::decode_all(nothing.as_slice()).unwrap().is_empty());
        let broken = &blob[..blob.len() / 2];
        assert!(recompress(broken, from, &form, Vec::new()).is_err(), "it is cut off");
    }
}

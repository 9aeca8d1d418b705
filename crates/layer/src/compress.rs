//! Compression of independent frames, each by one thread, the same bytes by whichever.

use std::io;

use dcbuild_model::Compression;

/// How a blob is made; only the first two have a say in its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobForm {
    /// How it is compressed.
    pub compression: Compression,
    /// How hard; 4 for gzip and 3 for zstd where absent.
    pub level: Option<i32>,
    /// How many threads compress; at least one does.
    pub threads: usize,
}

/// A level that the compression does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{} has no level {level}", .compression.name())]
pub struct InvalidLevel {
    /// The compression.
    pub compression: Compression,
    /// The level.
    pub level: i32,
}

/// A compressor of one thread.
pub(crate) enum Compressor {
    None,
    Gzip(libdeflater::Compressor),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Compressor {
    pub(crate) fn new(form: &BlobForm) -> Result<Compressor, InvalidLevel> {
        let compression = form.compression;
        let invalid = |level| InvalidLevel { compression, level };
        match compression {
            Compression::None => Ok(Compressor::None),
            Compression::Gzip => {
                let level = form.level.unwrap_or(4);
                libdeflater::CompressionLvl::new(level)
                    .map(|level| Compressor::Gzip(libdeflater::Compressor::new(level)))
                    .map_err(|_| invalid(level))
            }
            Compression::Zstd => {
                let level = form.level.unwrap_or(3);
                if !(1..=22).contains(&level) {
                    return Err(invalid(level));
                }
                zstd::bulk::Compressor::new(level)
                    .map(|compressor| Compressor::Zstd(Box::new(compressor)))
                    .map_err(|_| invalid(level))
            }
        }
    }

    /// Whether frames stay as they are.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Compressor::None)
    }

    /// Compresses a frame into memory; what lies there does not matter, and saves that it is cleared.
    pub(crate) fn frame(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Compressor::None => plain.clone_into(out),
            Compressor::Gzip(compressor) => {
                let bound = compressor.gzip_compress_bound(plain.len());
                if out.len() < bound {
                    out.resize(bound, 0);
                }
                let len = compressor
                    .gzip_compress(plain, out)
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
                out.truncate(len);
            }
            Compressor::Zstd(compressor) => {
                out.clear();
                out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
                compressor.compress_to_buffer(plain, out)?;
            }
        }
        Ok(())
    }
}

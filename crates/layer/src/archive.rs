//! Archives that ADD unpacks, known by their content and never by their name.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dcbuild_model::{ContentDigest, TreePath, limits};
use dcbuild_tree::{Archive, Entry, FileBody, Kind, Member, Origin};

use crate::collect::{Gather, InvalidEntry, Taken, What, path, refused, what};
use crate::header::BLOCK;
use crate::input::{Bounded, Ratio};
use crate::parse::{Parser, Raw};
use crate::read::{LayerSink, ReadLayerError, stream};

/// What an archive is, by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveKind {
    /// A plain tar.
    Tar,
    /// A tar in gzip.
    Gzip,
    /// A tar in bzip2.
    Bzip2,
    /// A tar in xz.
    Xz,
    /// A tar in zstd.
    Zstd,
}

/// Says why an archive could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadArchiveError {
    /// Its first bytes could not be read.
    #[error("could not read the file")]
    Open(#[source] io::Error),
    /// It is an archive, and it is not whole or not allowed.
    #[error("could not unpack the {} archive", .kind.name())]
    Read {
        /// What it is by its first bytes.
        kind: ArchiveKind,
        /// Why not.
        source: ReadLayerError,
    },
}

impl ArchiveKind {
    /// The name that messages use.
    pub fn name(self) -> &'static str {
        match self {
            ArchiveKind::Tar => "tar",
            ArchiveKind::Gzip => "gzip",
            ArchiveKind::Bzip2 => "bzip2",
            ArchiveKind::Xz => "xz",
            ArchiveKind::Zstd => "zstd",
        }
    }
}

/// Tells what an archive is by its first bytes, of which 512 do; nothing where ADD would copy the file as it is.
pub fn detect(start: &[u8]) -> Option<ArchiveKind> {
    match start {
        [0x1f, 0x8b, ..] => Some(ArchiveKind::Gzip),
        [b'B', b'Z', b'h', ..] => Some(ArchiveKind::Bzip2),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(ArchiveKind::Xz),
        // A frame that is to be skipped may come first, as pzstd writes one.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Some(ArchiveKind::Zstd)
        }
        _ => is_header(start).then_some(ArchiveKind::Tar),
    }
}

/// Reads an archive as members below the root, in their order; names that lead out are taken as if the root were `/`,
/// and those of whiteouts are names like others.
///
/// Nothing comes back where the bytes are no archive, nor where they are a compressed file that holds no tar: ADD copies
/// such a file as it is.
pub fn read_archive(
    input: impl Read + Send,
    sink: &mut dyn LayerSink,
) -> Result<Option<Archive>, ReadArchiveError> {
    let mut input = io::BufReader::with_capacity(256 << 10, input);
    let mut start = Vec::with_capacity(BLOCK);
    let first = u64::try_from(BLOCK).unwrap_or(u64::MAX);
    input.by_ref().take(first).read_to_end(&mut start).map_err(ReadArchiveError::Open)?;
    let Some(kind) = detect(&start) else { return Ok(None) };
    let input = io::Cursor::new(start).chain(input);
    let streamed = stream(input, Ratio::Limited, Ordered::default(), sink, |input| {
        let read: Box<dyn Read + '_> = decoder(kind, input)?;
        Ok(read)
    });
    match streamed {
        Ok(streamed) if streamed.is_empty() => Ok(None),
        Ok(streamed) => Ok(Some(streamed.whole)),
        Err(ReadLayerError::NotATar) if kind != ArchiveKind::Tar => Ok(None),
        Err(source) => Err(ReadArchiveError::Read { kind, source }),
    }
}

/// The members so far: what they do to each other is known only where they are unpacked.
#[derive(Default)]
struct Ordered(Archive);

impl Ordered {
    fn try_take(&mut self, raw: &Raw) -> Result<Taken, &'static str> {
        let here = path(&raw.name)?;
        // What an archive says of its own top, or puts under no name at all, counts for nothing.
        if here.is_root() {
            return Ok(Taken::Done);
        }
        let member = match what(raw, &here)? {
            What::File => return Ok(Taken::File(here)),
            What::Nothing => return Ok(Taken::Done),
            What::Other(entry) => Member::Put(entry),
            What::HardLink => Member::Link { to: path(&raw.link)?, meta: raw.meta.clone() },
        };
        self.0.0.push((here, member));
        Ok(Taken::Done)
    }
}

impl Gather for Ordered {
    type Whole = Archive;

    fn take(&mut self, raw: &Raw) -> Result<Taken, InvalidEntry> {
        self.try_take(raw).map_err(|reason| refused(raw, reason))
    }

    fn file(&mut self, path: TreePath, raw: Raw, body: FileBody, at: Option<Origin>) {
        let body = FileBody { origin: at.unwrap_or(body.origin), ..body };
        let entry = Entry { meta: raw.meta, kind: Kind::File(body), links: None };
        self.0.0.push((path, Member::Put(entry)));
    }

    fn finish(self) -> Result<Archive, InvalidEntry> {
        Ok(self.0)
    }
}

fn decoder<'r>(
    kind: ArchiveKind,
    input: impl Read + Send + 'r,
) -> io::Result<Box<dyn Read + Send + 'r>> {
    Ok(match kind {
        ArchiveKind::Tar => Box::new(input),
        ArchiveKind::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
        ArchiveKind::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(input)),
        ArchiveKind::Xz => {
            Box::new(Xz(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_KIB_MAX)))
        }
        ArchiveKind::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?),
    })
}

/// What decoding needs beside the dictionary is far below a mebibyte.
const XZ_KIB_MAX: u32 = limits::XZ_DICTIONARY_MIB_MAX * 1024 + 1024;

/// Says what is wrong with a dictionary that is too large: whoever unpacks takes memory for all of it at once.
struct Xz<R: Read>(lzma_rust2::XzReader<R>);

impl<R: Read> Read for Xz<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|error| match error.kind() {
            io::ErrorKind::OutOfMemory => io::Error::other(format!(
                "its dictionary is larger than {} MiB (`xz -9` makes one of 64 MiB)",
                limits::XZ_DICTIONARY_MIB_MAX
            )),
            _ => error,
        })
    }
}

/// Reads an archive as the plain tar that it holds; what it grows to is bounded.
pub fn as_tar<'r>(
    kind: ArchiveKind,
    input: impl Read + Send + 'r,
) -> io::Result<Box<dyn Read + Send + 'r>> {
    let came_in = Arc::new(AtomicU64::new(0));
    let counted = Counted { inner: input, count: came_in.clone() };
    let inner = decoder(kind, counted)?;
    Ok(Box::new(Bounded { inner, came_in, went_out: 0, ratio: Ratio::Limited }))
}

/// Counts the bytes that pass.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.count.fetch_add(u64::try_from(len).unwrap_or(0), Ordering::Relaxed);
        Ok(len)
    }
}

fn is_header(start: &[u8]) -> bool {
    matches!(Parser::new(start).next(), Ok(Some(_)))
        || matches!(start.get(257..262), Some(b"ustar"))
}

/// Keeps small contents in memory and gives the rest to a sink of the caller's.
pub struct SmallInline<S> {
    bytes_max: u64,
    small: Option<Vec<u8>>,
    large: S,
}

impl<S: LayerSink> SmallInline<S> {
    /// Keeps contents of up to `bytes_max` bytes as [`Origin::Inline`].
    pub fn new(bytes_max: u64, large: S) -> SmallInline<S> {
        SmallInline { bytes_max, small: None, large }
    }
}

impl<S: LayerSink> LayerSink for SmallInline<S> {
    fn begin(&mut self, path: &TreePath, size: u64) -> io::Result<()> {
        self.small = (size <= self.bytes_max).then(Vec::new);
        if self.small.is_none() { self.large.begin(path, size) } else { Ok(()) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.small {
            Some(small) => {
                small.extend_from_slice(bytes);
                Ok(())
            }
            None => self.large.write(bytes),
        }
    }

    fn end(&mut self, content: &ContentDigest) -> io::Result<Option<Origin>> {
        match self.small.take() {
            Some(small) => Ok(Some(Origin::Inline(small.into()))),
            None => self.large.end(content),
        }
    }
}

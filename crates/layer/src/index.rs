//! Where each file's bytes are in a blob, so that one file is read with one ranged request.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use dcbuild_model::{Compression, ContentDigest, Digest, TreePath};

const MAGIC: &[u8; 8] = b"dcbindx1";

/// Where an independent frame begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) tar: u64,
    pub(crate) blob: u64,
}

/// Where a file's bytes lie in the tar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IndexedFile {
    pub(crate) path: TreePath,
    pub(crate) content: ContentDigest,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// The index of a blob: its frames, and its files by path and by content. Later names of a hard link are not in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobIndex {
    compression: Compression,
    tar_size: u64,
    blob_size: u64,
    frames: Vec<Frame>,
    files: Vec<IndexedFile>,
    by_content: Vec<usize>,
}

/// What to fetch of a blob, and what of that, decompressed, is the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The bytes of the blob: whole frames.
    pub blob: Range<u64>,
    /// Where the file begins in the tar.
    pub offset: u64,
    /// How much of the decompressed frames comes before the file.
    pub skip: u64,
    /// The file's size.
    pub len: u64,
}

/// A run of whole frames, to be fetched and decompressed as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Its bytes in the blob.
    pub blob: Range<u64>,
    /// The bytes of the tar that they hold.
    pub tar: Range<u64>,
    compression: Compression,
}

impl Stretch {
    /// How many bytes it has once it is decompressed.
    pub fn tar_len(&self) -> u64 {
        self.tar.end - self.tar.start
    }

    /// Decompresses the bytes that were fetched of the blob; there are as many as the index says.
    pub fn decompress(&self, fetched: impl Read + Send) -> io::Result<Vec<u8>> {
        let len = self.tar_len();
        let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(io::Error::other)?);
        decoder(fetched, self.compression)?.take(len).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).ok() == Some(len) {
            return Ok(bytes);
        }
        let words = "the frames hold less than their index says";
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, words))
    }
}

/// Says why bytes are no index.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeIndexError {
    /// The bytes begin otherwise.
    #[error("the bytes are not a blob index")]
    Magic,
    /// The bytes end inside a field, or go on after the last.
    #[error("the blob index has a wrong length")]
    Length,
    /// A field has a value that no index has.
    #[error("the blob index has a wrong {field}")]
    Field {
        /// The field.
        field: &'static str,
    },
}

impl BlobIndex {
    pub(crate) fn new(
        compression: Compression,
        (tar_size, blob_size): (u64, u64),
        frames: Vec<Frame>,
        files: Vec<IndexedFile>,
    ) -> BlobIndex {
        // Most digests differ in their first bytes, and those lie beside each other.
        let first =
            |file: &IndexedFile| file.content.0.0.first_chunk().copied().map(u64::from_be_bytes);
        let places = files.iter().enumerate();
        let mut sorted: Vec<_> = places.map(|(place, file)| (first(file), place)).collect();
        let whole = |place: usize| files.get(place).map(|file| (file.content, place));
        sorted.sort_unstable_by(|(one, here), (other, there)| {
            one.cmp(other).then_with(|| whole(*here).cmp(&whole(*there)))
        });
        let by_content = sorted.into_iter().map(|(_, place)| place).collect();
        BlobIndex { compression, tar_size, blob_size, frames, files, by_content }
    }

    /// How the blob is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Finds a file by its path in the layer.
    pub fn locate(&self, path: &TreePath) -> Option<Extent> {
        let place = self.files.binary_search_by(|file| file.path.cmp(path)).ok()?;
        self.extent(self.files.get(place)?)
    }

    /// Finds a file by its content.
    pub fn locate_content(&self, content: &ContentDigest) -> Option<Extent> {
        let digest = |place: &usize| self.files.get(*place).map(|file| file.content);
        let place = self.by_content.partition_point(|place| digest(place) < Some(*content));
        let file = self.files.get(*self.by_content.get(place)?)?;
        if file.content == *content { self.extent(file) } else { None }
    }

    fn extent(&self, file: &IndexedFile) -> Option<Extent> {
        let end = file.offset.checked_add(file.size)?;
        if self.compression == Compression::None {
            let blob = file.offset..end;
            return Some(Extent { blob, offset: file.offset, skip: 0, len: file.size });
        }
        let (first, after) = self.frames_of(file.offset, end)?;
        let (start, stop) = (self.frames.get(first)?, self.frame(after));
        Some(Extent {
            blob: start.blob..stop.blob,
            offset: file.offset,
            skip: file.offset - start.tar,
            len: file.size,
        })
    }

    /// The frames that a file lies in, and as many after them as make up to so many bytes of the tar together.
    pub fn stretch(&self, extent: &Extent, bytes: u64) -> Option<Stretch> {
        let (offset, end) = (extent.offset, extent.offset.checked_add(extent.len)?);
        let compression = self.compression;
        if compression == Compression::None {
            let to = end.max(self.tar_size.min(offset.saturating_add(bytes)));
            return Some(Stretch { blob: offset..to, tar: offset..to, compression });
        }
        let (first, after) = self.frames_of(offset, end)?;
        let start = *self.frames.get(first)?;
        let fits = |at: &usize| self.frame(*at).tar - start.tar <= bytes;
        let after = (after..=self.frames.len()).take_while(fits).last().unwrap_or(after);
        let stop = self.frame(after);
        Some(Stretch { blob: start.blob..stop.blob, tar: start.tar..stop.tar, compression })
    }

    /// Whether each frame holds by itself as many bytes of the tar as is said of it, and all of them the whole blob.
    pub fn frames_are_true(&self, blob: &mut (impl Read + Seek + Send)) -> io::Result<bool> {
        if self.compression == Compression::None {
            return Ok(self.tar_size == self.blob_size);
        }
        for at in 0..self.frames.len() {
            let (start, stop) = (self.frame(at), self.frame(at + 1));
            let len = stop.tar.saturating_sub(start.tar);
            blob.seek(SeekFrom::Start(start.blob))?;
            let fetched = blob.take(stop.blob.saturating_sub(start.blob));
            let mut tar = decoder(fetched, self.compression)?.take(len.saturating_add(1));
            if io::copy(&mut tar, &mut io::sink())? != len {
                return Ok(false);
            }
        }
        Ok(self.frames.first() == Some(&Frame { tar: 0, blob: 0 }))
    }

    /// The first frame that has bytes of a part of the tar, and the first after it that has none.
    fn frames_of(&self, offset: u64, end: u64) -> Option<(usize, usize)> {
        let first = self.frames.partition_point(|frame| frame.tar <= offset).checked_sub(1)?;
        let after = self.frames.partition_point(|frame| frame.tar < end).max(first + 1);
        Some((first, after))
    }

    /// Where a frame begins, or all ends.
    fn frame(&self, at: usize) -> Frame {
        let end = Frame { tar: self.tar_size, blob: self.blob_size };
        self.frames.get(at).copied().unwrap_or(end)
    }

    /// Writes the index as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(match self.compression {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Zstd => 2,
        });
        put(&mut out, self.tar_size);
        put(&mut out, self.blob_size);
        put_len(&mut out, self.frames.len());
        let mut last = Frame { tar: 0, blob: 0 };
        for frame in &self.frames {
            put(&mut out, frame.tar.saturating_sub(last.tar));
            put(&mut out, frame.blob.saturating_sub(last.blob));
            last = *frame;
        }
        put_len(&mut out, self.files.len());
        let mut last: &[u8] = &[];
        for file in &self.files {
            let path = file.path.as_bytes();
            let shared = path.iter().zip(last).take_while(|(one, other)| one == other).count();
            put_len(&mut out, shared);
            put_len(&mut out, path.len() - shared);
            out.extend_from_slice(path.get(shared..).unwrap_or_default());
            out.extend_from_slice(&file.content.0.0);
            put(&mut out, file.offset);
            put(&mut out, file.size);
            last = path;
        }
        out
    }

    /// Reads an index from bytes; a value that comes out can be used without fear.
    pub fn decode(bytes: &[u8]) -> Result<BlobIndex, DecodeIndexError> {
        let mut input = Fields(bytes.strip_prefix(MAGIC).ok_or(DecodeIndexError::Magic)?);
        let compression = match input.take(1)? {
            [0] => Compression::None,
            [1] => Compression::Gzip,
            [2] => Compression::Zstd,
            _ => return Err(DecodeIndexError::Field { field: "compression" }),
        };
        let sizes = (input.number()?, input.number()?);
        let frames = input.frames(sizes)?;
        let files = input.files(sizes.0)?;
        if !input.0.is_empty() {
            return Err(DecodeIndexError::Length);
        }
        Ok(BlobIndex::new(compression, sizes, frames, files))
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or(0));
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    put(out, u64::try_from(len).unwrap_or(u64::MAX));
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeIndexError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DecodeIndexError::Length)?;
        self.0 = rest;
        Ok(head)
    }

    fn number(&mut self) -> Result<u64, DecodeIndexError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.first().copied().unwrap_or(0);
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            number |= part << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(DecodeIndexError::Field { field: "number" })
    }

    /// A count of items of at least `bytes` bytes each, so that a lie cannot ask for memory.
    fn count(&mut self, bytes: usize) -> Result<usize, DecodeIndexError> {
        let count = usize::try_from(self.number()?).map_err(|_| DecodeIndexError::Length)?;
        match count.checked_mul(bytes) {
            Some(least) if least <= self.0.len() => Ok(count),
            _ => Err(DecodeIndexError::Length),
        }
    }

    fn frames(&mut self, sizes: (u64, u64)) -> Result<Vec<Frame>, DecodeIndexError> {
        let wrong = DecodeIndexError::Field { field: "frame" };
        let count = self.count(2)?;
        let mut frames: Vec<Frame> = Vec::with_capacity(count);
        for _ in 0..count {
            let last = frames.last().copied().unwrap_or(Frame { tar: 0, blob: 0 });
            let tar = last.tar.checked_add(self.number()?).filter(|tar| *tar <= sizes.0);
            let blob = last.blob.checked_add(self.number()?).filter(|blob| *blob <= sizes.1);
            match (tar, blob) {
                (Some(tar), Some(blob)) => frames.push(Frame { tar, blob }),
                _ => return Err(wrong),
            }
        }
        Ok(frames)
    }

    fn files(&mut self, tar_size: u64) -> Result<Vec<IndexedFile>, DecodeIndexError> {
        let wrong = |field| DecodeIndexError::Field { field };
        let count = self.count(36)?;
        let mut files: Vec<IndexedFile> = Vec::with_capacity(count);
        for _ in 0..count {
            let last = files.last().map(|file| file.path.as_bytes()).unwrap_or_default();
            let shared = usize::try_from(self.number()?).map_err(|_| wrong("path"))?;
            let own = usize::try_from(self.number()?).map_err(|_| wrong("path"))?;
            let mut path = last.get(..shared).ok_or(wrong("path"))?.to_vec();
            path.extend_from_slice(self.take(own)?);
            let clean = TreePath::clean(&path).map_err(|_| wrong("path"))?;
            if clean.as_bytes() != path || files.last().is_some_and(|file| file.path >= clean) {
                return Err(wrong("path"));
            }
            let digest = self.take(32)?.try_into().map_err(|_| DecodeIndexError::Length)?;
            let (offset, size) = (self.number()?, self.number()?);
            if offset.checked_add(size).is_none_or(|end| end > tar_size) {
                return Err(wrong("extent"));
            }
            let content = ContentDigest(Digest(digest));
            files.push(IndexedFile { path: clean, content, offset, size });
        }
        Ok(files)
    }
}

fn decoder<'a>(
    fetched: impl Read + Send + 'a,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(fetched),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(fetched)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(fetched)?),
    })
}

/// Reads a file from the fetched bytes of its extent; the caller checks the file's digest.
pub fn open_extent<'a>(
    fetched: impl Read + Send + 'a,
    extent: &Extent,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut plain = decoder(fetched, compression)?;
    io::copy(&mut plain.by_ref().take(extent.skip), &mut io::sink())?;
    Ok(Box::new(plain.take(extent.len)))
}

/// Reads a whole file from the fetched bytes of its extent; the caller checks the file's digest.
pub fn read_extent(
    fetched: &[u8],
    extent: &Extent,
    compression: Compression,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_extent(fetched, extent, compression)?.read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).ok() == Some(extent.len) {
        return Ok(bytes);
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the extent is shorter than its file"))
}

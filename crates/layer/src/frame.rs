//! Frames: cut as known bytes and gaps for files, filled, hashed and packed by one thread in memory that it has at hand.

use std::io::{self, Read, Write};
use std::sync::Arc;

use dcbuild_model::TreePath;
use dcbuild_tree::FileBody;

use crate::compress::Compressor;
use crate::content::ReadContent;
use crate::desk::{Desk, Task};
use crate::write::WriteBlobError;

/// How much a frame holds at most. With its tables a compressor then works in the cache of one core.
pub(crate) const FRAME: usize = 1 << 20;

/// A filled frame, which both the hash of the tar and a compressor read.
pub(crate) type Plain<'a> = Arc<Frame<'a>>;

/// A piece of the tar: bytes that are known, and gaps between them for files that are still to be read.
#[derive(Default)]
pub(crate) struct Frame<'a> {
    /// Where it begins in the tar.
    pub(crate) tar: u64,
    /// Its bytes, and after them what was there before.
    memory: Vec<u8>,
    len: usize,
    files: Vec<Begin<'a>>,
}

/// Where in a frame a file begins, whatever frame it ends in.
pub(crate) struct Begin<'a> {
    pub(crate) at: usize,
    pub(crate) path: &'a TreePath,
    pub(crate) body: &'a FileBody,
    /// The size of the gap that is left for it; none if its bytes were read when the frame was cut.
    gap: Option<usize>,
}

/// A frame as it goes into the blob.
pub(crate) struct Packed<'a> {
    /// Where it begins in the tar.
    pub(crate) tar: u64,
    bytes: Bytes<'a>,
}

enum Bytes<'a> {
    /// As they are.
    Plain(Plain<'a>),
    /// Compressed: so many at the beginning of memory.
    Compressed(Vec<u8>, usize),
}

impl Packed<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Plain(plain) => plain.bytes(),
            Bytes::Compressed(memory, len) => memory.get(..*len).unwrap_or_default(),
        }
    }
}

impl<'a> Frame<'a> {
    /// An empty frame without memory, at a place in the tar.
    pub(crate) fn at(tar: u64) -> Frame<'a> {
        Frame { tar, ..Frame::default() }
    }

    /// Gives it memory, unless it has some.
    pub(crate) fn within(&mut self, spare: &mut Spare) {
        if self.memory.is_empty() {
            self.memory = spare.take();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How much can still come into it.
    pub(crate) fn room(&self) -> usize {
        FRAME.saturating_sub(self.len)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.get(..self.len).unwrap_or_default()
    }

    /// The files that begin in it.
    pub(crate) fn files(&self) -> &[Begin<'a>] {
        &self.files
    }

    /// Takes as many bytes as there is room for, and says how many.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let (now, _) = bytes.split_at(self.room().min(bytes.len()));
        self.next(now.len()).copy_from_slice(now);
        self.len += now.len();
        now.len()
    }

    /// Says that a file begins here, whose bytes come as they are read.
    pub(crate) fn begin(&mut self, path: &'a TreePath, body: &'a FileBody) {
        self.files.push(Begin { at: self.len, path, body, gap: None });
    }

    /// Leaves a gap for a file of this size.
    pub(crate) fn leave(&mut self, path: &'a TreePath, body: &'a FileBody, size: usize) {
        self.files.push(Begin { at: self.len, path, body, gap: Some(size) });
        self.len += size;
    }

    /// Reads the next bytes now, as many as come up to a limit, and says how many came.
    pub(crate) fn read(&mut self, from: &mut dyn Read, limit: usize) -> io::Result<usize> {
        let count = read_up_to(from, self.next(limit))?;
        self.len += count;
        Ok(count)
    }

    fn next(&mut self, len: usize) -> &mut [u8] {
        let end = self.len + len;
        self.reach(end);
        self.memory.get_mut(self.len..end).unwrap_or_default()
    }

    /// Makes its memory at least this long; what lies there is never cleared.
    fn reach(&mut self, len: usize) {
        if self.memory.len() < len {
            self.memory.resize(len.next_power_of_two(), 0);
        }
    }

    /// Reads the files that it has gaps for.
    fn fill(&mut self, contents: &dyn ReadContent) -> Result<(), WriteBlobError> {
        self.reach(self.len);
        for file in &self.files {
            let Some(gap) = file.gap else { continue };
            let room = self.memory.get_mut(file.at..file.at + gap).unwrap_or_default();
            read_whole(contents, file, room)?;
        }
        Ok(())
    }
}

/// Reads a file that has the size of its gap, or it has changed.
fn read_whole(
    contents: &dyn ReadContent,
    Begin { path, body, .. }: &Begin<'_>,
    gap: &mut [u8],
) -> Result<(), WriteBlobError> {
    let failed = |source| WriteBlobError::Content { path: (*path).clone(), source };
    let mut reader = contents.open(body).map_err(failed)?;
    let count = read_up_to(&mut *reader, gap).map_err(failed)?;
    if count == gap.len() && at_end(&mut *reader).map_err(failed)? {
        return Ok(());
    }
    Err(WriteBlobError::ContentChanged { path: (*path).clone() })
}

/// Reads until memory is full or nothing more comes, and says how much came.
fn read_up_to(from: &mut dyn Read, memory: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = memory.get_mut(filled..).filter(|room| !room.is_empty()) {
        match from.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether nothing more comes. Whoever reads through another check hears of its error only here.
pub(crate) fn at_end(reader: &mut dyn Read) -> io::Result<bool> {
    loop {
        match reader.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return Ok(read? == 0),
        }
    }
}

/// Memory that a thread has used, the last first: it may still lie in the cache of its core.
#[derive(Default)]
pub(crate) struct Spare(Vec<Vec<u8>>);

impl Spare {
    /// How much of it one thread keeps.
    const MOST: usize = 2;

    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    fn keep(&mut self, memory: Vec<u8>) {
        if self.0.len() < Spare::MOST {
            self.0.push(memory);
        }
    }

    /// Keeps the memory of a frame that nobody else reads any more.
    fn keep_last(&mut self, plain: Plain<'_>) {
        if let Some(frame) = Arc::into_inner(plain) {
            self.keep(frame.memory);
        }
    }
}

/// A thread that writes a blob together with others.
pub(crate) struct Hand<'a, 'd, W> {
    desk: &'d Desk<'a, W>,
    contents: &'a dyn ReadContent,
    compressor: Compressor,
    plain: Spare,
    packed: Spare,
}

impl<'a, 'd, W: Write> Hand<'a, 'd, W> {
    pub(crate) fn new(
        desk: &'d Desk<'a, W>,
        contents: &'a dyn ReadContent,
        compressor: Compressor,
    ) -> Self {
        Hand { desk, contents, compressor, plain: Spare::default(), packed: Spare::default() }
    }

    /// Does what there is to do, until there is no more or it fails; all others then end, too.
    pub(crate) fn run(mut self) -> Result<(), WriteBlobError> {
        let all_end = Fails(self.desk);
        while let Some(task) = self.desk.next() {
            self.take(task)?;
        }
        std::mem::forget(all_end);
        Ok(())
    }

    fn take(&mut self, task: Task<'a, W>) -> Result<(), WriteBlobError> {
        match task {
            Task::Cut(mut cutter) => {
                if let Some(frame) = cutter.next(&mut self.plain)? {
                    let number = self.desk.has_cut(cutter);
                    return self.make(number, frame);
                }
                self.desk.is_all_cut(cutter);
            }
            Task::Hash(mut hash, plain) => {
                hash.pass(&plain)?;
                self.desk.has_hashed(hash);
                self.plain.keep_last(plain);
            }
            Task::Write(mut writer, packed) => {
                writer.write(&packed)?;
                self.desk.has_written(writer);
                match packed.bytes {
                    Bytes::Plain(plain) => self.plain.keep_last(plain),
                    Bytes::Compressed(memory, _) => self.packed.keep(memory),
                }
            }
        }
        Ok(())
    }

    /// Makes of a frame what goes into the blob.
    fn make(&mut self, number: u64, mut frame: Frame<'a>) -> Result<(), WriteBlobError> {
        frame.fill(self.contents)?;
        let (tar, plain) = (frame.tar, Arc::new(frame));
        if let Some((mut hash, plain)) = self.desk.has_filled(number, Arc::clone(&plain)) {
            hash.pass(&plain)?;
            self.desk.has_hashed(hash);
        }
        if self.compressor.is_none() {
            self.desk.has_packed(number, Packed { tar, bytes: Bytes::Plain(plain) });
            return Ok(());
        }
        let mut memory = self.packed.take();
        let packed = self.compressor.frame(plain.bytes(), &mut memory);
        let len = packed.map_err(WriteBlobError::Compress)?;
        self.plain.keep_last(plain);
        self.desk.has_packed(number, Packed { tar, bytes: Bytes::Compressed(memory, len) });
        Ok(())
    }
}

/// Has all threads end, whether one returns early or panics.
struct Fails<'a, 'd, W>(&'d Desk<'a, W>);

impl<W> Drop for Fails<'_, '_, W> {
    fn drop(&mut self) {
        self.0.fail();
    }
}

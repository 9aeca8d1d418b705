//! Frames: planned as headers and files, filled and compressed by any thread, in memory that is used again and again.

use std::io::{self, Read};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use dcbuild_model::TreePath;
use dcbuild_tree::FileBody;

use crate::compress::Compressor;
use crate::content::ReadContent;
use crate::write::WriteBlobError;

/// The bytes of a frame, which both the hash of the tar and the compressor read.
pub(crate) type Plain = Arc<Vec<u8>>;

/// What becomes of a frame.
pub(crate) type Done = Result<Packed, WriteBlobError>;

/// A frame as it goes into the blob.
pub(crate) enum Packed {
    /// As it is.
    Plain(Plain),
    /// Compressed.
    Compressed(Vec<u8>),
}

impl Packed {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Packed::Plain(bytes) => bytes,
            Packed::Compressed(bytes) => bytes,
        }
    }
}

/// What a frame will hold: bytes that are known, and files between them that are still to be read.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    /// Memory; what is known lies at its beginning, and after that what was there before.
    memory: Vec<u8>,
    known: usize,
    files: Vec<Planned<'a>>,
    begins: Vec<Begin<'a>>,
    len: usize,
}

struct Planned<'a> {
    /// How many of the known bytes come before it.
    after: usize,
    path: &'a TreePath,
    body: &'a FileBody,
}

/// Where in a frame a file begins, whatever frame it ends in.
pub(crate) struct Begin<'a> {
    pub(crate) at: usize,
    pub(crate) path: &'a TreePath,
    pub(crate) body: &'a FileBody,
}

impl<'a> Plan<'a> {
    /// An empty plan that keeps its known bytes in this memory.
    pub(crate) fn within(memory: Vec<u8>) -> Plan<'a> {
        Plan { memory, ..Plan::default() }
    }

    /// How long the frame will be.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.add(bytes.len());
    }

    /// Says that a file begins here.
    pub(crate) fn begin(&mut self, path: &'a TreePath, body: &'a FileBody) {
        self.begins.push(Begin { at: self.len, path, body });
    }

    /// Puts a whole file next, to be read by whoever fills the frame; `len` is its size.
    pub(crate) fn file(&mut self, path: &'a TreePath, body: &'a FileBody, len: usize) {
        self.begin(path, body);
        self.files.push(Planned { after: self.known, path, body });
        self.len += len;
    }

    /// Reads the next bytes now, as many as come up to a limit, and says how many came.
    pub(crate) fn read(&mut self, from: &mut dyn Read, limit: usize) -> io::Result<usize> {
        let count = read_up_to(from, self.room(limit))?;
        self.add(count);
        Ok(count)
    }

    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.known + len;
        grow(&mut self.memory, end);
        self.memory.get_mut(self.known..end).unwrap_or_default()
    }

    fn add(&mut self, len: usize) {
        self.known += len;
        self.len += len;
    }

    fn fill(
        mut self,
        contents: &dyn ReadContent,
        spare: &Spare,
    ) -> Result<Vec<u8>, WriteBlobError> {
        if self.files.is_empty() {
            self.memory.truncate(self.known);
            return Ok(self.memory);
        }
        let mut out = spare.take();
        // Each file is asked for one byte more than it has.
        grow(&mut out, self.len + 1);
        let (mut copied, mut at) = (0, 0);
        let mut copy = |out: &mut [u8], at: usize, up_to: usize| {
            let known = self.memory.get(copied..up_to).unwrap_or_default();
            copied = up_to;
            if let Some(room) = out.get_mut(at..at + known.len()) {
                room.copy_from_slice(known);
            }
            at + known.len()
        };
        for file in &self.files {
            at = copy(&mut out, at, file.after);
            at += read_file(contents, file, out.get_mut(at..).unwrap_or_default())?;
        }
        let end = copy(&mut out, at, self.known);
        out.truncate(end);
        spare.keep(self.memory);
        Ok(out)
    }
}

/// Makes memory at least this long; what lies there is never cleared.
fn grow(memory: &mut Vec<u8>, len: usize) {
    if memory.len() < len {
        memory.resize(len, 0);
    }
}

/// Reads a whole file to the beginning of memory that has room for one byte more, and gives its size, which is the one
/// that is expected.
fn read_file(
    contents: &dyn ReadContent,
    Planned { path, body, .. }: &Planned<'_>,
    out: &mut [u8],
) -> Result<usize, WriteBlobError> {
    let failed = |source| WriteBlobError::Content { path: (*path).clone(), source };
    let mut reader = contents.open(body).map_err(failed)?;
    let size = usize::try_from(body.size).unwrap_or(usize::MAX);
    let room = out.get_mut(..=size).unwrap_or_default();
    if read_up_to(&mut *reader, room).map_err(failed)? == size {
        return Ok(size);
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

/// A frame that somebody is to fill and compress.
pub(crate) struct Job<'a> {
    plan: Plan<'a>,
    plain: Sender<Plain>,
    done: Sender<Done>,
}

/// A frame that the hash of the tar waits for.
pub(crate) struct Unhashed<'a> {
    pub(crate) plain: Receiver<Plain>,
    pub(crate) begins: Vec<Begin<'a>>,
}

impl<'a> Job<'a> {
    /// The job, and where its plain and its packed bytes will arrive.
    pub(crate) fn new(mut frame: Plan<'a>) -> (Job<'a>, Unhashed<'a>, Receiver<Done>) {
        let (plain, filled) = bounded(1);
        let (done, packed) = bounded(1);
        let begins = std::mem::take(&mut frame.begins);
        (Job { plan: frame, plain, done }, Unhashed { plain: filled, begins }, packed)
    }
}

/// Fills and compresses frames until there are no more.
pub(crate) fn work(
    compressor: &mut Compressor,
    contents: &dyn ReadContent,
    jobs: &Receiver<Job<'_>>,
    (plain, packed): (&Spare, &Spare),
) {
    for Job { plan, plain: filled, done } in jobs {
        let frame = plan.fill(contents, plain).and_then(|bytes| {
            let bytes = Arc::new(bytes);
            // Nobody waits any more once the writing has failed.
            filled.send(Arc::clone(&bytes)).unwrap_or_default();
            if compressor.is_none() {
                return Ok(Packed::Plain(bytes));
            }
            let mut out = packed.take();
            compressor.frame(&bytes, &mut out).map_err(WriteBlobError::Compress)?;
            plain.keep_last(bytes);
            Ok(Packed::Compressed(out))
        });
        done.send(frame).unwrap_or_default();
    }
}

/// Memory that was used and is at hand, so that the kernel need not clear new pages for each frame.
pub(crate) struct Spare {
    put: Sender<Vec<u8>>,
    get: Receiver<Vec<u8>>,
}

impl Spare {
    pub(crate) fn new(most: usize) -> Spare {
        let (put, get) = bounded(most);
        Spare { put, get }
    }

    /// Memory that was used before, if there is some, with what lies there.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.get.try_recv().unwrap_or_default()
    }

    /// Keeps memory, unless there is enough of it.
    pub(crate) fn keep(&self, bytes: Vec<u8>) {
        drop(self.put.try_send(bytes));
    }

    /// Keeps the memory of bytes that nobody else reads any more.
    pub(crate) fn keep_last(&self, bytes: Plain) {
        if let Some(bytes) = Arc::into_inner(bytes) {
            self.keep(bytes);
        }
    }
}

pub(crate) fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

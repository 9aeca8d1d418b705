//! Frames: planned as headers and files, filled and compressed by any thread, in memory that is used again and again.

use std::io::{self, Read};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use dcbuild_model::{ContentDigest, Digest, TreePath};
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
    known: Vec<u8>,
    files: Vec<Planned<'a>>,
    len: usize,
}

struct Planned<'a> {
    /// How many of the known bytes come before it.
    after: usize,
    path: &'a TreePath,
    body: &'a FileBody,
}

impl<'a> Plan<'a> {
    /// An empty plan that keeps its known bytes in this memory.
    pub(crate) fn within(known: Vec<u8>) -> Plan<'a> {
        Plan { known, files: Vec::new(), len: 0 }
    }

    /// How long the frame will be.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.known.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Puts a whole file next, to be read by whoever fills the frame; `len` is its size.
    pub(crate) fn file(&mut self, path: &'a TreePath, body: &'a FileBody, len: usize) {
        self.files.push(Planned { after: self.known.len(), path, body });
        self.len += len;
    }

    /// Reads the next bytes now, as many as come up to a limit, and gives them.
    pub(crate) fn read(&mut self, from: &mut dyn Read, limit: usize) -> io::Result<&[u8]> {
        let before = self.known.len();
        self.known.reserve(limit);
        from.take(u64::try_from(limit).unwrap_or(u64::MAX)).read_to_end(&mut self.known)?;
        self.len += self.known.len() - before;
        Ok(self.known.get(before..).unwrap_or_default())
    }

    fn fill(self, contents: &dyn ReadContent, spare: &Spare) -> Result<Vec<u8>, WriteBlobError> {
        if self.files.is_empty() {
            return Ok(self.known);
        }
        let mut out = spare.take();
        out.reserve(self.len);
        let mut copied = 0;
        let mut copy = |out: &mut Vec<u8>, up_to: usize| {
            out.extend_from_slice(self.known.get(copied..up_to).unwrap_or_default());
            copied = up_to;
        };
        for file in &self.files {
            copy(&mut out, file.after);
            read_file(contents, file, &mut out)?;
        }
        copy(&mut out, self.known.len());
        spare.keep(self.known);
        Ok(out)
    }
}

/// Appends a file's bytes, if they are those that its digest says.
fn read_file(
    contents: &dyn ReadContent,
    file: &Planned<'_>,
    out: &mut Vec<u8>,
) -> Result<(), WriteBlobError> {
    let failed = |source| WriteBlobError::Content { path: file.path.clone(), source };
    let before = out.len();
    let reader = contents.open(file.body).map_err(failed)?;
    let mut reader = reader.take(file.body.size);
    reader.read_to_end(out).map_err(failed)?;
    let ended = at_end(&mut *reader.into_inner()).map_err(failed)?;
    let bytes = out.get(before..).unwrap_or_default();
    let whole = ended && len_of(bytes) == file.body.size;
    if whole && ContentDigest(Digest::of(bytes)) == file.body.content {
        return Ok(());
    }
    Err(WriteBlobError::ContentChanged { path: file.path.clone() })
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

impl<'a> Job<'a> {
    /// The job, and where its plain and its packed bytes will arrive.
    pub(crate) fn new(frame: Plan<'a>) -> (Job<'a>, Receiver<Plain>, Receiver<Done>) {
        let (plain, filled) = bounded(1);
        let (done, packed) = bounded(1);
        (Job { plan: frame, plain, done }, filled, packed)
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

    /// Empty memory, used before if there is some.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut bytes = self.get.try_recv().unwrap_or_default();
        bytes.clear();
        bytes
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

//! Writes a layer's blob: tar, hashes, compression and index in one pass over all cores.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use dcbuild_model::{Compression, ContentDigest, DiffId, Digest, LayerBlob, LayerDigest, TreePath};
use dcbuild_tree::{Changes, FileBody};
use sha2::{Digest as _, Sha256};

use crate::compress::{BlobForm, Compressor, InvalidLevel};
use crate::content::ReadContent;
use crate::header;
use crate::index::{BlobIndex, Frame, IndexedFile};
use crate::members::{Member, Members};

/// How much a frame holds, unless it belongs to one large file.
const FRAME: usize = 1 << 20;
/// How much a frame of one large file holds.
const FILE_FRAME: usize = 4 << 20;
/// Files from here up have frames of their own in zstd.
const OWN_FRAME: u64 = 64 << 10;
/// Files up to here are read ahead by several threads.
const READ_AHEAD: u64 = 256 << 10;
/// How many members are looked at ahead.
const WINDOW: usize = 64;

/// A blob that was written, and where its files are in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrittenBlob {
    /// The blob's names and size.
    pub blob: LayerBlob,
    /// Where its files are.
    pub index: BlobIndex,
}

/// Says why a blob could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteBlobError {
    /// The form cannot be.
    #[error(transparent)]
    Level(#[from] InvalidLevel),
    /// A tar cannot hold the entry.
    #[error("'{path}' cannot be in a layer: {reason}")]
    Unrepresentable {
        /// The entry.
        path: TreePath,
        /// Why not.
        reason: &'static str,
    },
    /// A file could not be read.
    #[error("could not read '{path}'")]
    Content {
        /// The file.
        path: TreePath,
        /// Why not.
        source: io::Error,
    },
    /// A file has other bytes than its digest says.
    #[error("the content of '{path}' changed while it was used")]
    ContentChanged {
        /// The file.
        path: TreePath,
    },
    /// A frame could not be compressed.
    #[error("could not compress the layer")]
    Compress(#[source] io::Error),
    /// The blob's writer gave up first; its own error is the one that is returned.
    #[error("the layer is no longer wanted")]
    Stopped,
    /// The blob could not be written.
    #[error("could not write the layer's blob")]
    Write(#[source] io::Error),
}

/// Writes the blob of a layer; its bytes depend on the changes, the compression and the level alone.
pub fn write_blob(
    changes: &Changes,
    contents: &dyn ReadContent,
    form: &BlobForm,
    out: impl Write,
) -> Result<WrittenBlob, WriteBlobError> {
    let threads = form.threads.max(1);
    let compressors = (0..threads).map(|_| Compressor::new(form)).collect::<Result<Vec<_>, _>>()?;
    let (to_read, reads) = bounded::<ReadJob<'_>>(WINDOW);
    let (to_compress, plain) = bounded::<CompressJob>(threads);
    let (to_hash, tar) = bounded::<Arc<Vec<u8>>>(threads + 2);
    let (in_order, compressed) = bounded(2 * threads + 2);
    thread::scope(|scope| {
        for _ in 0..threads.min(8) {
            let reads = reads.clone();
            scope.spawn(move || read_ahead(contents, &reads));
        }
        for mut compressor in compressors {
            let plain = plain.clone();
            scope.spawn(move || compress(&mut compressor, &plain));
        }
        drop((reads, plain));
        let hasher = scope.spawn(move || {
            tar.iter().fold(Sha256::new(), |hash, piece| hash.chain_update(&*piece)).finalize()
        });
        let lanes = Lanes { to_compress, to_hash, in_order };
        let assembler = scope.spawn(move || {
            let assembler = Assembler {
                own_frames: form.compression == Compression::Zstd,
                lanes,
                buffer: Vec::with_capacity(FRAME),
                tar: 0,
                files: Vec::new(),
            };
            assembler.run(changes, contents, &to_read)
        });
        let written = write_frames(out, form.compression, compressed);
        let outcome = join(assembler);
        let diff_id = DiffId(Digest(join(hasher).into()));
        let written = written?;
        let (files, tar_size) = outcome?;
        let digest = written.hash.map_or(diff_id.0, |hash| Digest(hash.finalize().into()));
        let blob = LayerBlob {
            digest: LayerDigest(digest),
            diff_id,
            size: written.size,
            compression: form.compression,
        };
        let sizes = (tar_size, written.size);
        let index = BlobIndex::new(form.compression, sizes, written.frames, files);
        Ok(WrittenBlob { blob, index })
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

struct ReadJob<'a> {
    path: &'a TreePath,
    body: &'a FileBody,
    done: Sender<Result<Vec<u8>, WriteBlobError>>,
}

fn read_ahead(contents: &dyn ReadContent, jobs: &Receiver<ReadJob<'_>>) {
    for job in jobs {
        // Nobody waits any more once the writing has failed.
        job.done.send(read_small(contents, job.path, job.body)).unwrap_or_default();
    }
}

fn read_small(
    contents: &dyn ReadContent,
    path: &TreePath,
    body: &FileBody,
) -> Result<Vec<u8>, WriteBlobError> {
    let failed = |source| WriteBlobError::Content { path: path.clone(), source };
    let mut bytes = Vec::with_capacity(usize::try_from(body.size).unwrap_or(0) + 1);
    let reader = contents.open(body).map_err(failed)?;
    reader.take(body.size.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).ok() != Some(body.size)
        || ContentDigest(Digest::of(&bytes)) != body.content
    {
        return Err(WriteBlobError::ContentChanged { path: path.clone() });
    }
    Ok(bytes)
}

struct CompressJob {
    plain: Arc<Vec<u8>>,
    done: Sender<io::Result<Vec<u8>>>,
}

fn compress(compressor: &mut Compressor, jobs: &Receiver<CompressJob>) {
    for job in jobs {
        // Nobody waits any more once the writing has failed.
        job.done.send(compressor.frame(&job.plain)).unwrap_or_default();
    }
}

/// A frame on its way: where it begins in the tar, and where its compressed bytes will arrive.
struct Ordered {
    tar: u64,
    done: Receiver<io::Result<Vec<u8>>>,
}

struct Lanes {
    to_compress: Sender<CompressJob>,
    to_hash: Sender<Arc<Vec<u8>>>,
    in_order: Sender<Ordered>,
}

/// Puts the tar together and cuts it into frames; where it cuts depends on the members alone.
struct Assembler {
    own_frames: bool,
    lanes: Lanes,
    buffer: Vec<u8>,
    tar: u64,
    files: Vec<IndexedFile>,
}

type Ahead<'a> = (Member<'a>, Option<Receiver<Result<Vec<u8>, WriteBlobError>>>);

impl Assembler {
    fn run<'a>(
        mut self,
        changes: &'a Changes,
        contents: &dyn ReadContent,
        to_read: &Sender<ReadJob<'a>>,
    ) -> Result<(Vec<IndexedFile>, u64), WriteBlobError> {
        let mut members = Members::new(changes);
        let mut window: VecDeque<Ahead<'a>> = VecDeque::with_capacity(WINDOW);
        loop {
            while window.len() < WINDOW {
                let Some(member) = members.next() else { break };
                let member = member?;
                let ahead = member.file.and_then(|file| ask(file, to_read));
                window.push_back((member, ahead));
            }
            let Some((member, ahead)) = window.pop_front() else { break };
            self.member(&member, ahead, contents)?;
        }
        self.push(&[0; 2 * header::BLOCK], FRAME)?;
        self.cut()?;
        Ok((self.files, self.tar))
    }

    fn member(
        &mut self,
        member: &Member<'_>,
        ahead: Option<Receiver<Result<Vec<u8>, WriteBlobError>>>,
        contents: &dyn ReadContent,
    ) -> Result<(), WriteBlobError> {
        let Some((path, body)) = member.file else { return self.push(&member.headers, FRAME) };
        let alone = self.own_frames && body.size >= OWN_FRAME;
        let together = usize::try_from(body.size).unwrap_or(usize::MAX);
        let together = together.saturating_add(self.buffer.len() + member.headers.len());
        if self.own_frames && !alone && together > FRAME {
            self.cut()?;
        }
        self.push(&member.headers, FRAME)?;
        if alone {
            self.cut()?;
        }
        self.files.push(IndexedFile {
            path: path.clone(),
            content: body.content,
            offset: self.tar + len_of(&self.buffer),
            size: body.size,
        });
        let limit = if alone { FILE_FRAME } else { FRAME };
        match ahead {
            Some(ahead) => {
                let bytes = ahead.recv().map_err(|_| WriteBlobError::Stopped)??;
                self.push(&bytes, limit)?;
            }
            None => self.large(path, body, contents, limit)?,
        }
        let rest = usize::try_from(body.size % 512).unwrap_or(0);
        self.push(vec![0; header::padding(rest)].as_slice(), limit)?;
        if alone { self.cut() } else { Ok(()) }
    }

    fn large(
        &mut self,
        path: &TreePath,
        body: &FileBody,
        contents: &dyn ReadContent,
        limit: usize,
    ) -> Result<(), WriteBlobError> {
        let failed = |source| WriteBlobError::Content { path: path.clone(), source };
        let changed = || WriteBlobError::ContentChanged { path: path.clone() };
        let mut reader = contents.open(body).map_err(failed)?;
        let (mut hash, mut left) = (Sha256::new(), body.size);
        let mut piece = vec![0; 256 << 10];
        loop {
            let len = match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            let bytes = piece.get(..len).unwrap_or_default();
            left = left.checked_sub(len_of(bytes)).ok_or_else(changed)?;
            hash.update(bytes);
            self.push(bytes, limit)?;
        }
        let same = ContentDigest(Digest(hash.finalize().into())) == body.content;
        if left == 0 && same { Ok(()) } else { Err(changed()) }
    }

    fn push(&mut self, mut bytes: &[u8], limit: usize) -> Result<(), WriteBlobError> {
        while !bytes.is_empty() {
            let room = limit.saturating_sub(self.buffer.len());
            if room == 0 {
                self.cut()?;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), WriteBlobError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let next = Vec::with_capacity(self.buffer.capacity().min(FRAME));
        let plain = Arc::new(std::mem::replace(&mut self.buffer, next));
        let tar = self.tar;
        self.tar += len_of(&plain);
        let (done, compressed) = bounded(1);
        let stopped = |_| WriteBlobError::Stopped;
        let Lanes { to_compress, to_hash, in_order } = &self.lanes;
        in_order.send(Ordered { tar, done: compressed }).map_err(|_| WriteBlobError::Stopped)?;
        to_hash.send(Arc::clone(&plain)).map_err(stopped)?;
        to_compress.send(CompressJob { plain, done }).map_err(|_| WriteBlobError::Stopped)
    }
}

fn ask<'a>(
    (path, body): (&'a TreePath, &'a FileBody),
    to_read: &Sender<ReadJob<'a>>,
) -> Option<Receiver<Result<Vec<u8>, WriteBlobError>>> {
    if body.size > READ_AHEAD {
        return None;
    }
    let (done, bytes) = bounded(1);
    to_read.send(ReadJob { path, body, done }).ok()?;
    Some(bytes)
}

fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

struct Written {
    hash: Option<Sha256>,
    size: u64,
    frames: Vec<Frame>,
}

/// Takes the frames in order; a plain tar is not hashed a second time.
fn write_frames(
    mut out: impl Write,
    compression: Compression,
    frames: Receiver<Ordered>,
) -> Result<Written, WriteBlobError> {
    let hash = (compression != Compression::None).then(Sha256::new);
    let mut written = Written { hash, size: 0, frames: Vec::new() };
    for frame in frames {
        let Ok(bytes) = frame.done.recv() else { continue };
        let bytes = bytes.map_err(WriteBlobError::Compress)?;
        if let Some(hash) = &mut written.hash {
            hash.update(&bytes);
        }
        out.write_all(&bytes).map_err(WriteBlobError::Write)?;
        written.frames.push(Frame { tar: frame.tar, blob: written.size });
        written.size += len_of(&bytes);
    }
    out.flush().map_err(WriteBlobError::Write)?;
    Ok(written)
}

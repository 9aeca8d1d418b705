//! Lays a layer's tar out and cuts it into frames; where it cuts depends on the members alone.

use crossbeam_channel::Sender;
use dcbuild_model::{Compression, TreePath};
use dcbuild_tree::{Changes, FileBody};

use crate::content::ReadContent;
use crate::frame::{self, Job, Plan, Spare, Unhashed};
use crate::header;
use crate::index::IndexedFile;
use crate::members::{Member, Members};
use crate::write::{Ordered, WriteBlobError};

/// How much a frame holds at most. With its tables a compressor then works in the cache of one core.
pub(crate) const FRAME: usize = 1 << 20;
/// Files from here up have frames of their own in zstd.
const OWN_FRAME: u64 = 64 << 10;
/// What follows the last member.
const END: [u8; 2 * header::BLOCK] = [0; 2 * header::BLOCK];

/// Where frames go.
pub(crate) struct Lanes<'a> {
    /// To whoever fills and compresses them.
    pub(crate) to_fill: Sender<Job<'a>>,
    /// To the hash of the tar, in order.
    pub(crate) to_hash: Sender<Unhashed<'a>>,
    /// To the blob, in order.
    pub(crate) in_order: Sender<Ordered>,
}

/// Plans one frame after another.
pub(crate) struct Cutter<'a, 's> {
    own_frames: bool,
    lanes: Lanes<'a>,
    spare: &'s Spare,
    plan: Plan<'a>,
    tar: u64,
    files: Vec<IndexedFile>,
}

impl<'a, 's> Cutter<'a, 's> {
    pub(crate) fn new(lanes: Lanes<'a>, compression: Compression, spare: &'s Spare) -> Self {
        let own_frames = compression == Compression::Zstd;
        Cutter { own_frames, lanes, spare, plan: Plan::default(), tar: 0, files: Vec::new() }
    }

    /// Sends all frames; gives where the files are, and the size of the tar.
    pub(crate) fn run(
        mut self,
        changes: &'a Changes,
        contents: &dyn ReadContent,
    ) -> Result<(Vec<IndexedFile>, u64), WriteBlobError> {
        for member in Members::new(changes) {
            self.member(&member?, contents)?;
        }
        self.push(&END)?;
        self.cut()?;
        Ok((self.files, self.tar))
    }

    fn member(
        &mut self,
        member: &Member<'a>,
        contents: &dyn ReadContent,
    ) -> Result<(), WriteBlobError> {
        let Some((path, body)) = member.file else { return self.push(&member.headers) };
        let alone = self.own_frames && body.size >= OWN_FRAME;
        let size = usize::try_from(body.size).unwrap_or(usize::MAX);
        let together = size.saturating_add(self.plan.len() + member.headers.len());
        if self.own_frames && !alone && together > FRAME {
            self.cut()?;
        }
        self.push(&member.headers)?;
        if alone {
            self.cut()?;
        }
        self.files.push(IndexedFile {
            path: path.clone(),
            content: body.content,
            offset: self.tar + u64::try_from(self.plan.len()).unwrap_or(u64::MAX),
            size: body.size,
        });
        if size <= FRAME.saturating_sub(self.plan.len()) {
            self.plan.file(path, body, size);
        } else {
            self.spanning(path, body, contents)?;
        }
        let rest = usize::try_from(body.size % 512).unwrap_or(0);
        self.push(END.get(..header::padding(rest)).unwrap_or_default())?;
        if alone { self.cut() } else { Ok(()) }
    }

    /// Reads a file that does not end in the frame in which it begins: nobody can read only the middle of it.
    fn spanning(
        &mut self,
        path: &'a TreePath,
        body: &'a FileBody,
        contents: &dyn ReadContent,
    ) -> Result<(), WriteBlobError> {
        let failed = |source| WriteBlobError::Content { path: path.clone(), source };
        let changed = || WriteBlobError::ContentChanged { path: path.clone() };
        let mut reader = contents.open(body).map_err(failed)?;
        let mut left = body.size;
        self.plan.begin(path, body);
        while left > 0 {
            let room = FRAME.saturating_sub(self.plan.len());
            if room == 0 {
                self.cut()?;
                continue;
            }
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(room);
            let count = self.plan.read(&mut *reader, most).map_err(failed)?;
            if count == 0 {
                return Err(changed());
            }
            left -= u64::try_from(count).unwrap_or(left);
        }
        if frame::at_end(&mut *reader).map_err(failed)? { Ok(()) } else { Err(changed()) }
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<(), WriteBlobError> {
        while !bytes.is_empty() {
            let room = FRAME.saturating_sub(self.plan.len());
            if room == 0 {
                self.cut()?;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.plan.push(now);
            bytes = later;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), WriteBlobError> {
        if self.plan.is_empty() {
            return Ok(());
        }
        let tar = self.tar;
        self.tar += u64::try_from(self.plan.len()).unwrap_or(u64::MAX);
        let frame = std::mem::replace(&mut self.plan, Plan::within(self.spare.take()));
        let (job, unhashed, done) = Job::new(frame);
        let Lanes { to_fill, to_hash, in_order } = &self.lanes;
        in_order.send(Ordered { tar, done }).map_err(|_| WriteBlobError::Stopped)?;
        to_hash.send(unhashed).map_err(|_| WriteBlobError::Stopped)?;
        to_fill.send(job).map_err(|_| WriteBlobError::Stopped)
    }
}

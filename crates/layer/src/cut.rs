//! Lays a layer's tar out and cuts it into frames; where it cuts depends on the members alone.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Read;

use dcbuild_model::{Compression, TreePath};
use dcbuild_tree::{Changes, FileBody};

use crate::content::ReadContent;
use crate::frame::{self, FRAME, Frame, Spare};
use crate::header;
use crate::index::IndexedFile;
use crate::members::{Member, Members};
use crate::write::WriteBlobError;

/// Files from here up have frames of their own in zstd.
const OWN_FRAME: u64 = 64 << 10;
/// What follows the last member.
const END: &[u8] = &[0; 2 * header::BLOCK];

/// What comes next in the tar.
enum Step<'a> {
    /// These bytes.
    Bytes(Cow<'static, [u8]>),
    /// A file.
    File(&'a TreePath, &'a FileBody),
    /// So many more bytes of a file that does not end in the frame in which it begins.
    Rest(Open<'a>, u64),
    /// The end of a frame, unless it is empty.
    Cut,
}

struct Open<'a> {
    path: &'a TreePath,
    reader: Box<dyn Read + Send>,
}

/// Where the frame ends that is being cut.
enum Ends {
    Here,
    Later,
}

/// Cuts one frame after another.
pub(crate) struct Cutter<'a> {
    own_frames: bool,
    contents: &'a dyn ReadContent,
    members: Members<'a>,
    is_at_end: bool,
    /// The next steps; the members follow.
    steps: VecDeque<Step<'a>>,
    frame: Frame<'a>,
    files: Vec<IndexedFile>,
}

impl<'a> Cutter<'a> {
    pub(crate) fn new(
        changes: &'a Changes,
        contents: &'a dyn ReadContent,
        compression: Compression,
    ) -> Cutter<'a> {
        Cutter {
            own_frames: compression == Compression::Zstd,
            contents,
            members: Members::new(changes),
            is_at_end: false,
            steps: VecDeque::new(),
            frame: Frame::default(),
            files: Vec::new(),
        }
    }

    /// Cuts the next frame, in memory that is at hand.
    pub(crate) fn next(&mut self, spare: &mut Spare) -> Result<Option<Frame<'a>>, WriteBlobError> {
        self.frame.within(spare);
        loop {
            let Some(step) = self.steps.pop_front() else {
                if self.is_at_end {
                    return Ok(if self.frame.is_empty() { None } else { Some(self.cut()) });
                }
                self.plan()?;
                continue;
            };
            if let Ends::Here = self.take(step)? {
                return Ok(Some(self.cut()));
            }
        }
    }

    /// Where the files are, and the size of the tar.
    pub(crate) fn finish(self) -> (Vec<IndexedFile>, u64) {
        (self.files, self.frame.tar)
    }

    fn cut(&mut self) -> Frame<'a> {
        let next = Frame::at(self.here());
        std::mem::replace(&mut self.frame, next)
    }

    /// The end of what is cut, in the tar.
    fn here(&self) -> u64 {
        self.frame.tar + u64::try_from(self.frame.len()).unwrap_or(u64::MAX)
    }

    /// Adds the steps of the next member, or of the end.
    fn plan(&mut self) -> Result<(), WriteBlobError> {
        let Some(member) = self.members.next() else {
            self.is_at_end = true;
            self.steps.push_back(Step::Bytes(END.into()));
            return Ok(());
        };
        let Member { headers, file } = member?;
        let Some((path, body)) = file else {
            self.steps.push_back(Step::Bytes(headers.into()));
            return Ok(());
        };
        let alone = self.own_frames && body.size >= OWN_FRAME;
        let size = usize::try_from(body.size).unwrap_or(usize::MAX);
        let together = size.saturating_add(self.frame.len() + headers.len());
        if self.own_frames && !alone && together > FRAME {
            self.steps.push_back(Step::Cut);
        }
        self.steps.push_back(Step::Bytes(headers.into()));
        if alone {
            self.steps.push_back(Step::Cut);
        }
        self.steps.push_back(Step::File(path, body));
        let rest = usize::try_from(body.size % 512).unwrap_or(0);
        let padding = END.get(..header::padding(rest)).unwrap_or_default();
        self.steps.push_back(Step::Bytes(padding.into()));
        if alone {
            self.steps.push_back(Step::Cut);
        }
        Ok(())
    }

    /// Takes a step, or as much of it as the frame holds.
    fn take(&mut self, step: Step<'a>) -> Result<Ends, WriteBlobError> {
        match step {
            Step::Cut => return Ok(if self.frame.is_empty() { Ends::Later } else { Ends::Here }),
            Step::Bytes(bytes) => {
                let pushed = self.frame.push(&bytes);
                let left = bytes.get(pushed..).unwrap_or_default();
                if !left.is_empty() {
                    self.steps.push_front(Step::Bytes(left.to_vec().into()));
                    return Ok(Ends::Here);
                }
            }
            Step::File(path, body) => {
                let (offset, size) = (self.here(), body.size);
                let content = body.content;
                self.files.push(IndexedFile { path: path.clone(), content, offset, size });
                match usize::try_from(size) {
                    Ok(size) if size <= self.frame.room() => self.frame.leave(path, body, size),
                    _ => {
                        let failed =
                            |source| WriteBlobError::Content { path: path.clone(), source };
                        let reader = self.contents.open(body).map_err(failed)?;
                        self.frame.begin(path, body);
                        self.steps.push_front(Step::Rest(Open { path, reader }, size));
                    }
                }
            }
            Step::Rest(open, left) => return self.read(open, left),
        }
        Ok(Ends::Later)
    }

    /// Reads on in a file that does not end in the frame in which it begins: nobody can read only the middle of it.
    fn read(&mut self, mut open: Open<'a>, mut left: u64) -> Result<Ends, WriteBlobError> {
        let path = open.path;
        let failed = |source| WriteBlobError::Content { path: path.clone(), source };
        let changed = || Err(WriteBlobError::ContentChanged { path: path.clone() });
        while left > 0 {
            let room = self.frame.room();
            if room == 0 {
                self.steps.push_front(Step::Rest(open, left));
                return Ok(Ends::Here);
            }
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(room);
            let count = self.frame.read(&mut *open.reader, most).map_err(failed)?;
            if count == 0 {
                return changed();
            }
            left -= u64::try_from(count).unwrap_or(left);
        }
        if frame::at_end(&mut *open.reader).map_err(failed)? { Ok(Ends::Later) } else { changed() }
    }
}

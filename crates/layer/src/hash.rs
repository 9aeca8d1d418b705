//! Hashes a layer's tar in order, and checks the files that pass in it.

use crossbeam_channel::Receiver;
use dcbuild_model::{ContentDigest, DiffId};

use crate::frame::{Begin, Spare, Unhashed};
use crate::twin::TwinHash;
use crate::write::WriteBlobError;

/// Hashes all frames; a file that has another digest than is expected ends it.
pub(crate) fn hash_tar(
    frames: &Receiver<Unhashed<'_>>,
    spare: &Spare,
) -> Result<DiffId, WriteBlobError> {
    let mut check = Check { hash: TwinHash::new(), open: None };
    for frame in frames {
        // What could not be filled is known elsewhere, with the reason.
        let plain = frame.plain.recv().map_err(|_| WriteBlobError::Stopped)?;
        let mut passed = 0;
        for file in frame.begins {
            check.pass(plain.get(passed..file.at).unwrap_or_default())?;
            passed = file.at;
            check.begin(file)?;
        }
        check.pass(plain.get(passed..).unwrap_or_default())?;
        spare.keep_last(plain);
    }
    Ok(DiffId(check.hash.finish()))
}

struct Check<'a> {
    hash: TwinHash,
    open: Option<Open<'a>>,
}

/// A file of which some is still to come.
struct Open<'a> {
    file: Begin<'a>,
    left: usize,
}

impl<'a> Check<'a> {
    fn begin(&mut self, file: Begin<'a>) -> Result<(), WriteBlobError> {
        self.hash.begin();
        let left = usize::try_from(file.body.size).unwrap_or(usize::MAX);
        self.continue_with(Open { file, left })
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), WriteBlobError> {
        let Some(Open { file, left }) = self.open.take() else {
            self.hash.around(bytes);
            return Ok(());
        };
        let (content, after) = bytes.split_at(left.min(bytes.len()));
        self.hash.content(content);
        self.continue_with(Open { file, left: left - content.len() })?;
        self.hash.around(after);
        Ok(())
    }

    fn continue_with(&mut self, open: Open<'a>) -> Result<(), WriteBlobError> {
        if open.left > 0 {
            self.open = Some(open);
            return Ok(());
        }
        let Begin { path, body, .. } = open.file;
        if ContentDigest(self.hash.end()) == body.content {
            return Ok(());
        }
        Err(WriteBlobError::ContentChanged { path: path.clone() })
    }
}

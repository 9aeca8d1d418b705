//! Hashes a layer's tar in order, and checks the files that pass in it.

use dcbuild_model::{ContentDigest, DiffId, TreePath};
use dcbuild_tree::FileBody;

use crate::frame::{Begin, Frame};
use crate::twin::TwinHash;
use crate::write::WriteBlobError;

/// The hash of the tar; a file that has another digest than is expected ends it.
pub(crate) struct TarHash<'a> {
    hash: TwinHash,
    open: Option<Open<'a>>,
}

/// A file of which some is still to come.
struct Open<'a> {
    path: &'a TreePath,
    body: &'a FileBody,
    left: usize,
}

impl<'a> TarHash<'a> {
    pub(crate) fn new() -> TarHash<'a> {
        TarHash { hash: TwinHash::new(), open: None }
    }

    /// Hashes the next frame.
    pub(crate) fn pass(&mut self, frame: &Frame<'a>) -> Result<(), WriteBlobError> {
        let bytes = frame.bytes();
        let mut passed = 0;
        for file in frame.files() {
            self.pass_bytes(bytes.get(passed..file.at).unwrap_or_default())?;
            passed = file.at;
            self.begin(file)?;
        }
        self.pass_bytes(bytes.get(passed..).unwrap_or_default())
    }

    pub(crate) fn finish(&self) -> DiffId {
        DiffId(self.hash.finish())
    }

    fn begin(&mut self, Begin { path, body, .. }: &Begin<'a>) -> Result<(), WriteBlobError> {
        self.hash.begin();
        let left = usize::try_from(body.size).unwrap_or(usize::MAX);
        self.continue_with(Open { path, body, left })
    }

    fn pass_bytes(&mut self, bytes: &[u8]) -> Result<(), WriteBlobError> {
        let Some(Open { path, body, left }) = self.open.take() else {
            self.hash.around(bytes);
            return Ok(());
        };
        let (content, after) = bytes.split_at(left.min(bytes.len()));
        self.hash.content(content);
        self.continue_with(Open { path, body, left: left - content.len() })?;
        self.hash.around(after);
        Ok(())
    }

    fn continue_with(&mut self, open: Open<'a>) -> Result<(), WriteBlobError> {
        if open.left > 0 {
            self.open = Some(open);
            return Ok(());
        }
        if ContentDigest(self.hash.end()) == open.body.content {
            return Ok(());
        }
        Err(WriteBlobError::ContentChanged { path: open.path.clone() })
    }
}

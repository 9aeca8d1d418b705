//! Where the bytes of files come from.

use std::io::{self, Cursor, Read};

use dcbuild_tree::{FileBody, Origin};

/// Gives the bytes of a file by its origin; whoever reads them checks them against their digest.
pub trait ReadContent: Sync {
    /// Opens the file's bytes from the first on.
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>>;
}

/// Gives the bytes that lie in the entries themselves, and no others.
#[derive(Clone, Copy, Debug, Default)]
pub struct InlineContents;

impl ReadContent for InlineContents {
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        match &body.origin {
            Origin::Inline(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            Origin::Layer { .. } | Origin::Context { .. } => {
                Err(io::Error::new(io::ErrorKind::NotFound, "the bytes do not lie in the entry"))
            }
        }
    }
}

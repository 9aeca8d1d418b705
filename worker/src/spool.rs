//! Large files out of archives, on disk until their layer has a form of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use dcbuild_layer::{LayerSink, ReadContent};
use dcbuild_model::{ContentDigest, TreePath};
use dcbuild_tree::{FileBody, Origin};

/// The context's place that means a spool; no job has as many contexts.
const PLACE: u32 = u32::MAX;

/// A folder of files by number, gone when it is dropped.
pub(crate) struct Spool {
    folder: tempfile::TempDir,
}

impl Spool {
    pub(crate) fn new(tmp: &Path) -> io::Result<Spool> {
        Ok(Spool { folder: tempfile::tempdir_in(tmp)? })
    }

    pub(crate) fn sink(&self, next: u64) -> SpoolSink<'_> {
        SpoolSink { spool: self, next, open: None, kept: BTreeMap::new() }
    }
}

/// Writes files into a spool, each content once.
pub(crate) struct SpoolSink<'a> {
    spool: &'a Spool,
    next: u64,
    open: Option<(String, File)>,
    kept: BTreeMap<ContentDigest, String>,
}

impl SpoolSink<'_> {
    fn origin(name: &str) -> io::Result<Origin> {
        let path = TreePath::clean(name.as_bytes()).map_err(io::Error::other)?;
        Ok(Origin::Context { context: PLACE, path })
    }
}

impl LayerSink for SpoolSink<'_> {
    fn begin(&mut self, _: &TreePath, _: u64) -> io::Result<()> {
        let name = self.next.to_string();
        self.next += 1;
        let file = File::create_new(self.spool.folder.path().join(&name))?;
        self.open = Some((name, file));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.open {
            Some((_, file)) => file.write_all(bytes),
            None => Err(io::Error::other("no file of the spool is open")),
        }
    }

    fn end(&mut self, content: &ContentDigest) -> io::Result<Option<Origin>> {
        let Some((name, _)) = self.open.take() else { return Ok(None) };
        if let Some(known) = self.kept.get(content) {
            std::fs::remove_file(self.spool.folder.path().join(&name))?;
            return SpoolSink::origin(known).map(Some);
        }
        let origin = SpoolSink::origin(&name)?;
        self.kept.insert(*content, name);
        Ok(Some(origin))
    }
}

/// Gives the bytes of a context's files and of spooled ones.
pub(crate) struct Sources {
    /// Asked in this order.
    pub(crate) contexts: Vec<Arc<dyn ReadContent + Send + Sync>>,
    pub(crate) spool: Option<Spool>,
}

impl ReadContent for Sources {
    fn open(&self, body: &FileBody) -> io::Result<Box<dyn Read + Send>> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, "the bytes lie elsewhere");
        match &body.origin {
            Origin::Context { context: PLACE, path } => {
                let spool = self.spool.as_ref().ok_or_else(absent)?;
                let name = String::from_utf8_lossy(path.as_bytes());
                Ok(Box::new(File::open(spool.folder.path().join(&*name))?))
            }
            Origin::Context { .. } => {
                let mut failed = absent();
                for context in &self.contexts {
                    match context.open(body) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => failed = error,
                        found => return found,
                    }
                }
                Err(failed)
            }
            Origin::Inline(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Origin::Layer { .. } => Err(absent()),
        }
    }
}

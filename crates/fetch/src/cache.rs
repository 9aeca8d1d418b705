//! Files that were fetched before: a server that says that nothing changed need not send them again.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dcbuild_model::Digest;

/// What was kept of a fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    /// The server's name for that version.
    pub(crate) etag: String,
    /// When the server said that it was changed.
    pub(crate) modified: Option<i64>,
    /// The bytes.
    pub(crate) file: PathBuf,
}

/// A folder of fetched files, which many processes may share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cache {
    dir: PathBuf,
    bytes_max: u64,
}

impl Cache {
    /// A cache in a folder, which is made when it is needed; what is older goes when it holds more than this.
    pub fn new(dir: impl Into<PathBuf>, bytes_max: u64) -> Cache {
        Cache { dir: dir.into(), bytes_max }
    }

    fn place(&self, url: &str) -> PathBuf {
        self.dir.join(Digest::of(url.as_bytes()).hex())
    }

    /// What is known of a URL.
    pub(crate) fn find(&self, url: &str) -> Option<Kept> {
        let place = self.place(url);
        let note = std::fs::read_to_string(place.with_extension("note")).ok()?;
        let (mut etag, mut modified, mut version) = (None, None, None);
        for line in note.lines() {
            match line.split_once(": ")? {
                ("etag", value) => etag = Some(value.to_owned()),
                ("modified", value) => modified = value.parse().ok(),
                ("version", value) => version = Some(value.to_owned()),
                _ => return None,
            }
        }
        // The file's name has its version, so that a note never goes with another's bytes.
        let file = place.with_extension(version?);
        file.exists().then_some(Kept { etag: etag?, modified, file })
    }

    /// Keeps a file; that it could not be kept costs time at most.
    pub(crate) fn keep(&self, url: &str, etag: &str, modified: Option<i64>, from: &Path) {
        if let Err(error) = self.try_keep(url, etag, modified, from) {
            tracing::debug!(%error, dir = %self.dir.display(), "a fetched file was not kept");
        }
    }

    fn try_keep(
        &self,
        url: &str,
        etag: &str,
        modified: Option<i64>,
        from: &Path,
    ) -> io::Result<()> {
        if etag.contains(['\n', '\r']) {
            return Ok(());
        }
        std::fs::create_dir_all(&self.dir)?;
        let version = Digest::of(etag.as_bytes()).hex();
        let version = version.get(..16).unwrap_or(&version);
        let place = self.place(url);
        let temporary = tempfile::NamedTempFile::new_in(&self.dir)?;
        std::fs::copy(from, temporary.path())?;
        temporary.persist(place.with_extension(version)).map_err(|error| error.error)?;
        let modified = modified.map(|secs| format!("modified: {secs}\n")).unwrap_or_default();
        let note = tempfile::NamedTempFile::new_in(&self.dir)?;
        std::fs::write(note.path(), format!("etag: {etag}\nversion: {version}\n{modified}"))?;
        note.persist(place.with_extension("note")).map_err(|error| error.error)?;
        self.hold_ceiling()
    }

    /// Removes the files that were used the longest ago, until what is left fits.
    fn hold_ceiling(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let stat = entry.metadata()?;
            files.push((stat.accessed().or_else(|_| stat.modified())?, stat.len(), entry.path()));
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= self.bytes_max {
                break;
            }
            std::fs::remove_file(path)?;
            total -= size;
        }
        Ok(())
    }
}

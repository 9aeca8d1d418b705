//! Files that were fetched before: a server that says that nothing changed need not send them again.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dcbuild_model::Digest;

use crate::http::FetchedFile;

/// A version of a file, as its server names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    /// The name.
    pub(crate) etag: String,
    /// Who gave it, and for what: a URL without its query, at the end of all redirects. Names of another resource say
    /// nothing of this one.
    pub(crate) at: String,
}

/// What was kept of a fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    /// Which version it is.
    pub(crate) version: Version,
    /// What it was when it was kept; the disk may have lost it since.
    pub(crate) fetched: FetchedFile,
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
        let (mut etag, mut at, mut digest, mut size, mut modified) = (None, None, None, None, None);
        for line in note.lines() {
            match line.split_once(": ")? {
                ("etag", value) => etag = Some(value.to_owned()),
                ("at", value) => at = Some(value.to_owned()),
                ("digest", value) => digest = Some(value.parse::<Digest>().ok()?),
                ("size", value) => size = Some(value.parse().ok()?),
                ("modified", value) => modified = value.parse().ok(),
                _ => return None,
            }
        }
        let fetched = FetchedFile { digest: digest?, size: size?, modified };
        let file = self.content(url, &fetched);
        let version = Version { etag: etag?, at: at? };
        file.exists().then_some(Kept { version, fetched, file })
    }

    /// Where a file's bytes lie: under a name of their own, so that a note never goes with another's.
    fn content(&self, url: &str, fetched: &FetchedFile) -> PathBuf {
        let hex = fetched.digest.hex();
        self.place(url).with_extension(hex.get(..16).unwrap_or(&hex))
    }

    /// Forgets a file that is not what it was.
    pub(crate) fn forget(&self, url: &str, kept: &Kept) {
        for path in [&self.place(url).with_extension("note"), &kept.file] {
            // Whoever was faster has done it.
            drop(std::fs::remove_file(path));
        }
    }

    /// Keeps a file; that it could not be kept costs time at most.
    pub(crate) fn keep(&self, url: &str, version: &Version, fetched: &FetchedFile, from: &Path) {
        if let Err(error) = self.try_keep(url, version, fetched, from) {
            tracing::debug!(%error, dir = %self.dir.display(), "a fetched file was not kept");
        }
    }

    fn try_keep(
        &self,
        url: &str,
        version: &Version,
        fetched: &FetchedFile,
        from: &Path,
    ) -> io::Result<()> {
        let Version { etag, at } = version;
        if [etag, at].into_iter().any(|text| text.contains(['\n', '\r'])) {
            return Ok(());
        }
        std::fs::create_dir_all(&self.dir)?;
        let temporary = tempfile::NamedTempFile::new_in(&self.dir)?;
        std::fs::copy(from, temporary.path())?;
        temporary.persist(self.content(url, fetched)).map_err(|error| error.error)?;
        let FetchedFile { digest, size, modified } = fetched;
        let modified = modified.map(|secs| format!("modified: {secs}\n")).unwrap_or_default();
        let text = format!("etag: {etag}\nat: {at}\ndigest: {digest}\nsize: {size}\n{modified}");
        let note = tempfile::NamedTempFile::new_in(&self.dir)?;
        std::fs::write(note.path(), text)?;
        note.persist(self.place(url).with_extension("note")).map_err(|error| error.error)?;
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

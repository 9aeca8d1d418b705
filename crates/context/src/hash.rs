//! Hashes the files that the steps of a build read, and no others.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dcbuild_model::{ContentDigest, Digest, Fault, Selection, SelectionDigest, TreePath};
use dcbuild_tree::{Entry, Kind, SelectError, Selected, Xattrs, select};
use rustix::fs::Stat;
use sha2::Digest as _;

use crate::scan::{FileStat, Listing, Seen, UNHASHED};
use crate::stat_cache::{Known, StatCache};
use crate::{Context, beneath, xattrs};

const BUFFER_BYTES: usize = 256 << 10;
/// How often a file is read again that changes under our eyes.
const TRIES: usize = 3;

/// Says why the files of a context could not be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// A source names nothing, or is malformed.
    #[error("could not select {sources} from the context")]
    Select {
        /// The sources, as they were written.
        sources: String,
        /// What is wrong.
        source: SelectError,
    },
    /// A source names what is there, and is not to be seen.
    #[error(
        "could not select {sources} from the context: \"{path}\": not found: .dockerignore leaves it out"
    )]
    Ignored {
        /// The sources, as they were written.
        sources: String,
        /// What is left out.
        path: TreePath,
    },
    /// A source is a link that leads to nothing that is seen.
    #[error(
        "could not select {sources} from the context: \"{path}\": not found: it is a link to {}, which is not there",
        target.display()
    )]
    Dangling {
        /// The sources, as they were written.
        sources: String,
        /// The link.
        path: TreePath,
        /// Where it leads, as it says.
        target: std::path::PathBuf,
    },
    /// A file could not be read.
    #[error("could not read '{path}' of the context")]
    Read {
        /// The file.
        path: TreePath,
        /// What the system said.
        source: io::Error,
    },
    /// A file did not stop changing while it was read.
    #[error("context changed during the build: {path}")]
    Changed {
        /// The file.
        path: TreePath,
    },
}

impl HashError {
    /// Who can mend it.
    pub fn fault(&self) -> Fault {
        Fault::Request
    }

    /// What could help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            HashError::Select { .. } => {
                Some("is it in the context, and not named by .dockerignore?")
            }
            HashError::Ignored { .. } => Some("add a line such as !NAME to .dockerignore"),
            HashError::Dangling { .. } => Some(
                "links are followed within the context; is what it leads to in there, and not named by .dockerignore?",
            ),
            HashError::Read { .. } => {
                Some("make it readable, or leave it out with a line in .dockerignore")
            }
            HashError::Changed { .. } => {
                Some("start the build again when nothing writes to the file")
            }
        }
    }
}

/// What was asked of a context.
#[derive(Debug)]
pub struct Hashed {
    /// What each selection sees, in the order in which they were given.
    pub selections: Vec<SelectionDigest>,
    /// How many files were read.
    pub files_read: u64,
    /// How many were known already.
    pub files_known: u64,
    /// How many bytes were read.
    pub bytes_read: u64,
}

/// What one file turned out to be.
pub(crate) struct Hash {
    pub(crate) content: ContentDigest,
    pub(crate) stat: FileStat,
    pub(crate) xattrs: Xattrs,
    /// It was read, not remembered.
    read: bool,
}

/// Hashes what the selections ask for, on all cores, but for files that the listing or the cache knows; the listing
/// knows them then.
pub fn hash(
    context: &Context,
    listing: &mut Listing,
    selections: &[Selection],
    cache: &mut StatCache,
) -> Result<Hashed, HashError> {
    let found = found(listing, selections)?;
    let (mut asked, mut unknown) = (0, Vec::new());
    for selected in &found {
        selected.each_file(|file| {
            asked += 1;
            if !is_hashed(file.entry) {
                unknown.push(file.path());
            }
        });
    }
    if unknown.is_empty() {
        let selections = found.iter().map(Selected::digest).collect();
        return Ok(Hashed { selections, files_read: 0, files_known: asked, bytes_read: 0 });
    }
    drop(found);
    unknown.sort_unstable();
    unknown.dedup();
    let (mut files_read, mut bytes_read) = (0, 0);
    for (path, hash) in look_at_all(context, listing, &unknown, cache)? {
        // As with BuildKit, what is removed while the folder is looked at was never there.
        let Some(hash) = hash else {
            listing.lose(path);
            continue;
        };
        listing.learn(path, &hash);
        if hash.read {
            files_read += 1;
            bytes_read += hash.stat.size;
            let has_xattrs = !hash.xattrs.is_empty();
            let known = Known { stat: hash.stat, content: hash.content, has_xattrs };
            cache.put(path.clone(), known);
        }
    }
    let digests = selections.iter().map(|selection| {
        select(&listing.tree, selection).map_err(|source| not_selected(selection, source))
    });
    let selections = digests.collect::<Result<_, _>>()?;
    Ok(Hashed { selections, files_read, files_known: asked.saturating_sub(files_read), bytes_read })
}

fn found<'l>(
    listing: &'l Listing,
    selections: &[Selection],
) -> Result<Vec<Selected<'l>>, HashError> {
    let find = |selection| {
        Selected::find(&listing.tree, selection).map_err(|source| not_selected(selection, source))
    };
    selections.iter().map(find).collect()
}

fn is_hashed(entry: &Entry) -> bool {
    !matches!(&entry.kind, Kind::File(body) if body.content == UNHASHED)
}

pub(crate) fn not_selected(selection: &Selection, source: SelectError) -> HashError {
    HashError::Select { sources: selection.sources.join(" "), source }
}

/// A file that was looked at, and what it is; none if it is there no more.
type Look<'w> = (&'w TreePath, Option<Hash>);

fn look_at_all<'w>(
    context: &Context,
    listing: &Listing,
    wanted: &'w [TreePath],
    cache: &StatCache,
) -> Result<Vec<Look<'w>>, HashError> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || -> Result<Vec<Look<'w>>, HashError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut seen = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let Some(path) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let Some(file) = listing.files().get(path) else { continue };
            let found = look_at(context, path, file, cache, &mut buffer);
            stop.fetch_or(found.is_err(), Ordering::Relaxed);
            seen.push((path, found?));
        }
        Ok(seen)
    };
    let cores =
        std::thread::available_parallelism().map_or(1, usize::from).min(wanted.len().max(1));
    let mut all = Vec::with_capacity(wanted.len());
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..cores).map(|_| scope.spawn(work)).collect();
        let mut result = work().map(|seen| all.extend(seen));
        for other in others {
            match other.join() {
                Ok(seen) => result = result.and(seen.map(|seen| all.extend(seen))),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })?;
    Ok(all)
}

fn look_at(
    context: &Context,
    path: &TreePath,
    file: &Seen,
    cache: &StatCache,
    buffer: &mut [u8],
) -> Result<Option<Hash>, HashError> {
    let failed = |source: io::Error| HashError::Read { path: path.clone(), source };
    let known = cache.get(path, &file.stat);
    if let Some(Known { stat, content, has_xattrs: false }) = known {
        return Ok(Some(Hash { content, stat, xattrs: Xattrs::default(), read: false }));
    }
    for _ in 0..TRIES {
        let (mut open, before) = match beneath::open_file(&context.folder, path) {
            Ok(opened) => opened,
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let stat = FileStat::of(&before);
        let xattrs = xattrs::read(&open).map_err(|errno| failed(errno.into()))?;
        if let Some(known) = known.filter(|known| known.stat == stat) {
            return Ok(Some(Hash { content: known.content, stat, xattrs, read: false }));
        }
        let (hash, size) = digest(&mut open, buffer).map_err(failed)?;
        let after: Stat = rustix::fs::fstat(&open).map_err(|errno| failed(errno.into()))?;
        if FileStat::of(&after) == stat && size == stat.size {
            return Ok(Some(Hash { content: hash, stat, xattrs, read: true }));
        }
    }
    Err(HashError::Changed { path: path.clone() })
}

fn digest(file: &mut File, buffer: &mut [u8]) -> io::Result<(ContentDigest, u64)> {
    let mut hash = sha2::Sha256::new();
    let mut size = 0_u64;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok((ContentDigest(Digest(hash.finalize().into())), size)),
            Ok(count) => {
                hash.update(buffer.get(..count).unwrap_or_default());
                size += u64::try_from(count).unwrap_or(0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

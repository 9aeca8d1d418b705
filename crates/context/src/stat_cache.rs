//! Remembers the hashes of files that have not changed, in one small file for each context.
//!
//! Losing it costs time and nothing else: a file that is damaged, of another version or half written counts as empty.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{self, AtomicU64};

use dcbuild_model::{ContentDigest, Digest, TreePath, UnixTime};

use crate::Context;
use crate::scan::{FileStat, Listing};

/// The first bytes of the file; the number is the version of its form.
const MAGIC: &[u8; 16] = b"dcbuild-stats/1\n";
const CHECK_BYTES: usize = 32;
/// A larger file is not one of ours.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// A file that changed this shortly before a scan may change again without its times showing it.
const SETTLED_SECS: i64 = 2;

/// What is remembered of one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    pub(crate) stat: FileStat,
    pub(crate) content: ContentDigest,
    /// Whether it had extended attributes; to set one changes the ctime.
    pub(crate) has_xattrs: bool,
}

/// The remembered hashes of one context.
#[derive(Debug)]
pub struct StatCache {
    file: PathBuf,
    entries: Entries,
    /// Hashed since; counts at once, though not all of it is saved.
    fresh: HashMap<TreePath, Known>,
}

/// What an earlier build left, sorted by path.
#[derive(PartialEq, Eq, Debug, Default)]
struct Entries {
    /// One after the other.
    paths: Vec<u8>,
    /// Where each path ends, and what is known of it.
    known: Vec<(usize, Known)>,
}

impl Entries {
    fn path(&self, place: usize) -> Option<&[u8]> {
        let (end, _) = self.known.get(place)?;
        let start = place.checked_sub(1).and_then(|before| self.known.get(before));
        self.paths.get(start.map_or(0, |(end, _)| *end)..*end)
    }

    fn push(&mut self, path: &[u8], known: Known) {
        self.paths.extend_from_slice(path);
        self.known.push((self.paths.len(), known));
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &Known)> {
        let known = self.known.iter().enumerate();
        known.map(|(place, (_, known))| (self.path(place).unwrap_or_default(), known))
    }

    /// The place of a path; a right guess is the cheapest way.
    fn find(&self, path: &[u8], guess: usize) -> Option<usize> {
        if self.path(guess) == Some(path) {
            return Some(guess);
        }
        let (mut low, mut high) = (0, self.known.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.path(middle)?.cmp(path) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Some(middle),
                Ordering::Greater => high = middle,
            }
        }
        None
    }
}

impl<'a> FromIterator<(&'a [u8], Known)> for Entries {
    fn from_iter<T: IntoIterator<Item = (&'a [u8], Known)>>(items: T) -> Entries {
        let mut entries = Entries::default();
        for (path, known) in items {
            entries.push(path, known);
        }
        entries
    }
}

/// Asks for files one after the other; the one that follows the last costs the least.
pub(crate) struct Cursor<'a> {
    cache: &'a StatCache,
    next: usize,
}

impl Cursor<'_> {
    /// What is known of a file that still looks the same.
    pub(crate) fn get(&mut self, path: &TreePath, stat: &FileStat) -> Option<Known> {
        let known = if let Some(known) = self.cache.fresh.get(path) {
            known
        } else {
            let place = self.cache.entries.find(path.as_bytes(), self.next)?;
            self.next = place + 1;
            self.cache.entries.known.get(place).map(|(_, known)| known)?
        };
        (known.stat == *stat).then_some(*known)
    }
}

impl StatCache {
    /// Reads what earlier builds left under the state folder; empty if there is nothing that can be used.
    pub fn load(state: &Path, context: &Context) -> StatCache {
        let name = Digest::of(context.root().as_os_str().as_bytes()).hex();
        let file = state.join(format!("context-{}.stats", name.get(..32).unwrap_or(&name)));
        let small = fs::metadata(&file).is_ok_and(|meta| meta.len() <= FILE_BYTES_MAX);
        let bytes = small.then(|| fs::read(&file).ok()).flatten();
        let entries = bytes.and_then(|bytes| decode(&bytes)).unwrap_or_default();
        StatCache { file, entries, fresh: HashMap::new() }
    }

    /// How many files are remembered.
    pub fn len(&self) -> usize {
        self.entries.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.known.is_empty()
    }

    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor { cache: self, next: 0 }
    }

    /// What is known of a file that still looks the same.
    pub(crate) fn get(&self, path: &TreePath, stat: &FileStat) -> Option<Known> {
        self.cursor().get(path, stat)
    }

    /// Forgets a file.
    pub(crate) fn remove(&mut self, path: &TreePath) {
        self.fresh.remove(path);
        let others = self.entries.iter().filter(|(name, _)| *name != path.as_bytes());
        self.entries = others.map(|(name, known)| (name, *known)).collect();
    }

    /// Remembers a file for the next save.
    pub(crate) fn put(&mut self, path: TreePath, known: Known) {
        self.fresh.insert(path, known);
    }

    /// Writes what is known of the files of a listing, in one step that no other process sees half of; files that
    /// changed just before the scan are left out.
    pub fn save(&mut self, listing: &Listing) -> io::Result<()> {
        if self.fresh.is_empty() && self.len() <= listing.files().len() {
            return Ok(());
        }
        let settled = |known: &Known| {
            let limit = listing.scanned.secs.saturating_sub(SETTLED_SECS);
            known.stat.mtime.secs < limit && known.stat.ctime.secs < limit
        };
        let still = |path: &[u8], known: &Known| {
            TreePath::clean(path)
                .ok()
                .and_then(|path| listing.files().get(&path))
                .is_some_and(|file| file.stat == known.stat)
        };
        let (old, fresh) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.fresh));
        let kept = old.iter().filter(|(path, known)| still(path, known));
        let mut entries: BTreeMap<&[u8], Known> =
            kept.map(|(path, known)| (path, *known)).collect();
        // Of two entries for one path the fresh one counts.
        let fresh = fresh.iter().filter(|(_, known)| settled(known));
        entries.extend(fresh.map(|(path, known)| (path.as_bytes(), *known)));
        self.entries = entries.into_iter().collect();
        self.write(&encode(&self.entries))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, atomic::Ordering::Relaxed);
        let new = self.file.with_extension(format!("{}-{count}.new", std::process::id()));
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, &self.file));
        if written.is_err() {
            // What remains of a failed write is of use to nobody, and there may be nothing.
            drop(fs::remove_file(&new));
        }
        written
    }
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    let low = |value: u64| u8::try_from(value & 0x7f).unwrap_or(0);
    while value > 0x7f {
        out.push(low(value) | 0x80);
        value >>= 7;
    }
    out.push(low(value));
}

fn encode(entries: &Entries) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.known.len() * 96 + 64);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&u64::try_from(entries.known.len()).unwrap_or(u64::MAX).to_le_bytes());
    let mut before: &[u8] = &[];
    for (path, known) in entries.iter() {
        let shared = path.iter().zip(before).take_while(|(a, b)| a == b).count();
        let rest = path.get(shared..).unwrap_or_default();
        number(&mut out, u64::try_from(shared).unwrap_or(0));
        number(&mut out, u64::try_from(rest.len()).unwrap_or(0));
        out.extend_from_slice(rest);
        number(&mut out, known.stat.inode);
        number(&mut out, known.stat.size);
        for time in [known.stat.mtime, known.stat.ctime] {
            out.extend_from_slice(&time.secs.to_le_bytes());
            out.extend_from_slice(&time.nanos.to_le_bytes());
        }
        out.push(u8::from(known.has_xattrs));
        out.extend_from_slice(&known.content.0.0);
        before = path;
    }
    let check = Digest::of(&out).0;
    out.extend_from_slice(&check);
    out
}

/// Reads from the front of some bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn time(&mut self) -> Option<UnixTime> {
        let secs = i64::from_le_bytes(self.array()?);
        Some(UnixTime { secs, nanos: u32::from_le_bytes(self.array()?) })
    }
}

fn decode(bytes: &[u8]) -> Option<Entries> {
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
    let mut reader = Reader(body.strip_prefix(MAGIC)?);
    if Digest::of(body).0 != check {
        return None;
    }
    let count = usize::try_from(u64::from_le_bytes(reader.array()?)).ok()?;
    let known = Vec::with_capacity(count.min(body.len() / 32));
    let mut entries = Entries { paths: Vec::with_capacity(body.len() / 4), known };
    let mut last = 0..0;
    for _ in 0..count {
        let (shared, rest) = (reader.length()?, reader.length()?);
        if shared > last.len() {
            return None;
        }
        let begin = entries.paths.len();
        entries.paths.extend_from_within(last.start..last.start + shared);
        entries.paths.extend_from_slice(reader.bytes(rest)?);
        last = begin..entries.paths.len();
        let (inode, size) = (reader.number()?, reader.number()?);
        let stat = FileStat { inode, size, mtime: reader.time()?, ctime: reader.time()? };
        let [has_xattrs] = reader.array()?;
        let content = ContentDigest(Digest(reader.array()?));
        let known = Known { stat, content, has_xattrs: has_xattrs != 0 };
        entries.known.push((last.end, known));
    }
    reader.0.is_empty().then_some(entries)
}

//! Decompressed stretches of blobs: files that lie beside each other cost one request and are decompressed once.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::buf::Reader;
use bytes::{Buf as _, Bytes};
use dcbuild_layer::{BlobIndex, Extent, Stretch};
use dcbuild_model::BlobDigest;

/// A window is no larger; a file whose frames are is read by itself.
const WINDOW_MAX: u64 = 8 << 20;
/// Whoever reads on gets at least this much, and reads on still where so much lies between.
const READ_ON: u64 = 256 << 10;
/// So many are kept, the latest used. Files are read in the order of their paths, which may lie in several layers.
const WINDOWS_MAX: usize = 8;

/// The windows of one operation.
#[derive(Default)]
pub(super) struct Windows(Mutex<Vec<Arc<Window>>>);

/// A stretch of a blob, fetched by the first who reads it.
pub(super) struct Window {
    blob: BlobDigest,
    stretch: Stretch,
    plain: Mutex<Option<Bytes>>,
}

impl Windows {
    /// The window that has a file. A new one has the frames of that file alone; whoever reads on behind it gets twice as
    /// much each time, so that a few files move few bytes and all files are had with few requests.
    pub(super) fn of(
        &self,
        blob: &BlobDigest,
        index: &BlobIndex,
        extent: &Extent,
    ) -> Option<Arc<Window>> {
        let own = index.stretch(extent, 0)?;
        if own.tar_len() > WINDOW_MAX {
            return None;
        }
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = windows.iter().position(|it| it.blob == *blob && it.has(&own.tar));
        if let Some(at) = known {
            let window = windows.remove(at);
            windows.push(window.clone());
            return Some(window);
        }
        let before = windows.iter().filter(|it| it.blob == *blob && it.leads_to(&own.tar));
        let bytes = before.map(|it| READ_ON.max(2 * it.stretch.tar_len())).max().unwrap_or(0);
        let stretch = index.stretch(extent, bytes.min(WINDOW_MAX))?;
        let window = Arc::new(Window { blob: *blob, stretch, plain: Mutex::default() });
        if windows.len() >= WINDOWS_MAX {
            windows.remove(0);
        }
        windows.push(window.clone());
        Some(window)
    }
}

impl Window {
    fn has(&self, part: &Range<u64>) -> bool {
        let all = &self.stretch.tar;
        all.start <= part.start && part.end <= all.end
    }

    /// Whether a part begins in it, or behind it and not far from it.
    fn leads_to(&self, part: &Range<u64>) -> bool {
        let all = &self.stretch.tar;
        let gap = READ_ON.max(self.stretch.tar_len());
        (all.start..=all.end.saturating_add(gap)).contains(&part.start)
    }

    /// Reads a file of it. One thread fetches it, and whoever else wants it waits for that one; a failure is not kept.
    pub(super) fn read(
        &self,
        extent: &Extent,
        fetch: impl FnOnce(&Stretch) -> io::Result<Vec<u8>>,
    ) -> io::Result<Reader<Bytes>> {
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match &*plain {
            Some(bytes) => bytes,
            None => plain.insert(fetch(&self.stretch)?.into()),
        };
        let file = extent.offset.checked_sub(self.stretch.tar.start).and_then(|start| {
            let (start, len) = (usize::try_from(start).ok()?, usize::try_from(extent.len).ok()?);
            let end = start.checked_add(len).filter(|end| *end <= bytes.len())?;
            Some(bytes.slice(start..end))
        });
        let outside = || io::Error::other("a file lies outside of its window");
        Ok(file.ok_or_else(outside)?.reader())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Read as _;

    use dcbuild_layer::{BlobForm, InlineContents, write_blob};
    use dcbuild_model::{Compression, ContentDigest, Digest, TreePath};
    use dcbuild_tree::{Change, Changes, Entry, FileBody, Kind, Meta, Origin};

    use super::*;

    /// A blob of many small files and one in the middle that is larger than any window.
    struct Blob {
        bytes: Vec<u8>,
        index: BlobIndex,
        files: Vec<(TreePath, Vec<u8>)>,
        fetched: RefCell<Vec<u64>>,
    }

    const SMALL: usize = 6_000;
    const LARGE: usize = 9 << 20;

    /// Bytes that shrink to two thirds.
    fn noise(len: usize, seed: usize) -> Vec<u8> {
        let mut state = u64::try_from(seed).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b"abcdefghijklmnopqrstuvwxyz012345"[usize::try_from(state >> 59).unwrap()]
        };
        (0..len).map(|_| next()).collect()
    }

    fn file(bytes: &[u8]) -> Entry {
        let content = ContentDigest(Digest::of(bytes));
        let (size, origin) = (u64::try_from(bytes.len()).unwrap(), Origin::Inline(bytes.into()));
        let kind = Kind::File(FileBody { content, size, origin });
        Entry { meta: Meta { mode: 0o644, ..Meta::default() }, kind, links: None }
    }

    impl Blob {
        fn new(compression: Compression) -> Blob {
            let (mut changes, mut files) = (Changes::default(), vec![]);
            for number in 0..=SMALL {
                let size = if number == SMALL / 2 { LARGE } else { number % 5_000 };
                let bytes = noise(size, number);
                let path = TreePath::clean(format!("f{number:05}").as_bytes()).unwrap();
                changes.0.insert(path.clone(), Change::Put(file(&bytes)));
                files.push((path, bytes));
            }
            let (mut bytes, form) = (Vec::new(), BlobForm { compression, level: None, threads: 2 });
            let written = write_blob(&changes, &InlineContents, &form, &mut bytes).unwrap();
            Blob { bytes, index: written.index, files, fetched: RefCell::default() }
        }

        /// Reads a file as the contents of a blob do, and whether it came out of a window.
        fn read(&self, windows: &Windows, at: usize) -> bool {
            let (path, expected) = &self.files[at];
            let extent = self.index.locate(path).unwrap();
            let blob = BlobDigest(Digest::of(b"a blob"));
            let Some(window) = windows.of(&blob, &self.index, &extent) else { return false };
            let fetch = |stretch: &Stretch| {
                self.fetched.borrow_mut().push(stretch.blob.end - stretch.blob.start);
                let (start, end) = (stretch.blob.start, stretch.blob.end);
                let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
                stretch.decompress(&self.bytes[range])
            };
            let mut bytes = vec![];
            window.read(&extent, fetch).unwrap().read_to_end(&mut bytes).unwrap();
            assert!(bytes == *expected, "{path}");
            assert!(windows.0.lock().unwrap().len() <= WINDOWS_MAX);
            true
        }

        fn fetched(&self) -> Vec<u64> {
            self.fetched.take()
        }
    }

    #[test]
    fn all_files_are_had_with_few_requests_and_one_file_with_few_bytes() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let blob = Blob::new(compression);
            let windows = Windows::default();
            for at in 0..=SMALL {
                let size = blob.files[at].1.len();
                assert_eq!(blob.read(&windows, at), size < LARGE, "{compression:?} {size}");
            }
            let fetched = blob.fetched();
            let total: u64 = fetched.iter().sum();
            let all = u64::try_from(blob.bytes.len()).unwrap();
            assert!(fetched.len() <= 24, "{compression:?}: {fetched:?}");
            assert!(total <= all, "{compression:?}: {total} of {all} in {fetched:?}");

            let windows = Windows::default();
            assert!(blob.read(&windows, 4_999));
            assert!(blob.fetched().iter().sum::<u64>() <= 2 << 20);
            // It is there for the next.
            assert!(blob.read(&windows, 4_999));
            assert!(blob.fetched().is_empty());
        }
    }

    #[test]
    fn files_are_read_in_any_order() {
        for compression in [Compression::None, Compression::Zstd] {
            let (blob, windows) = (Blob::new(compression), Windows::default());
            let mut at = 1;
            for _ in 0..500 {
                at = at * 4_801 % (SMALL + 1);
                blob.read(&windows, at);
            }
        }
    }

    #[test]
    fn a_failure_is_not_kept() {
        let (blob, windows) = (Blob::new(Compression::Zstd), Windows::default());
        let extent = blob.index.locate(&blob.files[7].0).unwrap();
        let name = BlobDigest(Digest::of(b"a blob"));
        let window = windows.of(&name, &blob.index, &extent).unwrap();
        let refused = window.read(&extent, |_| Err(io::Error::other("no")));
        assert_eq!(refused.err().unwrap().to_string(), "no");
        assert!(blob.read(&windows, 7));
    }
}

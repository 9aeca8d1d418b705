//! Blobs that we write: the same for any number of threads, read back as they were, listed by GNU tar.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use dcbuild_layer::{
    BlobForm, BlobIndex, InlineContents, LayerForm, NoSink, Ratio, ReadContent, WriteBlobError,
    WrittenBlob, read_extent, read_layer, write_blob,
};
use dcbuild_model::{Compression, ContentDigest, Digest, TreePath, UnixTime};
use dcbuild_tree::{Change, Changes, Entry, FileBody, Kind, LinkGroup, Meta, Origin, Xattrs};

const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

fn path(text: &[u8]) -> TreePath {
    TreePath::clean(text).unwrap()
}

fn entry(mode: u32, kind: Kind) -> Entry {
    let mtime = UnixTime { secs: 1_700_000_000, nanos: 123_456_000 };
    Entry { meta: Meta { mode, mtime, ..Meta::default() }, kind, links: None }
}

fn file(bytes: &[u8]) -> Kind {
    Kind::File(FileBody {
        content: ContentDigest(Digest::of(bytes)),
        size: u64::try_from(bytes.len()).unwrap(),
        origin: Origin::Inline(bytes.into()),
    })
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"abcdefghijklmnopqrstuvwxyz012345"[usize::try_from(state >> 59).unwrap()]
    };
    (0..len).map(|_| next()).collect()
}

fn sample() -> Changes {
    let mut changes = Changes::default();
    let mut put = |name: &[u8], entry| changes.0.insert(path(name), Change::Put(entry));
    put(b"", entry(0o755, Kind::Dir));
    put(b"etc", entry(0o755, Kind::Dir));
    put(b"etc/hosts", entry(0o644, file(b"127.0.0.1 localhost\n")));
    let mut capable = entry(0o4755, file(b"#!/bin/sh\n"));
    capable.meta.uid = 5_000_000;
    capable.meta.gid = u32::MAX - 1;
    capable.meta.mtime = UnixTime { secs: -2, nanos: 500_000_000 };
    let capability = (b"security.capability".to_vec(), vec![1, 0, 0, 2, 0, b'=', b'\n', 0, 0]);
    capable.meta.xattrs = Xattrs::new(BTreeMap::from([capability]));
    put(b"etc/ping", capable);
    put(b"etc/raw-\xff\xfe", entry(0o600, file(b"")));
    put("etc/gr\u{fc}n".as_bytes(), entry(0o600, file(b"x")));
    let deep = [b"d".repeat(90), b"e".repeat(90), b"f".repeat(90)];
    for depth in 1..=3 {
        put(&deep[..depth].join(&b'/'), entry(0o700, Kind::Dir));
    }
    put(&[deep.join(&b'/'), b"/file".to_vec()].concat(), entry(0o644, file(b"deep")));
    put(b"link", entry(0o777, Kind::Symlink(b"l".repeat(300))));
    put(b"null", entry(0o666, Kind::CharDevice { major: 1, minor: 3 }));
    put(b"disk", entry(0o660, Kind::BlockDevice { major: 8, minor: 1 << 21 }));
    put(b"pipe", entry(0o644, Kind::Fifo));
    for name in [&b"tied/a"[..], b"tied/b", b"tied/c"] {
        put(name, Entry { links: Some(LinkGroup(1)), ..entry(0o644, file(b"tied")) });
    }
    put(b"tied", entry(0o1777, Kind::Dir));
    put(b"big", entry(0o644, file(&noise(5 << 20, 7))));
    put(b"middle", entry(0o644, file(&noise(100 << 10, 8))));
    for number in 0..300 {
        let bytes = noise(number * 37, u64::try_from(number).unwrap() + 1);
        put(format!("many-{number}").as_bytes(), entry(0o644, file(&bytes)));
    }
    changes.0.insert(path(b"gone"), Change::Remove);
    changes.0.insert(path(b"new"), Change::Replace(entry(0o755, Kind::Dir)));
    changes
}

fn written(compression: Compression, threads: usize) -> (Vec<u8>, WrittenBlob) {
    let mut blob = Vec::new();
    let form = BlobForm { compression, level: None, threads };
    let written = write_blob(&sample(), &InlineContents, &form, &mut blob).unwrap();
    (blob, written)
}

#[test]
fn a_layer_comes_back_as_it_was() {
    let mut diff_ids = Vec::new();
    for compression in ALL {
        let (blob, written) = written(compression, 2);
        for said in [None, Some(compression)] {
            let form = LayerForm { compression: said, ratio: Ratio::Limited };
            let read = read_layer(&*blob, form, &mut NoSink).unwrap();
            assert_eq!(read.changes, sample());
            assert_eq!(read.diff_id, written.blob.diff_id);
            assert_eq!((read.digest, read.size), (written.blob.digest, written.blob.size));
            assert_eq!(read.compression, compression);
            assert_eq!(dcbuild_tree::toc::layer_id(&read.toc), read.layer);
        }
        diff_ids.push(written.blob.diff_id);
    }
    assert!(diff_ids.iter().all(|one| *one == diff_ids[0]));
}

#[test]
fn threads_have_no_say_in_the_bytes() {
    for compression in ALL {
        let one = written(compression, 1);
        for threads in [2, 5] {
            assert!(one == written(compression, threads), "{compression:?} with {threads}");
        }
    }
}

#[test]
fn files_at_the_edges_of_frames_come_back() {
    let mut changes = Changes::default();
    let mib = 1 << 20;
    let sizes = [0, 64 << 10, mib - 512, mib, mib + 1, 4 * mib - 1, 4 * mib, 4 * mib + 1, 0];
    for (number, size) in sizes.into_iter().chain([700 << 10; 5]).enumerate() {
        let bytes = noise(size, u64::try_from(number).unwrap() + 3);
        let put = Change::Put(entry(0o644, file(&bytes)));
        changes.0.insert(path(format!("file-{number:02}").as_bytes()), put);
    }
    for compression in ALL {
        let written = |threads| {
            let (mut blob, form) = (Vec::new(), BlobForm { compression, level: None, threads });
            let written = write_blob(&changes, &InlineContents, &form, &mut blob).unwrap();
            (blob, written)
        };
        let (blob, one) = written(1);
        assert!((&blob, &one) == (&written(3).0, &written(3).1), "{compression:?}");
        let form = LayerForm { compression: Some(compression), ratio: Ratio::Limited };
        let read = read_layer(&*blob, form, &mut NoSink).unwrap();
        assert_eq!((read.diff_id, read.digest), (one.blob.diff_id, one.blob.digest));
        assert_eq!(read.changes.0.keys().collect::<Vec<_>>(), changes.0.keys().collect::<Vec<_>>());
        for (path, change) in &changes.0 {
            let Change::Put(Entry { kind: Kind::File(body), .. }) = change else { unreachable!() };
            let extent = one.index.locate(path).unwrap();
            let part = part_of(&blob, &extent.blob);
            let bytes = read_extent(part, &extent, compression).unwrap();
            assert_eq!(ContentDigest(Digest::of(&bytes)), body.content, "{path}");
            for bytes_max in [0, 1 << 20, 3 << 20, u64::MAX] {
                let stretch = one.index.stretch(&extent, bytes_max).unwrap();
                let longer = stretch.tar_len() > one.index.stretch(&extent, 0).unwrap().tar_len();
                assert!(!longer || stretch.tar_len() <= bytes_max, "{stretch:?}");
                let part = part_of(&blob, &stretch.blob);
                let bytes = stretch.decompress(part).unwrap();
                let start = usize::try_from(extent.offset - stretch.tar.start).unwrap();
                let file = &bytes[start..start + usize::try_from(extent.len).unwrap()];
                assert_eq!(ContentDigest(Digest::of(file)), body.content, "{path}");
                if !part.is_empty() {
                    stretch.decompress(&part[..part.len() / 2]).unwrap_err();
                }
            }
        }
    }
}

fn part_of<'a>(blob: &'a [u8], part: &std::ops::Range<u64>) -> &'a [u8] {
    &blob[usize::try_from(part.start).unwrap()..usize::try_from(part.end).unwrap()]
}

/// Whoever checks what it reads says so where it ends.
#[test]
fn what_a_reader_says_at_its_end_is_heard() {
    struct Doubtful;
    impl ReadContent for Doubtful {
        fn open(&self, body: &FileBody) -> std::io::Result<Box<dyn Read + Send>> {
            struct Ends(Box<dyn Read + Send>);
            impl Read for Ends {
                fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                    match self.0.read(buffer)? {
                        0 => Err(std::io::Error::other("it was not what it should be")),
                        count => Ok(count),
                    }
                }
            }
            Ok(Box::new(Ends(InlineContents.open(body)?)))
        }
    }
    for size in [10, 5 << 20] {
        let mut changes = Changes::default();
        let put = Change::Put(entry(0o644, file(&noise(size, 5))));
        changes.0.insert(path(b"f"), put);
        let form = BlobForm { compression: Compression::Zstd, level: None, threads: 2 };
        let error = write_blob(&changes, &Doubtful, &form, std::io::sink()).unwrap_err();
        assert!(
            matches!(&error, WriteBlobError::Content { path: at, source }
            if *at == path(b"f") && source.to_string().contains("should be")),
            "{error:?}"
        );
    }
}

#[test]
fn every_file_is_found_by_its_extent() {
    for compression in ALL {
        let (blob, written) = written(compression, 2);
        let index = BlobIndex::decode(&written.index.encode()).unwrap();
        assert_eq!(index, written.index);
        for (path, change) in &sample().0 {
            let Change::Put(Entry { kind: Kind::File(body), .. }) = change else { continue };
            let by_path = index.locate(path);
            assert!(by_path.is_some() || path.to_string().starts_with("/tied/"));
            for extent in by_path.into_iter().chain(index.locate_content(&body.content)) {
                let part = part_of(&blob, &extent.blob);
                let bytes = read_extent(part, &extent, compression).unwrap();
                assert_eq!(ContentDigest(Digest::of(&bytes)), body.content, "{path}");
            }
        }
        let middle = index.locate(&path(b"middle")).unwrap();
        if compression == Compression::Zstd {
            assert_eq!(middle.skip, 0, "it has a frame of its own");
        }
        assert_eq!(index.locate(&path(b"absent")), None);
    }
}

#[test]
fn gnu_tar_lists_our_blobs() {
    let (blob, _) = written(Compression::Gzip, 2);
    let mut tar = Command::new("tar")
        .args(["--warning=no-timestamp", "-tvzf", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = tar.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || stdin.write_all(&blob));
    let output = tar.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    let listing = String::from_utf8_lossy(&output.stdout);
    for want in
        ["etc/hosts", "tied/b link to tied/a", ".wh.gone", "new/.wh..wh..opq", "/file", "1,3"]
    {
        assert!(listing.contains(want), "{want} in {listing}");
    }
    assert_eq!(listing.lines().count(), sample().0.len() + 1);
}

#[test]
fn a_file_that_changed_is_named() {
    for (declared, real) in [(&b"one"[..], &b"two"[..]), (b"one", b"longer"), (b"longer", b"one")] {
        let Kind::File(body) = file(declared) else { unreachable!() };
        let body = FileBody { origin: Origin::Inline(real.into()), ..body };
        let mut changes = Changes::default();
        changes.0.insert(path(b"f"), Change::Put(entry(0o644, Kind::File(body))));
        let form = BlobForm { compression: Compression::Zstd, level: None, threads: 2 };
        let error = write_blob(&changes, &InlineContents, &form, std::io::sink()).unwrap_err();
        assert!(matches!(error, WriteBlobError::ContentChanged { path: at } if at == path(b"f")));
    }
}

/// Its frames are on their way to the blob before its last byte is seen; and none of its neighbours is blamed.
#[test]
fn a_large_file_that_changed_is_named_among_others() {
    let whole = noise(3 << 20, 5);
    let mut other = whole.clone();
    *other.last_mut().unwrap() ^= 1;
    let mut longer = whole.clone();
    longer.push(0);
    let shorter = whole[..whole.len() - 1].to_vec();
    for compression in ALL {
        for real in [&other, &longer, &shorter] {
            let mut changes = sample();
            let Kind::File(body) = file(&whole) else { unreachable!() };
            let origin = Origin::Inline(real.as_slice().into());
            let put = entry(0o644, Kind::File(FileBody { origin, ..body }));
            changes.0.insert(path(b"etc/large"), Change::Put(put));
            let form = BlobForm { compression, level: None, threads: 3 };
            let error = write_blob(&changes, &InlineContents, &form, std::io::sink()).unwrap_err();
            let is_named = matches!(&error, WriteBlobError::ContentChanged { path: at }
                if *at == path(b"etc/large"));
            assert!(is_named, "{error:?}");
        }
    }
}

#[test]
fn a_writer_that_fails_ends_it() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let form = BlobForm { compression: Compression::Gzip, level: None, threads: 2 };
    let error = write_blob(&sample(), &InlineContents, &form, Full(1 << 20)).unwrap_err();
    assert!(matches!(error, WriteBlobError::Write(_)), "{error:?}");
}

#[test]
fn what_tar_cannot_say_is_refused() {
    let form = BlobForm { compression: Compression::None, level: None, threads: 1 };
    let mut changes = Changes::default();
    changes.0.insert(path(b".wh.x"), Change::Put(entry(0o644, Kind::Fifo)));
    let error = write_blob(&changes, &InlineContents, &form, std::io::sink()).unwrap_err();
    assert!(matches!(error, WriteBlobError::Unrepresentable { .. }));
    for (compression, level) in [(Compression::Gzip, 99), (Compression::Zstd, 0)] {
        let form = BlobForm { compression, level: Some(level), threads: 1 };
        let error = write_blob(&sample(), &InlineContents, &form, std::io::sink()).unwrap_err();
        assert!(matches!(error, WriteBlobError::Level(_)));
    }
}

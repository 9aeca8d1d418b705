//! Layers and archives of others: understood, or refused with an error; never a panic.
#![expect(clippy::unwrap_used, reason = "test")]

use std::io::{Cursor, Read, Write};
use std::os::unix::fs::FileExt as _;

use dcbuild_layer::{
    BlobIndex, LayerForm, LayerSink, NoSink, Ratio, ReadLayerError, SmallInline, read_archive,
    read_layer,
};
use dcbuild_model::{Compression, ContentDigest, Digest};
use dcbuild_tree::{Change, Kind, Member, Origin};
use expect_test::{Expect, expect};
use proptest::prelude::*;

const FORM: LayerForm = LayerForm { compression: None, ratio: Ratio::Limited };

struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Tar {
        Tar(Vec::new())
    }

    fn raw(mut self, flag: u8, name: &str, link: &str, bytes: &[u8]) -> Tar {
        let mut block = [0u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        block[156] = flag;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        if matches!(flag, b'3' | b'4') {
            block[329..336].copy_from_slice(b"0000001");
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str) -> Tar {
        self.raw(b'0', name, "", name.as_bytes())
    }

    fn dir(self, name: &str) -> Tar {
        self.raw(b'5', name, "", b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Tar {
        let mut data = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let len = (rest..rest + 20).find(|len| rest + len.to_string().len() == *len).unwrap();
            data.push_str(&format!("{len} {key}={value}\n"));
        }
        self.raw(b'x', "pax", "", data.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn shown(blob: &[u8]) -> String {
    match read_layer(blob, FORM, &mut NoSink) {
        Err(error) => format!("error: {error}\n"),
        Ok(read) => {
            let mut text = String::new();
            for (path, change) in &read.changes.0 {
                let line = match change {
                    Change::Remove => format!("- {path}"),
                    Change::Put(entry) | Change::Replace(entry) => {
                        let mark = if matches!(change, Change::Put(_)) { "+" } else { "=" };
                        let kind = match &entry.kind {
                            Kind::File(body) => format!(" file {}", body.size),
                            Kind::Dir => " dir".to_string(),
                            other => format!(" {other:?}"),
                        };
                        let links = entry.links.map(|at| format!(" #{}", at.0)).unwrap_or_default();
                        format!("{mark} {path}{kind}{links}")
                    }
                };
                text.push_str(&line);
                text.push('\n');
            }
            text
        }
    }
}

fn check(tar: Tar, want: &Expect) {
    want.assert_eq(&shown(&tar.end()));
}

#[test]
fn whiteouts_have_their_meaning() {
    check(
        Tar::new().dir("a/").file("a/.wh.old").dir("b/").file("b/.wh..wh..opq").file("b/x"),
        &expect![[r#"
            + /a dir
            - /a/old
            = /b dir
            + /b/x file 3
        "#]],
    );
    check(
        Tar::new().file(".wh.both").dir("both/").file("both/x").file(".wh..wh.plnk"),
        &expect![[r#"
            = /both dir
            + /both/x file 6
        "#]],
    );
    check(
        Tar::new().file("d/.wh."),
        &expect!["error: the entry 'd/.wh.' is refused: it is a whiteout of nothing\n"],
    );
}

#[test]
fn the_last_of_two_wins() {
    check(
        Tar::new().file("x").dir("x").file("x/y").file("z").file("z"),
        &expect![[r#"
            + /x dir
            + /x/y file 3
            + /z file 1
        "#]],
    );
    check(
        Tar::new().dir("x").file("x/y").file("x.y").file("x"),
        &expect!["+ /x file 1\n+ /x.y file 3\n"],
    );
}

#[test]
fn hard_links_are_tied() {
    check(
        Tar::new().file("b").raw(b'1', "a", "b", b"").raw(b'1', "c", "/a", b"").file("b"),
        &expect![[r#"
            + /a file 1 #1
            + /b file 1
            + /c file 1 #1
        "#]],
    );
}

/// As docker and containerd unpack what several archives were put together to.
#[test]
fn links_of_a_layer_are_followed_inside_it() {
    check(
        Tar::new()
            .dir("usr/lib")
            .raw(b'2', "lib", "/usr/lib", b"")
            .file("lib/x.so")
            .file("lib/.wh.old")
            .raw(b'1', "lib/y.so", "lib/x.so", b"")
            .raw(b'2', "out", "../../etc", b"")
            .file("out/passwd"),
        &expect![[r#"
            + /etc/passwd file 10
            + /lib Symlink([47, 117, 115, 114, 47, 108, 105, 98])
            + /out Symlink([46, 46, 47, 46, 46, 47, 101, 116, 99])
            + /usr/lib dir
            - /usr/lib/old
            + /usr/lib/x.so file 8 #1
            + /usr/lib/y.so file 8 #1
        "#]],
    );
    check(
        Tar::new().raw(b'2', "l", "d", b"").file("l/a").dir("l").file("l/b"),
        &expect![[r#"
            + /d/a file 3
            + /l dir
            + /l/b file 3
        "#]],
    );
}

#[test]
fn pax_and_gnu_names_are_read() {
    check(
        Tar::new().pax(&[("path", "p/long"), ("size", "3")]).raw(b'0', "short", "", b"abc"),
        &expect!["+ /p/long file 3\n"],
    );
    check(
        Tar::new().raw(b'L', "././@LongLink", "", b"gnu/long\0").file("short"),
        &expect!["+ /gnu/long file 5\n"],
    );
    check(
        Tar::new().pax(&[("path", "a")]).raw(b'L', "l", "", b"b\0").file("short"),
        &expect![
            "error: the header at byte 2048 of the tar is malformed: it has both a PAX and a GNU long name\n"
        ],
    );
}

/// All forms that GNU tar writes, with more pieces than one header has room for.
#[test]
fn holes_of_sparse_files_are_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = vec![0; 9 << 20];
    for piece in 1..40 {
        expected[piece * 200_000..piece * 200_000 + 5000].fill(u8::try_from(piece).unwrap());
    }
    let file = std::fs::File::create(folder.path().join("sparse")).unwrap();
    file.set_len(9 << 20).unwrap();
    for piece in 1..40 {
        let at = piece * 200_000;
        file.write_all_at(&expected[at..at + 5000], u64::try_from(at).unwrap()).unwrap();
    }
    for form in ["gnu", "0.0", "0.1", "1.0"] {
        let mut tar = std::process::Command::new("tar");
        tar.arg("--sparse").arg("-C").arg(folder.path());
        match form {
            "gnu" => tar.arg("--format=gnu"),
            version => tar.arg("--format=pax").arg(format!("--sparse-version={version}")),
        };
        let output = tar.args(["-cf", "-", "sparse"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.len() < 1 << 20, "{form}: the archive has the holes");
        let read = read_layer(&*output.stdout, FORM, &mut NoSink).unwrap();
        let [(path, Change::Put(entry))] = &read.changes.0.iter().collect::<Vec<_>>()[..] else {
            panic!("one file: {:?}", read.changes)
        };
        let Kind::File(body) = &entry.kind else { panic!("a file") };
        assert_eq!(path.to_string(), "/sparse", "{form}");
        assert_eq!(
            (body.size, body.content),
            (9 << 20, ContentDigest(Digest::of(&expected))),
            "{form}"
        );
    }
}

#[test]
fn lists_of_pieces_that_cannot_be_are_refused() {
    let version = [("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1")];
    let with = |map, size| {
        let more = [("GNU.sparse.map", map), ("GNU.sparse.size", size)];
        Tar::new().pax(&[&version[..], &more[..]].concat()).raw(b'0', "s", "", b"abcd")
    };
    check(with("2,4", "9"), &expect![["+ /s file 9\n"]]);
    for (map, size) in [("2,4", "5"), ("0,3,2,1", "9"), ("2,3", "9"), ("2", "9"), ("2,x", "9")] {
        let result = read_layer(&*with(map, size).end(), FORM, &mut NoSink);
        assert!(matches!(result, Err(ReadLayerError::Header { .. })), "{map}: {result:?}");
    }
    let endless = read_layer(&*with("2,4", "9000000000000").end(), FORM, &mut NoSink);
    assert!(matches!(endless, Err(ReadLayerError::GrowsTooMuch { .. })), "{endless:?}");
    let version = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")];
    for list in ["", "9\n", "1\n0\n9\n", "x\n", "184467440737095516150\n"] {
        let tar = Tar::new().pax(&version).raw(b'0', "s", "", list.as_bytes());
        let result = read_layer(&*tar.end(), FORM, &mut NoSink);
        assert!(matches!(result, Err(ReadLayerError::Header { .. })), "{list}: {result:?}");
    }
}

#[test]
fn devices_stay_and_whiteout_devices_go() {
    let tar = Tar::new().raw(b'3', "dev", "", b"");
    check(tar, &expect!["+ /dev CharDevice { major: 1, minor: 0 }\n"]);
    let tar = Tar::new()
        .pax(&[("SCHILY.xattr.trusted.overlay.opaque", "y"), ("SCHILY.xattr.user.a", "b")])
        .dir("d");
    let read = read_layer(&*tar.end(), FORM, &mut NoSink).unwrap();
    let Some(Change::Put(entry)) = read.changes.0.values().next() else { panic!("a folder") };
    assert_eq!(entry.meta.xattrs.iter().collect::<Vec<_>>(), [(&b"user.a"[..], &b"b"[..])]);
}

/// As Go cleans names: what stands before `..` is not looked at.
#[test]
fn names_that_turn_back_stay_in_the_layer() {
    let tar = Tar::new().file("./etc/../etc/zz").file("a/../b");
    let read = read_layer(&*tar.end(), FORM, &mut NoSink).unwrap();
    let paths: Vec<String> = read.changes.0.keys().map(ToString::to_string).collect();
    assert_eq!(paths, ["/b", "/etc/zz"]);
}

#[test]
fn what_leads_out_is_refused() {
    for tar in [
        Tar::new().file("../x"),
        Tar::new().file("a/../../x"),
        Tar::new().file("a").file("a/b"),
        Tar::new().raw(b'2', "a", "b", b"").raw(b'2', "b", "a", b"").file("a/x"),
        Tar::new().raw(b'1', "a", "../../etc/passwd", b""),
        Tar::new().raw(b'1', "a", "etc/passwd", b""),
        Tar::new().dir("d").raw(b'1', "a", "d", b""),
        Tar::new().raw(b'2', ".", "x", b""),
    ] {
        let result = read_layer(&*tar.end(), FORM, &mut NoSink);
        assert!(matches!(result, Err(ReadLayerError::Entry(_))), "{result:?}");
    }
}

#[test]
fn malformed_tars_are_named() {
    let sparse = Tar::new().raw(b'S', "s", "", b"more than its pieces");
    let big_pax = Tar::new().raw(b'x', "pax", "", &vec![b'1'; (1 << 20) + 1]);
    let bad_pax = Tar::new().raw(b'x', "pax", "", b"99 a=b\n").file("x");
    for tar in [sparse, big_pax, bad_pax, Tar::new().pax(&[("GNU.sparse.major", "1")]).file("x")] {
        let result = read_layer(&*tar.end(), FORM, &mut NoSink);
        assert!(matches!(result, Err(ReadLayerError::Header { .. })), "{result:?}");
    }
    for bytes in [&b"hello"[..], &[7; 4096]] {
        let result = read_layer(bytes, FORM, &mut NoSink);
        assert!(matches!(result, Err(ReadLayerError::NotATar)), "{result:?}");
    }
    let nothing = read_layer(&b""[..], FORM, &mut NoSink).unwrap();
    assert!(nothing.changes.0.is_empty(), "{nothing:?}");
    let whole = Tar::new().file("a").file("b").end();
    for cut in [513, 600, 1500] {
        let result = read_layer(&whole[..cut], FORM, &mut NoSink);
        assert!(matches!(result, Err(ReadLayerError::Truncated { .. })), "{cut}: {result:?}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn a_cut_blob_is_an_error_and_a_bomb_is_stopped() {
    let blob = gzip(&Tar::new().file("a").end());
    let result = read_layer(&blob[..blob.len() - 9], FORM, &mut NoSink);
    assert!(matches!(result, Err(ReadLayerError::Read(_))), "{result:?}");
    let zeros = Tar::new().raw(b'0', "zeros", "", &vec![0; 64 << 20]).end();
    let bomb = zstd::encode_all(&*zeros, 3).unwrap();
    let result = read_layer(&*bomb, FORM, &mut NoSink);
    assert!(matches!(result, Err(ReadLayerError::GrowsTooMuch { .. })), "{result:?}");
    let ours = LayerForm { compression: Some(Compression::Zstd), ratio: Ratio::Free };
    assert_eq!(read_layer(&*bomb, ours, &mut NoSink).unwrap().changes.0.len(), 1);
}

#[test]
fn an_endless_body_ends_with_the_error() {
    let endless = Cursor::new(vec![7; 4096]).chain(std::io::repeat(7));
    assert!(matches!(read_layer(endless, FORM, &mut NoSink), Err(ReadLayerError::NotATar)));
}

#[test]
fn odd_names_in_archives_are_taken_as_docker_takes_them() {
    let tar = Tar::new()
        .raw(b'0', "", "", b"nobody sees it")
        .raw(b'2', "./", "away", b"")
        .raw(b'0', "f/", "", b"content")
        .raw(0, "old/", "", b"")
        .file("after")
        .end();
    let archive = read_archive(&*tar, &mut SmallInline::new(1000, NoSink)).unwrap().unwrap();
    let shown = archive.0.iter().map(|(path, member)| match member {
        Member::Put(entry) => format!("{path} {}", if entry.is_dir() { "folder" } else { "file" }),
        Member::Link { .. } => format!("{path} link"),
    });
    assert_eq!(shown.collect::<Vec<_>>(), ["/f file", "/old folder", "/after file"]);
    let tar = Tar::new().raw(0, "old/", "", b"content").end();
    let error = read_archive(&*tar, &mut NoSink).unwrap_err();
    let error = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.contains("it has content though it is no file"), "{error}");
}

#[test]
fn archives_are_known_by_content_and_stay_inside() {
    let tar = Tar::new().file("../../x").file("/y").file(".wh.z").end();
    let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(6));
    bz.write_all(&tar).unwrap();
    let mut xz =
        lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(&tar).unwrap();
    let forms = [
        tar.clone(),
        gzip(&tar),
        bz.finish().unwrap(),
        xz.finish().unwrap(),
        zstd::encode_all(&*tar, 1).unwrap(),
        [&b"\x50\x2a\x4d\x18\x04\0\0\0skip"[..], &zstd::encode_all(&*tar, 1).unwrap()].concat(),
    ];
    for bytes in forms {
        let mut sink = SmallInline::new(1000, NoSink);
        let archive = read_archive(&*bytes, &mut sink).unwrap().unwrap();
        let names: Vec<String> = archive.0.iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(names, ["/x", "/y", "/.wh.z"]);
        for (_, member) in &archive.0 {
            let Member::Put(entry) = member else { panic!("{member:?}") };
            let Kind::File(body) = &entry.kind else { panic!("{entry:?}") };
            let Origin::Inline(bytes) = &body.origin else { panic!("{body:?}") };
            assert_eq!(u64::try_from(bytes.len()).unwrap(), body.size);
        }
    }
    for plain in [&b"#!/bin/sh\n"[..], b"", &gzip(b"only a file")] {
        assert_eq!(read_archive(plain, &mut NoSink).unwrap(), None);
    }
}

/// Whoever unpacks takes memory for the whole dictionary that an archive asks for.
#[test]
fn a_dictionary_beyond_the_limit_is_refused() {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    xz.write_all(&Tar::new().file("x").end()).unwrap();
    let mut bytes = xz.finish().unwrap();
    assert!(read_archive(&*bytes, &mut NoSink).unwrap().is_some());
    // The header of the first block: LZMA2 has one byte of properties, where 40 stands for 4 GiB.
    let sum = 12 + usize::from(bytes[12]) * 4;
    assert_eq!(bytes[14..16], [0x21, 1]);
    bytes[16] = 40;
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..sum]);
    bytes[sum..sum + 4].copy_from_slice(&crc.sum().to_le_bytes());
    let error = read_archive(&*bytes, &mut NoSink).unwrap_err();
    let cause = std::error::Error::source(&error).and_then(std::error::Error::source).unwrap();
    assert!(cause.to_string().contains("dictionary is larger than 256 MiB"), "{cause}");
}

#[test]
fn a_sink_that_fails_is_named() {
    struct Full;
    impl LayerSink for Full {
        fn begin(&mut self, _: &dcbuild_model::TreePath, _: u64) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn write(&mut self, _: &[u8]) -> std::io::Result<()> {
            Ok(())
        }
        fn end(&mut self, _: &dcbuild_model::ContentDigest) -> std::io::Result<Option<Origin>> {
            Ok(None)
        }
    }
    let result = read_layer(&*Tar::new().file("a").end(), FORM, &mut Full);
    assert!(matches!(result, Err(ReadLayerError::Sink { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        drop(read_layer(&*bytes, FORM, &mut NoSink));
        drop(read_archive(&*bytes, &mut NoSink));
        drop(BlobIndex::decode(&bytes));
        let indexed = [b"dcbindx1", &*bytes].concat();
        drop(BlobIndex::decode(&indexed));
    }

    #[test]
    fn a_tar_with_wrong_bytes_never_panics(
        at in 0usize..3000, byte: u8, flag in prop::sample::select(b"01234567xgLKSV".to_vec()),
        name in "[a-c./]{1,20}", link in "[a-c./]{0,20}",
    ) {
        let mut tar = Tar::new().dir("a").raw(flag, &name, &link, b"").file(&name).end();
        drop(read_layer(&*tar, FORM, &mut NoSink));
        if let Some(place) = tar.get_mut(at) {
            *place = byte;
        }
        drop(read_layer(&*tar, FORM, &mut NoSink));
    }
}

/// As kaniko, ko and Bazel write them.
#[test]
fn a_slash_in_front_stands_for_the_root() {
    let tar = Tar::new()
        .dir("/")
        .dir("/ko-app/")
        .file("/ko-app/app")
        .file("ko-app/.wh.old")
        .dir("//usr/")
        .dir("./usr/bin/");
    check(
        tar,
        &expect![[r#"
        + / dir
        + /ko-app dir
        + /ko-app/app file 11
        - /ko-app/old
        + /usr dir
        + /usr/bin dir
    "#]],
    );
}

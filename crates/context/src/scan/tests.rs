//! Listings of real folders.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use dcbuild_model::{TreePath, UnixTime};
use dcbuild_tree::{Ignore, Kind};
use expect_test::{Expect, expect};
use rustix::fs::{CWD, FileType, Mode};

use crate::{Context, Listing, StatCache};

const NOW: UnixTime = UnixTime { secs: 4_000_000_000, nanos: 0 };

fn put(folder: &Path, names: &[&str]) {
    for name in names {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name.ends_with('/') {
            fs::create_dir_all(&path).unwrap();
        } else {
            fs::write(&path, name).unwrap();
        }
    }
}

fn scan(folder: &Path, ignore: &str) -> Listing {
    let context = Context::open(folder, 0).unwrap();
    let nothing = tempfile::tempdir().unwrap();
    let known = StatCache::load(nothing.path(), &context);
    context.scan(&Ignore::parse(ignore.as_bytes()).unwrap(), &known, NOW).unwrap()
}

fn names(listing: &Listing) -> String {
    let names: Vec<String> = listing.tree().walk().map(|(path, _)| path.to_string()).collect();
    names.join(" ")
}

#[test]
fn ignored_paths_are_left_out() {
    let temp = tempfile::tempdir().unwrap();
    put(temp.path(), &["a.txt", "b.md", "d/a.txt", "d/e/a.txt", "d/e/k.md", "n/m/x.js", "empty/"]);
    let check = |ignore: &str, want: Expect| want.assert_eq(&names(&scan(temp.path(), ignore)));
    check(
        "",
        expect!["/a.txt /b.md /d /d/a.txt /d/e /d/e/a.txt /d/e/k.md /empty /n /n/m /n/m/x.js"],
    );
    check("a.txt", expect!["/b.md /d /d/a.txt /d/e /d/e/a.txt /d/e/k.md /empty /n /n/m /n/m/x.js"]);
    check("**/*.txt\nn", expect!["/b.md /d /d/e /d/e/k.md /empty"]);
    check("*\n!d/e/k.md", expect!["/d /d/e /d/e/k.md"]);
    check("n\n!n/m/none", expect!["/a.txt /b.md /d /d/a.txt /d/e /d/e/a.txt /d/e/k.md /empty"]);
    check("**\n!empty", expect!["/empty"]);
    check("*", expect![""]);
}

#[test]
fn every_kind_is_listed_and_none_is_opened() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    put(folder, &["file", "sub/one"]);
    symlink("/etc/passwd", folder.join("out")).unwrap();
    symlink("../..", folder.join("sub/up")).unwrap();
    fs::hard_link(folder.join("file"), folder.join("sub/two")).unwrap();
    rustix::fs::mknodat(CWD, folder.join("pipe"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    drop(UnixListener::bind(folder.join("sock")).unwrap());
    fs::set_permissions(folder.join("file"), fs::Permissions::from_mode(0o4711)).unwrap();
    let listing = scan(folder, "");
    let lines: Vec<String> = listing
        .tree()
        .walk()
        .map(|(path, entry)| {
            let kind = match &entry.kind {
                Kind::Dir => "dir".into(),
                Kind::File(body) => format!("file of {}", body.size),
                Kind::Symlink(target) => format!("link to {}", String::from_utf8_lossy(target)),
                Kind::Fifo => "pipe".into(),
                Kind::Socket => "socket".into(),
                Kind::CharDevice { .. } | Kind::BlockDevice { .. } => "device".into(),
            };
            let group =
                entry.links.map(|group| format!(" in group {}", group.0)).unwrap_or_default();
            format!("{path} {kind}{group}")
        })
        .collect();
    expect![[r#"
        /file file of 4 in group 0
        /out link to /etc/passwd
        /pipe pipe
        /sock socket
        /sub dir
        /sub/one file of 7
        /sub/two file of 4 in group 0
        /sub/up link to ../.."#]]
    .assert_eq(&lines.join("\n"));
    let file = listing.tree().get(&TreePath::clean(b"file").unwrap()).unwrap();
    assert_eq!(file.meta.mode, 0o4711);
    assert_eq!((listing.len(), listing.bytes()), (8, 15));
}

#[test]
fn names_are_bytes() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join(OsStr::from_bytes(b"bad \xff name\n")), "x").unwrap();
    let listing = scan(temp.path(), "");
    let paths: Vec<TreePath> = listing.tree().walk().map(|(path, _)| path).collect();
    assert_eq!(paths, [TreePath::clean(b"bad \xff name\n").unwrap()]);
}

#[test]
fn a_reader_opens_regular_files_inside_only() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    put(folder, &["file", "sub/one"]);
    symlink("/etc/passwd", folder.join("out")).unwrap();
    symlink("sub", folder.join("in")).unwrap();
    rustix::fs::mknodat(CWD, folder.join("pipe"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let reader = Context::open(folder, 0).unwrap().reader();
    let opens = |path: &str| reader.open(&TreePath::clean(path.as_bytes()).unwrap()).is_ok();
    for (path, want) in [
        ("file", true),
        ("sub/one", true),
        ("out", false),
        ("in/one", false),
        ("pipe", false),
        ("sub", false),
        ("", false),
        ("none", false),
    ] {
        assert_eq!(opens(path), want, "{path}");
    }
}

#[test]
fn what_is_no_folder_is_no_context() {
    let temp = tempfile::tempdir().unwrap();
    put(temp.path(), &["file"]);
    for name in ["file", "none"] {
        let path = temp.path().join(name);
        let error = Context::open(&path, 0).unwrap_err();
        let want = format!("the context '{}' is not a folder that can be read", path.display());
        assert_eq!(error.to_string(), want);
    }
}

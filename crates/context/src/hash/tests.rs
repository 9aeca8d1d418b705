//! Hashing real files, with and without the cache.

use std::fs;
use std::path::Path;

use dcbuild_model::{Digest, Selection, SelectionForm, TreePath, UnixTime};
use dcbuild_tree::{Ignore, Kind, Origin, Tree};

use super::*;
use crate::{Context, StatCache};

const LATER: UnixTime = UnixTime { secs: 4_000_000_000, nanos: 0 };

fn copy(source: &str) -> Selection {
    let sources = vec![source.to_owned()];
    Selection { form: SelectionForm::Copy, sources, exclude: Vec::new(), parents: false }
}

/// One build: scan, hash, save; with the tree that all its selections see.
fn build(
    folder: &Path,
    state: &Path,
    sources: &[&str],
    now: UnixTime,
) -> Result<(Hashed, Tree), HashError> {
    let context = Context::open(folder, 3).unwrap();
    let mut cache = StatCache::load(state, &context);
    let mut listing = context.scan(&Ignore::default(), &cache, now).unwrap();
    let selections: Vec<Selection> = sources.iter().map(|source| copy(source)).collect();
    let hashed = hash(&context, &mut listing, &selections, &mut cache)?;
    cache.save(&listing).unwrap();
    let whole = Selection {
        sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        ..copy("")
    };
    let tree = listing.selected(&whole).unwrap();
    Ok((hashed, tree))
}

fn folders() -> (tempfile::TempDir, tempfile::TempDir) {
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(folder.path().join("src")).unwrap();
    fs::write(folder.path().join("src/a"), "aaaa").unwrap();
    fs::write(folder.path().join("src/b"), "bb").unwrap();
    fs::write(folder.path().join("other"), "o").unwrap();
    (folder, state)
}

#[test]
fn only_what_is_asked_for_is_read() {
    let (folder, state) = folders();
    let (hashed, tree) = build(folder.path(), state.path(), &["src"], LATER).unwrap();
    assert_eq!((hashed.files_read, hashed.bytes_read), (2, 6));
    let get = |path: &str| tree.get(&TreePath::clean(path.as_bytes()).unwrap());
    assert!(get("other").is_none());
    let Kind::File(body) = &get("src/a").unwrap().kind else { panic!("a file") };
    assert_eq!(body.content.0, Digest::of(b"aaaa"));
    let path = TreePath::clean(b"src/a").unwrap();
    assert_eq!(body.origin, Origin::Context { context: 3, path });
}

#[test]
fn unchanged_files_are_remembered_and_changed_ones_are_not() {
    let (folder, state) = folders();
    let run = |sources: &[&str]| build(folder.path(), state.path(), sources, LATER).unwrap().0;
    let first = run(&["src"]);
    let second = run(&["src"]);
    assert_eq!((second.files_read, second.files_known), (0, 2));
    assert_eq!(first.selections, second.selections);
    // The same size, other bytes, and the old mtime put back: the ctime tells.
    let path = folder.path().join("src/a");
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "AAAA").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
    let third = run(&["src", "other"]);
    assert_eq!((third.files_read, third.files_known), (2, 1));
    assert_ne!(second.selections.first(), third.selections.first());
    // What one build did not ask for is still known to the next.
    run(&["other"]);
    assert_eq!(run(&["src"]).files_known, 2);
}

#[test]
fn a_file_that_has_just_changed_is_read_again() {
    let (folder, state) = folders();
    let written = fs::metadata(folder.path().join("src/a")).unwrap().modified().unwrap();
    let since = written.duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = UnixTime { secs: i64::try_from(since.as_secs()).unwrap() + 1, nanos: 0 };
    for _ in 0..2 {
        let (hashed, _) = build(folder.path(), state.path(), &["src"], now).unwrap();
        assert_eq!(hashed.files_known, 0);
    }
}

/// Editors and compilers make files that are gone a moment later.
#[test]
fn a_file_that_is_gone_since_the_folder_was_listed_was_never_there() {
    let (folder, state) = folders();
    let at = |path: &str| folder.path().join(path);
    let context = Context::open(folder.path(), 0).unwrap();
    let mut cache = StatCache::load(state.path(), &context);
    let want = {
        let mut listing = context.scan(&Ignore::default(), &cache, LATER).unwrap();
        hash(&context, &mut listing, &[copy("src")], &mut cache).unwrap()
    };
    let written = fs::metadata(at("src")).unwrap().modified().unwrap();
    fs::write(at("src/.a.swp"), "x").unwrap();
    let set_back = || fs::File::open(at("src")).unwrap().set_modified(written).unwrap();
    set_back();
    let mut listing = context.scan(&Ignore::default(), &cache, LATER).unwrap();
    fs::remove_file(at("src/.a.swp")).unwrap();
    set_back();
    let found = hash(&context, &mut listing, &[copy("src")], &mut cache).unwrap();
    assert_eq!(found.selections, want.selections);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let (folder, state) = folders();
    // A listing knows a file that has since become a link: as good as one without permission, which root always has.
    let context = Context::open(folder.path(), 0).unwrap();
    let mut cache = StatCache::load(state.path(), &context);
    let mut listing = context.scan(&Ignore::default(), &cache, LATER).unwrap();
    fs::remove_file(folder.path().join("src/a")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("src/a")).unwrap();
    let error = hash(&context, &mut listing, &[copy("src")], &mut cache).unwrap_err();
    assert_eq!(error.to_string(), "could not read '/src/a' of the context");
    assert!(error.hint().is_some());
    let error = build(folder.path(), state.path(), &["none"], LATER).unwrap_err();
    assert_eq!(error.to_string(), "could not select none from the context");
}

#[test]
fn capabilities_of_programs_go_along_and_nothing_else() {
    const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (folder, state) = folders();
    let path = folder.path().join("src/b");
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(&path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
    };
    // Not everybody may set one, and not every file system has any.
    let mut kept = vec![];
    if set("security.capability", CAPABILITY) {
        kept.push((&b"security.capability"[..], CAPABILITY));
    }
    set("user.xdg.origin.url", b"https://name:password@example.com/b");
    for _ in 0..2 {
        let (_, tree) = build(folder.path(), state.path(), &["src"], LATER).unwrap();
        let entry = tree.get(&TreePath::clean(b"src/b").unwrap()).unwrap();
        assert_eq!(entry.meta.xattrs.iter().collect::<Vec<_>>(), kept);
    }
}

/// As one who may not read everything, whoever runs the tests; the thread stays so.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let nobody = || {
            let id = rustix::process::Uid::from_raw(65_534);
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_res_uid(id, id, id).unwrap();
            }
            work()
        };
        scope.spawn(nobody).join().unwrap()
    })
}

#[test]
fn a_folder_that_may_not_be_read_stops_only_what_needs_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, state) = folders();
    let at = |path: &str| folder.path().join(path);
    for closed in ["data", "src/listed"] {
        fs::create_dir(at(closed)).unwrap();
        fs::write(at(closed).join("f"), "f").unwrap();
    }
    let set = |path: &str, mode| fs::set_permissions(at(path), fs::Permissions::from_mode(mode));
    // One that cannot be listed, and one whose entries cannot be looked at.
    // The notes of what was hashed are the user's own.
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o777)).unwrap();
    for (path, mode) in [("", 0o755), ("data", 0o700), ("src/listed", 0o744)] {
        set(path, mode).unwrap();
    }
    if !rustix::process::geteuid().is_root() {
        set("data", 0o000).unwrap();
        set("src/listed", 0o444).unwrap();
    }
    for (source, refused) in [
        ("src/a", None),
        ("other", None),
        ("src", Some("/src/listed")),
        ("data", Some("/data")),
        (".", Some("/data")),
        ("d*", Some("/data")),
    ] {
        let built = as_nobody(|| build(folder.path(), state.path(), &[source], LATER));
        match (built, refused) {
            (Ok(_), None) => {}
            (Err(error), Some(path)) => {
                assert_eq!(error.to_string(), format!("could not read '{path}' of the context"));
                assert!(error.hint().unwrap().contains(".dockerignore"));
            }
            (built, _) => panic!("{source}: {built:?}"),
        }
    }
    set("data", 0o755).unwrap();
    set("src/listed", 0o755).unwrap();
}

//! Snapshots on a real file system, below a real overlay; these tests want to be root.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use dcbuild_layer::{BlobForm, InlineContents, LayerForm, NoSink, Ratio, read_layer, write_blob};
use dcbuild_model::{AttemptId, Compression, ContentDigest, Digest, LayerId, TreePath, UnixTime};
use dcbuild_snapshot::{
    CommitForm, MaterialiseError, Removal, SnapshotContents, Snapshots, UnpackError,
};
use dcbuild_tree::{
    Change, Changes, Entry, FileBody, Kind, LinkGroup, Meta, Origin, Tree, Xattrs, toc,
};

const FORM: LayerForm = LayerForm { compression: None, ratio: Ratio::Limited };

fn path(text: &str) -> TreePath {
    TreePath::clean(text.as_bytes()).unwrap()
}

fn entry(mode: u32, kind: Kind) -> Entry {
    let mtime = UnixTime { secs: 1_700_000_000, nanos: 123_456_789 };
    Entry { meta: Meta { mode, mtime, ..Meta::default() }, kind, links: None }
}

fn file(bytes: &[u8]) -> Kind {
    Kind::File(FileBody {
        content: ContentDigest(Digest::of(bytes)),
        size: u64::try_from(bytes.len()).unwrap(),
        origin: Origin::Inline(bytes.into()),
    })
}

fn sample() -> Changes {
    let mut changes = Changes::default();
    let mut put = |name: &str, entry| changes.0.insert(path(name), Change::Put(entry));
    put("", entry(0o755, Kind::Dir));
    put("a", entry(0o700, Kind::Dir));
    put("a/file", entry(0o640, file(b"content")));
    let mut ping = entry(0o4755, file(b"ping"));
    (ping.meta.uid, ping.meta.gid) = (7, 8);
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let xattrs =
        [(b"security.capability".to_vec(), capability), (b"user.x".to_vec(), b"y".to_vec())];
    ping.meta.xattrs = Xattrs::new(BTreeMap::from(xattrs));
    put("a/ping", ping);
    put("link", entry(0o777, Kind::Symlink(b"/etc/passwd".to_vec())));
    put("pipe", entry(0o600, Kind::Fifo));
    put("null", entry(0o666, Kind::CharDevice { major: 1, minor: 3 }));
    for name in ["one", "two"] {
        put(name, Entry { links: Some(LinkGroup(1)), ..entry(0o644, file(b"tied")) });
    }
    for number in 0..600 {
        put(&format!("many-{number}"), entry(0o644, file(number.to_string().as_bytes())));
    }
    changes.0.insert(path("gone"), Change::Remove);
    changes.0.insert(path("new"), Change::Replace(entry(0o755, Kind::Dir)));
    changes
}

fn layer_of(changes: &Changes) -> LayerId {
    toc::layer_id(&toc::encode(changes))
}

fn open() -> (tempfile::TempDir, Snapshots) {
    assert!(rustix::process::geteuid().is_root(), "these tests want to be root");
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    (dir, snapshots)
}

fn attempt(number: u128) -> AttemptId {
    AttemptId::from_bits(number)
}

fn blob(changes: &Changes, contents: &dyn dcbuild_layer::ReadContent) -> Vec<u8> {
    let mut blob = Vec::new();
    let form = BlobForm { compression: Compression::Zstd, level: None, threads: 2 };
    write_blob(changes, contents, &form, &mut blob).unwrap();
    blob
}

fn is_sample(fs: &Path) {
    let stat = |name: &str| fs.join(name).symlink_metadata().unwrap();
    let whiteout = stat("gone");
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(stat("one").ino(), stat("two").ino());
    assert_eq!((stat("a/ping").uid(), stat("a/ping").gid()), (7, 8));
    assert_eq!(stat("a/ping").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(stat("a/file").permissions().mode() & 0o7777, 0o640);
    for name in ["", "a", "link", "pipe", "a/file", "new"] {
        assert_eq!(
            (stat(name).mtime(), stat(name).mtime_nsec()),
            (1_700_000_000, 123_456_789),
            "{name}"
        );
    }
    let xattr = |name: &str, key: &str| {
        let mut value = Vec::with_capacity(100);
        let room = rustix::buffer::spare_capacity(&mut value);
        rustix::fs::getxattr(fs.join(name), key, room).unwrap();
        value
    };
    assert_eq!(xattr("new", "trusted.overlay.opaque"), b"y");
    assert_eq!(xattr("a/ping", "security.capability").len(), 20);
}

#[test]
fn a_layer_becomes_a_folder_and_a_blob_again() {
    let (dir, snapshots) = open();
    let layer = layer_of(&sample());
    let made = snapshots.materialise(&layer, &sample(), &InlineContents).unwrap();
    is_sample(made.path());
    let stored = toc::decode(&toc::encode(&sample())).unwrap();
    let contents = SnapshotContents::new([made.clone()]);
    let bytes = blob(&stored, &contents);
    assert_eq!(bytes, blob(&sample(), &InlineContents));
    drop((contents, made));
    assert_eq!(snapshots.remove(&layer).unwrap(), Removal::Removed);
    let (unpacked, read) = snapshots.unpack(&*bytes, FORM, |read| read.layer == layer).unwrap();
    is_sample(unpacked.path());
    assert_eq!(read.changes, sample());
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join(layer.0.hex())).unwrap().count(), 2);
}

/// One who may not make files of others; the thread stays so.
fn as_nobody(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let nobody = || {
            let id = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(id, id, id).unwrap();
            work();
        };
        scope.spawn(nobody).join().unwrap();
    });
}

#[test]
fn an_ordinary_user_has_the_contents_of_files_in_a_folder_of_their_own() {
    assert!(rustix::process::geteuid().is_root(), "these tests want to be root");
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
    let (whole, layer) = (dir.path().join("snapshots"), layer_of(&sample()));
    as_nobody(|| {
        let snapshots = Snapshots::open(&whole).unwrap();
        let stored = toc::decode(&toc::encode(&sample())).unwrap();
        let check = |made| {
            let contents = SnapshotContents::new([made]);
            assert_eq!(blob(&stored, &contents), blob(&sample(), &InlineContents));
        };
        check(snapshots.materialise(&layer, &sample(), &InlineContents).unwrap());
        assert_eq!(snapshots.remove(&layer).unwrap(), Removal::Removed);
        let bytes = blob(&sample(), &InlineContents);
        check(snapshots.unpack(&*bytes, FORM, |read| read.layer == layer).unwrap().0);
    });
    // Nobody who runs a step takes them for whole.
    assert!(!whole.exists());
    let snapshots = Snapshots::open(&whole).unwrap();
    assert!(snapshots.find(&layer).unwrap().is_none());
}

#[test]
fn a_blob_that_is_another_leaves_nothing() {
    let (dir, snapshots) = open();
    let bytes = blob(&sample(), &InlineContents);
    let refused = snapshots.unpack(&*bytes, FORM, |_| false);
    assert!(matches!(refused, Err(UnpackError::Refused)));
    let cut = snapshots.unpack(&bytes[..bytes.len() / 2], FORM, |_| true);
    assert!(matches!(cut, Err(UnpackError::Read(_))));
    let mut wrong = sample();
    let Kind::File(body) = file(b"other") else { unreachable!() };
    let body = FileBody { origin: Origin::Inline((*b"bytes").into()), ..body };
    wrong.0.insert(path("a/x"), Change::Put(entry(0o644, Kind::File(body))));
    let changed = snapshots.materialise(&layer_of(&wrong), &wrong, &InlineContents);
    assert!(
        matches!(changed, Err(MaterialiseError::ContentChanged { path: at }) if at == path("a/x"))
    );
    assert_eq!(snapshots.usage().unwrap(), []);
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn links_in_a_layer_lead_nowhere() {
    let (_dir, snapshots) = open();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().as_os_str().as_encoded_bytes().to_vec();
    let mut changes = Changes::default();
    changes.0.insert(path("d"), Change::Put(entry(0o777, Kind::Symlink(target))));
    changes.0.insert(path("d/canary"), Change::Put(entry(0o644, file(b"x"))));
    let result = snapshots.materialise(&layer_of(&changes), &changes, &InlineContents);
    assert!(result.is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);

    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let made = snapshots.materialise(&layer_of(&sample()), &sample(), &InlineContents).unwrap();
    symlink(outside.path(), made.path().join("out")).unwrap();
    let contents = SnapshotContents::new([made.clone()]);
    for name in ["out/secret", "link", "pipe", "null", "a"] {
        let origin = Origin::Layer { layer: made.layer(), path: path(name) };
        let body = FileBody { content: ContentDigest(Digest::of(b"")), size: 0, origin };
        assert!(dcbuild_layer::ReadContent::open(&contents, &body).is_err(), "{name}");
    }
}

#[test]
fn what_is_in_use_stays() {
    let (dir, snapshots) = open();
    let layer = layer_of(&sample());
    let held = snapshots.materialise(&layer, &sample(), &InlineContents).unwrap();
    let other = Snapshots::open(dir.path()).unwrap();
    assert_eq!(other.remove(&layer).unwrap(), Removal::InUse);
    let upper = snapshots.begin(attempt(1), &Meta { mode: 0o755, ..Meta::default() }).unwrap();
    other.sweep(&BTreeSet::new()).unwrap();
    assert!(upper.upper().is_dir() && upper.work().is_dir());
    drop((held, upper));
    other.sweep(&BTreeSet::from([attempt(1)])).unwrap();
    assert!(dir.path().join("tmp").join(attempt(1).to_string()).is_dir());
    other.sweep(&BTreeSet::new()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    let usage = other.usage().unwrap();
    assert!(usage.len() == 1 && usage[0].layer == layer && usage[0].bytes > 600 * 512);
    assert_eq!(other.remove(&layer).unwrap(), Removal::Removed);
    assert_eq!(other.remove(&layer).unwrap(), Removal::Absent);
    assert!(snapshots.lowers(&[layer]).is_err());
}

#[test]
fn another_boot_keeps_what_was_synced() {
    let (dir, snapshots) = open();
    let layer = layer_of(&sample());
    drop(snapshots.materialise(&layer, &sample(), &InlineContents).unwrap());
    let mark = dir.path().join(layer.0.hex()).join("ok");
    assert!(std::fs::read_to_string(&mark).unwrap().starts_with("boot "));
    let bytes = snapshots.usage().unwrap()[0].bytes;
    snapshots.mark_synced([&layer, &layer_of(&Changes::default())]).unwrap();
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), format!("synced {bytes}\n"));
    let boot = dir.path().join("boot");
    std::fs::write(&boot, "another").unwrap();
    assert!(Snapshots::open(dir.path()).unwrap().find(&layer).unwrap().is_some());
    for text in ["boot another 4096\n", ""] {
        drop(snapshots.materialise(&layer, &sample(), &InlineContents).unwrap());
        std::fs::write(&mark, text).unwrap();
        std::fs::write(&boot, "another").unwrap();
        let reopened = Snapshots::open(dir.path()).unwrap();
        assert!(reopened.find(&layer).unwrap().is_none(), "{text:?}");
    }
}

#[test]
fn the_size_beside_a_snapshot_is_what_its_folder_takes() {
    let (dir, snapshots) = open();
    let layer = layer_of(&sample());
    drop(snapshots.materialise(&layer, &sample(), &InlineContents).unwrap());
    let measured = std::process::Command::new("du")
        .args(["--block-size=1", "--summarize"])
        .arg(dir.path().join(layer.0.hex()).join("fs"))
        .output()
        .unwrap();
    let measured = String::from_utf8(measured.stdout).unwrap();
    let measured: u64 = measured.split_whitespace().next().unwrap().parse().unwrap();
    let told = snapshots.usage().unwrap()[0].bytes;
    // A folder of many names takes more than its one block.
    assert!(told <= measured && told * 10 > measured * 9, "{told} told, {measured} measured");
}

#[test]
fn several_at_once_make_one() {
    let (dir, snapshots) = open();
    let layer = layer_of(&sample());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| snapshots.materialise(&layer, &sample(), &InlineContents).unwrap());
        }
    });
    is_sample(snapshots.find(&layer).unwrap().unwrap().path());
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_deep_folder_is_removed() {
    let (dir, snapshots) = open();
    let upper = snapshots.begin(attempt(2), &Meta { mode: 0o755, ..Meta::default() }).unwrap();
    let mut deep = upper.upper();
    for _ in 0..1500 {
        deep.push("d");
    }
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(upper.upper().join(".dcbuild-0"), "in the way").unwrap();
    snapshots.abandon(upper).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

/// Mounts an overlay in a mount namespace of one thread and works in it.
fn in_overlay(lower: &Path, upper: &dcbuild_snapshot::Upper, work: impl FnOnce(&Path) + Send) {
    let merged = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                lower.display(),
                upper.upper().display(),
                upper.work().display()
            );
            let options = CString::new(options).unwrap();
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(
                Some("overlay"),
                merged.path(),
                Some("overlay"),
                flags,
                Some(&*options),
            )
            .unwrap();
            work(merged.path());
            nix::mount::umount(merged.path()).unwrap();
        });
    });
}

#[test]
fn a_run_becomes_the_layer_that_it_is() {
    let (_dir, snapshots) = open();
    let base = sample();
    let lower = snapshots.materialise(&layer_of(&base), &base, &InlineContents).unwrap();
    let entries = base.0.iter().filter_map(|(path, change)| match change {
        Change::Put(entry) | Change::Replace(entry) if !path.is_root() => {
            Some((path.clone(), entry.clone()))
        }
        _ => None,
    });
    let root = entry(0o755, Kind::Dir);
    let tree = Tree::from_entries(entries);
    let tree = tree.unwrap();
    let upper = snapshots.begin(attempt(3), &root.meta).unwrap();
    in_overlay(lower.path(), &upper, |merged| {
        let at = |name: &str| merged.join(name);
        std::fs::create_dir(at("stub")).unwrap();
        std::fs::set_permissions(at("many-1"), PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::set_permissions(at("many-1"), PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::remove_file(at("many-2")).unwrap();
        std::fs::write(at("many-3"), "changed").unwrap();
        std::fs::remove_dir_all(at("a")).unwrap();
        std::fs::create_dir(at("a")).unwrap();
        std::fs::write(at("a/fresh"), "fresh").unwrap();
        std::fs::hard_link(at("a/fresh"), at("tied-now")).unwrap();
        std::fs::create_dir(at("brand-new")).unwrap();
        // The next RUN finds a socket where this one left it, though no tar has a form for it.
        std::fs::remove_file(at("many-4")).unwrap();
        drop(UnixListener::bind(at("many-4")).unwrap());
        drop(UnixListener::bind(at("brand-new/socket")).unwrap());
    });
    let form = CommitForm {
        lower: &|path| if path.is_root() { Some(root.clone()) } else { tree.get(path).cloned() },
        stubs: &[path("stub")],
        threads: 2,
    };
    let made = snapshots.commit(upper, &form).unwrap();
    let shown: Vec<String> = made
        .changes
        .0
        .iter()
        .map(|(path, change)| match change {
            Change::Remove => format!("- {path}"),
            Change::Replace(_) => format!("= {path}"),
            Change::Put(entry) if entry.links.is_some() => format!("+ {path} tied"),
            Change::Put(_) => format!("+ {path}"),
        })
        .collect();
    // `/` itself has another time now, which is not of the layer.
    let want = [
        "= /a",
        "+ /a/fresh tied",
        "+ /brand-new",
        "+ /brand-new/socket",
        "- /many-2",
        "+ /many-3",
        "+ /many-4",
        "+ /tied-now tied",
    ];
    assert_eq!(shown, want);
    assert!(!made.snapshot.path().join("many-1").exists());
    let bytes = blob(&made.changes, &SnapshotContents::new([made.snapshot]));
    let mut read = read_layer(&*bytes, FORM, &mut NoSink).unwrap();
    assert_ne!(read.layer, made.layer, "its tar has the sockets");
    assert!(read.is_with_sockets(made.layer, &made.changes));
    assert_eq!(read.layer, made.layer);
}

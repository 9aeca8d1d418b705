use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use tar::{Builder, Header};

use super::*;

struct Made(Builder<Vec<u8>>);

impl Made {
    fn new() -> Made {
        Made(Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, name: &str, content: &str) -> Made {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o750 } else { 0o4640 });
        header.set_mtime(1_234_567);
        // Set by hand: the crate refuses names that an attacker would not.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let data = if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            ""
        } else {
            content
        };
        header.set_size(u64::try_from(data.len()).unwrap());
        header.set_cksum();
        self.0.append(&header, data.as_bytes()).unwrap();
        self
    }

    fn unpack(self, folder: &Path) -> Result<LeftOut, UnpackError> {
        let bytes = self.0.into_inner().unwrap();
        unpack(bytes.as_slice(), folder)
    }
}

#[test]
fn entries_arrive_with_mode_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/out");
    Made::new()
        .add(EntryType::Directory, "a/", "")
        .add(EntryType::Regular, "a/file", "hello")
        .add(EntryType::Regular, "b/c/deep", "no parents")
        .add(EntryType::Symlink, "link", "a/file")
        .add(EntryType::Link, "again", "a/file")
        .add(EntryType::Fifo, "fifo", "")
        .unpack(&out)
        .unwrap();
    let meta = |name: &str| std::fs::symlink_metadata(out.join(name)).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("a/file")).unwrap(), "hello");
    assert_eq!(meta("a/file").permissions().mode() & 0o7777, 0o4640);
    assert_eq!(
        (meta("a/file").mtime(), meta("a").mtime(), meta("link").mtime()),
        (1_234_567, 1_234_567, 1_234_567)
    );
    assert_eq!(meta("a").permissions().mode() & 0o7777, 0o750);
    assert_eq!(std::fs::read_link(out.join("link")).unwrap(), Path::new("a/file"));
    assert_eq!(meta("again").ino(), meta("a/file").ino());
    assert_eq!(std::fs::read_to_string(out.join("b/c/deep")).unwrap(), "no parents");
}

#[test]
fn what_stands_in_the_way_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join("kept"), "mine").unwrap();
    std::fs::write(out.join("file"), "old").unwrap();
    let made =
        || Made::new().add(EntryType::Regular, "file", "new").add(EntryType::Directory, "dir/", "");
    made().unpack(&out).unwrap();
    made().unpack(&out).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("file")).unwrap(), "new");
    assert_eq!(std::fs::read_to_string(out.join("kept")).unwrap(), "mine");
}

#[test]
fn a_folder_gives_way_with_all_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let (out, beside) = (folder.path().join("out"), folder.path().join("beside"));
    std::fs::create_dir_all(out.join("app/sub")).unwrap();
    std::fs::create_dir_all(out.join("link/sub")).unwrap();
    std::fs::create_dir(&beside).unwrap();
    std::fs::write(beside.join("kept"), "mine").unwrap();
    for name in ["app/sub/old", "link/sub/old"] {
        std::fs::write(out.join(name), "old").unwrap();
    }
    symlink("../../beside", out.join("app/out")).unwrap();
    Made::new()
        .add(EntryType::Regular, "app", "new")
        .add(EntryType::Symlink, "link", "app")
        .unpack(&out)
        .unwrap();
    assert_eq!(std::fs::read_to_string(out.join("link")).unwrap(), "new");
    assert_eq!(std::fs::read_to_string(beside.join("kept")).unwrap(), "mine");
}

/// `make -j` and matrices of CI write two builds into one folder, and others read it meanwhile.
#[test]
fn two_write_into_one_folder_at_once_and_no_name_is_missing_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let made = || {
        (0..200).fold(Made::new(), |made, number| {
            made.add(EntryType::Regular, &format!("d{}/e/f{number}", number % 20), "text").add(
                EntryType::Symlink,
                &format!("d{}/l{number}", number % 20),
                "e",
            )
        })
    };
    made().unpack(&out).unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| (0..5).try_for_each(|_| made().unpack(&out).map(drop))))
            .collect();
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            assert_eq!(std::fs::read_to_string(out.join("d7/l7/f7")).unwrap(), "text");
        }
        for writer in writers {
            writer.join().unwrap().unwrap();
        }
    });
    let names = std::fs::read_dir(out.join("d7/e")).unwrap().count();
    assert_eq!(names, 10, "nothing else is left");
}

#[test]
fn nothing_leads_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (out, secret) = (folder.path().join("out"), folder.path().join("secret"));
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(&secret, "untouched").unwrap();
    // A link that stands there already, one that comes along, names that climb, and a hard link to what lies outside.
    symlink("..", out.join("there")).unwrap();
    Made::new()
        .add(EntryType::Regular, "there/secret", "first")
        .add(EntryType::Symlink, "up", "..")
        .add(EntryType::Regular, "up/secret", "second")
        .add(EntryType::Regular, "../secret", "third")
        .add(EntryType::Symlink, "name", "../secret")
        .add(EntryType::Regular, "name", "fourth")
        .unpack(&out)
        .unwrap();
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "untouched");
    assert_eq!(std::fs::read_to_string(out.join("there/secret")).unwrap(), "first");
    assert_eq!(std::fs::read_to_string(out.join("up/secret")).unwrap(), "second");
    assert_eq!(std::fs::read_to_string(out.join("secret")).unwrap(), "third");
    symlink("../secret", out.join("bait")).unwrap();
    Made::new().add(EntryType::Link, "hard", "up/../../secret").unpack(&out).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("hard")).unwrap(), "third", "the one inside");
    let missing = Made::new().add(EntryType::Link, "hard", "/etc/hostname").unpack(&out);
    assert!(matches!(missing, Err(UnpackError::Entry { .. })), "{missing:?}");
}

#[test]
fn times_have_fractions() {
    for (text, want) in [
        ("5", Some((5, 0))),
        ("5.25", Some((5, 250_000_000))),
        ("-1.5", Some((-2, 500_000_000))),
        ("x", None),
    ] {
        assert_eq!(pax_time(text), want, "{text}");
    }
}

#[test]
fn what_is_left_out_is_counted_and_named() {
    let mut left = LeftOut::default();
    assert_eq!(left.warning(Path::new("out")), None);
    left.add(TreePath::clean(b"n").unwrap());
    let said = left.warning(Path::new("out")).unwrap();
    assert!(said.starts_with("1 device node is not in 'out', "), "{said}");
    for name in 0..9 {
        left.add(TreePath::clean(format!("dev/{name}").as_bytes()).unwrap());
    }
    let said = left.warning(Path::new("out")).unwrap();
    assert!(said.contains("10 device nodes are"), "{said}");
    assert!(said.contains(": /n, /dev/0, /dev/1, /dev/2, /dev/3, ...;"), "{said}");
}

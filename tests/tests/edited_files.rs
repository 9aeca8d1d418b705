//! Files that are edited where they lie, again and again: what was remembered of them never stands for what they are. Each
//! edit is one that a person or a tool makes, and each build is compared with one that remembers nothing.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::merged::Node;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::story::fill;
use dcbuild_tests::wait::LONG;
use filetime::FileTime;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

/// What is read of the context: all, one folder, files by a pattern, and what a RUN sees.
const DOCKERFILE: &str = "FROM busybox:golden AS all
COPY . /all/
FROM busybox:golden AS some
COPY src /src/
COPY *.txt /texts/
RUN --mount=target=/m cd /m && find . | sort | while read f; do stat -c '%n %f' $f; cat $f 2>/dev/null; done > /seen
FROM scratch
COPY --from=all /all /all
COPY --from=some /src /src
COPY --from=some /texts /texts
COPY --from=some /seen /seen
";

/// An edit of one of the files that are there; the number is taken among them.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// Other bytes, as many as before.
    SameSize(usize),
    /// The same, and the file's time is put back.
    SameSizeAndTime(usize),
    /// More bytes.
    Append(usize),
    /// A new file takes the place of the old one, as editors do it.
    Replace(usize),
    /// Another mode.
    Mode(usize),
    /// Another time, which no build sees.
    Touch(usize),
    /// Gone.
    Remove(usize),
    /// Under another name.
    Rename(usize),
    /// A link stands where a file was.
    Link(usize),
    /// A folder stands where a file was.
    Folder(usize),
    /// A new file, in the root or in a folder.
    New(bool),
    /// A line of `.dockerignore`.
    Ignore(usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = any::<usize>;
    let edit = prop_oneof![
        at().prop_map(Edit::SameSize),
        at().prop_map(Edit::SameSizeAndTime),
        at().prop_map(Edit::Append),
        at().prop_map(Edit::Replace),
        at().prop_map(Edit::Mode),
        at().prop_map(Edit::Touch),
        at().prop_map(Edit::Remove),
        at().prop_map(Edit::Rename),
        at().prop_map(Edit::Link),
        at().prop_map(Edit::Folder),
        any::<bool>().prop_map(Edit::New),
        at().prop_map(Edit::Ignore),
    ];
    prop::collection::vec(edit, 6..10)
}

/// The folder that is built.
struct Folder {
    root: PathBuf,
    count: u32,
}

impl Folder {
    fn new(root: PathBuf) -> Folder {
        fs::create_dir_all(root.join("src/deep")).unwrap();
        for name in
            ["a.txt", "b.txt", "keep.txt", "src/c.txt", "src/d.sh", "src/deep/e.txt", "src/keep"]
        {
            fs::write(root.join(name), format!("this is {name}\n")).unwrap();
        }
        fs::write(root.join("Dockerfile"), DOCKERFILE).unwrap();
        fs::write(root.join(".dockerignore"), "never\n").unwrap();
        Folder { root, count: 0 }
    }

    /// The files that an edit may take: what the Dockerfile cannot do without stays.
    fn files(&self) -> Vec<PathBuf> {
        fn below(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap() {
                    kind if kind.is_dir() => below(&entry.path(), found),
                    kind if kind.is_file() => found.push(entry.path()),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        below(&self.root, &mut found);
        found.retain(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            !name.starts_with("keep") && name != "Dockerfile" && name != ".dockerignore"
        });
        found.sort();
        found
    }

    fn edit(&mut self, edit: Edit) {
        self.count += 1;
        let count = self.count;
        let files = self.files();
        let pick = |number: usize| (!files.is_empty()).then(|| files[number % files.len()].clone());
        match edit {
            Edit::New(in_root) => {
                let name =
                    if in_root { format!("new{count}.txt") } else { format!("src/new{count}") };
                fs::write(self.root.join(name), format!("new {count}\n")).unwrap();
            }
            Edit::SameSize(number)
            | Edit::SameSizeAndTime(number)
            | Edit::Append(number)
            | Edit::Replace(number)
            | Edit::Mode(number)
            | Edit::Touch(number)
            | Edit::Remove(number)
            | Edit::Rename(number)
            | Edit::Link(number)
            | Edit::Folder(number)
            | Edit::Ignore(number) => {
                if let Some(path) = pick(number) {
                    self.edit_file(edit, &path);
                }
            }
        }
    }

    fn edit_file(&self, edit: Edit, path: &Path) {
        let count = self.count;
        let before = fs::metadata(path).unwrap();
        let other = || -> Vec<u8> {
            fs::read(path).unwrap().into_iter().map(|byte| byte.rotate_left(1) ^ 0x15).collect()
        };
        match edit {
            Edit::SameSize(_) => fs::write(path, other()).unwrap(),
            Edit::SameSizeAndTime(_) => {
                fs::write(path, other()).unwrap();
                filetime::set_file_mtime(path, FileTime::from_last_modification_time(&before))
                    .unwrap();
            }
            Edit::Append(_) => {
                let longer = [fs::read(path).unwrap(), b"more\n".to_vec()].concat();
                fs::write(path, longer).unwrap();
            }
            Edit::Replace(_) => {
                let beside = self.root.join("src/.swap");
                fs::write(&beside, other()).unwrap();
                filetime::set_file_mtime(&beside, FileTime::from_last_modification_time(&before))
                    .unwrap();
                fs::rename(&beside, path).unwrap();
            }
            Edit::Mode(_) => {
                let mode = before.permissions().mode() ^ 0o111;
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
            Edit::Touch(_) => {
                filetime::set_file_mtime(
                    path,
                    FileTime::from_unix_time(1_000_000 + i64::from(count), 0),
                )
                .unwrap();
            }
            Edit::Remove(_) => fs::remove_file(path).unwrap(),
            Edit::Rename(_) => {
                fs::rename(path, path.with_file_name(format!("moved{count}.txt"))).unwrap();
            }
            Edit::Link(_) => {
                fs::remove_file(path).unwrap();
                let root =
                    "../".repeat(path.strip_prefix(&self.root).unwrap().components().count() - 1);
                symlink(format!("{root}keep.txt"), path).unwrap();
            }
            Edit::Folder(_) => {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
                fs::write(path.join("inner.txt"), format!("{count}\n")).unwrap();
            }
            Edit::Ignore(_) => {
                let name = path.strip_prefix(&self.root).unwrap().to_str().unwrap();
                let ignore = self.root.join(".dockerignore");
                let longer = format!("{}{name}\n", fs::read_to_string(&ignore).unwrap());
                fs::write(ignore, longer).unwrap();
            }
            Edit::New(_) => {}
        }
    }
}

fn built(home: &Home, context: &Path, flags: &[&str]) -> BTreeMap<String, String> {
    let output = format!("type=oci,dest={}", home.arg("image.tar"));
    let fixed = ["build", "--output", &output, context.to_str().unwrap()];
    home.start(fixed.iter().chain(flags)).finish(LONG).well();
    let timeless = |node: &Node| format!("{:?}", Node { mtime: 0, ..node.clone() });
    let image = Image::read_tar(&home.path("image.tar"));
    image.tree().walk().map(|(path, node)| (path, timeless(node))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3, max_shrink_iters: 8, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn what_was_remembered_of_a_file_never_stands_for_it(edits in edits()) {
        let registry = Registry::start();
        fill(&registry);
        let kept = Home::new(&registry.as_docker_io());
        let mut folder = Folder::new(kept.path("context"));
        built(&kept, &folder.root, &[]);
        for (at, edit) in edits.iter().enumerate() {
            folder.edit(*edit);
            let cached = built(&kept, &folder.root, &[]);
            // A state folder of its own: nothing is remembered there.
            let bare = Home::new(&registry.as_docker_io());
            let anew = built(&bare, &folder.root, &[]);
            let mut names = cached.keys().chain(anew.keys());
            if let Some(name) = names.find(|name| cached.get(*name) != anew.get(*name)) {
                let (cached, anew) = (cached.get(name), anew.get(name));
                let message = format!("{name} after {:?}: {cached:?}, anew {anew:?}", &edits[..=at]);
                return Err(TestCaseError::fail(message));
            }
        }
    }
}

use proptest::prelude::*;

use super::*;
use crate::testing::{any_tree, dir, file, grouped, link, path, tree};
use crate::{Change, Member};

const NOW: UnixTime = UnixTime { secs: 1_900_000_000, nanos: 5 };

fn request<'a>(
    tree: &'a Tree,
    paths: &'a [String],
    archives: &'a BTreeMap<TreePath, Archive>,
    dest: &str,
) -> CopyRequest<'a> {
    CopyRequest {
        sources: vec![CopySource::Tree { tree, paths, owners: SourceOwners::Keep, archives }],
        dest: dest.to_owned(),
        owner: None,
        mode: None,
        exclude: Vec::new(),
        parents: false,
        link: false,
    }
}

#[test]
fn a_layer_names_the_folders_above_and_nothing_beside() {
    let dest = tree(&[("etc", dir()), ("etc/f", file("f")), ("var", dir())]);
    let source = tree(&[("a", file("a"))]);
    let (paths, archives) = (["a".to_owned()], BTreeMap::new());
    let changes = copy(&dest, &request(&source, &paths, &archives, "/etc/new/"), NOW).unwrap();
    let names: Vec<String> = changes.0.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["/etc", "/etc/new", "/etc/new/a"]);
    let Some(Change::Put(made)) = changes.0.get(&path("etc/new")) else { panic!("made") };
    assert_eq!(made.meta.mtime, NOW);
}

#[test]
fn hard_links_survive_within_one_source_only() {
    let source =
        tree(&[("d", dir()), ("d/a", grouped(file("x"), 1)), ("d/b", grouped(file("x"), 1))]);
    let links = |paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let archives = BTreeMap::new();
        let request = request(&source, &paths, &archives, "/o/");
        let changes = copy(&Tree::scratch(), &request, NOW).unwrap();
        let mut groups = changes.0.into_values().filter_map(|change| match change {
            Change::Put(entry) if !entry.is_dir() => Some(entry.links),
            _ => None,
        });
        (groups.next().flatten(), groups.next().flatten())
    };
    let (a, b) = links(&["d"]);
    assert!(a.is_some() && a == b);
    assert_eq!(links(&["d/a", "d/b"]), (None, None));
}

#[test]
fn archives_are_laid_at_the_destination() {
    let source = tree(&[("t.tar", file("tar"))]);
    let dest = tree(&[("o", dir()), ("o/k", file("k")), ("o/old", file("o"))]);
    let archive = Archive(vec![
        (path(""), Member::Put(Entry { meta: Meta { mode: 0o700, ..Meta::default() }, ..dir() })),
        (path(".wh.k"), Member::Put(file(""))),
        (path("in"), Member::Put(dir())),
        (path("in/f"), Member::Put(file("f"))),
    ]);
    let archives = BTreeMap::from([(path("t.tar"), archive)]);
    let paths = ["t.tar".to_owned()];
    let mut request = request(&source, &paths, &archives, "/o");
    request.owner = Some((7, 8));
    request.mode = Some(Chmod::parse("600").unwrap());
    let changes = copy(&dest, &request, NOW).unwrap();
    let mut after = dest.clone();
    after.apply(&changes);
    let names: Vec<String> = after.walk().map(|(path, _)| path.to_string()).collect();
    assert_eq!(names, ["/o", "/o/in", "/o/in/f", "/o/old"]);
    let laid = &after.get(&path("o/in/f")).unwrap().meta;
    assert_eq!((laid.uid, laid.gid, laid.mode), (7, 8, 0o644));
    assert_eq!(after.get(&path("o")).unwrap().meta.mode, 0o755);
}

#[test]
fn a_heredoc_is_a_file_of_its_name() {
    let bytes: Arc<[u8]> = b"x\n".as_slice().into();
    let content = ContentDigest(dcbuild_model::Digest::of(&bytes));
    let source = CopySource::Inline { name: b"EOF".to_vec(), bytes, content };
    let (scratch, archives) = (Tree::scratch(), BTreeMap::new());
    let mut request = request(&scratch, &[], &archives, "/h/");
    request.sources = vec![source];
    request.mode = Some(Chmod::parse("u+x,go=").unwrap());
    let mut tree = Tree::scratch();
    tree.apply(&copy(&tree, &request, NOW).unwrap());
    let made = tree.get(&path("h/EOF")).unwrap();
    assert_eq!((made.meta.mode, made.meta.mtime), (0o700, NOW));
    assert_eq!(tree.get(&path("h")).unwrap().meta.mode, 0o755);
}

#[test]
fn names_of_whiteouts_act_as_whiteouts() {
    let dest = tree(&[("o", dir()), ("o/k", file("k")), ("o/z", file("z"))]);
    let source =
        tree(&[("d", dir()), ("d/.wh.k", file("")), ("d/.wh.z", file("")), ("d/z", file("new"))]);
    let (paths, archives) = (["d".to_owned()], BTreeMap::new());
    let changes = copy(&dest, &request(&source, &paths, &archives, "/o"), NOW).unwrap();
    assert_eq!(changes.0.get(&path("o/k")), Some(&Change::Remove));
    assert!(matches!(changes.0.get(&path("o/z")), Some(Change::Put(_))));
    assert_eq!(changes.0.len(), 3);
    crate::toc::decode(&crate::toc::encode(&changes)).unwrap();
}

#[test]
fn an_archive_that_turns_a_folder_into_a_file_leaves_nothing_below() {
    let source = tree(&[("1.tar", file("1")), ("2.tar", file("2"))]);
    let dest = tree(&[("o", dir()), ("o/d", dir()), ("o/d/x", file("x"))]);
    let archives = BTreeMap::from([
        (
            path("1.tar"),
            Archive(vec![
                (path("d"), Member::Put(dir())),
                (path("d/.wh.x"), Member::Put(file(""))),
            ]),
        ),
        (path("2.tar"), Archive(vec![(path("d"), Member::Put(file("d")))])),
    ]);
    let paths = ["*.tar".to_owned()];
    let changes = copy(&dest, &request(&source, &paths, &archives, "/o"), NOW).unwrap();
    let names: Vec<String> = changes.0.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["/o", "/o/d"]);
    crate::toc::decode(&crate::toc::encode(&changes)).unwrap();
}

#[test]
fn destinations_are_joined() {
    for (workdir, written, want) in [
        ("/w", "a", "/w/a"),
        ("/w", "a/", "/w/a/"),
        ("/w", ".", "/w/./"),
        ("/w", "", "/w/"),
        ("/w", "/abs", "/abs"),
        ("/", "x", "//x"),
    ] {
        assert_eq!(destination(workdir, written), want);
    }
}

proptest! {
    #[test]
    fn a_copied_tree_is_equal(source in any_tree()) {
        let (paths, archives) = (["/".to_owned()], BTreeMap::new());
        let changes = copy(&Tree::scratch(), &request(&source, &paths, &archives, "/o/"), NOW).unwrap();
        let mut copied = Tree::scratch();
        copied.apply(&changes);
        let shown = |tree: &Tree, top: &str| -> Vec<(String, Meta, Kind)> {
            let below = path(top);
            let named = |path: &TreePath| path.to_string()[top.len()..].to_owned();
            tree.walk_from(&below)
                .filter(|(_, entry)| entry.kind != Kind::Socket)
                .map(|(path, entry)| (named(&path), entry.meta.clone(), entry.kind.clone()))
                .collect()
        };
        prop_assert_eq!(shown(&copied, "/o"), shown(&source, ""));
    }
}

/// Unpacks members into a folder of a state, and shows what is there then.
fn unpacked(
    dest: &Tree,
    to: &str,
    members: Vec<(&str, Member)>,
) -> Result<(Tree, Vec<String>), CopyError> {
    let members = members.into_iter().map(|(name, member)| (path(name), member));
    let archives = BTreeMap::from([(path("t.tar"), Archive(members.collect()))]);
    let (source, paths) = (tree(&[("t.tar", file("tar"))]), ["t.tar".to_owned()]);
    let changes = copy(dest, &request(&source, &paths, &archives, to), NOW)?;
    crate::toc::decode(&crate::toc::encode(&changes)).unwrap();
    let mut after = dest.clone();
    after.apply(&changes);
    let shown = after.walk().map(|(path, entry)| match &entry.kind {
        Kind::Dir => format!("{path}/"),
        Kind::Symlink(target) => format!("{path} -> {}", String::from_utf8_lossy(target)),
        _ => format!("{path}{}", if entry.links.is_some() { " linked" } else { "" }),
    });
    let shown = shown.collect();
    Ok((after, shown))
}

fn hard(to: &str, uid: u32) -> Member {
    Member::Link { to: path(to), meta: Meta { uid, mode: 0o600, ..Meta::default() } }
}

#[test]
fn links_of_an_archive_are_followed_below_the_destination() {
    for target in ["usr/lib", "/usr/lib", "../../../usr/lib"] {
        let members = vec![
            ("usr/lib", Member::Put(dir())),
            ("lib", Member::Put(link(target))),
            ("lib/x.so", Member::Put(file("x"))),
            ("lib/new/y", Member::Put(file("y"))),
        ];
        let (_, shown) = unpacked(&Tree::scratch(), "/o/", members).unwrap();
        let lib = format!("/o/lib -> {target}");
        let want = ["/o/", &lib, "/o/usr/", "/o/usr/lib/", "/o/usr/lib/new/", "/o/usr/lib/new/y"];
        assert_eq!(shown[..6], want);
        assert_eq!(shown[6..], ["/o/usr/lib/x.so"]);
    }
    let members = vec![("lib", Member::Put(link("usr/lib"))), ("lib/x", Member::Put(file("x")))];
    let error = unpacked(&Tree::scratch(), "/o/", members).unwrap_err().to_string();
    assert_eq!(error, "open /lib/x: no such file or directory");
    let members = vec![("l", Member::Put(link("l"))), ("l/x", Member::Put(file("x")))];
    let error = unpacked(&Tree::scratch(), "/", members).unwrap_err().to_string();
    assert_eq!(error, "too many links in 'l/x'");
}

#[test]
fn what_took_the_place_of_an_archive_s_folder_has_its_time() {
    let dated = |entry: Entry, secs| {
        let mtime = UnixTime { secs, nanos: 0 };
        Member::Put(Entry { meta: Meta { mtime, ..entry.meta.clone() }, ..entry })
    };
    let members = vec![
        ("dot", dated(dir(), 9)),
        ("dot", dated(file("x"), 1)),
        ("q", hard("dot", 7)),
        ("d", dated(dir(), 8)),
        ("d", Member::Put(link("other"))),
        ("other", dated(file("o"), 2)),
    ];
    let (after, shown) = unpacked(&Tree::scratch(), "/o/", members).unwrap();
    assert_eq!(shown, ["/o/", "/o/d -> other", "/o/dot linked", "/o/other", "/o/q linked"]);
    for (name, secs) in [("o/dot", 9), ("o/q", 9), ("o/other", 8)] {
        assert_eq!(after.get(&path(name)).unwrap().meta.mtime.secs, secs, "{name}");
    }
    // Nothing is there to have a time: docker stops at that.
    let members = vec![("d", dated(dir(), 8)), ("d", Member::Put(link("nowhere")))];
    let (_, shown) = unpacked(&Tree::scratch(), "/o/", members).unwrap();
    assert_eq!(shown, ["/o/", "/o/d -> nowhere"]);
}

/// What is a link while one member is unpacked may be a folder for the next.
#[test]
fn an_archive_is_unpacked_in_its_order() {
    let members = vec![
        ("lib", Member::Put(link("usr"))),
        ("lib/a", Member::Put(file("a"))),
        ("lib", Member::Put(dir())),
        ("lib/b", Member::Put(file("b"))),
    ];
    let dest = tree(&[("usr", dir())]);
    let (_, shown) = unpacked(&dest, "/", members).unwrap();
    assert_eq!(shown, ["/lib/", "/lib/b", "/usr/", "/usr/a"]);
}

#[test]
fn an_archive_links_to_what_was_there() {
    let dest = tree(&[("etc", dir()), ("etc/passwd", file("p")), ("etc/group", file("g"))]);
    let members = vec![
        ("etc/new", hard("etc/passwd", 3)),
        ("etc/newer", hard("/etc/new", 4)),
        ("etc/group", hard("etc/group", 5)),
    ];
    let (after, shown) = unpacked(&dest, "/", members).unwrap();
    let want =
        ["/etc/", "/etc/group", "/etc/new linked", "/etc/newer linked", "/etc/passwd linked"];
    assert_eq!(shown, want);
    for name in ["etc/new", "etc/newer", "etc/passwd"] {
        let entry = after.get(&path(name)).unwrap();
        assert_eq!((entry.meta.uid, entry.meta.mode), (4, 0o600), "{name}");
        assert_eq!(entry.links, after.get(&path("etc/new")).unwrap().links);
    }
    for (to, want) in [
        ("etc/none", "link /etc/none /n: no such file or directory"),
        ("etc", "link /etc /n: operation not permitted"),
        ("../../up", "link /up /n: no such file or directory"),
    ] {
        let error = unpacked(&dest, "/", vec![("n", hard(to, 0))]).unwrap_err().to_string();
        assert_eq!(error, want);
    }
    let error = unpacked(&dest, "/", vec![("etc", hard("etc/group", 0))]).unwrap_err();
    assert_eq!(error.to_string(), "link /etc/group /etc: no such file or directory");
}

/// Programs that pack files refuse times of 1970.
#[test]
fn what_the_root_of_a_context_is_copied_to_has_the_time_of_the_step() {
    let (source, dest) = (tree(&[("f", file("f"))]), tree(&[("app", dir()), ("old", dir())]));
    let archives = BTreeMap::new();
    for (from, to, want) in [
        (".", "/app", NOW),
        ("/", "/new/deep/", NOW),
        // What stands for the root of an image is nobody's to change.
        (".", "/", UnixTime::default()),
        ("sub", "/app", UnixTime::default()),
    ] {
        let mut source = source.clone();
        source.insert(&path("sub"), dir()).unwrap();
        let paths = [from.to_owned()];
        let changes = copy(&dest, &request(&source, &paths, &archives, to), NOW).unwrap();
        let mut after = dest.clone();
        after.apply(&changes);
        let there = after.get(&path(to.trim_matches('/')));
        assert_eq!(there.map(|it| it.meta.mtime), Some(want), "{from} to {to}");
    }
}

#[test]
fn only_folders_that_something_came_into_are_new() {
    let dest = tree(&[("a", dir()), ("a/b", dir()), ("c", dir())]);
    let members = vec![("a/b", Member::Put(dir())), ("c/f", Member::Put(file("f")))];
    let (after, _) = unpacked(&dest, "/", members).unwrap();
    let time = |name: &str| after.get(&path(name)).unwrap().meta.mtime;
    assert_eq!(
        (time("a"), time("a/b"), time("c")),
        (UnixTime::default(), UnixTime::default(), NOW)
    );
}

use proptest::prelude::*;

use super::*;
use crate::Change;
use crate::testing::{any_tree, dir, file, grouped, path, tree};

const NOW: UnixTime = UnixTime { secs: 1_900_000_000, nanos: 5 };

fn request<'a>(
    tree: &'a Tree,
    paths: &'a [String],
    archives: &'a BTreeMap<TreePath, Changes>,
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
    let archive = Changes(
        [
            (
                path(""),
                Change::Put(Entry { meta: Meta { mode: 0o700, ..Meta::default() }, ..dir() }),
            ),
            (path("k"), Change::Remove),
            (path("in"), Change::Put(dir())),
            (path("in/f"), Change::Put(file("f"))),
        ]
        .into(),
    );
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
            Changes([(path("d"), Change::Put(dir())), (path("d/x"), Change::Remove)].into()),
        ),
        (path("2.tar"), Changes([(path("d"), Change::Put(file("d")))].into())),
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

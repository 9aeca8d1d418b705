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

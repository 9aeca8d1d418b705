use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::testing::{any_layer, any_tree, dir, file, grouped, layer, link, path, show, tree};

fn check(lower: &[(&str, Entry)], changes: &[(&str, Change)], want: Expect) {
    let mut tree = tree(lower);
    tree.apply(&layer(changes));
    want.assert_eq(&show(&tree));
}

#[test]
fn layers_go_over_each_other_as_unpacked() {
    let lower = [("d", dir()), ("d/a", file("a")), ("d/s", dir()), ("d/s/x", file("x"))];
    check(
        &lower,
        &[("d/a", Change::Remove)],
        expect![[r#"
        /d/ 755
        /d/s/ 755
        /d/s/x 644
    "#]],
    );
    let put = [("d", Change::Put(dir())), ("d/b", Change::Put(file("b")))];
    check(
        &lower,
        &put,
        expect![[r#"
        /d/ 755
        /d/a 644
        /d/b 644
        /d/s/ 755
        /d/s/x 644
    "#]],
    );
    let replace = [("d", Change::Replace(dir())), ("d/b", Change::Put(file("b")))];
    check(
        &lower,
        &replace,
        expect![[r#"
        /d/ 755
        /d/b 644
    "#]],
    );
    let over = [("d/a", Change::Put(dir())), ("d/s", Change::Put(file("s")))];
    check(
        &lower,
        &over,
        expect![[r#"
        /d/ 755
        /d/a/ 755
        /d/s 644
    "#]],
    );
}

#[test]
fn parents_that_a_layer_does_not_name_are_followed_or_made() {
    let lower = [("real", dir()), ("real/x", file("x")), ("lnk", link("/real"))];
    let changes = [
        ("lnk/f", Change::Put(file("f"))),
        ("lnk/x", Change::Remove),
        ("new/deep/f", Change::Put(file("f"))),
    ];
    check(
        &lower,
        &changes,
        expect![[r#"
        /lnk -> /real
        /new/ 755
        /new/deep/ 755
        /new/deep/f 644
        /real/ 755
        /real/f 644
    "#]],
    );
    check(
        &lower,
        &[("lnk", Change::Put(dir())), ("lnk/f", Change::Put(file("f")))],
        expect![[r#"
        /lnk/ 755
        /lnk/f 644
        /real/ 755
        /real/x 644
    "#]],
    );
}

#[test]
fn groups_of_different_layers_stay_apart() {
    let one = layer(&[
        ("a", Change::Put(grouped(file("x"), 0))),
        ("b", Change::Put(grouped(file("x"), 0))),
    ]);
    let two = layer(&[
        ("c", Change::Put(grouped(file("x"), 0))),
        ("d", Change::Put(grouped(file("x"), 0))),
    ]);
    let mut tree = Tree::scratch();
    tree.apply(&one);
    tree.apply(&two);
    let group = |name: &str| tree.get(&path(name)).unwrap().links;
    assert_eq!(group("a"), group("b"));
    assert_eq!(group("c"), group("d"));
    assert_ne!(group("a"), group("c"));
}

#[test]
fn links_are_followed_inside_the_root() {
    let tree = tree(&[
        ("d", dir()),
        ("d/f", file("f")),
        ("abs", link("/d")),
        ("out", link("../../../d")),
        ("dangling", link("/gone/deep")),
        ("one", link("two")),
        ("two", link("one")),
    ]);
    let follow = |text: &str| tree.resolve(text.as_bytes(), LastLink::Follow).unwrap().to_string();
    assert_eq!(follow("/abs/f"), "/d/f");
    assert_eq!(follow("out/f"), "/d/f");
    assert_eq!(follow("abs/../abs"), "/d");
    assert_eq!(follow("dangling/x"), "/gone/deep/x");
    assert_eq!(follow("nothing/../d"), "/d");
    assert_eq!(tree.resolve(b"abs", LastLink::Keep).unwrap(), path("abs"));
    let circle = tree.resolve(b"one", LastLink::Follow);
    assert!(matches!(circle, Err(ResolveError::TooManyLinks { .. })));
}

#[test]
fn an_entry_needs_a_folder() {
    let mut tree = tree(&[("f", file("f"))]);
    let below_file = tree.insert(&path("f/x"), file("x"));
    assert_eq!(below_file, Err(InsertError::NoParent { path: path("f/x") }));
    assert!(tree.insert(&path("gone/x"), file("x")).is_err());
    assert_eq!(tree.insert(&TreePath::root(), file("x")), Err(InsertError::RootNotFolder));
}

#[test]
fn a_clone_does_not_see_later_changes() {
    let before = tree(&[("d", dir()), ("d/f", file("f"))]);
    let mut after = before.clone();
    assert!(after.remove(&path("d/f")));
    assert!(before.get(&path("d/f")).is_some());
    assert!(after.get(&path("d/f")).is_none());
}

#[test]
fn what_has_no_folder_to_stand_in_is_refused() {
    let other = tree(&[("d", dir()), ("d/f", file("f"))]);
    let mut tree = Tree::scratch();
    let missing = InsertError::NoParent { path: path("d/f") };
    assert_eq!(tree.adopt(&path("d/f"), &other), Err(missing));
    assert_eq!(tree.adopt(&path("none/x"), &other), Ok(()));
    let missing = InsertError::NoParent { path: path("d") };
    assert_eq!(tree.fill(&path("d"), [(b"f"[..].into(), Arc::new(file("f")))]), Err(missing));
    tree.adopt(&path("d"), &other).unwrap();
    assert_eq!(tree, other);
    assert_eq!(Tree::scratch().adopt(&TreePath::root(), &other), Ok(()));
}

#[test]
fn the_deepest_tree_is_taken_apart() {
    let mut tree = Tree::scratch();
    let mut here = TreePath::root();
    for _ in 0..dcbuild_model::limits::DEPTH_MAX {
        here = here.join(b"d");
        tree.insert(&here, dir()).unwrap();
    }
    assert_eq!(tree.len(), dcbuild_model::limits::DEPTH_MAX);
}

proptest! {
    #[test]
    fn a_tree_is_made_of_its_folders(tree in any_tree()) {
        let (mut filled, mut adopted) = (Tree::scratch(), Tree::scratch());
        let folders = tree.walk().filter(|(_, entry)| entry.is_dir()).map(|(path, _)| path);
        for folder in std::iter::once(TreePath::root()).chain(folders) {
            let held = tree.names(&folder).map(|(name, entry)| (name.into(), Arc::new(entry.clone())));
            filled.fill(&folder, held).unwrap();
        }
        for (path, entry) in tree.walk() {
            if entry.is_dir() {
                adopted.insert(&path, entry.clone()).unwrap();
            } else {
                adopted.adopt(&path, &tree).unwrap();
            }
        }
        prop_assert_eq!(&filled, &tree);
        prop_assert_eq!(&adopted, &tree);
        prop_assert_eq!(filled.fresh_group(), tree.clone().fresh_group());
        prop_assert_eq!(adopted.fresh_group(), tree.clone().fresh_group());
    }

    #[test]
    fn a_tree_is_what_its_one_layer_makes(tree in any_tree()) {
        let mut again = Tree::scratch();
        again.apply(&tree.as_changes());
        let bytes = |tree: &Tree| crate::toc::encode(&tree.as_changes());
        prop_assert_eq!(bytes(&again), bytes(&tree));
    }

    #[test]
    fn a_layer_twice_is_the_layer_once(lower in any_tree(), changes in any_layer()) {
        let mut once = lower;
        once.apply(&changes);
        let mut twice = once.clone();
        twice.apply(&changes);
        let bytes = |tree: &Tree| crate::toc::encode(&tree.as_changes());
        prop_assert_eq!(bytes(&once), bytes(&twice));
        for (path, change) in &changes.0 {
            prop_assert_eq!(once.get(path).is_some(), *change != Change::Remove);
        }
    }
}

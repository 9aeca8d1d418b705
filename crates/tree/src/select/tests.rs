use dcbuild_model::UnixTime;

use super::*;
use crate::testing::{dir, file, grouped, link, path, tree};

fn selection(form: SelectionForm, sources: &[&str]) -> Selection {
    let sources = sources.iter().map(|source| (*source).to_owned()).collect();
    Selection { form, sources, exclude: Vec::new(), parents: false }
}

fn sample() -> Tree {
    tree(&[
        ("a.txt", file("a")),
        ("d", dir()),
        ("d/f", file("f")),
        ("d/s", dir()),
        ("d/s/g", file("g")),
        ("l", link("d")),
        ("other", file("o")),
    ])
}

fn digest(tree: &Tree, sources: &[&str]) -> SelectionDigest {
    select(tree, &selection(SelectionForm::Copy, sources)).unwrap()
}

fn changed(name: &str, change: impl Fn(&mut Entry)) -> Tree {
    let mut tree = sample();
    let mut entry = tree.get(&path(name)).unwrap().clone();
    change(&mut entry);
    tree.insert(&path(name), entry).unwrap();
    tree
}

#[test]
fn times_and_what_is_not_selected_do_not_count() {
    let before = digest(&sample(), &["d"]);
    let later = changed("d/f", |entry| entry.meta.mtime = UnixTime { secs: 7, nanos: 7 });
    assert_eq!(digest(&later, &["d"]), before);
    assert_eq!(digest(&changed("other", |entry| entry.kind = file("new").kind), &["d"]), before);
    assert_eq!(digest(&sample(), &["l"]), before, "a link is what it leads to");
    assert_eq!(digest(&sample(), &["/d/"]), before);
}

#[test]
fn content_modes_owners_names_and_links_count() {
    let before = digest(&sample(), &["d"]);
    assert_ne!(digest(&changed("d/f", |entry| entry.kind = file("new").kind), &["d"]), before);
    assert_ne!(digest(&changed("d/f", |entry| entry.meta.mode = 0o600), &["d"]), before);
    assert_ne!(digest(&changed("d/s", |entry| entry.meta.mode = 0o700), &["d"]), before);
    assert_ne!(digest(&changed("d/f", |entry| entry.meta.uid = 5), &["d"]), before);
    let mut renamed = sample();
    renamed.remove(&path("d/f"));
    renamed.insert(&path("d/h"), file("f")).unwrap();
    assert_ne!(digest(&renamed, &["d"]), before);
    let twins = |one: Entry, two: Entry| tree(&[("d", dir()), ("d/a", one), ("d/b", two)]);
    let linked = twins(grouped(file("x"), 4), grouped(file("x"), 4));
    assert_ne!(digest(&linked, &["d"]), digest(&twins(file("x"), file("x")), &["d"]));
}

#[test]
fn the_folder_in_which_a_pattern_looks_must_be_there() {
    let said = |source: &str| {
        select(&sample(), &selection(SelectionForm::Copy, &[source])).err().map(|it| it.to_string())
    };
    for (source, error) in [
        ("none/*.jar", Some("\"/none\": not found")),
        ("D/*", Some("\"/D\": not found: there is \"/d\"")),
        ("D/none", Some("\"/D/none\": not found")),
        ("/d/none/deep/*", Some("\"/d/none/deep\": not found")),
        ("a.txt/*", Some("\"/a.txt\": not a directory")),
        ("d/f/x*/y", Some("\"/d/f\": not a directory")),
        ("d/*.jar", None),
        ("l/*.jar", None),
        ("none*/x", None),
        ("*/none/*", None),
        ("./*.jar", None),
        ("[n]one/*.jar", None),
    ] {
        assert_eq!(said(source).as_deref(), error, "{source}");
    }
}

#[test]
fn a_missing_path_is_an_error_and_a_pattern_is_not() {
    let missing = select(&sample(), &selection(SelectionForm::Copy, &["missing"])).unwrap_err();
    assert_eq!(missing.to_string(), "\"/missing\": not found");
    let whole = Selection { parents: true, ..selection(SelectionForm::Copy, &["d/./."]) };
    assert_eq!(
        select(&sample(), &whole).unwrap_err().to_string(),
        "--parents keeps the path below \"/d\", and this source names nothing below it"
    );
    assert!(select(&sample(), &selection(SelectionForm::Copy, &["missing*"])).is_ok());
    assert!(select(&sample(), &selection(SelectionForm::Mount, &["missing"])).is_err());
    assert!(select(&sample(), &selection(SelectionForm::Copy, &["a["])).is_err());
}

#[test]
fn the_files_to_hash_are_known_from_a_listing() {
    let files = |form, sources: &[&str], exclude: &[&str]| -> Vec<String> {
        let exclude = exclude.iter().map(|pattern| (*pattern).to_owned()).collect();
        let selection = Selection { exclude, ..selection(form, sources) };
        let tree = sample();
        let mut files = Vec::new();
        let selected = Selected::find(&tree, &selection).unwrap();
        selected.each_file(|file| files.push(file.path().to_string()));
        files.sort();
        files
    };
    assert_eq!(files(SelectionForm::Copy, &["d", "*.txt"], &[]), ["/a.txt", "/d/f", "/d/s/g"]);
    assert_eq!(files(SelectionForm::Copy, &["l"], &["s"]), ["/d/f"]);
    assert_eq!(files(SelectionForm::Mount, &["d/s"], &[]), ["/d/s/g"]);
    assert_eq!(files(SelectionForm::Mount, &["l"], &[]), ["/d/f", "/d/s/g"]);
}

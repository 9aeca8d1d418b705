//! The part of a folder that a selection sees, as a tree of its own.

use std::collections::BTreeSet;

use dcbuild_model::{Selection, SelectionForm, TreePath};
use dcbuild_tree::source::{Filter, find, looks_in};
use dcbuild_tree::{Kind, LastLink, SelectError, Tree, select};

/// The tree less what the selection does not see. Links stay: a path may lead through any of them.
pub(crate) fn pruned(tree: &Tree, selection: &Selection) -> Result<Tree, SelectError> {
    let mut kept = BTreeSet::new();
    let mut keep = |path: TreePath| {
        let mut above = Some(path);
        while let Some(path) = above {
            above = path.parent();
            if !kept.insert(path) {
                break;
            }
        }
    };
    for (path, entry) in tree.walk() {
        if matches!(entry.kind, Kind::Symlink(_)) {
            keep(path);
        }
    }
    match selection.form {
        SelectionForm::Copy => {
            let filter = Filter::new(&selection.exclude, selection.parents)?;
            for source in &selection.sources {
                looks_in(tree, source, &filter)?.into_iter().for_each(&mut keep);
                for found in find(tree, source, &filter)? {
                    for item in &found.items {
                        keep(
                            item.path
                                .names()
                                .fold(found.path.clone(), |path, name| path.join(name)),
                        );
                    }
                    keep(found.path);
                }
            }
        }
        SelectionForm::Mount => {
            let source = selection.sources.first().map_or("", String::as_str);
            let top = tree.resolve(source.as_bytes(), LastLink::Follow)?;
            tree.walk_from(&top).for_each(|(path, _)| keep(path));
            keep(top);
        }
    }
    let entries = tree.walk().filter(|(path, _)| kept.contains(path));
    let smaller = Tree::from_entries(entries.map(|(path, entry)| (path, entry.clone())));
    let whole = select(tree, selection)?;
    match smaller {
        Ok(smaller) if select(&smaller, selection) == Ok(whole) => Ok(smaller),
        // Whatever was cut away wrongly, the whole tree has it.
        Ok(_) | Err(_) => Ok(tree.clone()),
    }
}

#[cfg(test)]
mod tests {
    use dcbuild_context::LocalContext;
    use dcbuild_model::UnixTime;
    use dcbuild_tree::Ignore;

    use super::*;

    fn paths(tree: &Tree) -> Vec<String> {
        tree.walk().map(|(path, _)| path.to_string()).collect()
    }

    #[test]
    fn a_parcel_holds_what_is_read_and_the_links_on_the_way() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in ["src/deep", "other"] {
            std::fs::create_dir_all(folder.path().join(dir)).unwrap();
        }
        for file in ["src/a", "src/deep/b", "other/c", "d"] {
            std::fs::write(folder.path().join(file), file).unwrap();
        }
        std::os::unix::fs::symlink("src/deep", folder.path().join("link")).unwrap();
        let local = LocalContext::open_folder(
            folder.path(),
            Ignore::default(),
            cache.path(),
            0,
            UnixTime::default(),
        );
        let local = local.unwrap();
        let check = |form, source: &str, want: &[&str]| {
            let sources = vec![source.to_owned()];
            let selection = Selection { form, sources, exclude: Vec::new(), parents: false };
            let tree = local.tree(&selection).unwrap();
            assert_eq!(paths(&pruned(&tree, &selection).unwrap()), want, "{source}");
        };
        check(SelectionForm::Copy, "d", &["/d", "/link"]);
        check(SelectionForm::Copy, "link", &["/link", "/src", "/src/deep", "/src/deep/b"]);
        check(SelectionForm::Copy, "src/*.none", &["/link", "/src"]);
        check(SelectionForm::Copy, "src/*/*.none", &["/link", "/src"]);
        check(SelectionForm::Copy, "link/*.none", &["/link", "/src", "/src/deep"]);
        check(SelectionForm::Copy, "*.none", &["/link"]);
        check(
            SelectionForm::Mount,
            "src",
            &["/link", "/src", "/src/a", "/src/deep", "/src/deep/b"],
        );
    }
}

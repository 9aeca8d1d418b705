use dcbuild_model::{ContentDigest, Digest};

use super::*;

fn layer(name: &str) -> LayerId {
    LayerId(Digest::of(name.as_bytes()))
}

fn path(text: &str) -> TreePath {
    TreePath::clean(text.as_bytes()).unwrap()
}

fn file(from: &str, size: u64) -> Entry {
    let origin = Origin::Layer { layer: layer(from), path: path("any") };
    let kind = Kind::File(FileBody { content: ContentDigest(Digest::of(b"any")), size, origin });
    Entry { kind, ..Entry::folder(0o640, (3, 4), UnixTime::default()) }
}

fn tree(entries: &[(&str, Entry)]) -> Tree {
    let entries = entries.iter().map(|(text, entry)| (path(text), entry.clone()));
    Tree::from_entries(entries).unwrap()
}

fn folder() -> Entry {
    Entry::folder(0o750, (1, 2), UnixTime::default())
}

fn link(to: &str) -> Entry {
    Entry { kind: Kind::Symlink(to.as_bytes().into()), ..folder() }
}

/// The part's paths below its folder, with the owner and the permissions of each.
fn parts(tree: &Tree, source: &str) -> Vec<String> {
    let part = Part::find(tree, source).unwrap();
    let shown = |(path, change): (&TreePath, &Change)| {
        let Change::Put(entry) = change else { panic!("{change:?}") };
        let meta = &entry.meta;
        format!("{path} {}:{} {:o}", meta.uid, meta.gid, meta.mode)
    };
    part.changes.0.iter().map(shown).collect()
}

#[test]
fn a_part_is_a_path_with_all_below_it_wherever_links_lead() {
    let tree = tree(&[
        ("a", folder()),
        ("a/b", folder()),
        ("a/b/one", file("x", 1)),
        ("a/other", file("x", 1)),
        ("away", link("/a/b")),
        ("up", link("../../a/b/one")),
        ("nowhere", link("/none")),
    ]);
    let whole = ["/ 0:0 755", "/m 1:2 750", "/m/one 3:4 640"];
    assert_eq!(parts(&tree, "/a/b"), whole);
    assert_eq!(parts(&tree, "/away"), whole);
    let one = ["/ 0:0 755", "/m 3:4 640"];
    assert_eq!(parts(&tree, "/up"), one);
    assert_eq!(parts(&tree, "away/one"), one);
    assert_eq!(parts(&tree, "/").len(), 9);
    for missing in ["/nowhere", "/a/none", "/a/other/below"] {
        let error = Part::find(&tree, missing).map(|_| ()).unwrap_err().to_string();
        assert!(error.ends_with(": not found"), "{missing}: {error}");
    }
}

#[test]
fn a_part_is_brought_where_it_costs_clearly_less() {
    const MB: u64 = 1 << 20;
    let worth = |files: &[(&str, u64)], lacking: &[(&str, Reading, u64)]| {
        let entries: Vec<(String, Entry)> = (0..)
            .zip(files)
            .map(|(at, (from, size))| (format!("{at}"), file(from, *size)))
            .collect();
        let entries: Vec<(&str, Entry)> =
            entries.iter().map(|(name, entry)| (name.as_str(), entry.clone())).collect();
        let part = Part::find(&tree(&entries), "/").unwrap();
        let lacking =
            lacking.iter().map(|(name, reading, bytes)| (layer(name), (*reading, *bytes)));
        reckon(&part.changes, &lacking.collect()).is_worth_it()
    };
    let far = |bytes| ("far", Reading::ByFile, bytes);
    assert!(worth(&[("far", MB)], &[far(1000 * MB)]));
    assert!(worth(&[("far", 700 * MB)], &[far(1000 * MB)]));
    assert!(!worth(&[("far", 800 * MB)], &[far(1000 * MB)]));
    // All that is around a small file is brought with it.
    assert!(!worth(&[("far", 10)], &[far(MB)]));
    // A copy of what is here is cheap, not free.
    assert!(worth(&[("far", MB), ("near", 300 * MB)], &[far(1000 * MB)]));
    assert!(!worth(&[("near", 300 * MB)], &[far(10 * MB)]));
    // A file of a base costs the whole base, and two of them no more.
    let base = ("base", Reading::AsAWhole, 100 * MB);
    assert!(!worth(&[("base", 1)], &[base]));
    assert!(worth(&[("base", 1), ("base", 1)], &[base, far(1000 * MB)]));
    // What a COPY made is not brought from anywhere.
    assert!(!worth(&[("copied", 90 * MB)], &[("copied", Reading::Here, 100 * MB)]));
    assert!(worth(&[("copied", MB)], &[("copied", Reading::Here, 100 * MB)]));
}

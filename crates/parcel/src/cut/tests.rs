use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use dcbuild_model::{Digest, LayerId};
use dcbuild_tree::{Entry, FileBody, Meta, Origin};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

/// Files by path: what names their content, and their size.
type Files = BTreeMap<String, (String, u64)>;

fn tree(files: &Files) -> Changes {
    let entries = files.iter().map(|(path, (content, size))| {
        let content = ContentDigest(Digest::of(format!("{content} {size}").as_bytes()));
        let body = FileBody { content, size: *size, origin: Origin::Inline([].into()) };
        let entry = Entry { meta: Meta::default(), kind: Kind::File(body), links: None };
        (TreePath::clean(path.as_bytes()).unwrap(), Change::Put(entry))
    });
    Changes(entries.collect())
}

fn layers(files: &Files) -> BTreeSet<LayerId> {
    cut(&tree(files)).iter().map(Pack::layer).collect()
}

/// Adds `count` files of `size` bytes each; contents are named by the path where `content` is none.
fn add(files: &mut Files, folder: &str, count: usize, size: u64, content: Option<&str>) {
    for number in 0..count {
        let path = format!("{folder}{number}");
        let content = content.map_or_else(|| path.clone(), |content| format!("{content}{number}"));
        files.insert(path, (content, size));
    }
}

fn check(groups: &[(&str, usize, u64, Option<&str>)], want: Expect) {
    let mut files = Files::new();
    for (folder, count, size, content) in groups {
        add(&mut files, folder, *count, *size, *content);
    }
    let mut names: BTreeMap<ContentDigest, String> = BTreeMap::new();
    for (path, change) in tree(&files).0 {
        if let Change::Put(Entry { kind: Kind::File(body), .. }) = change {
            let folder = path.parent().unwrap_or_default().to_string();
            let text = names.entry(body.content).or_default();
            write!(text, "{}{folder}", if text.is_empty() { "" } else { "=" }).unwrap();
        }
    }
    let mut text = String::new();
    for pack in cut(&tree(&files)) {
        let mut from: BTreeMap<&String, usize> = BTreeMap::new();
        for file in pack.files() {
            *from.entry(&names[&file.content]).or_default() += 1;
        }
        let from: Vec<_> =
            from.iter().map(|(folder, count)| format!("{count} of {folder}")).collect();
        writeln!(text, "{} bytes: {}", pack.bytes(), from.join(", ")).unwrap();
    }
    want.assert_eq(&text);
}

const KIB: u64 = 1 << 10;

#[test]
fn folders_with_enough_are_packed_by_themselves_and_others_with_what_is_above() {
    check(&[], expect![""]);
    check(
        &[("a/b/f", 3, 10, None), ("f", 1, 5, None)],
        expect![[r#"
        35 bytes: 1 of /, 3 of /a/b
    "#]],
    );
    check(
        &[
            ("a/many/f", 128, 1, None),
            ("a/few/f", 127, 1, None),
            ("b/f", 1, 256 * KIB, None),
            ("c/f", 1, 9, None),
        ],
        expect![[r#"
            136 bytes: 127 of /a/few, 1 of /c
            128 bytes: 128 of /a/many
            262144 bytes: 1 of /b
        "#]],
    );
}

#[test]
fn what_is_too_much_is_split_large_files_stand_alone_and_empty_ones_nowhere() {
    check(
        &[("f", 1000, 1, None)],
        expect![[r#"
        504 bytes: 504 of /
        496 bytes: 496 of /
    "#]],
    );
    check(
        &[("f", 8, 511 * KIB, None)],
        expect![[r#"
        523264 bytes: 1 of /
        1046528 bytes: 2 of /
        523264 bytes: 1 of /
        523264 bytes: 1 of /
        1046528 bytes: 2 of /
        523264 bytes: 1 of /
    "#]],
    );
    check(
        &[
            ("f", 1, 512 * KIB, None),
            ("g", 1, 3 << 30, None),
            ("h", 1000, 0, None),
            ("i", 1, 1, None),
        ],
        expect![[r#"
        1 bytes: 1 of /
        524288 bytes: 1 of /
        3221225472 bytes: 1 of /
    "#]],
    );
}

#[test]
fn a_content_is_packed_once_however_many_names_it_has() {
    check(
        &[
            ("a/x/f", 200, 10, Some("same")),
            ("a/y/f", 200, 10, Some("same")),
            ("b/f", 200, 10, None),
        ],
        expect![[r#"
            2000 bytes: 200 of /a/x=/a/y
            2000 bytes: 200 of /b
        "#]],
    );
}

#[test]
fn a_pack_is_named_by_its_contents_alone() {
    let mut files = Files::new();
    add(&mut files, "f", 3, 10, None);
    let layer = layers(&files).pop_first().unwrap().to_string();
    assert!(
        layer.starts_with("sha256:6a370796180b"),
        "the rule, or the form of packs, is another: {layer}"
    );
}

fn is_new(before: &BTreeSet<LayerId>, after: &BTreeSet<LayerId>) -> usize {
    after.difference(before).count()
}

#[test]
fn one_change_in_a_monorepo_changes_one_pack_or_two() {
    let mut files = Files::new();
    for service in 0..40 {
        for folder in 0..25 {
            add(&mut files, &format!("services/{service}/src/{folder}/f"), 10, 1500, None);
        }
    }
    let before = layers(&files);
    assert!((20..120).contains(&before.len()), "{} packs", before.len());
    let paths: Vec<String> = files.keys().step_by(997).cloned().collect();
    let (mut all, mut most) = (0, 0);
    for path in &paths {
        let mut changed = files.clone();
        changed.insert(path.clone(), ("changed".into(), 1400));
        let new = is_new(&before, &layers(&changed));
        assert!(new >= 1, "{path}");
        all += new;
        most = most.max(new);
    }
    assert!(
        most <= 3 && all <= paths.len() * 3 / 2,
        "{all} for {} changes, {most} at most",
        paths.len()
    );
}

fn some_files() -> impl Strategy<Value = Files> {
    let file = ("[a-c](/[a-c]){0,3}", 1..200_usize, prop_oneof![1..3000_u64, 0..700_000_u64]);
    proptest::collection::vec(file, 1..40).prop_map(|groups| {
        let mut files = Files::new();
        for (folder, count, size) in groups {
            let count = if size > 20_000 { count / 20 + 1 } else { count };
            add(&mut files, &format!("{folder}/{size}-"), count, size, None);
        }
        files
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_content_is_in_one_pack_and_no_pack_is_too_large(files in some_files()) {
        let tree = tree(&files);
        let mut packed = BTreeSet::new();
        for pack in cut(&tree) {
            let alone = pack.files().len() == 1;
            prop_assert!(alone || pack.bytes() <= PACK_BYTES_MAX && pack.files().len() <= PACK_FILES_MAX);
            for file in pack.files() {
                prop_assert!(file.size > 0 && packed.insert(file.content));
                prop_assert!(alone || file.size < ALONE_BYTES);
            }
        }
        let wanted = tree.0.values().filter_map(|change| match change {
            Change::Put(Entry { kind: Kind::File(body), .. }) if body.size > 0 => Some(body.content),
            _ => None,
        });
        prop_assert_eq!(packed, wanted.collect());
    }

    #[test]
    fn a_renamed_folder_stays_in_its_packs(files in some_files(), from in "[a-c](/[a-c]){0,2}") {
        let renamed = files.iter().map(|(path, file)| {
            let path = match path.strip_prefix(&format!("{from}/")) {
                Some(rest) => format!("{from}.new/{rest}"),
                None => path.clone(),
            };
            (path, file.clone())
        });
        prop_assert_eq!(layers(&renamed.collect()), layers(&files));
    }

    #[test]
    fn a_change_changes_few_packs(files in some_files(), at: proptest::sample::Index, size in 1..3000_u64) {
        let before = layers(&files);
        let path = files.keys().nth(at.index(files.len())).unwrap().clone();
        let mut changed = files.clone();
        changed.insert(path.clone(), ("changed".into(), size));
        let new = is_new(&before, &layers(&changed));
        prop_assert!(new <= 6, "{} of {}", new, before.len());
        changed.remove(&path);
        let new = is_new(&before, &layers(&changed));
        prop_assert!(new <= 4, "{} of {}", new, before.len());
        let mut more = files.clone();
        more.insert(format!("{path}.new"), ("new".into(), size));
        let new = is_new(&before, &layers(&more));
        prop_assert!(new <= 4, "{} of {}", new, before.len());
    }
}

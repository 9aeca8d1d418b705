use super::*;

const D: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[test]
fn references_into_layouts() {
    let digest = format!("oci-layout:///a/b@{D}");
    let both = format!("oci-layout://c:t@{D}");
    for (text, folder, tag) in [
        ("oci-layout:///a/b", "/a/b", None),
        ("oci-layout://./x:v1", "./x", Some("v1")),
        ("oci-layout:///a:b/c", "/a:b/c", None),
        (&digest, "/a/b", None),
        (&both, "c", Some("t")),
    ] {
        let parsed: LayoutRef = text.parse().unwrap();
        assert_eq!((parsed.folder.as_str(), parsed.tag.as_deref()), (folder, tag), "{text}");
        assert_eq!(parsed.to_string(), text);
    }
    for text in ["oci-layout://", "oci-layout://:x", "oci-layout://x:", "oci-layout://x@sha256:1"] {
        assert!(text.parse::<LayoutRef>().is_err(), "{text}");
    }
}

#[test]
fn entries_are_found_by_name() {
    let entry = |name: &str| {
        let mut entry = Descriptor::new(media_type::MANIFEST, Digest::of(name.as_bytes()), 1);
        entry.annotations.insert(REF_NAME.into(), name.into());
        entry
    };
    let index = |names: &[&str]| Index {
        manifests: names.iter().map(|name| entry(name)).collect(),
        ..Index::default()
    };
    for (names, wanted, want) in [
        (&["v1", "v2"][..], "d:v2", "v2"),
        (&["v1"], "d", "v1"),
        (&["v1", "latest"], "d", "latest"),
        (&["v1", "v2"], "d", "layout has 2 images and none was named (it has v1, v2)"),
        (&[], "d", "layout has 0 images and none was named"),
        (&["v1"], "d:v3", "layout has no image 'v3' (it has v1)"),
        (
            &["a", "b", "c", "d", "e", "f", "g", "h", "i\u{1b}", "j", "k", "k", "l"],
            "d:v3",
            "layout has no image 'v3' (it has a, b, c, d, e, f, g, h, i\\u{1b}, j and 2 more)",
        ),
    ] {
        let index = index(names);
        let got = match find_entry(&index, &wanted.parse().unwrap()) {
            Ok(found) => found.unwrap().annotations[REF_NAME].clone(),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, want);
    }
}

#[test]
fn a_full_name_gives_a_tag_too() {
    let mut entry = Descriptor::new(media_type::MANIFEST, Digest::of(b"a"), 1);
    let unnamed = Descriptor::new(media_type::MANIFEST, Digest::of(b"b"), 1);
    entry.annotations.insert(IMAGE_NAME.into(), "host:5000/app:v7".into());
    let mut index = Index { manifests: vec![entry, unnamed], ..Index::default() };
    let error = |index: &Index| find_entry(index, &"d".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(error(&index), "layout has 2 images and none was named (it has v7)");
    index.manifests[0].annotations.clear();
    assert_eq!(error(&index), "layout has 2 images and none was named");
}

#[test]
fn small_files_are_read_back() {
    assert!(check_layout_file(LAYOUT_JSON.as_bytes()).is_ok());
    assert!(check_layout_file(br#"{"imageLayoutVersion":"2.0.0"}"#).is_err());
    let item =
        ArchiveItem { config: "c".into(), repo_tags: vec!["a:b".into()], layers: vec!["l".into()] };
    let bytes = ArchiveItem::list_to_json(std::slice::from_ref(&item));
    assert_eq!(bytes, br#"[{"Config":"c","RepoTags":["a:b"],"Layers":["l"]}]"#);
    assert_eq!(ArchiveItem::parse_list(&bytes).unwrap(), [item]);
    assert!(ArchiveItem::parse_list("[".repeat(99_999).as_bytes()).is_err());
    let names = Repositories([("a".to_owned(), [("b".to_owned(), "c".to_owned())].into())].into());
    assert_eq!(Repositories::parse(&names.to_json()).unwrap(), names);
}

proptest::proptest! {
    #[test]
    fn any_layout_is_read_or_refused(text in "[a-z0-9:/@.\"{}\\[\\],]{0,60}", rest in "[a-z0-9:/@.]{0,40}") {
        let reference = format!("oci-layout://{rest}");
        if let Ok(parsed) = reference.parse::<LayoutRef>() {
            let again: LayoutRef = parsed.to_string().parse().unwrap();
            proptest::prop_assert_eq!(again, parsed);
        }
        let bytes = text.as_bytes();
        drop(parse_index_file(bytes));
        drop(ArchiveItem::parse_list(bytes));
        drop(Repositories::parse(bytes));
    }
}

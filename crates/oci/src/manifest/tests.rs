use super::*;
use expect_test::expect;

const D: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn manifest(config: &str, rest: &str) -> String {
    format!(r#"{{"schemaVersion":2,"config":{config}{rest}}}"#)
}

fn descriptor(size: &str, rest: &str) -> String {
    format!(r#"{{"mediaType":"t","digest":"{D}","size":{size}{rest}}}"#)
}

#[test]
fn good_documents_are_read_and_written() {
    let layer = descriptor("5", r#","urls":["http://127.0.0.1/x"]"#);
    let text = manifest(&descriptor("3", ""), &format!(r#","layers":[{layer}]"#));
    let Ok(ManifestOrIndex::Manifest(read)) = ManifestOrIndex::parse(text.as_bytes(), None) else {
        panic!("it is a manifest")
    };
    assert!(read.layers[0].is_foreign() && !read.config.is_foreign());
    expect![[r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"t","digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","size":3},"layers":[{"mediaType":"t","digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","size":5,"urls":["http://127.0.0.1/x"]}]}"#]]
        .assert_eq(&String::from_utf8(read.to_json()).unwrap());
    let entry =
        descriptor("1", r#","platform":{"os":"linux","architecture":"arm","variant":"v7"}"#);
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{entry}],"annotations":{{"a":null}}}}"#);
    let Ok(ManifestOrIndex::Index(index)) = ManifestOrIndex::parse(text.as_bytes(), None) else {
        panic!("it is an index")
    };
    expect![[r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"t","digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","size":1,"platform":{"architecture":"arm","os":"linux","variant":"v7"}}],"annotations":{"a":""}}"#]]
        .assert_eq(&String::from_utf8(index.to_json()).unwrap());
}

#[test]
fn bad_documents_are_refused() {
    let good = descriptor("1", "");
    let many = vec![good.as_str(); 501].join(",");
    let deep = "[".repeat(100_000);
    for (text, outside, want) in [
        ("null".to_owned(), None, "manifest has schema version 0, not 2"),
        ("[]".to_owned(), None, "manifest is malformed"),
        (deep, None, "manifest is malformed"),
        (r#"{"schemaVersion":1}"#.to_owned(), None, "manifest has schema version 1, not 2"),
        (manifest(&good, ""), None, "manifest has no 'layers'"),
        (manifest("null", r#","layers":[]"#), None, "manifest has no 'config'"),
        (
            manifest(&good, r#","layers":[],"manifests":[]"#),
            None,
            "manifest has both layers and manifests",
        ),
        (
            manifest(&descriptor("-1", ""), r#","layers":[]"#),
            None,
            "field 'config' has an impossible size of -1 bytes",
        ),
        (
            manifest(&descriptor("99999999", ""), r#","layers":[]"#),
            None,
            "field 'config' has an impossible size of 99999999 bytes",
        ),
        (manifest(&descriptor("1e30", ""), r#","layers":[]"#), None, "manifest is malformed"),
        (
            manifest(&good, r#","layers":[{"size":1}]"#),
            None,
            "entry 0 of 'layers' has a wrong digest",
        ),
        (
            manifest(&good, &format!(r#","layers":[{many}]"#)),
            None,
            "manifest lists 501 layers, more than 500",
        ),
        (
            manifest(&good, r#","layers":[]"#),
            Some(media_type::INDEX),
            "manifest has no 'manifests'",
        ),
        (
            manifest(&good, r#","layers":[]"#),
            Some("text/html"),
            "media type 'text/html' is no image manifest or index",
        ),
        (
            manifest(&good, &format!(r#","layers":[],"mediaType":"{}""#, media_type::MANIFEST)),
            Some(media_type::INDEX),
            "manifest says that it is 'application/vnd.oci.image.manifest.v1+json' but came as 'application/vnd.oci.image.index.v1+json'",
        ),
    ] {
        let error = ManifestOrIndex::parse(text.as_bytes(), outside).unwrap_err();
        assert_eq!(error.to_string(), want);
    }
    let large = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert!(matches!(ManifestOrIndex::parse(&large, None), Err(InvalidManifest::Size { .. })));
}

#[test]
fn counts_must_match() {
    let config = Descriptor::new(media_type::CONFIG, D.parse().unwrap(), 1);
    let manifest = Manifest::new(config.clone(), vec![config]);
    let error = check_counts(&manifest, &ImageConfig::default()).unwrap_err();
    assert_eq!(error.to_string(), "manifest has 1 layers but its config has 0");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _parsed = ManifestOrIndex::parse(&bytes, None);
    }
}

use super::*;

const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[test]
fn references_are_normalised() {
    let digest = format!("alpine@sha256:{HEX}");
    let both = format!("localhost:5000/a/b:v1@sha256:{HEX}");
    for (text, canonical, familiar) in [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("docker.io/alpine:3", "docker.io/library/alpine:3", "alpine:3"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("ghcr.io/a/b/c:V_1.0-x", "ghcr.io/a/b/c:V_1.0-x", "ghcr.io/a/b/c:V_1.0-x"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("host:5000/app", "host:5000/app:latest", "host:5000/app:latest"),
        ("[::1]:5000/app:x", "[::1]:5000/app:x", "[::1]:5000/app:x"),
        ("HOST/app", "HOST/app:latest", "HOST/app:latest"),
        ("app:5000", "docker.io/library/app:5000", "app:5000"),
        ("f/a__b.c-d--e", "docker.io/f/a__b.c-d--e:latest", "f/a__b.c-d--e:latest"),
        (&digest, &format!("docker.io/library/{digest}"), &digest),
        (&both, &both, &both),
    ] {
        let image: ImageRef = text.parse().unwrap();
        assert_eq!(image.to_string(), canonical);
        assert_eq!(image.familiar(), familiar);
        assert_eq!(image.to_string().parse(), Ok(image.clone()), "canonical text parses back");
        assert_eq!(image.familiar().parse(), Ok(image));
    }
}

#[test]
fn other_texts_are_refused() {
    for (text, want) in [
        ("", "invalid reference format: ''"),
        ("a b", "invalid reference format: 'a b'"),
        ("/a", "invalid reference format: '/a'"),
        ("a/", "invalid reference format: 'a/'"),
        ("a//b", "invalid reference format: 'a//b'"),
        ("a:", "invalid reference format: 'a:'"),
        ("a:-x", "invalid reference format: 'a:-x'"),
        ("a..b", "invalid reference format: 'a..b'"),
        ("a___b", "invalid reference format: 'a___b'"),
        ("-a", "invalid reference format: '-a'"),
        ("../x", "invalid reference format: '../x'"),
        ("https://x/y", "invalid reference format: 'https://x/y'"),
        ("host:99999/a", "invalid reference format: 'host:99999/a'"),
        ("a@sha256:00", "invalid reference format: 'a@sha256:00'"),
        ("ubuntU", "invalid reference format: repository name (library/ubuntU) must be lowercase"),
        ("a.b/C:x", "invalid reference format: repository name (C) must be lowercase"),
    ] {
        assert_eq!(text.parse::<ImageRef>().unwrap_err().to_string(), want);
    }
    assert!(matches!(HEX.parse::<ImageRef>(), Err(ParseReferenceError::Identifier { .. })));
    let sha512 = format!("a@sha512:{HEX}{HEX}");
    assert!(matches!(sha512.parse::<ImageRef>(), Err(ParseReferenceError::Digest { .. })));
    let long = "a/".repeat(200) + "a";
    assert_eq!(long.parse::<ImageRef>(), Err(ParseReferenceError::Long));
}

proptest::proptest! {
    #[test]
    fn what_parses_prints_and_parses_again(text in "[a-z0-9A-Z.:/@_\\[\\]-]{0,40}") {
        if let Ok(image) = text.parse::<ImageRef>() {
            proptest::prop_assert_eq!(image.to_string().parse(), Ok(image.clone()));
            proptest::prop_assert_eq!(image.familiar().parse(), Ok(image));
        }
    }

    #[test]
    fn any_text_is_survived(text in ".{0,80}") {
        let _parsed = text.parse::<ImageRef>();
    }
}

use super::*;
use expect_test::expect;

const ID: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[test]
fn a_config_is_written_as_buildkit_writes_it() {
    let config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        created: Some("2020-01-01T00:00:00Z".into()),
        config: ContainerConfig {
            exposed_ports: ["80/tcp".to_owned()].into(),
            env: vec!["PATH=/bin".into(), "A=<&>".into()],
            cmd: vec!["sh".into()],
            labels: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            working_dir: "/w".into(),
            healthcheck: Some(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() }),
            on_build: vec!["RUN x".into()],
            shell: vec!["/bin/bash".into()],
            ..ContainerConfig::default()
        },
        diff_ids: vec![ID.parse().unwrap()],
        history: vec![History {
            created_by: "RUN a && b # buildkit".into(),
            comment: "buildkit.dockerfile.v0".into(),
            empty_layer: true,
            ..History::default()
        }],
        ..ImageConfig::default()
    };
    let text = String::from_utf8(config.to_json()).unwrap();
    expect![[r#"{"architecture":"amd64","config":{"ExposedPorts":{"80/tcp":{}},"Env":["PATH=/bin","A=\u003c\u0026\u003e"],"Cmd":["sh"],"WorkingDir":"/w","Labels":{"a":"1","b":"2"},"Healthcheck":{"Test":["NONE"]},"OnBuild":["RUN x"],"Shell":["/bin/bash"]},"created":"2020-01-01T00:00:00Z","history":[{"created_by":"RUN a \u0026\u0026 b # buildkit","comment":"buildkit.dockerfile.v0","empty_layer":true}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]}}"#]].assert_eq(&text);
    assert_eq!(ImageConfig::parse(text.as_bytes()).unwrap(), config);
}

#[test]
fn nulls_are_read_as_go_reads_them_and_unknown_fields_are_not_inherited() {
    let text = r#"{"os":null,"config":{"Env":null,"Cmd":["a",null],"Labels":{"x":null},
        "Volumes":{"/v":null},"Healthcheck":{"Interval":null,"Test":null},"Image":"sha256:x","StopTimeout":9},
        "history":[null,{"created":null}],"rootfs":null,"container_config":{"a":1},"extra":[1,2]}"#;
    let config = ImageConfig::parse(text.as_bytes()).unwrap();
    let whole = String::from_utf8(config.to_json()).unwrap();
    for unknown in [r#""Image":"sha256:x""#, r#""extra":[1,2]"#, r#""container_config":{"a":1}"#] {
        assert!(whole.contains(unknown), "{whole}");
    }
    let text = String::from_utf8(config.inherited().to_json()).unwrap();
    expect![[r#"{"architecture":"","config":{"Cmd":["a",""],"Volumes":{"/v":{}},"Labels":{"x":""},"Healthcheck":{},"StopTimeout":9},"history":[{},{}],"os":"","rootfs":{"type":"layers","diff_ids":[]}}"#]].assert_eq(&text);
    assert_eq!(ImageConfig::parse(b"null").unwrap(), ImageConfig::default());
}

#[test]
fn bad_configs_are_refused() {
    let layers = format!(r#"{{"rootfs":{{"diff_ids":["{}"]}}}}"#, vec![ID; 501].join(r#"",""#));
    for (text, want) in [
        ("[]", "image config is malformed"),
        ("", "image config is malformed"),
        ("{", "image config is malformed"),
        (r#"{"config":[]}"#, "image config is malformed"),
        (r#"{"config":{"Env":{}}}"#, "image config is malformed"),
        (r#"{"os":1}"#, "image config is malformed"),
        (r#"{"rootfs":{"type":"x"}}"#, "image config has a rootfs of type 'x', not 'layers'"),
        (r#"{"rootfs":{"diff_ids":["x"]}}"#, "image config names a layer wrongly"),
        (&layers, "image config lists 501 layers, more than 500"),
        (&format!("{{\"x\":{}", "[".repeat(100_000)), "image config is malformed"),
    ] {
        assert_eq!(ImageConfig::parse(text.as_bytes()).unwrap_err().to_string(), want);
    }
    let large = vec![b' '; CONFIG_BYTES_MAX + 1];
    assert!(matches!(ImageConfig::parse(&large), Err(InvalidConfig::Size { .. })));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _parsed = ImageConfig::parse(&bytes);
    }

    #[test]
    fn what_is_written_is_read_back(env in proptest::collection::vec(".{0,20}", 0..5), by in ".*") {
        let history = vec![History { created_by: by, ..History::default() }];
        let container = ContainerConfig { env, ..ContainerConfig::default() };
        let config = ImageConfig { config: container, history, ..ImageConfig::default() };
        proptest::prop_assert_eq!(ImageConfig::parse(&config.to_json()).unwrap(), config);
    }
}

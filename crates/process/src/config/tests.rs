use std::path::Path;

use expect_test::expect;

use super::*;

fn parse(text: &str) -> Result<Config, LoadConfigError> {
    let env = Env::from_iter([("HOME", "/home/ann")]);
    Config::parse(Path::new("c.toml"), text, &env)
}

#[test]
fn nothing_written_is_all_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.build.state_dir, Path::new("/home/ann/.local/share/dcbuild"));
    assert_eq!(config.build.keep_storage, ByteSize(20 << 30));
    assert_eq!(config.coordinator.grace, Duration::from_mins(5));
    assert_eq!(config.coordinator.store, StoreConfig::Folder { dir: None });
    assert_eq!(config.coordinator.index, IndexConfig::Embedded);
}

#[test]
fn toml_and_json_mean_the_same() {
    let toml = "[registry.\"r:5000\"]\nhttp = true\nmirrors = [\"m\"]\n[worker]\nslots = 3\n\
                labels = { zone = \"a\" }\n[coordinator.store]\ntype = \"folder\"\ndir = \"/s\"";
    let json = r#"{"registry": {"r:5000": {"http": true, "mirrors": ["m"]}},
        "worker": {"slots": 3, "labels": {"zone": "a"}},
        "coordinator": {"store": {"type": "folder", "dir": "/s"}}}"#;
    assert_eq!(parse(toml).unwrap(), parse(json).unwrap());
}

#[test]
fn registries_read_as_in_buildkitd_toml() {
    let text = "[registry.\"docker.io\"]\nmirrors = [\"m:5000\"]\nhttp = true\ninsecure = true\n\
                ca = [\"/ca.pem\"]\ntoken_origins = [\"https://t.example\"]\n\
                upload_chunk = \"64MiB\"\n[[registry.\"docker.io\".keypair]]\nkey = \"/key.pem\"\n\
                cert = \"/cert.pem\"\n";
    let config = parse(text).unwrap();
    let want = RegistryTable {
        mirrors: vec!["m:5000".into()],
        http: true,
        insecure: true,
        ca: vec!["/ca.pem".into()],
        keypair: Some(("/key.pem".into(), "/cert.pem".into())),
        token_origins: vec!["https://t.example".into()],
        upload_chunk: Some(ByteSize(64 << 20)),
    };
    assert_eq!(config.registries["docker.io"], want);
    let text = "[[registry.a.keypair]]\nkey = \"/k\"\n[registry.b]\nkeypair = \"/k\"\n\
                [[registry.c.keypair]]\nkey = \"/k\"\ncert = \"/c\"\n\
                [[registry.c.keypair]]\nkey = \"/k\"\ncert = \"/c\"\n";
    expect![[r#"
        the configuration c.toml has mistakes:
          registry.a.keypair: [{"key":"/k"}] is not a list of tables with the texts key and cert
          registry.b.keypair: "/k" is not a list of tables with the texts key and cert
          registry.c.keypair: has more than one: a registry is shown one certificate"#]]
    .assert_eq(&parse(text).unwrap_err().to_string());
}

#[test]
fn every_mistake_is_said_at_once() {
    let text = "[build]\nkeep_storage = \"20\"\n[worker]\nslots = 0\ngrace = \"soon\"\n\
                coordinator = \"here\"\n[coordinator]\nlisten = \"x\"\n[log]\nlevel = \"a=b=c\"";
    expect![[r#"
        the configuration c.toml has mistakes:
          build.keep_storage: '20' is not a size such as "512MiB" or "20GB"
          coordinator.listen: invalid socket address syntax
          log.level: 'a=b=c' is not a log level such as "info" or "info,dcbuild_worker=debug"
          worker.coordinator: 'here' is not a URL such as "http://host:7070"
          worker.grace: 'soon' is not a duration such as "10s" or "1h30m"
          worker.slots: must be at least 1"#]]
    .assert_eq(&parse(text).unwrap_err().to_string());
}

#[test]
fn a_bucket_is_a_store_and_redis_its_index() {
    let bucket = "store = { type = \"s3\", url = \"s3://b\", signing_key_files = [\"/k\"] }\n\
                  index = { type = \"redis\", url = \"redis://r:6379\" }\n";
    let config = parse(&format!("[coordinator]\n{bucket}")).unwrap().coordinator;
    let store =
        BucketConfig { url: "s3://b".into(), signing_key_files: vec!["/k".into()], ca: None };
    let index =
        IndexConfig::Redis(RedisTable { url: "redis://r:6379".into(), ..RedisTable::default() });
    assert_eq!((config.store, config.index), (StoreConfig::Bucket(store), index));
    let text = "[coordinator]\nstore = { type = \"s3\", url = \"http://b\" }\n\
                index = { type = \"redis\", url = \"r\" }\n";
    expect![[r#"
        the configuration c.toml has mistakes:
          coordinator.index.url: is not of the form redis://HOST:PORT
          coordinator.store.url: 'http://b' is not of the form s3://BUCKET/PREFIX"#]]
    .assert_eq(&parse(text).unwrap_err().to_string());
}

#[test]
fn mistakes_of_every_sort_are_said_together() {
    let text = "[build]\nkeep_storage = 20\nnetwork = \"hosts\"\nparalelism = 3\n\
                [worker]\nslots = 0\nlabels = { a = 1 }\n[registry]\nhost = 1\n\
                [registry.r]\nhttp = \"yes\"\nmirrors = \"m\"";
    let want = expect![[r#"
        the configuration c.toml has mistakes:
          build.keep_storage: 20 is not a text in quotes
          build.network: "hosts" is not one of default, isolated, none, host
          build.paralelism: there is no such key
          registry.host: 1 is not a table
          registry.r.http: "yes" is not true or false
          registry.r.mirrors: "m" is not a list of texts
          worker.labels: {"a":1} is not a table of texts
          worker.slots: must be at least 1"#]];
    want.assert_eq(&parse(text).unwrap_err().to_string());
    let text = "[coordinator]\nstore = { type = \"s3\" }\nindex = { type = \"embedded\", url = \"redis://r\" }\n\
                [worker]\nslots = 0";
    expect![[r#"
        the configuration c.toml has mistakes:
          coordinator.index: unknown field `url`, there are no fields
          coordinator.store: missing field `url`
          worker.slots: must be at least 1"#]]
    .assert_eq(&parse(text).unwrap_err().to_string());
    let json = r#"{"build": {"keep_storage": 20, "network": "hosts", "paralelism": 3},
        "worker": {"slots": 0, "labels": {"a": 1}},
        "registry": {"host": 1, "r": {"http": "yes", "mirrors": "m"}}}"#;
    want.assert_eq(&parse(json).unwrap_err().to_string());
}

#[test]
fn a_variable_is_blamed_for_what_it_holds() {
    let env = Env::from_iter([("DCBUILD_COORDINATOR", "garbage")]);
    let error = Config::parse(Path::new("c.toml"), "", &env).unwrap_err();
    expect![[r#"
        the configuration c.toml has mistakes:
          DCBUILD_COORDINATOR: 'garbage' is not a URL such as "http://host:7070""#]]
    .assert_eq(&error.to_string());
}

#[test]
fn every_unknown_key_is_said_at_once() {
    let text =
        "colour = 1\n[build]\nspeed = 1\n[registry.r]\nmirror = []\n[coordinator.store]\nsize = 1";
    expect![[r#"
        the configuration c.toml has mistakes:
          build.speed: there is no such key
          colour: there is no such key
          coordinator.store.size: there is no such key
          registry.r.mirror: there is no such key"#]]
    .assert_eq(&parse(text).unwrap_err().to_string());
}

#[test]
fn the_environment_goes_before_the_file() {
    let env = Env::from_iter([("DCBUILD_STATE_DIR", "/s"), ("DCBUILD_COORDINATOR", "http://c")]);
    let config = Config::parse(Path::new("c"), "[build]\nstate_dir = \"/t\"", &env).unwrap();
    assert_eq!(config.build.state_dir, Path::new("/s"));
    assert_eq!(config.submit.coordinator.as_deref(), Some("http://c"));
}

#[test]
fn a_named_file_must_be_there_and_the_others_need_not() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::from_iter([("XDG_CONFIG_HOME", folder.path())]);
    assert!(Config::load(Some(&folder.path().join("no.toml")), &env).is_err());
    std::fs::create_dir(folder.path().join("dcbuild")).unwrap();
    std::fs::write(folder.path().join("dcbuild/config.toml"), "[worker]\nslots = 9").unwrap();
    assert_eq!(Config::load(None, &env).unwrap().worker.slots, 9);
}

#[test]
fn the_reference_names_every_key_once() {
    let text = reference();
    for key in &keys::KEYS {
        assert_eq!(text.matches(&format!("| `{}` |", key.name)).count(), 1, "{}", key.name);
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_configuration_or_has_its_mistakes_told(
        lines in proptest::collection::vec(proptest::sample::select(vec![
            "[worker]", "[build]", "[coordinator.store]", "[coordinator]", "[registry.\"a:1\"]",
            "slots = 3", "slots = -1", "slots = 1e400", "grace = \"5m\"", "grace = 5",
            "type = \"folder\"", "type = \"s3\"", "dir = \"/s\"", "dir = []", "http = true",
            "mirrors = [\"m\", 1]", "listen = \"\"", "a.b.c = 1", "{", "}", "\"\"\"", "= =",
            "keep_storage = \"9999999999TiB\"", "{\"worker\":{\"slots\":[]}}",
        ]), 0..8),
        other in ".{0,40}",
    ) {
        for text in [lines.join("\n"), other] {
            if let Err(error) = parse(&text) {
                proptest::prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn any_text_is_a_size_or_a_time_or_none(text in "[0-9.]{0,20}[a-zA-Z ]{0,4}", other in ".{0,9}") {
        for text in [text, other] {
            drop(text.parse::<ByteSize>());
            drop(crate::parse_duration(&text));
            drop(crate::Proxies::parse(&text, "unix:///x"));
        }
    }
}

#[test]
fn a_certificate_needs_its_key() {
    let tls = "[coordinator.tls]\ncert = \"/c\"\nkey = \"/k\"\n[submit.tls]\nca = \"/ca\"";
    let config = parse(tls).unwrap();
    let server = ServerTlsConfig { cert: "/c".into(), key: "/k".into(), client_ca: None };
    assert_eq!(config.coordinator.tls, Some(server));
    assert_eq!(config.submit.tls, ClientTls { ca: Some("/ca".into()), identity: None });
    assert_eq!(config.worker.tls, ClientTls::default());
    let env = Env::from_iter([("DCBUILD_TLS_CA", "/mine"), ("DCBUILD_TLS_CERT", "/c")]);
    let text = "[worker.tls]\nkey = \"/k\"\n[submit.tls]\nkey = \"/k\"";
    let config = Config::parse(Path::new("c.toml"), text, &env).unwrap();
    let identity = Some(("/c".into(), "/k".into()));
    assert_eq!(config.worker.tls, ClientTls { ca: Some("/mine".into()), identity });
    let text = "[coordinator.tls]\nclient_ca = \"/ca\"\n[worker.tls]\ncert = \"/c\"\nclient_ca = \"/ca\"\n\
                [coordinator.index]\ntype = \"redis\"\nurl = \"rediss://r\"\nkey = \"/k\"";
    expect![[r#"
        the configuration c.toml has mistakes:
          coordinator.index.cert: is missing: key needs its certificate
          coordinator.tls.client_ca: needs cert and key beside it
          worker.tls.client_ca: there is no such key
          worker.tls.key: is missing: cert needs its key"#]]
    .assert_eq(&parse(text).unwrap_err().to_string());
}

use super::*;

fn texts(given: &[&str]) -> Vec<String> {
    given.iter().map(|text| (*text).to_owned()).collect()
}

fn env() -> Env {
    Env::from_iter([("FROM_ENV", "here"), ("TOKEN", "t")])
}

#[test]
fn build_args_take_values_from_the_environment() {
    let args = build_args(&texts(&["A=1", "B=", "C=x=y", "FROM_ENV", "ABSENT", "A=2"]), &env());
    let want = [("A", "2"), ("B", ""), ("C", "x=y"), ("FROM_ENV", "here")];
    let want = want.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(args.unwrap(), BTreeMap::from(want));
    assert!(build_args(&texts(&["=1"]), &env()).is_err());
}

#[test]
fn labels_may_be_empty() {
    let want = [("a", ""), ("b", "c=d")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(labels(&texts(&["a", "b=c=d"])).unwrap(), BTreeMap::from(want));
    assert!(labels(&texts(&["=x"])).is_err());
}

#[test]
fn manifests_and_indexes_are_annotated() {
    let told = |text: &str| {
        let told = |it: &Annotation| {
            let of = it.platform.as_ref().map_or(String::new(), |of| format!("[{of}]"));
            format!("{:?}{of} {}={}", it.place, it.name, it.value)
        };
        annotations(&texts(&[text])).unwrap().iter().map(told).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(told("a=1"), "Manifest a=1");
    assert_eq!(told("manifest:b:c=2"), "Manifest b:c=2");
    assert_eq!(told("manifest:d="), "Manifest d=");
    assert_eq!(told("index,manifest:a=1"), "Index a=1, Manifest a=1");
    assert_eq!(told("manifest[linux/arm64]:a=1"), "Manifest[linux/arm64] a=1");
    assert_eq!(told("manifest-descriptor:a=1"), "ManifestDescriptor a=1");
    assert_eq!(told("other:a=1"), "Manifest other:a=1");
    assert_eq!(told("index-descriptor:a=1"), "IndexDescriptor a=1");
    for text in
        ["index-descriptor[linux/arm64]:a=1", "index[linux/arm64]:a=1", "manifest[x:a=1", "a", "=1"]
    {
        assert!(annotations(&texts(&[text])).is_err(), "{text}");
    }
}

#[test]
fn named_contexts_are_folders_images_layouts_or_stages() {
    let one = |text: &str| {
        let found = build_contexts(&texts(&[text])).map_err(|error| error.to_string());
        found.map(|found| found.into_values().next().unwrap())
    };
    assert_eq!(one("a=../b"), Ok(NamedContext::Folder("../b".into())));
    assert_eq!(one("a=docker-image://alpine:3"), Ok(NamedContext::Image("alpine:3".into())));
    assert_eq!(one("a=target:base"), Ok(NamedContext::Target("base".into())));
    let file = one("a=https://example.com/x");
    assert_eq!(file, Ok(NamedContext::Remote(Remote::Http("https://example.com/x".into()))));
    let layout = one("a=oci-layout://dir:tag").unwrap();
    assert_eq!(layout.source(), ContextSource::OciLayout { reference: "tag".into() });
    for text in [
        "a",
        "=b",
        "a=",
        "context=.",
        "a=https://example.com/x.git?nonsense=1",
        "a=docker-image://A B",
        "a=oci-layout://",
    ] {
        assert!(one(text).is_err(), "{text}");
    }
}

#[test]
fn secrets_come_from_files_or_the_environment() {
    let file = |path: &str| Some(SecretSource::File(path.into()));
    let variable = |name: &str| Some(SecretSource::Env(name.into()));
    for (text, want) in [
        ("id=a,src=f", file("f")),
        ("id=a,source=f,type=file", file("f")),
        ("id=a,env=V", variable("V")),
        ("id=a,type=env,src=V", variable("V")),
        ("id=TOKEN", variable("TOKEN")),
        ("id=TOKEN,type=file", file("TOKEN")),
        ("id=a", file("a")),
        ("id=a,env=", file("a")),
        ("id=TOKEN,src=", variable("TOKEN")),
        ("id=a,env=V,src=", variable("V")),
        ("id=a,type=env", variable("a")),
        (r#"id=a,"src=x,y""#, file("x,y")),
        ("src=f", None),
        ("id=", None),
        ("a", None),
        ("id=a,src=f,env=V", None),
        ("id=a,type=vault", None),
        ("id=a,size=5", None),
    ] {
        let found = secrets(&texts(&[text]), &env()).ok();
        assert_eq!(found.and_then(|found| found.into_values().next()), want, "{text}");
    }
}

#[test]
fn hosts_have_addresses() {
    for (text, want) in [
        ("db:10.0.0.7", Some(("db", "10.0.0.7"))),
        ("db=10.0.0.7", Some(("db", "10.0.0.7"))),
        ("db:::1", Some(("db", "::1"))),
        ("db=[2001:db8::1]", Some(("db", "2001:db8::1"))),
        ("db", None),
        (":1.2.3.4", None),
        ("db:here", None),
        ("db:host-gateway", Some(("db", "host-gateway"))),
    ] {
        let want = want.map(|(host, address)| (host.to_owned(), address.to_owned()));
        assert_eq!(add_host(text).ok(), want, "{text}");
    }
    let several = add_hosts(&texts(&["a:1.2.3.4,b=::1", "\"c:host-gateway\""])).unwrap();
    let several: Vec<String> =
        several.into_iter().map(|(host, address)| format!("{host} {address}")).collect();
    assert_eq!(several, ["a 1.2.3.4", "b ::1", "c host-gateway"]);
    assert!(add_hosts(&texts(&["a:1.2.3.4,"])).is_err());
    assert!(add_hosts(&texts(&["\"a:1.2.3.4"])).is_err());
}

#[test]
fn limits_have_a_soft_and_a_hard_part() {
    for (text, want) in [
        ("nofile=1024:2048", Some((1024, 2048))),
        ("nofile=5", Some((5, 5))),
        ("core=0:-1", Some((0, -1))),
        ("core=-1", Some((-1, -1))),
        ("nofile=9:5", None),
        ("nofile=-1:5", None),
        ("nofile", None),
        ("nofile=a", None),
        ("files=1", None),
        ("nofile=-2", None),
    ] {
        let found = ulimit(text).ok().map(|limit| (limit.soft, limit.hard));
        assert_eq!(found, want, "{text}");
    }
}

#[test]
fn the_last_limit_of_a_name_counts() {
    let limits = ulimits(&texts(&["nofile=1024", "core=0", "nofile=2048:4096"])).unwrap();
    let told = limits.iter().map(|limit| format!("{} {}:{}", limit.name, limit.soft, limit.hard));
    assert_eq!(told.collect::<Vec<_>>(), ["core 0:0", "nofile 2048:4096"]);
}

#[test]
fn sizes_are_powers_of_1024() {
    for (text, want) in [
        ("64m", Some(64 << 20)),
        ("1G", Some(1 << 30)),
        ("1.5k", Some(1536)),
        ("100", Some(100)),
        ("2 MiB", Some(2 << 20)),
        ("7b", Some(7)),
        ("", None),
        ("m", None),
        ("-1", None),
        ("1x", None),
        ("1.", None),
        ("99999999999999999999g", None),
        ("99999999999999999t", None),
    ] {
        assert_eq!(shm_size(text).ok(), want, "{text}");
    }
}

#[test]
fn words_are_held_to_their_lists() {
    assert_eq!(network(None).unwrap(), RunNetwork::Default);
    assert_eq!(network(Some("host")).unwrap(), RunNetwork::Host);
    assert!(network(Some("bridge")).is_err());
    let allowed =
        allow(&texts(&["security.insecure,network.host", "device=a/b,alias=c/d", "device"]));
    let both = ["network.host", "security.insecure"].map(str::to_owned);
    assert_eq!(allowed.unwrap(), BTreeSet::from(both));
    assert!(allow(&texts(&["everything"])).is_err());
    assert!(allow(&texts(&["network.host,everything"])).is_err());
}

#[test]
fn platforms_are_listed_once_each() {
    for (given, want) in [
        (&[][..], &[][..]),
        (&["linux/arm64"], &["linux/arm64"]),
        (&["linux/arm64, linux/amd64"], &["linux/arm64", "linux/amd64"]),
        (&["arm64", "linux/arm/v7,linux/arm64/v8"], &["linux/arm64", "linux/arm/v7"]),
    ] {
        let found: Vec<String> =
            platforms(&texts(given)).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, want, "{given:?}");
    }
    let own = Platform { os: "linux".into(), ..Platform::host() };
    assert_eq!(platforms(&texts(&["local"])).unwrap(), [own]);
    let many: Vec<String> = (0..65).map(|number| format!("linux/x{number}")).collect();
    for given in [&texts(&["linux/amd64,"])[..], &texts(&["a", "b"]), &texts(&["a/b/c/d"]), &many] {
        assert!(platforms(given).is_err(), "{given:?}");
    }
}

#[test]
fn one_platform_may_be_an_index() {
    let index = |platforms: &[&str], value: Option<&str>| {
        let platforms: Vec<Platform> = platforms.iter().map(|it| it.parse().unwrap()).collect();
        let pair = value.map(|value| ("BUILDKIT_MULTI_PLATFORM".to_owned(), value.to_owned()));
        is_index(&platforms, &pair.into_iter().collect()).ok()
    };
    let (one, two) = (&["linux/amd64"][..], &["linux/amd64", "linux/arm64"][..]);
    assert_eq!(index(one, None), Some(false));
    assert_eq!(index(one, Some("")), Some(false));
    assert_eq!(index(one, Some("0")), Some(false));
    assert_eq!(index(one, Some("true")), Some(true));
    assert_eq!(index(two, None), Some(true));
    assert_eq!(index(two, Some("1")), Some(true));
    assert_eq!(index(two, Some("false")), None);
    assert_eq!(index(one, Some("perhaps")), None);
}

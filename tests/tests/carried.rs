//! Records at other places: `--cache-to` and `--cache-from` with registries, folders, buckets and images.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::{Path, PathBuf};

use dcbuild_tests::base::busybox_with;
use dcbuild_tests::cluster::{Cluster, Store};
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::http::request;
use dcbuild_tests::image::Image;
use dcbuild_tests::layout::{Blob, LayerTar, MANIFEST, MadeImage, digest};
use dcbuild_tests::progress::ran;
use dcbuild_tests::registry::{Registry, free_port};
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::s3::{BUCKET, KEY, S3Server, SECRET};
use dcbuild_tests::story::{Story, fill};
use dcbuild_tests::wait::LONG;
use serde_json::{Value, json};

const DOCKERFILE: &str = "FROM busybox:golden AS build\nCOPY in.txt /in.txt\nRUN cat /in.txt /in.txt > /out.txt\n\
    FROM busybox:golden\nCOPY --from=build /out.txt /out.txt\nRUN cat /proc/sys/kernel/random/uuid > /id\n";
/// The same, which reads a further file of the first stage.
const READS_MORE: &str = "FROM busybox:golden AS build\nCOPY in.txt /in.txt\nRUN cat /in.txt /in.txt > /out.txt\n\
    FROM busybox:golden\nCOPY --from=build /out.txt /in.txt /\nRUN cat /proc/sys/kernel/random/uuid > /id\n";
const FILES: &[(&str, &str)] = &[("in.txt", "hello\n")];

/// What stands in the record of the last RUN, where the values of a key's parts are not told.
fn of_last_run() -> String {
    digest(br#"["/bin/sh", "-c", "cat /proc/sys/kernel/random/uuid > /id"]"#)
}

fn contains(text: &str, wanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// Takes everything of local builds away.
fn forget(story: &Story) {
    std::fs::remove_dir_all(story.home.path("state")).unwrap();
}

/// Builds with a cache at a place, forgets all, and builds from there: nothing runs, and the image is the same.
fn there_and_back(story: &Story, to: &str, from: &str) {
    let first = story.build(&["--cache-to", to]);
    assert!(first.has_run("RUN cat /in.txt"), "{:?}", first.ran);
    forget(story);
    let second = story.build(&["--cache-from", from]);
    assert_eq!(second.ran, Vec::<String>::new(), "from {from}");
    assert_eq!(second.image.digest, first.image.digest);
    assert_eq!(second.image.tree().text("id"), first.image.tree().text("id"));
    // What came is this machine's own now.
    let third = story.build(&[]);
    assert_eq!(third.ran, Vec::<String>::new(), "after {from}");
    assert_eq!(third.image.digest, first.image.digest);
}

fn raw(registry: &Registry, path: &str) -> Vec<u8> {
    let accept = format!("Accept: {MANIFEST}");
    let answer = request(&registry.host, &format!("GET /v2/{path}"), &[&accept], b"");
    assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
    answer.body
}

/// The files below a folder whose names end so.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_str().unwrap().ends_with(end) {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_registry_holds_all_that_a_fresh_machine_needs() {
    let story = Story::new(DOCKERFILE, FILES);
    let name = format!("{}/caches/app:1", story.registry.host);
    there_and_back(&story, &format!("type=registry,ref={name},mode=max"), &name);

    // It is an artifact of its own kind, whose layers are not fetched before somebody needs them.
    let manifest: Value =
        serde_json::from_slice(&raw(&story.registry, "caches/app/manifests/1")).unwrap();
    assert_eq!(manifest["artifactType"], "application/vnd.dcbuild.cache.v2");
    let layers = manifest["layers"].as_array().unwrap();
    assert!(layers.len() >= 8, "{manifest:#}");
    forget(&story);
    let from = format!("type=registry,ref={name}");
    let said = story.try_build(&["-o", "type=cacheonly", "--cache-from", &from]).well().stderr;
    contains(&said, &[&format!("importing cache manifest from {name}"), "CACHED"]);
    for layer in layers {
        let hex = layer["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let here = files(&story.home.path("state"), hex);
        assert_eq!(here, Vec::<PathBuf>::new(), "{layer} was fetched for nothing");
    }

    // From one place to another, past a machine that needs no layer of it.
    let (to, relay) = (
        format!("type=local,dest={},mode=max", story.home.arg("relay")),
        format!("type=local,src={}", story.home.arg("relay")),
    );
    story.try_build(&["-o", "type=cacheonly", "--cache-from", &from, "--cache-to", &to]).well();
    forget(&story);
    let relayed = story.build(&["--cache-from", &relay]);
    assert_eq!(relayed.ran, Vec::<String>::new());
    assert_eq!(relayed.image.tree().text("out.txt").unwrap(), "hello\nhello\n");
    forget(&story);

    // A step that is new stands on layers of the cache.
    story.write("Dockerfile", &format!("{DOCKERFILE}RUN cat /out.txt /id > /all\n"));
    let built = story.build(&["--cache-from", &from]);
    assert_eq!(built.ran.len(), 1, "{:?}", built.ran);
    assert!(built.has_run("RUN cat /out.txt /id"));
    let (tree, old) = (built.image.tree(), "hello\nhello\n");
    assert_eq!(tree.text("all").unwrap(), format!("{old}{}", tree.text("id").unwrap()));
}

#[test]
fn min_has_the_steps_of_the_image_and_max_all_of_them() {
    let story = Story::new(DOCKERFILE, FILES);
    let dest =
        |name: &str, mode: &str| format!("type=local,dest={},mode={mode}", story.home.arg(name));
    let src = |name: &str| format!("type=local,src={}", story.home.arg(name));
    let first =
        story.build(&["--cache-to", &dest("min", "min"), "--cache-to", &dest("max", "max")]);
    forget(&story);
    // Enough to find the image; the second time all was found, and both are written whole again.
    let to = [dest("again", "min"), dest("most", "max")];
    let second =
        story.build(&["--cache-from", &src("min"), "--cache-to", &to[0], "--cache-to", &to[1]]);
    assert_eq!(second.ran, Vec::<String>::new());
    assert_eq!(second.image.digest, first.image.digest);
    // Of other stages' steps there is no record now; what reads of them is written all the same.
    forget(&story);
    assert_eq!(story.build(&["--cache-from", &src("most")]).ran, Vec::<String>::new());
    story.write("Dockerfile", READS_MORE);
    for (name, runs) in [("min", true), ("again", true), ("max", false)] {
        forget(&story);
        let built = story.build(&["--cache-from", &src(name)]);
        assert_eq!(built.has_run("RUN cat /in.txt"), runs, "{name}: {:?}", built.ran);
        assert_eq!(built.image.tree().text("in.txt").unwrap(), "hello\n");
    }
}

#[test]
fn a_folder_holds_caches_by_their_tags() {
    let story = Story::new(DOCKERFILE, FILES);
    let folder = story.home.arg("caches");
    let to = |tag: &str| format!("type=local,dest={folder},mode=max,tag={tag},compression=gzip");
    let from = |tag: &str| format!("type=local,src={folder},tag={tag}");
    there_and_back(&story, &to("one"), &from("one"));
    story.write("in.txt", "other\n");
    let other = story.build(&["--cache-to", &to("two")]);
    forget(&story);
    assert!(story.build(&["--cache-from", &from("one")]).has_run("RUN cat /in.txt"));
    forget(&story);
    let again = story.build(&["--cache-from", &from("two")]);
    assert_eq!(again.ran, Vec::<String>::new());
    assert_eq!(again.image.digest, other.image.digest);
    let said = story.try_build(&["--cache-from", &from("none")]).well().stderr;
    contains(&said, &["not found: nothing is taken from it"]);
}

#[test]
fn a_bucket_holds_a_cache() {
    let (story, s3) = (Story::new(DOCKERFILE, FILES), S3Server::start());
    let at = format!(
        "type=s3,bucket={BUCKET},region=us-east-1,endpoint_url={},use_path_style=true,prefix=ci/,name=app,\
         access_key_id={KEY},secret_access_key={SECRET}",
        s3.endpoint()
    );
    there_and_back(&story, &format!("{at},mode=max"), &at);
    assert!(s3.keys().iter().any(|key| key == "ci/manifests/app.dcbuild"), "{:?}", s3.keys());
    let said = story.try_build(&["--cache-from", &at.replace("name=app", "name=other")]).well();
    contains(&said.stderr, &["not found: nothing is taken from it"]);
    let wrong = at.replace(SECRET, "wrong").replace(KEY, "nobody");
    let said = story.try_build(&["--cache-from", &wrong]).well().stderr;
    contains(&said, &["could not be read", "refused access"]);
    assert!(!said.contains("wrong"), "{said}");
}

#[test]
fn the_sweeper_of_a_store_leaves_a_cache_in_the_same_bucket_alone() {
    let (story, s3) = (Story::new(DOCKERFILE, FILES), S3Server::start());
    // As CI lines have it: nothing but a bucket and a branch's name.
    let at = format!(
        "type=s3,bucket={BUCKET},region=us-east-1,endpoint_url={},use_path_style=true,name=deps/@types+1,\
         access_key_id={KEY},secret_access_key={SECRET}",
        s3.endpoint()
    );
    let first = story.build(&["--cache-to", &format!("{at},mode=max")]);
    let root = s3.url("");
    let prune = ["cache", "prune", "--all", "--store", &root];
    let mut command = story.home.command(prune);
    command.envs(s3.environment());
    let said = Running::start(command).finish(LONG).well().stdout;
    assert!(said.contains("nothing to remove") || said.contains("removed 0"), "{said}");
    forget(&story);
    let second = story.build(&["--cache-from", &at]);
    assert_eq!((second.ran, second.image.digest), (Vec::new(), first.image.digest));
}

#[test]
fn an_image_carries_the_records_of_its_own_steps() {
    let story = Story::new(DOCKERFILE, FILES);
    let name = format!("{}/team/app:1", story.registry.host);
    let inline = ["--cache-to", "type=inline"];
    story.try_build(&["--push", "-t", &name, inline[0], inline[1]]).well();
    let pushed = story.registry.get("team/app:1");
    assert!(pushed.config["dcbuild.cache.v2"].is_string(), "{}", pushed.config);
    forget(&story);
    let again = story.build(&["--cache-from", &name, inline[0], inline[1]]);
    assert_eq!(again.ran, Vec::<String>::new());
    assert_eq!(again.image.config, pushed.config);
    // The other way to ask for it, and an image without.
    let plain = story.build(&[]);
    assert!(plain.image.config.get("dcbuild.cache.v2").is_none());
    let asked = story.build(&["--build-arg", "BUILDKIT_INLINE_CACHE=1"]);
    assert!(asked.image.config["dcbuild.cache.v2"].is_string());
    let bare = format!("{}/library/busybox:golden", story.registry.host);
    let said = story.try_build(&["--cache-from", &bare]).well().stderr;
    contains(&said, &["an image without records of dcbuild in its config"]);
}

/// As golang's, php's and node's images have one, of a WORKDIR that was there: the same layer as one of a step that changes
/// nothing.
#[test]
fn a_base_and_a_step_may_have_the_same_empty_layer() {
    let dockerfile = "FROM php:1 AS made\nRUN cat /proc/sys/kernel/random/uuid > /x\n\
        FROM php:1\nCOPY --from=made /x /x\nRUN true\n";
    let story = Story::new(dockerfile, &[]);
    story.registry.put("library/php:1", &busybox_with(LayerTar::default()));
    let name = format!("{}/team/app:1", story.registry.host);
    story.try_build(&["--push", "-t", &name, "--cache-to", "type=inline"]).well();
    forget(&story);
    let again = story.build(&["--cache-from", &name]);
    assert_eq!(again.ran, Vec::<String>::new());
    let place = story.home.arg("cache");
    there_and_back_of(&story, &place);
}

fn there_and_back_of(story: &Story, place: &str) {
    forget(story);
    let first = story.build(&["--cache-to", &format!("type=local,dest={place},mode=max")]);
    assert!(first.has_run("RUN cat /proc"), "{:?}", first.ran);
    forget(story);
    let second = story.build(&["--cache-from", &format!("type=local,src={place}")]);
    assert_eq!((second.ran, &second.image.digest), (Vec::new(), &first.image.digest));
}

/// Replaces the config of a cache in a folder by another one.
fn exchange_config(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = |digest: &str| folder.join("blobs").join(digest.replace(':', "/"));
    let read =
        |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let write = |value: &Value| -> (String, usize) {
        let bytes = serde_json::to_vec(value).unwrap();
        let digest = digest(&bytes);
        std::fs::write(path(&digest), &bytes).unwrap();
        (digest, bytes.len())
    };
    let mut index = read(&folder.join("index.json"));
    let mut manifest = read(&path(index["manifests"][0]["digest"].as_str().unwrap()));
    let mut config = read(&path(manifest["config"]["digest"].as_str().unwrap()));
    change(&mut config);
    let (config, size) = write(&config);
    manifest["config"]["digest"] = config.into();
    manifest["config"]["size"] = size.into();
    let (manifest, size) = write(&manifest);
    index["manifests"][0]["digest"] = manifest.into();
    index["manifests"][0]["size"] = size.into();
    std::fs::write(folder.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

#[test]
fn what_was_tampered_with_is_a_miss() {
    let story = Story::new(DOCKERFILE, FILES);
    let (to, from) = (
        format!("type=local,dest={},mode=max", story.home.arg("cache")),
        format!("type=local,src={}", story.home.arg("cache")),
    );
    let first = story.build(&["--cache-to", &to]);
    let id = first.image.tree().text("id").unwrap();
    forget(&story);

    // A layer: its step runs again, upon what is found of the others.
    let layer = files(&story.home.path("cache/blobs"), "").into_iter().find(|path| {
        let size = std::fs::metadata(path).unwrap().len();
        let manifest = std::fs::read(path).unwrap();
        // A frame of zstd, and no table.
        size < 2_000 && manifest.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
    });
    let layer = layer.unwrap();
    let good = std::fs::read(&layer).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(&layer, &bad).unwrap();
    let built = story.build(&["--cache-from", &from]);
    assert_eq!(built.image.tree().text("out.txt").unwrap(), "hello\nhello\n");
    std::fs::write(&layer, &good).unwrap();
    forget(&story);

    // A record: it is passed over, and no other is.
    exchange_config(&story.home.path("cache"), |config| {
        let mut changed = 0;
        for (name, text) in config["documents"].as_object_mut().unwrap() {
            let old = text.as_str().unwrap().to_owned();
            if name.starts_with("scope/") && old.contains(&of_last_run()) {
                *text = old.replacen("\"took_ms\":", "\"took_ms\":1", 1).into();
                changed += 1;
            }
        }
        assert!(changed > 0);
    });
    let said = story.try_build(&["-o", "type=cacheonly", "--cache-from", &from]).well().stderr;
    contains(&said, &["are damaged, or sealed with a key"]);
    let built = story.build(&[]);
    assert_ne!(built.image.tree().text("id").unwrap(), id);
    assert_eq!(built.image.tree().text("out.txt").unwrap(), "hello\nhello\n");
}

#[test]
fn what_is_written_over_is_named() {
    let story = Story::new(DOCKERFILE, FILES);
    let (theirs, image) = (format!("{}/caches/theirs:1", story.registry.host), "caches/image:1");
    story.registry.put("caches/theirs:1", &buildkits());
    story.registry.put(image, &busybox_with(LayerTar::default()));
    let to = |name: &str| format!("type=registry,ref={name}");
    let write = |name: &str| story.try_build(&["--cache-to", &to(name)]).well().stderr;
    contains(
        &write(&theirs),
        &[&format!("warning: cache at {theirs}: a cache of BuildKit lay there and is replaced")],
    );
    let image = format!("{}/{image}", story.registry.host);
    contains(
        &write(&image),
        &[&format!("warning: cache at {image}: an image lay there and is replaced")],
    );
    // One's own is what it is for.
    for name in [&theirs, &image] {
        assert!(!write(name).contains("replaced"));
    }
}

/// A cache as BuildKit leaves it, with nothing in it.
fn buildkits() -> MadeImage {
    let config = json!({ "layers": [], "records": [] }).to_string().into_bytes();
    let config = Blob { digest: digest(&config), bytes: config };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.buildkit.cacheconfig.v0",
            "digest": config.digest,
            "size": config.bytes.len(),
        },
        "layers": [],
    });
    let manifest = manifest.to_string().into_bytes();
    let manifest = Blob { digest: digest(&manifest), bytes: manifest };
    MadeImage { blobs: vec![config], manifest }
}

#[test]
fn caches_of_others_are_named_and_skipped() {
    let story = Story::new(DOCKERFILE, FILES);
    story.registry.put("caches/theirs:1", &buildkits());
    let theirs = format!("{}/caches/theirs:1", story.registry.host);
    let missing = format!("{}/caches/none:1", story.registry.host);
    let flags = ["--cache-from", &theirs, "--cache-from", &missing];
    let said = story.try_build(&flags).well().stderr;
    contains(
        &said,
        &[
            &format!("{theirs}: a cache of BuildKit, which dcbuild does not read"),
            &format!("importing cache manifest from {missing}"),
            "not found: nothing is taken from it",
        ],
    );
    let said = story.home.run(["cache", "import", &format!("docker://{theirs}")]).failed().stderr;
    contains(&said, &["holds no exported cache", "a cache of BuildKit"]);
    // What only other builders have costs no build, as with buildx.
    for kind in ["gha", "azblob"] {
        let asked = format!("type={kind},mode=max,scope=main");
        let said =
            story.try_build(&["--cache-from", &format!("type={kind}"), "--cache-to", &asked]);
        let said = said.well().stderr;
        for flag in ["--cache-from", "--cache-to"] {
            let left_out =
                format!("warning: {flag} type={kind} is left out: dcbuild keeps records in");
            contains(&said, &[&left_out, "type=registry,ref=NAME"]);
        }
        let strict = format!("type={kind},ignore-error=false");
        let said = story.try_build(&["--cache-to", &strict]).failed().stderr;
        contains(&said, &[&format!("--cache-to '{strict}' is not supported")]);
    }
    let names = format!("{missing},{theirs}");
    let said = story.try_build(&["--cache-from", &names]).well().stderr;
    contains(
        &said,
        &[&format!("manifest from {missing}"), &format!("{theirs}: a cache of BuildKit")],
    );
}

#[test]
fn a_cache_that_cannot_be_written_fails_a_build_only_where_that_is_asked() {
    let story = Story::new(DOCKERFILE, FILES);
    let to = format!("type=registry,ref=127.0.0.1:{}/app:cache", free_port());
    let said = story.try_build(&["-t", "app", "--cache-to", &to]).well().stderr;
    contains(
        &said,
        &["warning: could not write the cache to 127.0.0.1", "the build goes on without"],
    );
    let strict = format!("{to},ignore-error=false");
    let said = story.try_build(&["-t", "app", "--cache-to", &strict]).failed().stderr;
    contains(&said, &["error: could not write the cache to 127.0.0.1", "hint: ignore-error=true"]);
}

#[test]
fn a_whole_cache_goes_to_a_registry_and_back() {
    let story = Story::new(DOCKERFILE, FILES);
    let first = story.build(&[]);
    let name = format!("docker://{}/caches/all:1", story.registry.host);
    let said = story.home.run(["cache", "export", &name]).well().stdout;
    contains(&said, &["exported", "records and"]);
    forget(&story);
    contains(&story.home.run(["cache", "import", &name]).well().stdout, &["imported"]);
    let second = story.build(&[]);
    assert_eq!(second.ran, Vec::<String>::new());
    assert_eq!(second.image.digest, first.image.digest);
    // A build may take from it as well.
    forget(&story);
    let from = name.strip_prefix("docker://").unwrap();
    assert_eq!(story.build(&["--cache-from", from]).ran, Vec::<String>::new());
    let none = format!("docker://{}/caches/none:1", story.registry.host);
    contains(&story.home.run(["cache", "import", &none]).failed().stderr, &["nothing is there"]);
}

const ONE_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER_KEY: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

/// A cluster of its own, with or without a key.
fn cluster(registry: &Registry, key: Option<&str>) -> Cluster {
    let home = Home::new(&registry.as_docker_io());
    let mut entries = vec![ContextEntry::file("Dockerfile", DOCKERFILE)];
    entries.extend(FILES.iter().map(|(path, text)| ContextEntry::file(path, text)));
    write_context(&home.path("context"), &entries);
    let flags = vec!["--store".to_owned(), format!("dir:{}", home.arg("store"))];
    let environment = key.map(|key| ("DCBUILD_SIGNING_KEY", key.to_owned())).into_iter().collect();
    Cluster::start_on(Store { flags, environment }, home, 1, 2)
}

/// Submits, and says what ran and what was said.
fn submit(cluster: &Cluster, flags: &[&str]) -> (Vec<String>, String, String) {
    let (context, id) = (cluster.home.arg("context"), cluster.home.arg("id"));
    let output = format!("type=oci,dest={}", cluster.home.arg("image.tar"));
    let fixed = ["--progress", "rawjson", "--iidfile", &id, "-o", &output];
    let all: Vec<&str> =
        fixed.into_iter().chain(flags.iter().copied()).chain([&*context]).collect();
    let said = cluster.ask("submit", &all).well().stderr;
    (ran(&said), std::fs::read_to_string(cluster.home.path("id")).unwrap(), said)
}

#[test]
fn clusters_share_a_place_where_they_share_a_key() {
    let registry = Registry::start();
    fill(&registry);
    let name = format!("{}/caches/app:1", registry.host);
    let to = format!("type=registry,ref={name},mode=max");
    let one = cluster(&registry, Some(ONE_KEY));
    let (_, first, said) = submit(&one, &["--cache-to", &to]);
    assert!(!said.contains("could not"), "{said}");
    drop(one);
    let same = cluster(&registry, Some(ONE_KEY));
    let (ran, second, said) = submit(&same, &["--cache-from", &name]);
    assert_eq!((ran, second), (Vec::new(), first), "{said}");
    drop(same);
    for (key, words) in [
        (Some(OTHER_KEY), "do not carry the seal of this one's signing keys"),
        (None, "without a signing key (DCBUILD_SIGNING_KEY)"),
    ] {
        let other = cluster(&registry, key);
        let context = other.home.arg("context");
        let flags = ["--progress", "plain", "--cache-from", &name, &context];
        let said = other.ask("submit", &flags).well().stderr;
        contains(&said, &[words]);
        assert!(!said.contains("CACHED"), "{said}");
        let said = other.ask("submit", &["--detach", "--cache-from", &name, &context]);
        contains(&said.failed().stderr, &["--detach and --cache-from"]);
    }
}

/// Two who alternate at one name, in a registry, a folder and a bucket, take nothing from each other, and nothing away.
#[test]
fn clusters_with_keys_of_their_own_keep_their_caches_side_by_side_at_one_place() {
    let (registry, s3) = (Registry::start(), S3Server::start());
    fill(&registry);
    let folder = tempfile::tempdir().unwrap();
    let bucket = format!(
        "type=s3,bucket={BUCKET},region=us-east-1,endpoint_url={},use_path_style=true,access_key_id={KEY},\
         secret_access_key={SECRET},name=app",
        s3.endpoint()
    );
    let name = format!("{}/caches/app:1", registry.host);
    let dir = folder.path().display();
    let places = [
        (format!("type=registry,ref={name},mode=max"), format!("type=registry,ref={name}")),
        (format!("type=local,dest={dir},mode=max"), format!("type=local,src={dir}")),
        (format!("{bucket},mode=max"), bucket),
    ];
    let to: Vec<&str> = places.iter().flat_map(|(to, _)| ["--cache-to", to]).collect();
    let keys = [ONE_KEY, OTHER_KEY];
    let mut ids = Vec::new();
    // The first writes once more, behind the other.
    for key in [ONE_KEY, OTHER_KEY, ONE_KEY] {
        let cluster = cluster(&registry, Some(key));
        let from = ["--cache-from", &*places[0].1];
        let flags = if ids.len() < 2 { to.clone() } else { [&from[..], &to[..]].concat() };
        let (_, id, said) = submit(&cluster, &flags);
        assert!(!said.contains("could not") && !said.contains("replaced"), "{said}");
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1], "each made its own");
    for ((_, from), (key, id)) in
        places.iter().flat_map(|it| keys.iter().zip(&ids).map(move |of| (it, of)))
    {
        let reader = cluster(&registry, Some(key));
        let (ran, found, said) = submit(&reader, &["--cache-from", from]);
        assert_eq!((ran, &found), (Vec::new(), id), "{from}\n{said}");
        assert!(!said.contains("do not carry the seal"), "{said}");
    }
}

/// What lies in the store of a cluster that is gone, exported with a key.
fn exported(registry: &Registry) -> (Cluster, String) {
    let cluster = cluster(registry, Some(ONE_KEY));
    let (_, first, said) = submit(&cluster, &[]);
    assert!(!said.contains("CACHED"), "{said}");
    cluster.wait_until_durable();
    let said = cache(&cluster, &["export", &cluster.home.arg("exported")], Some(ONE_KEY)).well();
    contains(&said.stdout, &["exported", "records and"]);
    assert!(!said.stdout.contains("stay behind"), "{}", said.stdout);
    (cluster, first)
}

/// `dcbuild cache` about the folder of a cluster's store.
fn cache(cluster: &Cluster, rest: &[&str], key: Option<&str>) -> Finished {
    let store = format!("dir:{}", cluster.home.arg("store"));
    let mut command =
        cluster.home.command(["cache"].iter().chain(rest).chain(&["--store", &store]));
    command.envs(key.map(|key| ("DCBUILD_SIGNING_KEY", key)));
    Running::start(command).finish(LONG)
}

#[test]
fn what_a_folder_store_exports_is_sealed_and_only_its_key_opens_it() {
    let registry = Registry::start();
    fill(&registry);
    let (one, first) = exported(&registry);
    let folder = one.home.arg("exported");
    // A cluster with the key finds all of it where it lies, and one that it was imported into has it itself.
    let from = format!("type=local,src={folder}");
    let reads = cluster(&registry, Some(ONE_KEY));
    let (ran, again, said) = submit(&reads, &["--cache-from", &from]);
    assert_eq!((ran, &again), (Vec::new(), &first), "{said}");
    drop(reads);
    let takes = cluster(&registry, Some(ONE_KEY));
    let said = cache(&takes, &["import", &folder], Some(ONE_KEY)).well().stdout;
    contains(&said, &["imported"]);
    assert!(!said.contains("passed over") && !said.contains("stay behind"), "{said}");
    let (ran, again, said) = submit(&takes, &[]);
    assert_eq!((ran, &again), (Vec::new(), &first), "{said}");
    drop(takes);
    for (key, why) in [
        (None, "are damaged, or sealed with a key: give it as DCBUILD_SIGNING_KEY"),
        (Some(OTHER_KEY), "do not carry the seal of this one's signing keys"),
    ] {
        let other = cluster(&registry, key);
        let said = cache(&other, &["import", &folder], key).failed().stderr;
        contains(&said, &[&format!("nothing is taken from {folder}"), why]);
    }
}

#[test]
fn a_record_that_was_tampered_with_is_named_and_its_step_runs_again() {
    let registry = Registry::start();
    fill(&registry);
    let (one, _) = exported(&registry);
    let mut names = Vec::new();
    exchange_config(&one.home.path("exported"), |config| {
        for (name, text) in config["documents"].as_object_mut().unwrap() {
            let old = text.as_str().unwrap().to_owned();
            if name.starts_with("scope/") && old.contains(&of_last_run()) {
                *text = old.replacen("\"took_ms\":", "\"took_ms\":1", 1).into();
                names.push(name.clone());
            }
        }
    });
    assert!(!names.is_empty());
    let other = cluster(&registry, Some(ONE_KEY));
    let folder = one.home.arg("exported");
    let said = cache(&other, &["import", &folder], Some(ONE_KEY)).well().stdout;
    contains(&said, &["imported", &format!("{} documents do not carry the seal", names.len())]);
    for name in &names {
        contains(&said, &[name]);
    }
    let (ran, _, said) = submit(&other, &[]);
    assert!(matches!(&*ran, [one] if one.contains("random/uuid")), "{ran:?}\n{said}");
}

/// The stages of the other Dockerfile, then one that takes its time, and what is made of both.
fn slow(seconds: &str) -> String {
    let stages = DOCKERFILE.replace("\nFROM busybox:golden\n", "\nFROM busybox:golden AS last\n");
    format!(
        "{stages}FROM busybox:golden AS slow\nRUN sleep {seconds}; echo slow > /slow\n\
         FROM last\nCOPY --from=slow /slow /slow\nRUN cat /slow /out.txt /id > /all\n"
    )
}

#[test]
fn what_a_coordinator_had_borrowed_before_it_died_is_made_again() {
    let registry = Registry::start();
    fill(&registry);
    let one = cluster(&registry, Some(ONE_KEY));
    let place = one.home.arg("cache");
    submit(&one, &["--cache-to", &format!("type=local,dest={place},mode=max")]);
    let from = format!("type=local,src={place}");
    let mut other = cluster(&registry, Some(ONE_KEY));
    // Tells its process from those of other tests.
    let seconds = format!("6.4{}", 1_000_000 + std::process::id());
    std::fs::write(other.home.path("context/Dockerfile"), slow(&seconds)).unwrap();
    let output = format!("type=oci,dest={}", other.home.arg("image.tar"));
    let context = other.home.arg("context");
    let flags = ["--progress", "plain", "--cache-from", &from, "-o", &output, &context];
    let build = other.client("submit", &flags);
    other.worker_that_runs(&seconds);
    other.kill_coordinator();
    other.start_coordinator();
    let done = build.finish(LONG);
    assert!(done.status.success(), "{}\n{}", done.stderr, other.said());
    // They had been taken, and no layer of them had come.
    contains(&done.stderr, &["importing cache manifest", "CACHED", "its result was lost"]);
    let tree = Image::read_tar(&other.home.path("image.tar")).tree();
    let id = tree.text("id").unwrap();
    assert_eq!(tree.text("all").unwrap(), format!("slow\nhello\nhello\n{id}"));
    // What was made is the cluster's own now.
    let said = other.ask("submit", &["--progress", "plain", "-o", &output, &context]).well();
    assert!(!said.stderr.contains("lost"), "{}", said.stderr);
    let again = Image::read_tar(&other.home.path("image.tar")).tree();
    assert_eq!(again.text("id").unwrap(), id, "{}", said.stderr);
}

/// Its last steps run on without it; what it had lent is missing at the end, and to nobody else.
#[test]
fn a_client_that_dies_holds_up_neither_the_end_of_its_build_nor_the_next() {
    let registry = Registry::start();
    fill(&registry);
    let write = |cluster: &Cluster, last: &str| {
        let text = format!("FROM busybox:golden\nRUN head -c 3000000 /dev/urandom > /id\n{last}");
        std::fs::write(cluster.home.path("context/Dockerfile"), text).unwrap();
    };
    let one = cluster(&registry, Some(ONE_KEY));
    write(&one, "");
    let place = one.home.arg("cache");
    submit(&one, &["--cache-to", &format!("type=local,dest={place},mode=max")]);
    let from = format!("type=local,src={place}");
    let other = cluster(&registry, Some(ONE_KEY));
    // Tells its process from those of other tests.
    let seconds = format!("3.4{}", 1_000_000 + std::process::id());
    write(&other, &format!("RUN sleep {seconds}; echo z > /z\n"));
    let context = other.home.arg("context");
    let flags = ["--progress", "plain", "--cache-from", &from, &context];
    let mut build = other.client("submit", &flags);
    other.worker_that_runs(&seconds);
    build.kill();
    let said = build.stderr();
    contains(&said, &["importing cache manifest", "CACHED"]);
    let id = other.ask("ps", &["-aq"]).well().stdout;
    // Who only attaches has nothing to lend.
    let attached = other.ask("attach", &[id.trim()]);
    assert!(attached.status.success(), "{}\n{}", attached.stderr, other.said());
    write(&other, "RUN sha1sum /id > /sum\n");
    let next = other.ask("submit", &flags);
    assert!(next.status.success(), "{}\n{}", next.stderr, other.said());
    contains(&next.stderr, &["CACHED"]);
}

/// People hand passwords to stages that are in no image; whoever may pull a cache must not find them in it.
#[test]
fn a_cache_at_a_registry_or_in_a_folder_tells_no_value_of_an_argument() {
    let text = "FROM busybox:golden AS one\nARG TOKEN\nRUN echo $TOKEN | wc -c > /out\n\
        FROM scratch\nCOPY --from=one /out /out\n";
    let story = Story::new(text, &[]);
    let to = format!("type=local,dest={},mode=max", story.home.arg("cache"));
    let argument = ["--build-arg", "TOKEN=canary-7f3a"];
    story.build(&[&argument[..], &["--cache-to", &to]].concat());
    let mut grep = std::process::Command::new("grep");
    let found = grep.args(["-rc", "canary"]).arg(story.home.path("cache")).output().unwrap();
    let said = String::from_utf8(found.stdout).unwrap();
    assert!(said.lines().count() > 2 && said.lines().all(|line| line.ends_with(":0")), "{said}");
    forget(&story);
    let from = format!("type=local,src={}", story.home.arg("cache"));
    let again = story.build(&[&argument[..], &["--cache-from", &from]].concat());
    assert_eq!(again.ran, Vec::<String>::new());
}

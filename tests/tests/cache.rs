//! `dcbuild cache`: listed, counted, pruned, carried from one machine to another.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::Path;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::story::{Story, fill};
use dcbuild_tests::wait::{LONG, wait_for};
use serde_json::Value;

const DOCKERFILE: &str = "FROM busybox:golden AS build\nCOPY in.txt /in.txt\nRUN cat /in.txt /in.txt > /out.txt\n\
    FROM busybox:golden\nCOPY --from=build /out.txt /out.txt\nRUN cat /proc/sys/kernel/random/uuid > /id\n";
const FILES: &[(&str, &str)] = &[("in.txt", "hello\n")];

fn contains(text: &str, wanted: &[&str]) {
    for part in wanted {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// Takes everything of local builds away.
fn forget(story: &Story, name: &str) {
    std::fs::rename(story.home.path("state"), story.home.path(name)).unwrap();
}

#[test]
fn a_cache_is_carried_to_a_machine_that_has_nothing() {
    let story = Story::new(DOCKERFILE, FILES);
    let first = story.build(&[]);
    let said = story.home.run(["cache", "ls"]).well().stdout;
    contains(&said, &["KEY", "RUN cat /in.txt", "COPY --from=build", "FROM docker.io"]);
    let stats = story.home.run(["cache", "stats", "--format", "json"]).well().stdout;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!((&stats["builds"], &stats["kinds"][0]["kind"]), (&1.into(), &"records".into()));
    assert!(stats["ran"].as_u64().unwrap() >= 5 && stats["bytes"].as_u64().unwrap() > 0, "{stats}");

    let exported = story.home.arg("exported");
    let said = story.home.run(["cache", "export", &exported]).well().stdout;
    contains(&said, &["exported", "records and"]);
    assert!(!said.contains("stay behind"), "{said}");
    let said = story.home.run(["cache", "export", &exported]).failed().stderr;
    contains(&said, &["is not empty"]);

    forget(&story, "old");
    let said = story.home.run(["cache", "import", &exported]).well().stdout;
    contains(&said, &["imported"]);
    let second = story.build(&[]);
    assert_eq!(second.ran, Vec::<String>::new());
    assert_eq!(second.image.digest, first.image.digest);
    assert_eq!(second.image.tree().text("id"), first.image.tree().text("id"));
    let said = story.home.run(["explain"]).well().stdout;
    assert!(!said.contains("miss"), "{said}");
}

#[test]
fn images_with_a_name_are_counted_and_are_no_running_build() {
    let story = Story::new(DOCKERFILE, FILES);
    let stats = || -> Value {
        let said = story.home.run(["cache", "stats", "--format", "json"]).well().stdout;
        serde_json::from_str(&said).unwrap()
    };
    for (names, want) in [(&["-t", "app:1", "-t", "app:2"][..], 2), (&["-t", "other"], 3)] {
        story.try_build(names).well();
        let stats = stats();
        let kinds = stats["kinds"].as_array().unwrap();
        let images = kinds.iter().find(|kind| kind["kind"] == "images").unwrap();
        assert_eq!(images["count"], want, "{stats}");
        assert_eq!(stats["in_use_bytes"], 0, "{stats}");
    }
    // What an image needs stays with it.
    let said = story.home.run(["cache", "prune", "--all"]).well().stdout;
    assert!(said.contains(" stay\n") && !said.contains("running builds"), "{said}");
    let images = story.home.run(["images"]).well().stdout;
    assert!(images.contains("app:1") && images.contains("other"), "{images}");
    for (words, want) in [
        (&["-a", "app"][..], &["app:1", "app:2"][..]),
        (&["app:2"], &["app:2"]),
        (&["o*"], &["other:latest"]),
        (&["--filter", "reference=*:1"], &["app:1"]),
        (&["-f", "dangling=true"], &[]),
    ] {
        let listed = story.home.run(["images"].iter().chain(words).copied()).well().stdout;
        let names: Vec<&str> =
            listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, want, "{words:?}");
    }
    let whole = story.home.run(["images", "-q", "--no-trunc", "other"]).well().stdout;
    assert!(whole.starts_with("sha256:") && whole.len() == 72, "{whole}");
    story.home.run(["rmi", "--no-prune", "app:1", "app:2", "other"]).well();
    let said = story.home.run(["cache", "prune", "--all"]).well().stdout;
    assert!(said.contains("0B stay\n"), "{said}");
    let listed = story.home.run(["cache", "ls", "--format", "json"]).well().stdout;
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap()["records"], Value::Array(vec![]));
}

#[test]
fn a_registry_carries_a_cache_with_the_tools_that_there_are() {
    let story = Story::new(DOCKERFILE, FILES);
    let first = story.build(&[]);
    let (exported, fetched) = (story.home.arg("exported"), story.home.arg("fetched"));
    story.home.run(["cache", "export", &exported]).well();
    let name = format!("docker://{}/caches/app:1", story.registry.host);
    let copy = |from: &str, to: &str| {
        let copied = std::process::Command::new("skopeo")
            .args([
                "copy",
                "--insecure-policy",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
            ])
            .args([from, to])
            .output()
            .expect("skopeo is installed: apt-get install skopeo, or `cargo xtask setup`");
        assert!(copied.status.success(), "{copied:?}");
    };
    copy(&format!("oci:{exported}"), &name);
    copy(&name, &format!("oci:{fetched}"));
    forget(&story, "old");
    story.home.run(["cache", "import", &fetched]).well();
    let second = story.build(&[]);
    assert_eq!(second.ran, Vec::<String>::new());
    assert_eq!(second.image.digest, first.image.digest);
}

#[test]
fn what_is_no_cache_or_was_damaged_is_not_imported() {
    let story = Story::new(DOCKERFILE, FILES);
    let said = story.home.run(["cache", "import", &story.home.arg("context")]).failed().stderr;
    contains(&said, &["holds no exported cache", "nothing is there", "`dcbuild cache export`"]);
    let file = story.home.arg("context/in.txt");
    let said = story.home.run(["cache", "import", &file]).failed().stderr;
    contains(&said, &["in.txt is a file: an exported cache is a folder"]);
    story.build(&[]);
    story.home.run(["cache", "export", &story.home.arg("exported")]).well();
    forget(&story, "old");
    damage_all(&story.home.path("exported/blobs/sha256"));
    let said = story.home.run(["cache", "import", &story.home.arg("exported")]).failed().stderr;
    contains(&said, &["could not read", "was asked for"]);
    let built = story.build(&[]);
    assert!(built.has_run("RUN cat /in.txt"), "{:?}", built.ran);
}

fn damage_all(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn a_cluster_lists_counts_and_prunes_its_cache() {
    let registry = Registry::start();
    fill(&registry);
    let cluster = Cluster::start(Home::new(&registry.as_docker_io()), 1, 2);
    let context = cluster.home.arg("context");
    let mut entries = vec![ContextEntry::file("Dockerfile", DOCKERFILE)];
    entries.extend(FILES.iter().map(|(path, text)| ContextEntry::file(path, text)));
    write_context(&cluster.home.path("context"), &entries);
    cluster.ask("submit", &[&context]).well();
    cluster.wait_until_durable();
    let said = cluster.ask("cache", &["ls"]).well().stdout;
    contains(&said, &["RUN cat /in.txt", "local"]);
    contains(
        &cluster.ask("cache", &["stats"]).well().stdout,
        &["the last 1 builds: 0 steps found"],
    );
    let said = cluster.ask("cache", &["prune"]).failed().stderr;
    contains(&said, &["--keep-storage SIZE"]);
    let said = cluster.ask("cache", &["export", &cluster.home.arg("out")]).failed().stderr;
    contains(&said, &["gives no whole cache to its clients", "--store"]);
    let said = cluster.ask("cache", &["import", &cluster.home.arg("out")]).failed().stderr;
    contains(&said, &["takes no records from its clients", "--store"]);

    // The mark of a build that has just ended stands for a moment.
    let until = |flags: &[&str], wanted: &str| {
        let said = || cluster.ask("cache", &[&["prune", "--all"], flags].concat()).well().stdout;
        wait_for(wanted, LONG, || Some(said()).filter(|it| it.contains(wanted)), || cluster.said())
    };
    contains(&until(&["--dry-run"], "would remove"), &["everything that nobody used"]);
    cluster.ask("submit", &[&context]).well();
    contains(&cluster.ask("cache", &["stats"]).well().stdout, &["the last 2 builds"]);
    until(&[], "0B stay");
    let swept = |what: &str| cluster.metric(&format!("dcbuild_swept_{what}_total{{rule=\"all\"}}"));
    assert!(swept("objects") > Some(0) && swept("bytes") > Some(0), "the page of metrics says so");
    assert!(cluster.metric("dcbuild_tombstone_notes") > Some(0));
    let said = cluster.ask("submit", &["--progress", "plain", &context]).well().stderr;
    assert!(!said.contains("CACHED"), "{said}");
    let said = cluster.ask("explain", &["last", "RUN cat /in.txt"]).well().stdout;
    contains(&said, &["its record was removed", "everything that nobody used was to go"]);
}

/// Every blob of a folder's store, a bit of each turned.
fn damage_blobs(state: &Path) -> usize {
    let mut count = 0;
    for folder in std::fs::read_dir(state.join("store/blobs/sha256")).unwrap() {
        for blob in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = blob.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            count += 1;
        }
    }
    count
}

/// An image that was kept by name is mended by building it again, and is never taken from a registry in silence.
#[test]
fn c01_a_kept_image_that_is_damaged_is_mended() {
    let story = Story::new("FROM busybox:golden\nRUN echo ours > /whose\n", &[]);
    story.write("Dockerfile.on", "FROM app:1\nRUN cat /whose > /read\n");
    let context = story.home.arg("context");
    let keep = ["build", "-t", "app:1", &context];
    story.home.run(keep).well();
    assert!(damage_blobs(&story.home.path("state")) > 5);
    let file = format!("{context}/Dockerfile.on");
    let mut refused = 0;
    loop {
        let done = story.try_build(&["--file", &file]);
        if done.status.success() {
            break;
        }
        refused += 1;
        assert!(refused < 6, "{}", done.stderr);
        assert!(!done.stderr.contains("could not pull"), "{}", done.stderr);
        assert!(done.stderr.contains("build it again with -t"), "{}", done.stderr);
        story.home.run(keep).well();
    }
    assert!(refused > 0, "nothing of it was damaged");
    let built = story.build(&["--file", &file]);
    assert_eq!(built.image.tree().text("read").unwrap(), "ours\n");
}

/// Whichever two blobs of the layers are damaged, the build makes them again.
#[test]
fn c01_damaged_layers_are_made_again_for_a_push() {
    let story = Story::new("FROM busybox:golden\nCOPY f /f\nRUN cat /f > /g\n", &[("f", "x\n")]);
    let context = story.home.arg("context");
    let push = |name: &str| {
        let name = format!("{}/{name}", story.registry.host);
        story.home.run(["build", "-t", &name, "--push", &context]).well()
    };
    push("one:1");
    assert!(damage_blobs(&story.home.path("state")) > 5);
    push("two:1");
    assert_eq!(story.registry.get("two:1").tree().text("g").unwrap(), "x\n");
}

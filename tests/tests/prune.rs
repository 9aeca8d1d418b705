//! Taking back what builds leave: what nobody uses goes, what somebody uses does not.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::process_with_argument;
use dcbuild_tests::story::{Story, fill};
use dcbuild_tests::wait::{LONG, wait_for};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);

/// What `du` says of the cache mounts: how many there are, and each with its id and whether it is in use.
fn caches(story: &Story) -> (u64, Vec<(Value, Value)>) {
    let done = story.home.run(["du", "--format", "json"]).well();
    let usage: Value = serde_json::from_str(&done.stdout).unwrap();
    let kinds = usage["kinds"].as_array().unwrap();
    let kind = kinds.iter().find(|kind| kind["kind"] == "cache mounts").unwrap();
    let each = usage["cache_mounts"].as_array().unwrap().iter();
    let each = each.map(|cache| (cache["id"].clone(), cache["in_use"].clone()));
    (kind["count"].as_u64().unwrap(), each.collect())
}

#[test]
fn cache_mounts_are_listed_and_go_when_nobody_uses_them() {
    let seconds = format!("8{}", 1_000_000 + std::process::id());
    let fill = "dd if=/dev/zero of=/c/data bs=1M count=3";
    let story = Story::new(
        &format!("FROM busybox:golden\nRUN --mount=type=cache,id=stuff,target=/c {fill}\n"),
        &[],
    );
    story.try_build(&[]).well();
    assert_eq!(caches(&story), (1, vec![(json!("stuff"), json!(false))]));
    let listed = story.home.run(["du", "--verbose"]).well().stdout;
    let line = listed.lines().find(|line| line.starts_with("stuff ")).unwrap();
    assert!(line.contains("3.15MB"), "{listed}");

    // A step that has it mounted keeps it.
    let sleep = format!("test -e /c/data && sleep {seconds}");
    story.write(
        "Dockerfile",
        &format!("FROM busybox:golden\nRUN --mount=type=cache,id=stuff,target=/c {sleep}\n"),
    );
    let build = story.start("image.tar", &[]);
    wait_for(
        "the step sleeps",
        SOON,
        || process_with_argument(&seconds).then_some(()),
        || build.stderr(),
    );
    assert_eq!(caches(&story), (1, vec![(json!("stuff"), json!(true))]));
    let only = ["prune", "--filter", "type=exec.cachemount"];
    story.home.run(only).well();
    assert_eq!(caches(&story).0, 1);
    build.interrupt();
    build.finish(LONG);

    let later = ["prune", "--filter", "type=exec.cachemount", "--filter", "until=1h"];
    story.home.run(later).well();
    assert_eq!(caches(&story).0, 1, "it was used a moment ago");
    let done = story.home.run(only).well();
    assert!(done.stdout.starts_with("removed 1 entries, 3.15MB; "), "{}", done.stdout);
    assert_eq!(caches(&story), (0, vec![]));
}

#[test]
fn pruning_takes_nothing_from_builds_that_go_on() {
    let story = Story::new(
        "FROM busybox:golden AS one\nRUN echo one > /one\nCOPY Dockerfile /d\n\
         FROM busybox:golden\nCOPY --from=one /one /two\nRUN cat /two > /three\n",
        &[],
    );
    let output = format!("type=oci,dest={}", story.home.arg("image.tar"));
    let done = AtomicBool::new(false);
    let pruned = std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            let mut pruned = 0;
            while !done.load(Ordering::Relaxed) {
                let said = story.home.run(["prune", "--all"]).well().stdout;
                pruned += u32::from(!said.starts_with("removed 0 "));
            }
            pruned
        });
        for _ in 0..6 {
            let build = story.try_build(&["--output", &output]);
            if !build.status.success() || build.stderr.contains("WARN") {
                done.store(true, Ordering::Relaxed);
                panic!("{}\n{}", build.status, build.stderr);
            }
            let tree = Image::read_tar(&story.home.path("image.tar")).tree();
            assert_eq!(tree.text("three").unwrap(), "one\n");
        }
        done.store(true, Ordering::Relaxed);
        pruner.join().unwrap()
    });
    assert!(pruned > 0, "nothing was pruned meanwhile: the test has shown nothing");
}

/// The bytes of all files below a folder, one of several names once.
fn bytes_below(folder: &Path) -> u64 {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            // What goes meanwhile is not there.
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) if meta.is_file() => drop(files.insert(meta.ino(), meta.len())),
                Ok(_) | Err(_) => {}
            }
        }
    }
    files.values().sum()
}

#[test]
fn a_worker_holds_its_ceiling_and_nothing_is_lost() {
    let registry = Registry::start();
    fill(&registry);
    // One image has four megabytes, and a base of two.
    let worker = "[worker]\nkeep_storage = \"9MiB\"\nlabels = { zone = \"a\", disk = \"small\" }\n";
    let home = Home::new(&format!("{}\n{worker}", registry.as_docker_io()));
    let cluster = Cluster::start(home, 1, 2);
    let (context, tar) = (cluster.home.arg("context"), cluster.home.arg("image.tar"));
    let output = format!("type=oci,dest={tar}");
    let list = || cluster.ask("workers", &[]).well().stdout;
    let there = || Some(list()).filter(|listed| listed.contains("working"));
    let listed = wait_for("the worker is there", SOON, there, list);
    let columns: Vec<&str> = listed.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(columns[1..3], ["working", "0/2"], "{listed}");
    assert_eq!(columns.last(), Some(&"disk=small,zone=a"), "{listed}");
    let submit = |dockerfile: &str| {
        let entries = [ContextEntry::file("Dockerfile", dockerfile)];
        write_context(&cluster.home.path("context"), &entries);
        let flags = ["--progress", "plain", "--output", &output, &context];
        let done = cluster.ask("submit", &flags).well();
        assert!(!done.stderr.contains("attempt 1 of 3"), "{}", done.stderr);
        Image::read_tar(&cluster.home.path("image.tar")).tree()
    };
    let fill = |number: u32| {
        format!(
            "FROM busybox:golden\n\
             RUN --mount=type=cache,id=c{number},target=/c dd if=/dev/urandom of=/big bs=1M count=4 && \
             echo {number} > /said && cp /said /c/said\n"
        )
    };
    for number in 0..5 {
        let text = submit(&fill(number)).text("said");
        assert_eq!(text.unwrap(), format!("{number}\n"));
    }
    let folder = cluster.home.path("worker-0/snapshots");
    wait_for(
        "the ceiling holds",
        SOON,
        || (bytes_below(&folder) <= 9 << 20).then_some(()),
        || format!("there are {} bytes", bytes_below(&folder)),
    );
    // What went comes from the store, what stays is used; a step that stands on either finds it.
    for number in [0, 4] {
        let tree = submit(&format!("{}RUN cp /said /again && test -s /big\n", fill(number)));
        assert_eq!(tree.text("again").unwrap(), format!("{number}\n"));
    }
}

//! What a cluster on a bucket and a Redis tells its users and operators: why a step ran whose layer the bucket had lost, why
//! nothing is removed, whose documents are not ours.
#![expect(clippy::unwrap_used, reason = "test")]

use std::fs::remove_file;

use dcbuild_tests::bucket::Site;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::wait::{LONG, wait_for};
use serde_json::Value;

/// A step that makes something else each time, and one that stands on it.
const FIRST: &str = "FROM busybox:golden\nRUN head -c 1000 /dev/urandom > /one\n";
const SECOND: &str = "RUN wc -c < /one > /two\n";

/// The blobs of the layers that steps have made, as the bucket's documents name them.
fn blobs(site: &Site) -> Vec<String> {
    let documents = site.s3.keys().into_iter().filter(|key| key.contains("/layer/"));
    let named = |key: String| {
        let sealed = std::fs::read(site.s3.file(&key)).unwrap();
        let begin = sealed.iter().position(|byte| *byte == b'\n').unwrap();
        let document: Value = serde_json::from_slice(&sealed[begin + 1..]).unwrap();
        let digest = document["value"]["blob"]["digest"].as_str().unwrap();
        format!("acme/blob/sha256/{}", digest.trim_start_matches("sha256:"))
    };
    let blobs: Vec<String> = documents.map(named).collect();
    assert!(!blobs.is_empty());
    blobs
}

fn reason<'a>(explained: &'a Value, name: &str) -> &'a Value {
    let steps = explained["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["name"].as_str().unwrap().contains(name)).unwrap();
    assert_eq!(step["verdict"], "miss", "{explained}");
    &step["reason"]
}

/// Builds on what was done to the layer of the first step, on a worker that has nothing; says what is explained.
fn explained_after(harm: impl Fn(&Site, &str)) -> (Site, Value) {
    let mut site = Site::start(FIRST, &[]);
    site.submit();
    site.wait_until_sent();
    let harmed = blobs(&site);
    site.write("Dockerfile", &format!("{FIRST}{SECOND}"));
    site.submit();
    site.wait_until_sent();
    for blob in &harmed {
        harm(&site, blob);
    }
    site.fresh_worker();
    site.write("Dockerfile", &format!("{FIRST}{SECOND}RUN cat /two > /three\n"));
    let (_, said) = site.submit();
    assert!(said.contains("its result was lost"), "{said}");
    let said = site.cluster.ask("explain", &["--format", "json"]).well().stdout;
    let explained: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(reason(&explained, "RUN wc")["why"], "other-results", "{explained}");
    assert_eq!(reason(&explained, "RUN cat")["why"], "never", "{explained}");
    (site, explained)
}

#[test]
fn a_layer_that_was_damaged_is_told_from_one_that_is_missing() {
    let (mut site, explained) = explained_after(|site, blob| site.s3.flip_bit(blob));
    let why = reason(&explained, "RUN head");
    assert_eq!(why["why"], "layer-damaged", "{why}");
    let (submitted, at) = (explained["submitted"].as_str().unwrap(), why["at"].as_str().unwrap());
    assert!(at.ends_with('Z') && at[..16] >= submitted[..16], "{at} is before {submitted}");
    let text = site.cluster.ask("explain", &["last", "RUN head"]).well().stdout;
    assert!(
        text.contains("was damaged in the store") && text.contains("in quarantine at"),
        "{text}"
    );
    let log = site.cluster.said();
    assert!(log.contains("a blob was damaged in the store, and was put in quarantine"), "{log}");
    assert!(!log.contains("is missing in the store"), "{log}");
    // It outlives the coordinator.
    site.cluster.kill_coordinator();
    site.cluster.start_coordinator();
    assert_eq!(site.cluster.ask("explain", &["last", "RUN head"]).well().stdout, text);
}

#[test]
fn a_layer_that_is_missing_is_told_from_one_that_was_damaged() {
    let (site, explained) = explained_after(|site, blob| remove_file(site.s3.file(blob)).unwrap());
    let why = reason(&explained, "RUN head");
    assert_eq!(why["why"], "layer-gone", "{why}");
    assert_eq!(why["evicted"], Value::Null, "{why}");
    let text = site.cluster.ask("explain", &["last", "RUN head"]).well().stdout;
    assert!(text.contains("is not to be had any more"), "{text}");
    let log = site.cluster.said();
    assert!(log.contains("a blob that the index knew is missing in the store"), "{log}");
    assert!(!log.contains("quarantine"), "{log}");
}

const STEPS: &str = "FROM busybox:golden\nCOPY in.txt /in.txt\nRUN cat /in.txt > /out.txt\n";

fn prune(site: &Site) -> String {
    site.cluster.ask("cache", &["prune", "--all"]).well().stdout
}

#[test]
fn after_a_flush_a_store_is_pruned_as_soon_as_no_build_goes_on() {
    let site = Site::start(STEPS, &[("in.txt", "hello\n")]);
    site.submit();
    site.wait_until_sent();
    assert_eq!(site.redis.ask(&["FLUSHALL"]), "OK");
    site.submit();
    let said = prune(&site);
    assert!(said.contains("removed ") && !said.contains("nothing removed"), "{said}");
}

#[test]
fn a_coordinator_that_was_killed_in_a_build_keeps_nobody_from_pruning() {
    let mut site = Site::start(STEPS, &[("in.txt", "hello\n")]);
    site.submit();
    site.wait_until_sent();
    site.write("Dockerfile", &format!("{STEPS}RUN sleep 4321\n"));
    let context = site.cluster.home.arg("context");
    let build = site.cluster.ask("submit", &["--detach", &context]).well().stdout;
    site.cluster.worker_that_runs("4321");
    assert_eq!(site.redis.ask(&["FLUSHALL"]), "OK");
    let said = prune(&site);
    assert!(said.contains("began before the index was flushed"), "{said}");
    site.cluster.kill_coordinator();
    site.cluster.start_coordinator();
    site.cluster.ask("cancel", &[build.trim()]).well();
    assert_eq!(site.redis.ask(&["FLUSHALL"]), "OK");
    // A build takes a moment to end.
    let pruned = || Some(prune(&site)).filter(|said| !said.contains("nothing removed"));
    let said = wait_for("it is pruned", LONG, pruned, || site.cluster.said());
    assert!(said.contains("removed "), "{said}");
    assert!(!site.s3.keys().iter().any(|key| key.contains("/use/")), "{:?}", site.s3.keys());
}

#[test]
fn what_was_pruned_does_not_come_back_with_a_coordinator_that_is_started_again() {
    let mut site = Site::start(STEPS, &[("in.txt", "hello\n")]);
    site.submit();
    site.wait_until_sent();
    let pruned = || Some(prune(&site)).filter(|said| said.contains("0B stay"));
    wait_for("it is pruned", LONG, pruned, || site.cluster.said());
    site.cluster.kill_coordinator();
    site.cluster.start_coordinator();
    let listed = || site.cluster.ask("cache", &["ls", "--format", "json"]).well().stdout;
    let (mut looks, mut records) = (0, Vec::new());
    // What is kept again is written behind the start.
    while looks < 20 && records.is_empty() {
        let told: Value = serde_json::from_str(&listed()).unwrap();
        records.clone_from(told["records"].as_array().unwrap());
        looks += 1;
    }
    assert!(records.is_empty(), "{records:#?}");
}

#[test]
fn the_documents_of_another_key_are_one_line_of_a_build() {
    let site = Site::start(STEPS, &[("in.txt", "hello\n")]);
    let (store, context) = (site.s3.url("signed"), site.cluster.home.arg("context"));
    let build = |key: &str| -> Finished {
        let flags = ["build", "--progress", "plain", "--store", &store, &context];
        let mut command = site.cluster.home.command(flags);
        // A machine that has nothing yet.
        let state = site.cluster.home.path(key);
        command.envs(site.s3.environment()).env("DCBUILD_STATE_DIR", state);
        command.env("DCBUILD_SIGNING_KEY", key);
        Running::start(command).finish(LONG).well()
    };
    let (ours, theirs) = ("a".repeat(40), "b".repeat(40));
    build(&ours);
    let said = build(&theirs).stderr;
    let told = said.lines().filter(|line| line.contains("WARN")).collect::<Vec<_>>();
    let [line] = told[..] else { panic!("{told:#?}") };
    assert!(
        line.contains("do not carry our seal") && line.contains("DCBUILD_SIGNING_KEY"),
        "{line}"
    );
    assert!(!said.contains("scope/"), "no name is said: {said}");
}

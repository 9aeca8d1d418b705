//! A cluster on a bucket and a Redis: a fresh worker starts warm, also when the index was flushed; what the bucket loses
//! is made again.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dcbuild_tests::bucket::Site;
use dcbuild_tests::registry::free_port;
use dcbuild_tests::running::Running;
use dcbuild_tests::s3::faults::{Fault, Seen};
use dcbuild_tests::wait::{LONG, wait_for};
use serde_json::Value;

const DOCKERFILE: &str = "FROM busybox:golden AS build\nWORKDIR /src\nCOPY in.txt .\n\
    RUN cat in.txt in.txt > /out.txt\nFROM busybox:golden\nCOPY --from=build /out.txt /out.txt\n\
    RUN wc -c /out.txt > /count\n";

#[test]
fn a_fresh_worker_finds_everything_and_a_flushed_index_costs_no_step() {
    let mut site = Site::start(DOCKERFILE, &[("in.txt", "hello\n")]);
    let (first, said) = site.submit();
    assert!(!said.contains("CACHED"), "{said}");
    site.wait_until_sent();
    let keys = site.s3.keys();
    assert!(keys.iter().any(|key| key.contains("/step/")), "records are in the bucket: {keys:?}");

    site.fresh_worker();
    for flushed in [false, true] {
        if flushed {
            assert_eq!(site.redis.ask(&["FLUSHALL"]), "OK");
        }
        let (again, said) = site.submit();
        assert_eq!(again.digest, first.digest);
        // The base, the COPY and the RUN of the last stage; nobody needs the other one.
        assert_eq!(said.matches("CACHED").count(), 3, "{said}\n{}", site.cluster.said());
    }
}

#[test]
fn a_bucket_that_answers_writes_late_is_not_taken_for_dead() {
    let site = Site::start(DOCKERFILE, &[("in.txt", "hello\n")]);
    let late = |seen: &Seen| seen.request == "PutObject" && seen.path.contains("/blob/");
    site.s3.fail(move |seen| late(seen).then_some(Fault::Late(Duration::from_secs(3))));
    site.submit();
    site.wait_until_sent();
    assert!(site.s3.fired() > 3, "{} answers were late", site.s3.fired());
    let said = site.cluster.said();
    for word in ["written through the coordinator", "keeps failing", "without the store"] {
        assert!(!said.contains(word), "{said}");
    }
}

/// The documents that the bucket was asked for, by kind, and how often it was asked which there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Asked {
    documents: BTreeMap<&'static str, usize>,
    lists: usize,
}

/// So many looks in a row without a request mean that nobody asks any more.
const QUIET: usize = 20;
const KINDS: [&str; 3] = ["/step/", "/layer/", "/base/"];

impl Asked {
    fn note(&mut self, seen: &Seen) {
        if seen.request.starts_with("ListObjects") {
            self.lists += 1;
        }
        let kind = KINDS.iter().find(|kind| seen.path.contains(*kind));
        if let Some(kind) = kind.filter(|_| seen.request == "GetObject") {
            *self.documents.entry(kind).or_default() += 1;
        }
    }
}

#[test]
fn after_a_flush_one_build_asks_the_bucket_for_records_and_the_next_for_none() {
    let mut site = Site::start(DOCKERFILE, &[("in.txt", "hello\n")]);
    let (first, _) = site.submit();
    site.wait_until_sent();
    let asked = Arc::new(Mutex::new(Asked::default()));
    let counting = asked.clone();
    // Nothing goes wrong by it.
    site.s3.fail(move |seen| {
        counting.lock().unwrap().note(seen);
        None
    });
    let build = |site: &mut Site, fresh: bool| {
        if fresh {
            site.fresh_worker();
        }
        std::mem::take(&mut *asked.lock().unwrap());
        let (image, said) = site.submit();
        assert_eq!(image.digest, first.digest);
        assert_eq!(said.matches("CACHED").count(), 3, "{said}\n{}", site.cluster.said());
        // Whoever met the index incomplete has it filled, behind the build.
        let (mut before, mut quiet) = (Asked::default(), 0);
        let still = || {
            let now = asked.lock().unwrap().clone();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
            (quiet > QUIET).then(|| before.clone())
        };
        wait_for("nobody asks any more", LONG, still, || site.cluster.said())
    };
    assert_eq!(site.redis.ask(&["FLUSHALL"]), "OK");
    let flushed = build(&mut site, true);
    assert!(flushed.documents.get("/step/").is_some_and(|count| *count >= 3), "{flushed:?}");
    assert!(flushed.lists > 0, "{flushed:?}");
    let next = build(&mut site, true);
    assert_eq!(next, Asked::default(), "the index knows it all");
}

#[test]
fn an_index_that_is_full_or_may_only_be_read_costs_no_build_and_no_hit() {
    let full: &[&str] = &["CONFIG", "SET", "maxmemory", "1"];
    let replica: &[&str] = &["REPLICAOF", "127.0.0.1", "1"];
    for harm in [full, replica] {
        let mut site = Site::start(DOCKERFILE, &[("in.txt", "before\n")]);
        site.submit();
        site.wait_until_sent();
        assert_eq!(site.redis.ask(harm), "OK");
        site.write("in.txt", "after\n");
        let (first, said) = site.submit();
        assert_eq!(first.tree().text("out.txt").unwrap(), "after\nafter\n", "{said}");
        site.wait_until_sent();
        site.fresh_worker();
        let (again, said) = site.submit();
        assert_eq!(again.digest, first.digest, "{harm:?}: {said}");
        assert_eq!(said.matches("CACHED").count(), 3, "{harm:?}: {said}\n{}", site.cluster.said());
        assert!(site.cluster.metric("dcbuild_index_faults_total") > Some(0), "{harm:?}");
    }
}

#[test]
fn a_copy_of_one_file_asks_the_bucket_for_that_file_and_little_more() {
    let dockerfile = |to: &str| {
        format!(
            "FROM busybox:golden AS build\n\
             RUN head -c 60000000 /dev/urandom > /large && head -c 1000000 /dev/urandom > /wanted\n\
             FROM busybox:golden AS check\nCOPY --from=build /wanted {to}\n\
             RUN wc -c < {to} > /count\nFROM scratch\nCOPY --from=check /count /\n"
        )
    };
    let mut site = Site::start(&dockerfile("/here"), &[]);
    let before = site.submit().0.tree().text("count").unwrap();
    site.wait_until_sent();
    // The COPY is another one, on a machine that has nothing: the file comes out of the middle of the blob.
    site.fresh_worker();
    site.write("Dockerfile", &dockerfile("/there"));
    let sent = site.s3.sent_bytes();
    let (image, said) = site.submit();
    assert_eq!(image.tree().text("count").unwrap(), before);
    assert_eq!(before, "1000000\n");
    let bytes = site.s3.sent_bytes() - sent;
    // Once for the folder that the RUN stands on, and once for the layer of the COPY, which is stored at the same time.
    assert!((1_000_000..2_200_000).contains(&bytes), "{bytes} bytes of a layer of 61 MB\n{said}");
}

#[test]
fn many_small_files_of_the_bucket_are_had_with_few_requests() {
    let files: Vec<(String, String)> =
        (0..2_000).map(|at| (format!("d/{at}"), format!("file {at}\n"))).collect();
    let files: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut site = Site::start("FROM scratch AS all\nCOPY d /d\nFROM all\n", &files);
    site.submit();
    site.wait_until_sent();
    site.fresh_worker();
    let before = site.s3.count("GetObject");
    let home = &site.cluster.home;
    let (output, context) = (format!("type=local,dest={}", home.arg("out")), home.arg("context"));
    site.cluster.ask("submit", &["--output", &output, &context]).well();
    for (name, text) in &files {
        assert_eq!(std::fs::read_to_string(home.path("out").join(name)).unwrap(), *text);
    }
    let requests = site.s3.count("GetObject") - before;
    assert!(requests <= 12, "{requests} requests for the files of one layer");
}

/// Three steps below what changes each time, so that a fresh worker needs their layers.
const TOWER: &str = "FROM busybox:golden\nRUN echo one > /one\nRUN echo two > /two\n\
    COPY kept.txt /kept.txt\nRUN echo three > /three\nCOPY in.txt /in.txt\n\
    RUN cat /one /two /three /kept.txt /in.txt > /all\n";

fn tower() -> Site {
    let site = Site::start(TOWER, &[("in.txt", "first\n"), ("kept.txt", "kept\n")]);
    let (first, _) = site.submit();
    assert_eq!(first.tree().text("all").unwrap(), "one\ntwo\nthree\nkept\nfirst\n");
    site.wait_until_sent();
    site
}

fn blobs(site: &Site) -> Vec<String> {
    site.s3.keys().into_iter().filter(|key| key.contains("/blob/")).collect()
}

/// Builds with another last file on a fresh worker, and says what was made.
fn build_on(site: &mut Site, text: &str) -> String {
    site.fresh_worker();
    site.write("in.txt", text);
    let (image, said) = site.submit();
    assert_eq!(
        image.tree().text("all").unwrap(),
        format!("one\ntwo\nthree\nkept\n{text}"),
        "{said}"
    );
    site.wait_until_sent();
    said
}

/// What a layer has in the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Table,
    Blob,
    Index,
}

/// The keys of a part of each layer that a step made, as the documents of the bucket name them.
fn parts(site: &Site, part: Part) -> Vec<String> {
    let documents = site.s3.keys().into_iter().filter(|key| key.contains("/layer/"));
    let named = |key: String| {
        let sealed = std::fs::read(site.s3.file(&key)).unwrap();
        let begin = sealed.iter().position(|byte| *byte == b'\n').unwrap();
        let document: Value = serde_json::from_slice(&sealed[begin + 1..]).unwrap();
        let digest = match part {
            Part::Table => key.split('/').rev().nth(1).unwrap().to_owned(),
            Part::Blob => document["value"]["blob"]["digest"].as_str().unwrap().to_owned(),
            Part::Index => document["value"]["index"].as_str().unwrap().to_owned(),
        };
        format!("acme/blob/sha256/{}", digest.trim_start_matches("sha256:"))
    };
    documents.map(named).collect()
}

/// Takes a part of each layer away, though the index still says that all is there; counts who misses one.
fn take_away(site: &Site, part: Part) -> Arc<AtomicUsize> {
    let lost = parts(site, part);
    // One that two layers share goes once.
    let gone = lost.iter().filter(|key| std::fs::remove_file(site.s3.file(key)).is_ok()).count();
    assert!(gone > 0, "nothing of {lost:?} went");
    let missed = Arc::new(AtomicUsize::new(0));
    let count = missed.clone();
    site.s3.fail(move |seen| {
        let wanted = seen.request == "GetObject" && lost.iter().any(|key| seen.path.ends_with(key));
        count.fetch_add(usize::from(wanted), Ordering::SeqCst);
        None
    });
    missed
}

/// The records are taken, and then a part of each layer is missing.
fn check_lost(part: Part) {
    let mut site = tower();
    assert!(parts(&site, part).len() >= 4);
    let missed = take_away(&site, part);
    let said = build_on(&mut site, "without\n");
    assert!(missed.load(Ordering::SeqCst) > 0, "nobody has missed {part:?}: {said}");
    assert!(said.contains("its result was lost"), "{said}");
    site.s3.heal();
    let said = build_on(&mut site, "with\n");
    assert_eq!(said.matches("CACHED").count(), 5, "{said}");
    assert!(!said.contains("its result was lost"), "{said}");
}

#[test]
fn c02_lost_tables_are_made_again() {
    check_lost(Part::Table);
}

#[test]
fn c02_lost_layers_are_made_again() {
    check_lost(Part::Blob);
}

/// Who copies a file of a stage reads it alone, by the index of its layer.
#[test]
fn c02_lost_indexes_are_made_again() {
    let copies = |what: &str| {
        format!(
            "FROM busybox:golden AS made\nRUN echo one > /one; echo two > /two\n\
             FROM busybox:golden\nCOPY --from=made {what} /out/\n"
        )
    };
    let mut site = Site::start(&copies("/one"), &[]);
    site.submit();
    site.wait_until_sent();
    let missed = take_away(&site, Part::Index);
    site.fresh_worker();
    site.write("Dockerfile", &copies("/two"));
    let (image, said) = site.submit();
    assert_eq!(image.tree().text("out/two").unwrap(), "two\n");
    assert!(missed.load(Ordering::SeqCst) > 0, "nobody has missed an index: {said}");
    site.wait_until_sent();
    site.s3.heal();
    site.fresh_worker();
    site.write("Dockerfile", &copies("/one /two"));
    let (image, said) = site.submit();
    assert_eq!(image.tree().text("out/one").unwrap(), "one\n");
    assert!(said.contains("CACHED") && !said.contains("lost"), "{said}");
}

#[test]
fn c02_a_bucket_that_lost_all_blobs_is_filled_again() {
    let mut site = tower();
    let lost = blobs(&site);
    for key in &lost {
        std::fs::remove_file(site.s3.file(key)).unwrap();
    }
    let said = build_on(&mut site, "without any\n");
    assert!(said.contains("its result was lost"), "{said}");
    let back = lost.iter().filter(|key| site.s3.file(key).exists()).count();
    assert!(back > 5, "{back} of {} are back", lost.len());
    let said = build_on(&mut site, "with all\n");
    assert_eq!(said.matches("CACHED").count(), 5, "{said}");
}

#[test]
fn c01_whichever_blob_is_damaged_the_build_makes_it_again() {
    let mut site = tower();
    let damaged = blobs(&site);
    for key in &damaged {
        site.s3.flip_bit(key);
    }
    build_on(&mut site, "damaged\n");
    let counted = site.cluster.metric("dcbuild_store_quarantined_total");
    assert!(counted > Some(3), "{counted:?}");
    let aside = site.s3.keys().into_iter().filter(|key| key.contains("/quarantine/")).count();
    assert!(aside > 3, "{:?}", site.s3.keys());
    let said = build_on(&mut site, "mended\n");
    assert_eq!(said.matches("CACHED").count(), 5, "{said}");
}

/// Builds on a fresh worker after all blobs met this, those of the context too: the client, who has its bytes, is asked
/// for them again. The image that is there is found to be lost when it is read.
fn check_all_lost(harm: impl Fn(&Site, &str)) -> Site {
    let mut site = Site::start(DOCKERFILE, &[("in.txt", "hello\n")]);
    let (first, _) = site.submit();
    site.wait_until_sent();
    for key in blobs(&site) {
        harm(&site, &key);
    }
    site.fresh_worker();
    let (again, _) = site.submit();
    assert_eq!(again.tree().text("count"), first.tree().text("count"));
    site.wait_until_sent();
    site
}

#[test]
fn c01_when_all_blobs_are_damaged_nobody_waits_for_what_cannot_come() {
    let site = check_all_lost(|site, key| site.s3.flip_bit(key));
    assert!(site.s3.keys().iter().any(|key| key.contains("/quarantine/")), "{:?}", site.s3.keys());
}

#[test]
fn c01_damaged_blobs_are_not_pushed() {
    let mut site = Site::start(DOCKERFILE, &[("in.txt", "hello\n")]);
    site.submit();
    site.wait_until_sent();
    for key in blobs(&site) {
        site.s3.flip_bit(&key);
    }
    site.fresh_worker();
    let name = format!("{}/pushed:1", site.registry.host);
    let context = site.cluster.home.arg("context");
    site.cluster.ask("submit", &["--tag", &name, "--push", &context]).well();
    assert!(site.cluster.metric("dcbuild_store_quarantined_total") > Some(0));
    let pushed = site.registry.get("pushed:1");
    assert_eq!(pushed.tree().text("out.txt").unwrap(), "hello\nhello\n");
}

#[test]
fn c02_when_all_blobs_are_gone_nobody_waits_for_what_cannot_come() {
    check_all_lost(|site, key| std::fs::remove_file(site.s3.file(key)).unwrap());
}

/// What was copied lies nowhere but where it was copied from: that is made again, though no layer of the image is it.
#[test]
fn c02_what_lost_layers_were_copied_from_is_made_again() {
    let stage = |name: &str| {
        format!(
            "FROM busybox:golden AS {name}\nWORKDIR /w\nRUN yes {name} | head -c 700000 > b\nCOPY in.txt g\n"
        )
    };
    let (a, b) = (stage("a"), stage("b"));
    let text = format!("{a}{b}FROM scratch\nCOPY --from=a /w /w\nCOPY --from=b /w /x\n");
    let mut site = Site::start(&text, &[("in.txt", "hello\n")]);
    let (first, _) = site.submit();
    site.wait_until_sent();
    for fresh in [false, true] {
        for key in blobs(&site) {
            std::fs::remove_file(site.s3.file(&key)).unwrap();
        }
        if fresh {
            site.fresh_worker();
        }
        let (again, said) = site.submit();
        assert_eq!(again.tree().text("x/b"), first.tree().text("x/b"), "{said}");
        assert_eq!(again.tree().text("w/g").unwrap(), "hello\n", "{said}");
        site.wait_until_sent();
    }
}

#[test]
fn a_bucket_is_pruned_by_its_coordinator_and_by_hand_and_misses_are_explained() {
    let site = Site::start(DOCKERFILE, &[("in.txt", "hello\n")]);
    let (first, _) = site.submit();
    site.wait_until_sent();
    let listed = site.cluster.ask("cache", &["ls"]).well().stdout;
    assert!(listed.contains("RUN cat in.txt") && listed.contains("COPY --from=build"), "{listed}");

    // The mark of the build goes with it, and then all that it left.
    let pruned = |done: &str| {
        let pruned = || site.cluster.ask("cache", &["prune", "--all"]).well().stdout;
        let enough = || Some(pruned()).filter(|said| said.contains(done));
        wait_for(done, LONG, enough, || format!("{:?}\n{}", site.s3.keys(), site.cluster.said()))
    };
    pruned("0B stay");
    let left = |kind: &str| site.s3.keys().iter().filter(|key| key.contains(kind)).count();
    assert_eq!((left("/step/"), left("/blob/"), left("/layer/"), left("/base/")), (0, 0, 0, 0));
    assert!(left("/account/") == 1 && left("/eviction/") > 0, "notes stay: {:?}", site.s3.keys());
    assert_eq!(left("/use/"), 0, "no build goes on");

    let (again, said) = site.submit();
    assert_eq!(said.matches("CACHED").count(), 0, "{said}");
    assert_eq!(again.tree().text("count"), first.tree().text("count"));
    let said = site.cluster.ask("explain", &["last", "RUN cat in.txt"]).well().stdout;
    assert!(said.contains("its record was removed at"), "{said}");

    // An index that is not there is named, with the way round it.
    let (store, nobody) = (site.s3.url("acme"), format!("redis://127.0.0.1:{}", free_port()));
    let mut command =
        site.cluster.home.command(["cache", "ls", "--store", &store, "--index", &nobody]);
    command.envs(site.s3.environment());
    let said = Running::start(command).finish(LONG).failed().stderr;
    assert!(said.contains(&nobody) && said.contains("leave --index"), "{said}");

    // A process with the same index sweeps by hand as well; without the credentials it says so.
    site.wait_until_sent();
    let (store, index) = (site.s3.url("acme"), site.redis.url());
    let place = ["--store", &store, "--index", &index];
    let by_hand = |rest: &[&str]| {
        let mut command = site.cluster.home.command(["cache"].iter().chain(rest).chain(&place));
        command.envs(site.s3.environment().iter().map(|(name, value)| (name, value)));
        Running::start(command).finish(LONG)
    };
    let counted = by_hand(&["stats"]).well().stdout;
    assert!(counted.contains("the last 2 builds"), "{counted}");
    let enough = || {
        let said = by_hand(&["prune", "--all"]).well().stdout;
        Some(said).filter(|said| said.contains("0B stay"))
    };
    wait_for("the bucket is empty", LONG, enough, || site.cluster.said());
    let (_, said) = site.submit();
    assert_eq!(said.matches("CACHED").count(), 0, "{said}");
}

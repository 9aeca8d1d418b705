//! C02, C03 and C07 to C10 of a whole cluster: what dies, lies or is full costs time, never a build and never a wrong byte.
//! Each test proves that its fault came about.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dcbuild_tests::base::busybox;
use dcbuild_tests::bucket::Site;
use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::disk::SmallDisk;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::redis::RedisServer;
use dcbuild_tests::running::Running;
use dcbuild_tests::s3::faults::Fault;
use dcbuild_tests::wait::{LONG, Stopwatch, wait_for};
use serde_json::Value;

/// Three steps below what changes each time, so that a fresh worker needs their layers.
const TOWER: &str = "FROM busybox:golden\nRUN echo one > /one\nCOPY kept.txt /kept.txt\n\
    RUN echo two > /two\nCOPY in.txt /in.txt\nRUN cat /one /two /kept.txt /in.txt > /all\n";
/// The base, three steps, and the last two if nothing was changed.
const STEPS: usize = 6;
const FILES: [(&str, &str); 2] = [("in.txt", "first\n"), ("kept.txt", "kept\n")];
/// What a build may take while the index does not do: it is asked once in a deadline, not once for each key.
const LATE: Duration = Duration::from_secs(40);

/// A count of the coordinator's page.
fn met(site: &Site, what: &str) -> u64 {
    site.cluster.metric(&format!("dcbuild_{what}_total")).unwrap()
}

/// Builds, and proves that the coordinator met what was done to its index.
fn build_without_index(site: &Site, text: &str) {
    let before = met(site, "index_faults");
    build(site, text);
    assert!(met(site, "index_faults") > before, "the index did well\n{}", site.cluster.said());
}

fn tower() -> Site {
    let site = Site::start(TOWER, &FILES);
    build(&site, "first\n");
    site.wait_until_sent();
    site
}

/// Builds with this in the last file, and says what the client heard.
fn build(site: &Site, text: &str) -> String {
    site.write("in.txt", text);
    let watch = Stopwatch::start();
    let (image, said) = site.submit();
    assert_eq!(image.tree().text("all").unwrap(), format!("one\ntwo\nkept\n{text}"), "{said}");
    assert!(watch.passed() < LATE, "it took {:?}\n{}", watch.passed(), site.cluster.said());
    said
}

/// Everything is found again by a worker that has nothing, with an index that does well.
fn check_found(site: &mut Site, text: &str) {
    site.wait_until_sent();
    site.check_blobs();
    site.fresh_worker();
    let said = build(site, text);
    assert_eq!(said.matches("CACHED").count(), STEPS, "{said}\n{}", site.cluster.said());
}

/// The blobs of layers, as the documents of the bucket name them.
fn layer_blobs(site: &Site) -> Vec<String> {
    let documents = site.s3.keys().into_iter().filter(|key| key.contains("/layer/"));
    let named = |key: String| {
        let sealed = std::fs::read(site.s3.file(&key)).unwrap();
        let begin = sealed.iter().position(|byte| *byte == b'\n').unwrap();
        let document: Value = serde_json::from_slice(&sealed[begin + 1..]).unwrap();
        let digest = document["value"]["blob"]["digest"].as_str().unwrap().to_owned();
        format!("acme/blob/sha256/{}", digest.trim_start_matches("sha256:"))
    };
    documents.map(named).collect()
}

#[test]
fn c02_layers_that_go_in_the_middle_of_a_build_are_made_again() {
    let mut site = tower();
    let blobs = layer_blobs(&site);
    assert!(blobs.len() >= 3, "{blobs:?}");
    site.fresh_worker();
    let files: Vec<_> = blobs.iter().map(|key| site.s3.file(key)).collect();
    let gone = Arc::new(AtomicUsize::new(0));
    let count = gone.clone();
    // The records were taken, and the first layer is asked for: now all of them go.
    site.s3.fail(move |seen| {
        let of_layer =
            blobs.iter().any(|key| key.ends_with(&seen.path) || seen.path.ends_with(key));
        if seen.request == "GetObject" && of_layer && count.load(Ordering::SeqCst) == 0 {
            let removed = files.iter().filter(|file| std::fs::remove_file(file).is_ok()).count();
            count.store(removed, Ordering::SeqCst);
        }
        None
    });
    let said = build(&site, "second\n");
    assert!(gone.load(Ordering::SeqCst) >= 3, "nothing went\n{said}");
    assert!(said.contains("its result was lost"), "{said}");
    check_found(&mut site, "second\n");
}

#[test]
fn c03_a_worker_that_dies_in_the_middle_of_an_upload() {
    let large =
        TOWER.replace("RUN echo two", "RUN head -c 30000000 /dev/urandom > /large; echo two");
    let mut site = Site::start(&large, &FILES);
    site.s3.fail(|seen| (seen.request == "UploadPart").then_some(Fault::Stall));
    let output = format!("type=oci,dest={}", site.cluster.home.arg("image.tar"));
    let context = site.cluster.home.arg("context");
    let build =
        site.cluster.client("submit", &["--progress", "plain", "--output", &output, &context]);
    let fired = || (site.s3.fired() > 0 && site.s3.open_uploads() > 0).then_some(());
    wait_for("an upload is under way", LONG, fired, || site.cluster.said());
    site.cluster.kill_worker(0);
    site.s3.heal();
    site.cluster.start_worker_again(0, 2);
    let done = build.finish(LONG).well();
    let image = Image::read_tar(&site.cluster.home.path("image.tar"));
    assert_eq!(image.tree().text("all").unwrap(), "one\ntwo\nkept\nfirst\n", "{}", done.stderr);
    check_found(&mut site, "first\n");
}

#[test]
fn c03_uploads_that_are_cut_and_said_to_be_whole() {
    let large =
        TOWER.replace("RUN echo two", "RUN head -c 30000000 /dev/urandom > /large; echo two");
    let mut site = Site::start(&large, &FILES);
    let writes = ["PutObject", "UploadPart"];
    site.s3.fail(move |seen| {
        let cut =
            writes.contains(&seen.request) && seen.path.contains("blob") && seen.number % 3 == 0;
        cut.then_some(Fault::CutUpload)
    });
    build(&site, "second\n");
    let sent = || (site.s3.fired() > 1).then_some(());
    wait_for("uploads were cut", LONG, sent, || site.cluster.said());
    site.s3.heal();
    check_found(&mut site, "second\n");
}

/// Takes as long as its secret says, which is in no key, and makes something else each time.
const CONTESTED: &str = "FROM busybox:golden\nCOPY in.txt /in.txt\nRUN --mount=type=secret,id=pause \
    sleep $(cat /run/secrets/pause) && cat /proc/sys/kernel/random/uuid > /id\n";

/// A build of the contested step that goes on.
struct Contender {
    build: Running,
    image: std::path::PathBuf,
}

impl Contender {
    fn start(site: &Site, name: &str, pause: u32, flags: &[&str]) -> Contender {
        let home = &site.cluster.home;
        std::fs::write(home.path(name), pause.to_string()).unwrap();
        let secret = format!("id=pause,src={}", home.arg(name));
        let image = home.path(&format!("{name}.tar"));
        let output = format!("type=oci,dest={}", image.display());
        let context = home.arg("context");
        let fixed = ["--progress", "plain", "--secret", &secret, "--output", &output];
        let build = site.cluster.client("submit", &[&fixed, flags, &[context.as_str()]].concat());
        Contender { build, image }
    }

    /// What its step made, and what the client heard.
    fn end(self) -> (String, String) {
        let done = self.build.finish(LONG).well();
        (Image::read_tar(&self.image).tree().text("id").unwrap(), done.stderr)
    }
}

/// The documents of the bucket under the keys of RUN steps that hold this: name, and document.
fn run_records(site: &Site) -> BTreeMap<String, Vec<Value>> {
    let mut records: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for key in site.s3.keys() {
        let Some((step, _attempt)) =
            key.rsplit_once('/').filter(|(step, _)| step.contains("/step/"))
        else {
            continue;
        };
        let sealed = std::fs::read(site.s3.file(&key)).unwrap();
        let begin = sealed.iter().position(|byte| *byte == b'\n').unwrap();
        let document: Value = serde_json::from_slice(&sealed[begin + 1..]).unwrap();
        let record = &document["record"];
        let of_run = record["components"]
            .as_array()
            .unwrap()
            .iter()
            .any(|part| part["name"] == "operation" && part["value"] == "run");
        if of_run
            && step.ends_with(record["recipe"].as_str().unwrap().trim_start_matches("sha256:"))
        {
            records.entry(step.to_owned()).or_default().push(document);
        }
    }
    records
}

#[test]
fn c03_two_workers_that_finish_one_key_and_the_log_says_whose_result_counts() {
    let mut site = Site::start(CONTESTED, &[("in.txt", "none\n")]);
    site.cluster.end_worker(0);
    for _ in 0..2 {
        site.cluster.start_worker(1);
    }
    let leased = |site: &Site, jobs: u64| {
        let state = "dcbuild_jobs{state=\"leased\"}";
        let both = || (site.cluster.metric(state) == Some(jobs)).then_some(());
        wait_for(&format!("{jobs} workers run"), LONG, both, || site.cluster.said());
    };
    // Who was first to begin ends last, and the other way round.
    for (text, first, second) in [("one\n", 9, 4), ("other\n", 4, 9)] {
        site.write("in.txt", text);
        let before: BTreeSet<String> = run_records(&site).into_keys().collect();
        let first = Contender::start(&site, "first", first, &["--no-cache"]);
        leased(&site, 1);
        let second = Contender::start(&site, "second", second, &["--no-cache"]);
        // Neither waits for the other's result: both are under way at once, on workers of one slot.
        leased(&site, 2);
        let (first, second) = (first.end(), second.end());
        assert_ne!(first.0, second.0, "{}", second.1);
        site.wait_until_sent();

        let mut records = run_records(&site);
        records.retain(|key, _| !before.contains(key));
        assert_eq!(records.len(), 1, "it is one key: {records:?}");
        let written = records.into_values().next().unwrap();
        let of = |what: &str| -> BTreeSet<String> {
            written.iter().map(|it| it["record"][what].to_string()).collect()
        };
        assert_eq!((of("worker").len(), of("attempt").len()), (2, 2), "both wrote: {written:?}");
        assert_eq!(of("result").len(), 2, "and each its own: {written:?}");
        site.check_blobs();

        let last = if text == "one\n" { first.0 } else { second.0 };
        for flushed in [false, true] {
            if flushed {
                assert_eq!(site.redis.ask(&["FLUSHALL"]), "OK");
            }
            let (taken, said) = Contender::start(&site, "third", 1, &[]).end();
            assert_eq!(taken, last, "the one that the log committed last counts: {said}");
            assert!(said.contains("CACHED"), "{said}");
        }
    }
}

/// Does something to the index again and again while builds go on; then all is found.
fn check_index(mut harm: impl FnMut(&RedisServer) + Send) -> Site {
    let mut site = tower();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (redis, over) = (&site.redis, &over);
        let (harmed, first) = std::sync::mpsc::channel();
        scope.spawn(move || {
            while !over.load(Ordering::SeqCst) {
                harm(redis);
                // Whoever waits for the first may have got it.
                harmed.send(()).unwrap_or_default();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        first.recv_timeout(LONG).unwrap();
        for text in ["second\n", "third\n", "second\n"] {
            build(&site, text);
        }
        over.store(true, Ordering::SeqCst);
    });
    check_found(&mut site, "third\n");
    site
}

#[test]
fn c07_an_index_that_is_flushed_again_and_again() {
    let flushed = AtomicUsize::new(0);
    check_index(|redis| {
        assert_eq!(redis.ask(&["FLUSHALL"]), "OK");
        flushed.fetch_add(1, Ordering::SeqCst);
    });
    assert!(flushed.load(Ordering::SeqCst) > 20, "{flushed:?}");
}

#[test]
fn c07_an_index_whose_keys_expire_between_two_reads() {
    let script = "local all = redis.call('KEYS', '*') \
        for _, key in ipairs(all) do redis.call('PEXPIRE', key, 15) end return #all";
    let site = check_index(|redis| {
        redis.ask(&["EVAL", script, "0"]);
    });
    let expired: u64 = site.redis.info("expired_keys").parse().unwrap();
    assert!(expired > 20, "{expired}");
}

#[test]
fn c07_an_index_that_has_no_room_and_throws_out() {
    let mut site = tower();
    site.redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_eq!(site.redis.ask(&["CONFIG", "SET", "maxmemory", "600kb"]), "OK");
    for text in ["second\n", "third\n", "second\n"] {
        build(&site, text);
    }
    let evicted: u64 = site.redis.info("evicted_keys").parse().unwrap();
    assert!(evicted > 5, "{evicted}");
    assert_eq!(site.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    check_found(&mut site, "third\n");
}

#[test]
fn c07_an_index_that_has_no_room_and_takes_no_writes() {
    let mut site = tower();
    site.redis.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    assert_eq!(site.redis.ask(&["CONFIG", "SET", "maxmemory", "600kb"]), "OK");
    for text in ["second\n", "third\n", "second\n"] {
        assert!(site.redis.ask(&["SET", "x", "y"]).contains("OOM"), "it takes writes");
        build_without_index(&site, text);
    }
    assert_eq!(site.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    check_found(&mut site, "third\n");
}

#[test]
fn c08_an_index_that_dies_hangs_or_takes_no_writes() {
    let mut site = tower();
    site.redis.kill();
    build_without_index(&site, "dead\n");
    site.redis.start_again();
    check_found(&mut site, "dead\n");

    site.redis.pause();
    build_without_index(&site, "hanging\n");
    site.redis.resume();
    check_found(&mut site, "hanging\n");

    // A primary that became the replica of another: what it is told is refused, and in the end all of it is replaced.
    let other = RedisServer::start(&[]);
    let port = other.port.to_string();
    assert_eq!(site.redis.ask(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    assert!(site.redis.ask(&["SET", "x", "y"]).contains("READONLY"), "it takes writes");
    build_without_index(&site, "read only\n");
    assert_eq!(site.redis.ask(&["REPLICAOF", "NO", "ONE"]), "OK");
    check_found(&mut site, "read only\n");
}

#[test]
fn c08_an_index_that_fails_over() {
    let primary = RedisServer::start(&[]);
    let replica = RedisServer::start(&[&format!("replicaof 127.0.0.1 {}", primary.port)]);
    let sentinels: Vec<_> = (0..3).map(|_| RedisServer::start_sentinel(primary.port)).collect();
    let known = || {
        let ready = sentinels.iter().all(|sentinel| {
            let others = sentinel.ask(&["SENTINEL", "SENTINELS", "main"]);
            let replicas = sentinel.ask(&["SENTINEL", "REPLICAS", "main"]);
            others.matches("runid").count() == 2
                && replicas.contains(&replica.port.to_string())
                && replicas.contains("master-link-status\nok")
        });
        ready.then_some(())
    };
    wait_for("the sentinels know each other and the replica", LONG, known, String::new);
    let hosts: Vec<_> = sentinels.iter().map(|it| format!("127.0.0.1:{}", it.port)).collect();
    let url = format!("redis+sentinel://{}/main", hosts.join(","));
    let mut site = Site::start_on(primary, &url, (TOWER, &FILES));
    build(&site, "first\n");
    site.wait_until_sent();
    site.redis.kill();
    build_without_index(&site, "second\n");
    let promoted = || (replica.info("role") == "master").then_some(());
    wait_for("the replica takes over", LONG, promoted, || site.cluster.said());
    build(&site, "third\n");
    check_found(&mut site, "second\n");
}

#[test]
fn c09_an_index_that_lies() {
    // What other keys have is written under each; then garbage, values of another type, and one that is huge.
    let swap = "local all = redis.call('KEYS', 'dcbuild:*k:*') table.sort(all) local done = 0 \
        local values = {} for i, key in ipairs(all) do values[i] = redis.call('HGETALL', key) end \
        for i, key in ipairs(all) do local other = values[i % #all + 1] \
        if #other > 0 then redis.call('DEL', key) redis.call('HSET', key, unpack(other)) done = done + 1 end end return done";
    let garbage = "local all = redis.call('KEYS', 'dcbuild:*k:*') for _, key in ipairs(all) do \
        for _, field in ipairs(redis.call('HKEYS', key)) do redis.call('HSET', key, field, 'garbage') end end return #all";
    let types = "local all = redis.call('KEYS', 'dcbuild:*k:*') for i, key in ipairs(all) do \
        redis.call('DEL', key) if i % 2 == 0 then redis.call('SET', key, 'x') else redis.call('LPUSH', key, 'x') end end return #all";
    let huge = "local all = redis.call('KEYS', 'dcbuild:*k:*') local value = string.rep('x', 1048576) \
        for _, key in ipairs(all) do redis.call('HSET', key, 'huge', value) end return #all";
    let mut site = tower();
    for (name, script) in [("swap", swap), ("garbage", garbage), ("types", types), ("huge", huge)] {
        site.fresh_worker();
        // After a flush it is filled behind a build.
        let planted = || {
            let planted = site.redis.ask(&["EVAL", script, "0"]);
            planted.parse::<u32>().is_ok_and(|count| count > 5).then_some(())
        };
        // Until then the index does well, and the store is asked nothing.
        let asked = |site: &Site| met(site, "store_reads") + met(site, "store_lists");
        let last = site.cluster.home.path("context/in.txt");
        let last = std::fs::read_to_string(last).unwrap();
        let quiet = || {
            let before = asked(&site);
            build(&site, &last);
            (asked(&site) == before).then_some(())
        };
        wait_for("the index knows all", LONG, quiet, || site.cluster.said());
        wait_for(name, LONG, planted, || site.redis.ask(&["KEYS", "*"]));
        let (refused, before) = (met(&site, "store_refused"), asked(&site));
        build(&site, &format!("{name}\n"));
        assert!(asked(&site) > before, "{name}: nobody has read what was planted");
        let values = ["swap", "garbage"].contains(&name);
        assert!(!values || met(&site, "store_refused") > refused, "{name}: it was believed");
        build(&site, &format!("{name} again\n"));
        site.wait_until_sent();
        assert_eq!(site.redis.ask(&["FLUSHALL"]), "OK");
        build(&site, &format!("{name} mended\n"));
    }
    check_found(&mut site, "huge mended\n");
}

#[test]
fn c10_a_worker_whose_disk_is_full_hands_its_job_on() {
    let stage = |name: &str| {
        format!(
            "FROM base AS {name}\nCOPY in.txt /in.txt\nRUN sleep 1; cat /large /in.txt | wc -c > /{name}\n"
        )
    };
    let dockerfile = format!(
        "FROM busybox:golden AS base\nRUN head -c 60000000 /dev/zero > /large\n{}{}\
         FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
        stage("one"),
        stage("two")
    );
    let mut site = Site::start(&dockerfile, &FILES);
    site.submit();
    site.wait_until_sent();
    site.cluster.end_worker(0);
    // Two jobs for two workers of one slot: the layer that both stand on does not fit on one of them.
    let folder = site.cluster.home.arg("worker-1");
    let small = SmallDisk::mount(&site.cluster.home.path("worker-1"), 24);
    for _ in 0..2 {
        site.cluster.start_worker(1);
    }
    let both = || {
        let listed = site.cluster.ask("workers", &[]).well().stdout;
        (listed.matches(" working ").count() == 2 && !listed.contains(" away ")).then_some(())
    };
    wait_for("there are two workers", LONG, both, || site.cluster.said());
    site.write("in.txt", "second\n");
    let (image, said) = site.submit();
    let full = format!("another worker takes it: no space left in {folder}");
    assert!(said.contains(&full), "{said}");
    assert!(!said.contains("attempt 1 of 3"), "{said}");
    let texts = ["one", "two"].map(|name| image.tree().text(name).unwrap());
    assert_eq!(texts, ["60000007\n", "60000007\n"]);
    site.cluster.end_worker(1);
    drop(small);
    site.wait_until_sent();
    site.check_blobs();
}

/// A registry has another image of that name, which nobody asked for.
#[test]
fn c04_a_kept_image_is_never_a_registry_s_while_the_bucket_is_dead() {
    let mut site = Site::start("FROM busybox:golden\nRUN echo ours > /whose\n", &[]);
    let context = site.cluster.home.arg("context");
    site.cluster.ask("submit", &["-t", "kept:1", &context]).well();
    site.registry.put("library/kept:1", &busybox());
    site.wait_until_sent();
    let on_it = |site: &Site, text: &str| {
        site.write("Dockerfile", &format!("FROM kept:1\nRUN cat /whose > /read; echo {text}\n"));
        site.try_submit()
    };
    site.s3.refuse();
    // Also by a coordinator that has seen nothing of the bucket.
    for text in ["dead", "dead and begun again"] {
        let done = on_it(&site, text);
        assert_eq!(done.status.code(), Some(75), "{}", done.stderr);
        let kept = "kept under the name docker.io/library/kept:1";
        let way = "--pull takes the one of a registry";
        assert!(done.stderr.contains(kept) && done.stderr.contains(way), "{}", done.stderr);
        site.cluster.kill_coordinator();
        site.cluster.start_coordinator();
    }
    // What names no such image goes on.
    site.write("Dockerfile", "FROM busybox:golden\nRUN echo theirs > /read\n");
    site.submit();
    site.s3.serve_again();
    site.wait_until_sent();
    on_it(&site, "well").well();
    let image = Image::read_tar(&site.cluster.home.path("image.tar"));
    assert_eq!(image.tree().text("read").unwrap(), "ours\n");
}

/// No registry has it, so the client sends it from its folder once more.
#[test]
fn c01_a_lost_layer_of_a_client_s_layout_is_sent_again() {
    let home = Home::new("");
    let base = busybox();
    base.write(&home.path("layout"));
    let mut cluster = Cluster::start(home, 1, 2);
    let layer = base.blobs.first().unwrap().digest.split_once(':').unwrap().1.to_owned();
    let context = cluster.home.path("context");
    let submit = |cluster: &Cluster, text: &str| {
        let dockerfile =
            "FROM base\nRUN echo one > /one\nCOPY in.txt /in.txt\nRUN cat /one /in.txt > /all\n";
        let files =
            [ContextEntry::file("Dockerfile", dockerfile), ContextEntry::file("in.txt", text)];
        write_context(&context, &files);
        let layout = format!("base=oci-layout://{}", cluster.home.arg("layout"));
        let output = format!("type=oci,dest={}", cluster.home.arg("image.tar"));
        let flags = ["--progress", "plain", "--build-context", &layout, "--output", &output];
        let context = cluster.home.arg("context");
        let done = cluster.ask("submit", &[&flags[..], &[context.as_str()]].concat()).well();
        let tree = Image::read_tar(&cluster.home.path("image.tar")).tree();
        assert_eq!(tree.text("all"), Some(format!("one\n{text}")), "{}", done.stderr);
        done.stderr
    };
    submit(&cluster, "first\n");
    let harms: [fn(&Path); 2] = [
        |blob| std::fs::remove_file(blob).unwrap(),
        |blob| {
            let mut bytes = std::fs::read(blob).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::remove_file(blob).unwrap();
            std::fs::write(blob, bytes).unwrap();
        },
    ];
    for (worker, harm) in harms.into_iter().enumerate() {
        cluster.wait_until_durable();
        let blob = format!("store/blobs/sha256/{}/{layer}", &layer[..2]);
        harm(&cluster.home.path(&blob));
        cluster.end_worker(worker).well();
        cluster.start_worker(2);
        let said = submit(&cluster, &format!("after harm {worker}\n"));
        // What is missing is sent before the build begins, and what is damaged when it is found to be.
        assert_eq!(said.contains("; it is sent again"), worker == 1, "{said}");
    }
}

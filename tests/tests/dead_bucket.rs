//! C04 and C05: the bucket is refused, silent, full, forbidden, busy or dead, and builds go on; what it missed meanwhile it
//! gets once it does well again.
#![expect(clippy::unwrap_used, reason = "test")]

use std::time::Duration;

use dcbuild_tests::bucket::Site;
use dcbuild_tests::cluster::{Cluster, Store};
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::Running;
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::s3::faults::{Fault, Seen};
use dcbuild_tests::story::fill;
use dcbuild_tests::wait::{LONG, Stopwatch, wait_for};

const DOCKERFILE: &str = "FROM busybox:golden AS build\nCOPY in.txt /in.txt\n\
    RUN cat /in.txt /in.txt > /out.txt\nFROM busybox:golden\nCOPY --from=build /out.txt /out.txt\n\
    RUN wc -c /out.txt > /count\n";

/// What a build may take while the store takes none of it: deadlines are met a few times, not once for each blob.
const LATE: Duration = Duration::from_secs(40);

/// What of results is in the bucket; accounts of builds come when they come.
fn results(site: &Site) -> Vec<String> {
    let is_result =
        |key: &String| ["/blob/", "/layer/", "/step/"].iter().any(|of| key.contains(of));
    site.s3.keys().into_iter().filter(is_result).collect()
}

/// Builds before, during and after a failure; `begin` makes it, `end` mends it.
fn check(begin: impl Fn(&mut Site), end: impl Fn(&mut Site)) {
    let mut site = Site::start(DOCKERFILE, &[("in.txt", "before\n")]);
    site.submit();
    site.wait_until_sent();
    let stored = results(&site);

    begin(&mut site);
    site.write("in.txt", "meanwhile\n");
    let watch = Stopwatch::start();
    let (during, said) = site.submit();
    assert_eq!(during.tree().text("out.txt").unwrap(), "meanwhile\nmeanwhile\n", "{said}");
    assert!(watch.passed() < LATE, "it took {:?}\n{}", watch.passed(), site.cluster.said());
    site.wait_until_failing();
    assert_eq!(results(&site), stored, "nothing of it was stored");
    // A new client, and everything that was just made is found though the store is dead.
    let (again, said) = site.submit();
    assert_eq!(again.digest, during.digest, "{said}");
    assert_eq!(said.matches("CACHED").count(), 3, "{said}");
    // One that never ran before runs as well.
    site.write("in.txt", "later\n");
    let (later, said) = site.submit();
    assert_eq!(later.tree().text("out.txt").unwrap(), "later\nlater\n", "{said}");
    assert!(site.is_failing(), "{}", site.cluster.said());
    assert_eq!(results(&site), stored, "nothing of it was stored");
    assert!(site.cluster.metric("dcbuild_store_faults_total") > Some(0), "an alarm would ring");
    // Each event of the log is one line, and begins with its time.
    let log = site.cluster.said();
    let is_event = |line: &&str| line.starts_with("20") && line.as_bytes().get(10) == Some(&b'T');
    let of_process = |line: &&str| line.ends_with(':') && line.len() < 10;
    let odd: Vec<&str> = log.lines().filter(|it| !is_event(it) && !of_process(it)).collect();
    assert!(odd.is_empty() && !log.contains("error=error"), "{odd:#?}");

    end(&mut site);
    site.wait_until_sent();
    assert!(results(&site).len() > stored.len());
    assert_eq!(site.s3.open_uploads(), 0);
    site.fresh_worker();
    site.write("in.txt", "meanwhile\n");
    let (after, said) = site.submit();
    assert_eq!(after.digest, during.digest, "{said}\n{}", site.cluster.said());
    assert_eq!(said.matches("CACHED").count(), 3, "{said}\n{}", site.cluster.said());
}

/// A rule that answers each request with a fault.
fn with(rule: impl Fn(&Seen) -> Option<Fault> + Send + Sync + Clone + 'static) {
    let heal = |site: &mut Site| {
        assert!(site.s3.fired() > 0, "the fault never fired");
        site.s3.heal();
    };
    check(move |site| site.s3.fail(rule.clone()), heal);
}

#[test]
fn c04_a_bucket_that_is_gone() {
    check(|site| site.s3.refuse(), |site| site.s3.serve_again());
}

/// As where the network to both is cut.
#[test]
fn c04_a_bucket_and_an_index_that_are_gone() {
    let begin = |site: &mut Site| {
        site.s3.refuse();
        site.redis.kill();
    };
    let end = |site: &mut Site| {
        site.redis.start_again();
        site.s3.serve_again();
    };
    check(begin, end);
}

/// As where a firewall drops what is sent to either.
#[test]
fn c04_a_bucket_and_an_index_that_never_answer() {
    let begin = |site: &mut Site| {
        site.s3.fail(|_| Some(Fault::Stall));
        site.redis.pause();
    };
    let end = |site: &mut Site| {
        assert!(site.s3.fired() > 0, "the fault never fired");
        site.redis.resume();
        site.s3.heal();
    };
    check(begin, end);
}

#[test]
fn c04_a_bucket_that_never_answers() {
    with(|_| Some(Fault::Stall));
}

#[test]
fn c04_a_bucket_that_breaks_every_connection() {
    with(|_| Some(Fault::Close));
}

#[test]
fn c04_a_bucket_that_may_not_be_used() {
    with(|_| Some(Fault::DENIED));
}

#[test]
fn c04_a_bucket_that_is_full() {
    with(|seen| {
        let writes = ["PutObject", "UploadPart", "CreateMultipartUpload", "CopyObject"];
        let full = Fault::Answer { status: 507, code: "StorageFull", retry_after: None };
        writes.contains(&seen.request).then_some(full)
    });
}

#[test]
fn c04_a_bucket_that_is_not_there() {
    with(|_| Some(Fault::NO_BUCKET));
}

#[test]
fn c04_a_bucket_that_is_in_another_region() {
    with(|_| Some(Fault::REDIRECTED));
}

#[test]
fn c04_a_key_that_the_bucket_does_not_know() {
    with(|_| Some(Fault::UNKNOWN_KEY));
}

/// Somebody has to mend the configuration: a coordinator says so before anybody builds, as an error and once.
#[test]
fn c04_a_mistake_of_the_configuration_is_said_at_once() {
    let mut site = Site::start(DOCKERFILE, &[("in.txt", "first\n")]);
    for (fault, names) in [
        (Fault::NO_BUCKET, "create the bucket, or mend its name in the store's address"),
        (Fault::REDIRECTED, "its region is eu-west-1; name the bucket's region with ?region="),
        (Fault::UNKNOWN_KEY, "check AWS_ACCESS_KEY_ID"),
    ] {
        let before = site.s3.fired();
        site.cluster.kill_coordinator();
        site.s3.fail(move |_| Some(fault.clone()));
        site.cluster.start_coordinator();
        site.wait_until_failing();
        assert!(site.s3.fired() > before, "the fault never fired");
        let told = |log: &str| {
            let errors =
                log.lines().filter(|line| line.contains(" ERROR ") && line.contains(names));
            errors.filter(|line| line.contains("`dcbuild doctor` says what is wrong")).count()
        };
        wait_for(
            "it is said",
            LONG,
            || (told(&site.cluster.said()) == 1).then_some(()),
            || site.cluster.said(),
        );
        site.submit();
        assert_eq!(told(&site.cluster.said()), 1, "{}", site.cluster.said());
        assert!(site.cluster.metric("dcbuild_store_faults_total") > Some(0));
    }
}

/// Whether a request writes bytes; what is removed takes none.
fn writes(seen: &Seen) -> bool {
    ["PutObject", "UploadPart", "CreateMultipartUpload", "CopyObject"].contains(&seen.request)
}

/// As Garage says it: in the words of who may not.
#[test]
fn c05_a_bucket_whose_quota_is_used_up() {
    with(|seen| writes(seen).then_some(Fault::QUOTA_IS_REACHED));
}

#[test]
fn c05_a_full_bucket_is_read_by_fresh_workers_and_can_be_pruned() {
    let mut site = Site::start(DOCKERFILE, &[("in.txt", "before\n")]);
    let (first, _) = site.submit();
    site.wait_until_sent();
    site.s3.fail(|seen| writes(seen).then_some(Fault::QUOTA_IS_REACHED));
    site.write("in.txt", "meanwhile\n");
    let watch = Stopwatch::start();
    let (other, said) = site.submit();
    assert_eq!(other.tree().text("out.txt").unwrap(), "meanwhile\nmeanwhile\n", "{said}");
    assert!(watch.passed() < LATE, "{:?}", watch.passed());
    site.wait_until_failing();
    assert!(site.s3.fired() > 0);
    // What is there is still taken.
    site.fresh_worker();
    site.write("in.txt", "before\n");
    let (again, said) = site.submit();
    assert_eq!(again.digest, first.digest, "{said}\n{}", site.cluster.said());
    assert_eq!(said.matches("CACHED").count(), 3, "{said}\n{}", site.cluster.said());
    let log = site.cluster.said();
    let warned: Vec<&str> =
        log.lines().filter(|line| line.contains("takes nothing more")).collect();
    assert!(warned.len() == 1 && warned[0].contains("`dcbuild cache prune`"), "{log}");
    assert!(!log.contains("refused access") && !log.contains(" ERROR "), "{log}");
    // The way out works though nothing can be written.
    let (store, index) = (site.s3.url("acme"), site.redis.url());
    let flags = ["prune", "--all", "--store", &store, "--index", &index];
    let before = site.s3.keys().len();
    let prune = || {
        let mut command = site.cluster.home.command(["cache"].iter().chain(&flags));
        command.envs(site.s3.environment());
        let done = Running::start(command).finish(LONG).well();
        // What the last build used stays until its mark has gone, which is an object as well.
        let told = done.stderr.contains("no space for notes of what is removed");
        (told && site.s3.keys().len() < before).then_some(())
    };
    wait_for("there is room, and no notes of it", LONG, prune, || site.cluster.said());
    site.s3.heal();
    site.wait_until_sent();
}

#[test]
fn c05_a_bucket_that_has_too_much_to_do() {
    with(|_| Some(Fault::SLOW_DOWN));
}

#[test]
fn c05_a_bucket_that_refuses_every_third_request() {
    let site = Site::start(DOCKERFILE, &[("in.txt", "before\n")]);
    site.s3.fail(|seen| (seen.number % 3 == 0).then_some(Fault::SLOW_DOWN));
    let (first, _) = site.submit();
    assert_eq!(first.tree().text("out.txt").unwrap(), "before\nbefore\n");
    site.wait_until_sent();
    assert!(site.s3.fired() > 5);
    // Whether it hits is luck: nobody waits for a record that is on its way to a store that fails.
    let (again, said) = site.submit();
    assert_eq!(again.tree().text("out.txt").unwrap(), "before\nbefore\n", "{said}");
    site.s3.heal();
    site.wait_until_sent();
    let (last, said) = site.submit();
    assert!([&first.digest, &again.digest].contains(&&last.digest), "{said}");
}

#[test]
fn c04_a_cluster_that_starts_on_a_dead_bucket_builds() {
    let mut site = Site::start(DOCKERFILE, &[("in.txt", "first\n")]);
    site.s3.refuse();
    let (first, _) = site.submit();
    assert_eq!(first.tree().text("count").unwrap(), "12 /out.txt\n");
    assert!(site.s3.keys().is_empty() && site.is_failing());
    assert!(site.cluster.metric("dcbuild_store_waiting") > Some(0));
    // What waits survives the coordinator.
    site.cluster.kill_coordinator();
    site.cluster.start_coordinator();
    site.s3.serve_again();
    site.wait_until_sent();
    assert!(!site.s3.keys().is_empty());
    let (again, said) = site.submit();
    assert_eq!(again.tree().text("count").unwrap(), "12 /out.txt\n", "{said}");
}

/// A cluster on a bucket that nobody ever reaches builds and pushes; gives what its processes said.
fn check_never_reached(endpoint: &str) -> String {
    let registry = Registry::start();
    fill(&registry);
    let home = Home::new(&registry.as_docker_io());
    let entries =
        [ContextEntry::file("Dockerfile", DOCKERFILE), ContextEntry::file("in.txt", "first\n")];
    write_context(&home.path("context"), &entries);
    let flags = vec!["--store".to_owned(), format!("s3://cache/acme?endpoint={endpoint}")];
    let environment = S3Server::start().environment().to_vec();
    let cluster = Cluster::start_on(Store { flags, environment }, home, 1, 2);
    let (name, context) = (format!("{}/team/app:1", registry.host), cluster.home.arg("context"));
    let watch = Stopwatch::start();
    let done = cluster.ask("submit", &["--progress", "plain", "--push", "-t", &name, &context]);
    assert!(done.status.success(), "{}\n{}", done.stderr, cluster.said());
    assert!(watch.passed() < LATE, "it took {:?}\n{}", watch.passed(), cluster.said());
    let pushed = registry.get("team/app:1").tree();
    assert_eq!(pushed.text("out.txt").unwrap(), "first\nfirst\n");
    assert_eq!(cluster.metric("dcbuild_store_failing"), Some(1), "{}", cluster.said());
    cluster.said()
}

#[test]
fn c04_a_bucket_whose_name_nobody_knows() {
    let said = check_never_reached("http://no-such-host.invalid:9000");
    assert!(said.contains("no-such-host.invalid"), "{said}");
    assert!(said.contains("check the endpoint"), "{said}");
}

#[test]
fn c04_a_bucket_that_does_not_speak_tls() {
    let plain = S3Server::start();
    let endpoint = plain.endpoint().replace("http://", "https://");
    let said = check_never_reached(&endpoint);
    assert!(said.contains(&endpoint) && said.contains("a server without TLS"), "{said}");
}

//! `dcbuild submit --cache-upload outputs` and `none`: what goes to the bucket of a cluster, and what stays with its workers.
#![expect(clippy::unwrap_used, reason = "test")]

use std::time::Duration;

use dcbuild_tests::bucket::Site;
use dcbuild_tests::image::Image;
use dcbuild_tests::progress::ran;
use dcbuild_tests::running::Running;
use dcbuild_tests::wait::{LONG, Stopwatch};

/// Two stages that two workers of one slot make at once, and what is made of both.
fn dockerfile(late: &str) -> String {
    let stage = |name: &str| {
        format!(
            "FROM busybox:golden AS {name}\n\
             RUN head -c 3000000 /dev/urandom > /{name}-large && echo {name} > /{name} && sleep 1\n"
        )
    };
    format!(
        "{}{}FROM busybox:golden\nCOPY --from=one /one /\nCOPY --from=other /other /\n\
         RUN --mount=type=bind,from=one,target=/a --mount=type=bind,from=other,target=/b \
         --mount=type=cache,target=/c {late} cat /a/one /b/other > /both; echo kept > /c/file\n",
        stage("one"),
        stage("other")
    )
}

/// A bucket, and two workers of one slot with these flags.
fn site(dockerfile: &str, flags: &[&str]) -> Site {
    let mut site = Site::start(dockerfile, &[]);
    site.cluster.end_worker(0);
    for _ in 0..2 {
        site.cluster.start_worker_with(1, flags);
    }
    site
}

fn start(site: &Site, upload: &str) -> Running {
    let output = format!("type=oci,dest={}", site.cluster.home.arg("image.tar"));
    let context = site.cluster.home.arg("context");
    let flags = ["--progress", "plain", "--cache-upload", upload, "--output", &output, &context];
    site.cluster.client("submit", &flags)
}

/// Submits, and checks what was made; gives what the client said.
fn submit(site: &Site, upload: &str) -> String {
    let done = start(site, upload).finish(LONG);
    assert!(done.status.success(), "{}\n{}", done.stderr, site.cluster.said());
    check(site);
    site.wait_until_sent();
    done.stderr
}

fn check(site: &Site) {
    let tree = Image::read_tar(&site.cluster.home.path("image.tar")).tree();
    let texts = ["one", "other", "both"].map(|name| tree.text(name).unwrap());
    assert_eq!(texts, ["one\n", "other\n", "one\nother\n"]);
}

/// How many keys of a kind the bucket has.
fn count(site: &Site, kind: &str) -> usize {
    site.s3.keys().iter().filter(|key| key.contains(kind)).count()
}

fn bytes(site: &Site) -> u64 {
    let files = site.s3.keys().into_iter().filter(|key| key.contains("/blob/"));
    files.map(|key| std::fs::metadata(site.s3.file(&key)).unwrap().len()).sum()
}

#[test]
fn of_none_the_bucket_gets_the_image_alone_and_workers_give_each_other_the_rest() {
    let site = site(&dockerfile(""), &[]);
    let said = submit(&site, "none");
    assert!(!said.contains("lost"), "{said}");
    assert_eq!((count(&site, "/step/"), count(&site, "/cache/")), (0, 0), "{:?}", site.s3.keys());
    // Neither stage's three megabytes.
    assert!(bytes(&site) < 3_000_000, "{} bytes: {:?}", bytes(&site), site.s3.keys());
    let said = submit(&site, "all");
    assert!(!said.contains("CACHED"), "{said}");
    assert!(count(&site, "/step/") > 0 && count(&site, "/cache/") > 0, "{:?}", site.s3.keys());
    assert!(bytes(&site) > 6_000_000, "{} bytes", bytes(&site));
    assert!(submit(&site, "none").matches("CACHED").count() >= 4);
}

#[test]
fn of_outputs_the_bucket_gets_what_the_image_is_made_of() {
    let site = site(&dockerfile(""), &[]);
    submit(&site, "outputs");
    assert!(count(&site, "/step/") > 0 && bytes(&site) < 3_000_000, "{:?}", site.s3.keys());
    assert_eq!(count(&site, "/cache/"), 0, "{:?}", site.s3.keys());
    let said = submit(&site, "outputs");
    assert!(said.matches("CACHED").count() >= 4 && !said.contains("lost"), "{said}");
    let listed = site.cluster.ask("cache", &["ls"]).well().stdout;
    assert!(listed.contains("COPY --from=other") && !listed.contains("urandom"), "{listed}");
}

#[test]
fn where_workers_do_not_reach_each_other_it_comes_by_the_bucket_and_is_not_kept() {
    let site = site(&dockerfile(""), &["--listen", "none"]);
    let said = submit(&site, "none");
    assert!(!said.contains("lost"), "{said}");
    // One stage's layer had to come from the other worker.
    assert!(bytes(&site) > 3_000_000, "{} bytes: {:?}", bytes(&site), site.s3.keys());
    assert_eq!(count(&site, "/step/"), 0, "{:?}", site.s3.keys());
    let said = submit(&site, "none");
    assert!(!said.contains("CACHED"), "{said}");
}

#[test]
fn what_dies_with_its_worker_is_made_again() {
    // Tells its process from those of other tests.
    let seconds = format!("5.2{}", 1_000_000 + std::process::id());
    let mut site = site(&dockerfile(&format!("sleep {seconds};")), &[]);
    let build = start(&site, "none");
    let sleeper = site.cluster.worker_that_runs(&seconds);
    let watch = Stopwatch::start();
    site.cluster.kill_worker(sleeper);
    site.cluster.start_worker(1);
    let done = build.finish(LONG);
    assert!(done.status.success(), "{}\n{}", done.stderr, site.cluster.said());
    assert!(watch.passed() < Duration::from_mins(2), "{:?}", watch.passed());
    assert!(done.stderr.contains("was lost to a lost worker"), "{}", done.stderr);
    check(&site);
    assert_eq!(count(&site, "/step/"), 0, "{:?}", site.s3.keys());
}

#[test]
fn a_worker_that_leaves_hands_over_what_a_running_build_may_need() {
    let seconds = format!("5.3{}", 1_000_000 + std::process::id());
    let late = format!("FROM busybox:golden AS late\nRUN sleep {seconds}\n");
    let mut site = site(
        &format!(
            "FROM busybox:golden AS one\nRUN cat /proc/sys/kernel/random/uuid > /one\n{late}\
             FROM late\nCOPY --from=one /one /\n"
        ),
        &["--listen", "none"],
    );
    let build = start(&site, "none");
    let sleeper = site.cluster.worker_that_runs(&seconds);
    let leaves = 3 - sleeper;
    let gone = site.cluster.end_worker(leaves);
    let done = build.finish(LONG);
    assert!(done.status.success(), "{}\n{}", done.stderr, site.cluster.said());
    let said = format!("{}\n{}\nwho left:\n{}", done.stderr, site.cluster.said(), gone.stderr);
    assert!(!done.stderr.contains("lost"), "{said}");
    let tree = Image::read_tar(&site.cluster.home.path("image.tar")).tree();
    assert_eq!(tree.text("one").unwrap().len(), 37);
    assert_eq!(count(&site, "/step/"), 0, "{:?}", site.s3.keys());
}

#[test]
fn what_goes_elsewhere_goes_there_whole_though_the_bucket_keeps_none() {
    let site = site(&dockerfile(""), &[]);
    let home = &site.cluster.home;
    let (context, cache) = (home.arg("context"), home.arg("cache"));
    let to = format!("type=local,dest={cache},mode=max");
    let flags = ["--progress", "plain", "--cache-upload", "none", "--cache-to", &to, &context];
    let said = site.cluster.ask("submit", &flags).well().stderr;
    assert!(!said.contains("could not write the cache"), "{said}");
    site.wait_until_sent();
    assert_eq!(count(&site, "/step/"), 0, "{:?}", site.s3.keys());
    // A machine that has nothing finds all of it there.
    let from = format!("type=local,src={cache}");
    let flags = ["build", "--progress", "rawjson", "--cache-from", &from, "-o"];
    let output = format!("type=oci,dest={}", home.arg("image.tar"));
    let done = home.run(flags.iter().chain(&[output.as_str(), context.as_str()])).well();
    assert_eq!(ran(&done.stderr), Vec::<String>::new());
    check(&site);
}

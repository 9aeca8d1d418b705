//! Workers take layers from each other while these are still on their way to the store.

use std::time::Duration;

use dcbuild_tests::bucket::Site;
use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::s3::faults::Fault;
use dcbuild_tests::story::fill;
use dcbuild_tests::wait::{LONG, Stopwatch, wait_for};

/// Files of a layer come one by one, a layer under a RUN as a whole.
const FILES: &str = "files come from the worker that made them";
const WHOLE: &str = "a layer comes from the worker that made it";

/// Two stages that two workers of one slot make at once, so that whoever goes on lacks one of them.
fn stages(size: u32) -> String {
    let stage = |name: &str| {
        format!(
            "FROM busybox:golden AS {name}\n\
             RUN head -c {size} /dev/urandom > /{name}-large && echo {name} > /{name} && sleep 1\n"
        )
    };
    stage("one") + &stage("other")
}

const COPIES: &str = "FROM scratch\nCOPY --from=one /one /\nCOPY --from=other /other /\n";

/// A site of two workers with a bucket that takes no blob.
fn held_up(dockerfile: &str) -> Site {
    let mut site = Site::start(dockerfile, &[]);
    site.cluster.end_worker(0);
    for _ in 0..2 {
        site.cluster.start_worker(1);
    }
    let writes = ["PutObject", "UploadPart", "CreateMultipartUpload"];
    site.s3.fail(move |seen| {
        (writes.contains(&seen.request) && seen.path.contains("/blob/")).then_some(Fault::Stall)
    });
    site
}

#[test]
fn files_of_a_layer_come_from_its_maker_while_the_bucket_takes_nothing() {
    let site = held_up(&(stages(30_000_000) + COPIES));
    let (image, said) = site.submit();
    let texts = ["one", "other"].map(|name| image.tree().text(name).unwrap());
    assert_eq!(texts, ["one\n", "other\n"]);
    assert!(site.s3.fired() > 0, "the bucket took something");
    let cluster = site.cluster.said();
    assert!(cluster.contains(FILES), "{cluster}");
    assert!(!said.contains("was lost"), "{said}");
    site.s3.heal();
    site.wait_until_sent();
}

#[test]
fn a_copy_of_one_file_moves_that_file_and_little_more() {
    let stage = |name: &str| {
        format!(
            "FROM busybox:golden AS {name}\n\
             RUN head -c 60000000 /dev/urandom > /{name}-large && \
             head -c 1000000 /dev/urandom > /{name} && sleep 1\n"
        )
    };
    let site = held_up(&(stage("one") + &stage("other") + COPIES));
    let (image, _) = site.submit();
    for name in ["one", "other"] {
        assert_eq!(image.tree().get(name).unwrap().kind, 'f');
    }
    // What a worker has read it says with its next sign of life.
    let read = || site.cluster.metric("dcbuild_peer_bytes_total{tls=\"no\"}").filter(|it| *it > 0);
    let bytes = wait_for("a worker says what it read", LONG, read, || site.cluster.said());
    assert!((1_000_000..1_100_000).contains(&bytes), "{bytes} bytes of a layer of 61 MB");
    let from_bucket = site.s3.sent_bytes();
    assert!(from_bucket < 100_000, "{from_bucket} bytes came from the bucket");
}

#[test]
fn a_layer_under_a_run_comes_from_its_maker_while_the_bucket_takes_nothing() {
    let run = "FROM busybox:golden\n\
        RUN --mount=type=bind,from=one,target=/a --mount=type=bind,from=other,target=/b \
        cat /a/one /b/other > /both && wc -c /a/one-large /b/other-large > /count\n";
    let site = held_up(&(stages(30_000_000) + run));
    let (image, said) = site.submit();
    assert_eq!(image.tree().text("both").unwrap(), "one\nother\n");
    assert!(image.tree().text("count").unwrap().contains("60000000 total"));
    assert!(site.s3.fired() > 0, "the bucket took something");
    let cluster = site.cluster.said();
    assert!(cluster.contains(WHOLE), "{cluster}");
    assert!(!said.contains("was lost"), "{said}");
}

#[test]
fn many_small_files_come_as_one_layer() {
    let stage = |name: &str| {
        format!(
            "FROM busybox:golden AS {name}\nRUN mkdir /{name}; cd /{name}; \
             for n in $(seq 400); do echo {name} $n > $n; done; sleep 1\n"
        )
    };
    let copies = "FROM scratch\nCOPY --from=one /one /one\nCOPY --from=other /other /other\n";
    let site = held_up(&(stage("one") + &stage("other") + copies));
    let (image, _) = site.submit();
    for name in ["one", "other"] {
        let text = image.tree().text(&format!("{name}/399")).unwrap();
        assert_eq!(text, format!("{name} 399\n"));
    }
    let cluster = site.cluster.said();
    assert!(cluster.contains(FILES) && cluster.contains(WHOLE), "{cluster}");
}

#[test]
fn a_maker_that_dies_before_its_layer_is_sent_is_done_without() {
    let first = "FROM busybox:golden AS one\nRUN date +%s%N > /one\n";
    // Tells its process from those of other tests.
    let seconds = format!("8.1{}", 1_000_000 + std::process::id());
    let late = format!("FROM busybox:golden AS late\nRUN sleep {seconds}\n");
    let copies = "FROM late\nCOPY --from=one /one /\n";
    let mut site = held_up(&format!("{first}{late}{copies}"));
    let output = format!("type=oci,dest={}", site.cluster.home.arg("image.tar"));
    let context = site.cluster.home.arg("context");
    let build =
        site.cluster.client("submit", &["--progress", "plain", "--output", &output, &context]);
    let sleeper = site.cluster.worker_that_runs(&seconds);
    let fired = || (site.s3.fired() > 0).then_some(());
    wait_for("the layer is held up", LONG, fired, || site.cluster.said());
    // The other one made the layer, and nobody else has it.
    site.cluster.kill_worker(3 - sleeper);
    let watch = Stopwatch::start();
    let done = build.finish(LONG).well();
    assert!(watch.passed() < Duration::from_mins(1), "{:?}\n{}", watch.passed(), done.stderr);
    let tree = Image::read_tar(&site.cluster.home.path("image.tar")).tree();
    assert!(tree.text("one").is_some_and(|text| text.len() > 10), "{}", done.stderr);
    assert!(done.stderr.contains("lost"), "{}", done.stderr);
}

#[test]
fn a_worker_that_lets_nobody_in_builds_all_the_same() {
    let registry = Registry::start();
    fill(&registry);
    let home = Home::new(&registry.as_docker_io());
    let mut cluster = Cluster::start(home, 0, 1);
    for _ in 0..2 {
        cluster.start_worker_with(1, &["--listen", "none"]);
    }
    let dockerfile = stages(1_000_000) + COPIES;
    write_context(&cluster.home.path("context"), &[ContextEntry::file("Dockerfile", &dockerfile)]);
    let output = format!("type=oci,dest={}", cluster.home.arg("image.tar"));
    let context = cluster.home.arg("context");
    cluster.ask("submit", &["--output", &output, &context]).well();
    let tree = Image::read_tar(&cluster.home.path("image.tar")).tree();
    assert_eq!(tree.text("other").unwrap(), "other\n");
    assert!(!cluster.said().contains(FILES), "{}", cluster.said());
    let listed = cluster.ask("workers", &[]).well().stdout;
    assert!(!listed.contains("127.0.0.1:"), "{listed}");
    let number = cluster.start_worker_with(1, &["--listen", "127.0.0.1:0", "--advertise", "w:9"]);
    let shown = || cluster.ask("workers", &[]).well().stdout.contains(" w:9").then_some(());
    wait_for("its address is shown", LONG, shown, || cluster.said());
    assert_eq!(number, 2);
    let found = cluster.ask("doctor", &[]).stdout;
    let words = ["lets no other worker in", "is not reached at w:9"];
    assert!(words.iter().all(|words| found.contains(words)), "{found}");
    cluster.start_worker(1);
    let shown = || cluster.ask("workers", &[]).well().stdout.contains(" 127.0.0.1:").then_some(());
    wait_for("its own address is shown", LONG, shown, || cluster.said());
    let found = cluster.ask("doctor", &[]).stdout;
    assert!(found.contains("is reached at 127.0.0.1:"), "{found}");
}

//! One coordinator and its workers: builds, losses, and clients that come and go.

use std::time::Duration;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, EntryKind, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::process_with_argument;
use dcbuild_tests::story::{GO, fill};
use dcbuild_tests::wait::{LONG, Stopwatch, wait_for};

const SOON: Duration = Duration::from_secs(30);

/// A cluster with a registry, and contexts beside it.
struct Site {
    cluster: Cluster,
    _registry: Registry,
}

impl Site {
    fn start(workers: usize, slots: u32) -> Site {
        let registry = Registry::start();
        fill(&registry);
        let cluster = Cluster::start(Home::new(&registry.as_docker_io()), workers, slots);
        Site { cluster, _registry: registry }
    }

    /// Writes a context, and gives its path.
    fn context(&self, dockerfile: &str) -> String {
        write_context(
            &self.cluster.home.path("context"),
            &[ContextEntry::file("Dockerfile", dockerfile)],
        );
        self.cluster.home.arg("context")
    }

    fn output(&self) -> String {
        format!("type=oci,dest={}", self.cluster.home.arg("image.tar"))
    }

    fn image(&self) -> Image {
        Image::read_tar(&self.cluster.home.path("image.tar"))
    }

    fn wait_for_process(&self, word: &str) {
        wait_for(word, SOON, || process_with_argument(word).then_some(()), || self.cluster.said());
    }
}

/// Tells the processes of this test from those of others: a number of seconds that only it sleeps.
fn own_seconds(whole: u32, digit: u32) -> String {
    format!("{whole}.{digit}{}", 1_000_000 + std::process::id())
}

#[test]
fn submit_makes_the_tree_that_build_makes() {
    let site = Site::start(2, 2);
    let context = site.context(GO);
    let output = site.output();
    site.cluster.ask("submit", &["--output", &output, &context]).well();
    let submitted = site.image();
    site.cluster.home.run(["build", "--output", &output, &context]).well();
    assert_eq!(submitted.tree().text("bin/hello"), site.image().tree().text("bin/hello"));
    assert_eq!(submitted.config["config"], site.image().config["config"]);
    site.cluster.ask("submit", &["--output", &output, &context]).well();
    assert_eq!(site.image().digest, submitted.digest, "a second submit finds everything");
}

#[test]
fn a_file_of_a_large_layer_is_waited_for_while_it_is_on_its_way() {
    let site = Site::start(2, 1);
    // What cannot be compressed takes its time to the store, and one of the two is on the other worker.
    let large = |name: &str| {
        format!(
            "FROM busybox:golden AS {name}\n\
             RUN head -c 60000000 /dev/urandom > /large && echo {name} > /{name}\n"
        )
    };
    let copies = "FROM scratch\nCOPY --from=one /one /\nCOPY --from=other /other /\n";
    let context = site.context(&[&large("one"), &large("other"), copies].concat());
    let done = site.cluster.ask("submit", &["--output", &site.output(), &context]).well();
    let tree = site.image().tree();
    let texts = ["one", "other"].map(|name| tree.text(name));
    assert_eq!(texts, [Some("one\n".to_owned()), Some("other\n".to_owned())]);
    assert!(!done.stderr.contains("was lost"), "{}", done.stderr);
}

#[test]
fn stages_run_at_once_on_different_workers() {
    let site = Site::start(2, 1);
    let seconds = [own_seconds(3, 1), own_seconds(3, 2)];
    let [one, other] = &seconds;
    let dockerfile = format!(
        "FROM busybox:golden AS one\nRUN sleep {one} && echo 1 > /one\n\
         FROM busybox:golden AS other\nRUN sleep {other} && echo 2 > /other\n\
         FROM scratch\nCOPY --from=one /one /\nCOPY --from=other /other /\n"
    );
    let context = site.context(&dockerfile);
    let output = site.output();
    let build = site.cluster.client("submit", &["--output", &output, &context]);
    assert_ne!(site.cluster.worker_that_runs(one), site.cluster.worker_that_runs(other));
    build.finish(LONG).well();
    let tree = site.image().tree();
    assert_eq!((tree.text("one"), tree.text("other")), (Some("1\n".into()), Some("2\n".into())));
}

#[test]
fn a_lost_worker_s_step_is_finished_by_the_other() {
    let mut site = Site::start(2, 1);
    let seconds = own_seconds(4, 3);
    let context = site.context(&format!(
        "FROM busybox:golden\nRUN echo before > /before\nRUN sleep {seconds}; echo after > /after\n"
    ));
    let output = site.output();
    let build = site.cluster.client("submit", &["--output", &output, &context]);
    let worker = site.cluster.worker_that_runs(&seconds);
    site.cluster.kill_worker(worker);
    let next = wait_for(
        "another worker runs the step",
        SOON,
        || Some(site.cluster.worker_that_runs(&seconds)).filter(|next| *next != worker),
        || site.cluster.said(),
    );
    assert_ne!(next, worker);
    build.finish(LONG).well();
    let tree = site.image().tree();
    assert_eq!(tree.text("before").unwrap_or_default(), "before\n");
    assert_eq!(tree.text("after").unwrap_or_default(), "after\n");
}

#[test]
fn a_coordinator_that_comes_back_goes_on() {
    let mut site = Site::start(1, 2);
    let seconds = own_seconds(8, 4);
    let context = site.context(&format!(
        "FROM busybox:golden\nRUN sleep {seconds}; echo a > /a\nRUN echo b > /b\n"
    ));
    let output = site.output();
    let build = site.cluster.client("submit", &["--output", &output, &context]);
    site.wait_for_process(&seconds);
    site.cluster.kill_coordinator();
    site.cluster.start_coordinator();
    // It ends in order as well, while a worker and a client are connected.
    site.wait_for_process(&seconds);
    let ended = site.cluster.end_coordinator().well();
    assert!(ended.stderr.contains("the coordinator has stopped"), "{}", ended.stderr);
    site.cluster.start_coordinator();
    build.finish(LONG).well();
    let tree = site.image().tree();
    assert_eq!((tree.text("a"), tree.text("b")), (Some("a\n".into()), Some("b\n".into())));
}

#[test]
fn workers_that_die_at_once_are_given_nothing_more() {
    let mut site = Site::start(4, 1);
    let context = site.context("FROM busybox:golden\nRUN echo a > /a\n");
    for worker in 0..3 {
        site.cluster.kill_worker(worker);
    }
    // That their connections have ended must have come to the coordinator.
    let listed = || site.cluster.ask("workers", &[]).well().stdout;
    let here = || listed().lines().skip(1).filter(|line| !line.contains(" away ")).count();
    let is_seen = || (here() == 1).then_some(());
    wait_for("the coordinator sees it", LONG, is_seen, listed);
    let done = site.cluster.ask("submit", &["--progress", "plain", &context]).well();
    assert!(!done.stderr.contains("attempt"), "{}", done.stderr);
}

#[test]
fn a_detached_build_is_listed_followed_and_read() {
    let site = Site::start(1, 2);
    let seconds = own_seconds(2, 5);
    let context =
        site.context(&format!("FROM busybox:golden\nRUN echo spoken words; sleep {seconds}\n"));
    let flags = ["--detach", "-t", "team/own:1", &context];
    let detached = site.cluster.ask("submit", &flags).well();
    let id = detached.stdout.split_whitespace().last().unwrap_or_default().to_owned();
    assert!(!id.is_empty(), "{detached:?}");
    let list = site.cluster.ask("ps", &[]).well();
    assert!(list.stdout.contains(&id), "{}", list.stdout);
    assert_eq!(site.cluster.ask("ps", &["-aq"]).well().stdout, format!("{id}\n"));
    let attached = site.cluster.ask("attach", &[&id, "--progress", "plain"]).well();
    for part in ["spoken words", "naming to docker.io/team/own:1", "\nBuilt in ", ": 2 ran, "] {
        assert!(attached.stderr.contains(part), "no {part:?} in\n{}", attached.stderr);
    }
    // As docker: what has ended is listed where it is asked for.
    assert_eq!(site.cluster.ask("ps", &["-q"]).well().stdout, "");
    let all = site.cluster.ask("ps", &["--all"]).well().stdout;
    assert!(all.contains(&id) && all.contains("done"), "{all}");
    let json = site.cluster.ask("ps", &["-a", "--no-trunc", "--format", "json"]).well().stdout;
    let builds: serde_json::Value = serde_json::from_str(&json).unwrap();
    let (name, ended) = (&builds[0]["name"], &builds[0]["ended"]);
    assert!(name == "team/own:1" && ended.is_string() && builds[0]["id"] == id, "{json}");
    let logs = site.cluster.ask("logs", &["-f", &id]).well();
    let all = logs.stdout + &logs.stderr;
    assert!(all.contains("spoken words"), "{all}");
}

#[test]
fn an_image_keeps_its_name_on_the_cluster() {
    let site = Site::start(1, 2);
    let context = site.context("FROM busybox:golden\nRUN echo hi > /hi\n");
    site.cluster.ask("submit", &["-t", "team/app:1", &context]).well();
    let images = site.cluster.ask("images", &[]).well();
    assert!(images.stdout.contains("team/app:1"), "{}", images.stdout);
    let next = site.context("FROM team/app:1\nRUN cat /hi > /again\n");
    let output = site.output();
    site.cluster.ask("submit", &["--output", &output, &next]).well();
    assert_eq!(site.image().tree().text("again").unwrap(), "hi\n");
    site.cluster.ask("rmi", &["team/app:1"]).well();
    let images = site.cluster.ask("images", &[]).well();
    assert!(!images.stdout.contains("team/app"), "{}", images.stdout);
    let refused = site.cluster.ask("submit", &["--detach", "--output", &output, &context]).failed();
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
}

#[test]
fn a_cancelled_build_stops_soon() {
    let site = Site::start(1, 2);
    let seconds = own_seconds(600, 6);
    let context = site.context(&format!("FROM busybox:golden\nRUN sleep {seconds}\n"));
    let detached = site.cluster.ask("submit", &["--detach", &context]).well();
    let id = detached.stdout.split_whitespace().last().unwrap_or_default().to_owned();
    site.wait_for_process(&seconds);
    let watch = Stopwatch::start();
    site.cluster.ask("cancel", &[&id]).well();
    wait_for(
        "the step is gone",
        Duration::from_secs(5),
        || (!process_with_argument(&seconds)).then_some(()),
        || site.cluster.said(),
    );
    assert!(watch.passed() < Duration::from_secs(10));
    site.cluster.ask("attach", &[&id, "--progress", "plain"]).failed();
}

/// The bytes of a context that went to the store, and those that were there, as `rawjson` tells them.
fn context_bytes(stderr: &str) -> (u64, u64) {
    let mut bytes = (None, None);
    for line in stderr.lines().filter(|line| line.starts_with('{')) {
        let Ok(batch) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        for status in batch["statuses"].as_array().into_iter().flatten() {
            match status["id"].as_str() {
                Some("sent") => bytes.0 = status["current"].as_u64(),
                Some("already in the store") => bytes.1 = status["current"].as_u64(),
                _ => {}
            }
        }
    }
    (bytes.0.expect("it says what was sent"), bytes.1.expect("it says what was there"))
}

const READS: &str = "FROM busybox:golden\nCOPY src /src\n\
    RUN --mount=type=bind,source=src,target=/in cd /in && find . -type f | sort | xargs sha256sum > /sums\n\
    RUN --mount=type=bind,source=src,target=/in ls -lnR /in | grep -v total > /list\n";

#[test]
fn a_context_is_sent_once_and_a_change_sends_little() {
    let site = Site::start(2, 2);
    let context = site.context(READS);
    let root = site.cluster.home.path("context");
    // Each folder has enough files to be packed by itself.
    let mut entries: Vec<ContextEntry> = (0..1400)
        .map(|number| {
            let text = format!("content of {number}\n").repeat(number % 50);
            ContextEntry::file(&format!("src/{}/{number}", number % 7), &text)
        })
        .collect();
    let large: Vec<String> =
        (0..400_000_u64).map(|number| (number * 7919 % 1009).to_string()).collect();
    let large = large.concat();
    entries.push(ContextEntry::file("src/large", &large));
    let link = |path: &str, kind, to: &str| ContextEntry {
        path: path.into(),
        kind,
        link: Some(to.into()),
        ..ContextEntry::default()
    };
    entries.push(link("src/out", EntryKind::Symlink, "/etc/passwd"));
    entries.push(link("src/twin", EntryKind::Hardlink, "src/1/1"));
    entries.push(ContextEntry {
        path: "src/pipe".into(),
        kind: EntryKind::Fifo,
        ..ContextEntry::default()
    });
    write_context(&root, &entries);
    let output = site.output();
    let submit = ["--progress", "rawjson", "--output", &output, &context];

    let first = site.cluster.ask("submit", &submit).well();
    let (cold, there) = context_bytes(&first.stderr);
    assert!(cold > 100_000, "{cold}");
    let submitted = site.image();
    site.cluster.home.run(["build", "--output", &output, &context]).well();
    let built = site.image();
    for path in ["sums", "list", "src/6/412", "src/large", "src/twin"] {
        assert_eq!(submitted.tree().text(path), built.tree().text(path), "{path}");
    }
    let paths = |image: &Image| image.tree().walk().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(paths(&submitted), paths(&built));
    assert_eq!(submitted.config["config"], built.config["config"]);

    std::fs::write(root.join("src/3/3"), "another text\n").unwrap();
    let second = site.cluster.ask("submit", &submit).well();
    let (changed, found) = context_bytes(&second.stderr);
    assert!(changed < cold / 4 && found > there, "{changed} of {cold}, {found} there");
    assert_eq!(site.image().tree().text("src/3/3").unwrap_or_default(), "another text\n");
}

//! Cache mounts on a cluster: they follow their builds from worker to worker, and what goes wrong costs no build.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::PathBuf;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::Finished;
use dcbuild_tests::story::fill;
use dcbuild_tests::wait::{LONG, wait_for};

struct Site {
    cluster: Cluster,
    _registry: Registry,
}

impl Site {
    fn start() -> Site {
        let registry = Registry::start();
        fill(&registry);
        let home = Home::new(&registry.as_docker_io());
        Site { cluster: Cluster::start(home, 1, 2), _registry: registry }
    }

    /// Builds a RUN that has the mount.
    fn submit(&self, command: &str) -> Finished {
        let mount = "--mount=type=cache,target=/c,sharing=locked";
        let text = format!("FROM busybox:golden\nRUN {mount} {command}\n");
        let entries = [ContextEntry::file("Dockerfile", &text)];
        write_context(&self.cluster.home.path("context"), &entries);
        let context = self.cluster.home.arg("context");
        self.cluster.ask("submit", &["--progress", "plain", &context])
    }

    /// Builds a RUN that succeeds, and gives what the client said.
    fn run(&self, command: &str) -> String {
        let done = self.submit(command);
        assert!(done.status.success(), "{}\n{}", done.stderr, self.cluster.said());
        done.stderr
    }

    /// The latest version of the mount, as the store has it.
    fn version(&self) -> Option<String> {
        let folder = self.cluster.home.path("store/cache-mount/local");
        let paths: Vec<PathBuf> =
            std::fs::read_dir(folder).ok()?.map(|entry| entry.unwrap().path()).collect();
        assert!(paths.len() <= 1, "{paths:?}");
        std::fs::read_to_string(paths.first()?).ok()
    }

    /// Builds, and waits until the mount was written back.
    fn run_and_wait(&self, command: &str) -> String {
        let before = self.version();
        let said = self.run(command);
        let written = || self.version().filter(|now| Some(now) != before.as_ref()).map(drop);
        wait_for("the mount is written back", LONG, written, || self.cluster.said());
        said
    }

    /// Leaves one worker alone: a fresh one, or one that was there before.
    fn move_to(&mut self, from: usize, to: Option<usize>) -> usize {
        self.cluster.kill_worker(from);
        match to {
            Some(number) => {
                self.cluster.start_worker_again(number, 2);
                number
            }
            None => self.cluster.start_worker(2),
        }
    }
}

#[test]
fn a_cache_mount_is_where_its_build_is() {
    let mut site = Site::start();
    let fill = "mkdir /c/d && echo one > /c/d/one && ln -s d/one /c/link && ln /c/d/one /c/hard && \
        chown 1000:1001 /c/d /c/d/one && chmod 600 /c/d/one && touch -d '2001-02-03 04:05:06' /c/d/one";
    let said = site.run_and_wait(fill);
    assert!(!said.contains("restoring"), "{said}");

    let second = site.move_to(0, None);
    let look = "cat /c/link && stat -c 'is %a %h %u:%g %y' /c/d/one && stat -c 'in %u:%g' /c/d && \
         echo two > /c/two && rm /c/hard";
    let said = site.run_and_wait(look);
    assert!(said.contains("restoring cache mount /c"), "{said}");
    assert!(said.contains("is 600 2 1000:1001 2001-02-03 04:05:06"), "{said}");
    assert!(said.contains("in 1000:1001"), "{said}");

    // The first worker has the first version still; it may not go on from that.
    let first = site.move_to(second, Some(0));
    let said = site.run("cat /c/two && test ! -e /c/hard && echo as it was left");
    assert!(said.contains("as it was left"), "{said}");

    // Who has the latest brings nothing, and what is the same is not written back; nor is what a failed RUN left.
    let version = site.version();
    let said = site.run("echo nothing is brought");
    assert!(!said.contains("restoring"), "{said}");
    let failed = site.submit("echo half > /c/half && false");
    assert!(!failed.status.success(), "{}", failed.stderr);
    site.move_to(first, None);
    site.run("test ! -e /c/half");
    assert_eq!(site.version(), version);
}

#[test]
fn a_cache_mount_whose_bytes_are_gone_starts_empty() {
    let mut site = Site::start();
    site.run_and_wait("dd if=/dev/urandom of=/c/large bs=1024 count=300");
    site.cluster.wait_until_durable();
    let blobs = site.cluster.home.path("store/blobs");
    std::fs::remove_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(blobs.join("sha256")).unwrap();
    site.move_to(0, None);
    let said = site.run("echo there are $(ls /c | wc -l) files");
    assert!(said.contains("there are 0 files"), "{said}");
    assert!(site.cluster.said().contains("could not be brought"), "{}", site.cluster.said());
}

impl Site {
    /// Sweeps the store, as soon as the mark of the last build is gone, until it says this.
    fn prune(&self, flags: &[&str], wanted: &str) -> String {
        let said = || self.cluster.ask("cache", &[&["prune"], flags].concat()).well().stdout;
        let says = || Some(said()).filter(|it| it.contains(wanted));
        wait_for(wanted, LONG, says, || self.cluster.said())
    }

    /// Makes all that the store holds, but for the versions of mounts, look long unused.
    fn age_all_but_versions(&self) {
        let aged = std::process::Command::new("find")
            .arg(self.cluster.home.path("store"))
            .args(["-type", "f", "-not", "-path", "*/cache-mount/*", "-not", "-path", "*/use/*"])
            .args(["-exec", "touch", "-d", "-10 hours", "{}", "+"])
            .status();
        assert!(aged.unwrap().success());
    }
}

#[test]
fn a_sweep_keeps_what_a_mount_in_use_needs_and_takes_one_that_nobody_uses_whole() {
    let mut site = Site::start();
    site.run_and_wait("dd if=/dev/urandom of=/c/large bs=1024 count=700 && seq 9999 > /c/many");
    let version = site.version();
    site.cluster.wait_until_durable();
    site.age_all_but_versions();
    let said = site.prune(&["--older-than", "5h"], "removed");
    assert_eq!(site.version(), version, "{said}");
    let second = site.move_to(0, None);
    let said = site.run("echo $(ls /c) of $(stat -c %s /c/large)");
    assert!(said.contains("restoring cache mount /c"), "{said}");
    assert!(said.contains("large many of 716800"), "{said}\n{}", site.cluster.said());

    // Unused, it goes with all its bytes; what is left of it is what this worker has.
    site.cluster.wait_until_durable();
    site.prune(&["--all"], "0B stay");
    assert_eq!(site.version(), None);
    let said = site.run_and_wait("echo still $(ls /c)");
    assert!(said.contains("still large many"), "{said}");
    assert!(site.version().is_some(), "nothing was changed, and yet it is written back");
    let third = site.move_to(second, None);
    let said = site.run("echo again $(ls /c)");
    assert!(said.contains("again large many"), "{said}");

    site.cluster.wait_until_durable();
    site.prune(&["--all"], "0B stay");
    site.move_to(third, None);
    let said = site.run("echo there are $(ls /c | wc -l) files");
    assert!(said.contains("there are 0 files"), "{said}");
}

/// The numbers behind a word in what a client said.
fn times(said: &str, word: &str) -> Vec<f64> {
    let all = said.lines().filter_map(|line| line.split_once(word)?.1.trim().parse().ok());
    all.collect()
}

#[test]
fn a_locked_mount_has_one_step_of_the_cluster_at_a_time() {
    let mut site = Site::start();
    site.cluster.start_worker(2);
    let begin = |name: &str| {
        let text = format!(
            "FROM busybox:golden\nRUN --mount=type=cache,target=/c,id=lists,sharing=locked echo {name} && \
             echo at-begin $(cut -d ' ' -f 1 /proc/uptime) && sleep 2 && \
             echo at-end $(cut -d ' ' -f 1 /proc/uptime)\n"
        );
        let context = format!("context-{name}");
        let entries = [ContextEntry::file("Dockerfile", &text)];
        write_context(&site.cluster.home.path(&context), &entries);
        let context = site.cluster.home.arg(&context);
        site.cluster.client("submit", &["--progress", "plain", &context])
    };
    let builds: Vec<_> = ["a", "b", "c"].map(begin).into_iter().collect();
    let mut spans: Vec<(f64, f64)> = builds
        .into_iter()
        .map(|build| {
            let said = build.finish(LONG).well().stderr;
            match (&times(&said, " at-begin ")[..], &times(&said, " at-end ")[..]) {
                ([begin], [end]) => (*begin, *end),
                _ => panic!("{said}"),
            }
        })
        .collect();
    spans.sort_by(|one, other| one.0.total_cmp(&other.0));
    for pair in spans.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two have it at once: {spans:?}\n{}", site.cluster.said());
    }
}

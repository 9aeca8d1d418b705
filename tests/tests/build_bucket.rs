//! `dcbuild build` on a bucket: another machine starts warm, nobody waits for the bucket, and what it did not get it gets
//! from the next build.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::Path;
use std::time::Duration;

use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::redis::RedisServer;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::s3::S3Server;
use dcbuild_tests::s3::faults::{Fault, Seen};
use dcbuild_tests::story::fill;
use dcbuild_tests::wait::{LONG, Stopwatch, wait_for};

const DOCKERFILE: &str = "FROM busybox:golden AS build\nCOPY in.txt /in.txt\n\
    RUN cat /in.txt /in.txt > /out.txt\nFROM busybox:golden\nCOPY --from=build /out.txt /out.txt\n\
    COPY in.txt /kept.txt\n";

/// Machines that share nothing but a bucket, its index and a registry.
struct Shared {
    s3: S3Server,
    redis: RedisServer,
    registry: Registry,
}

struct Machine(Home);

impl Shared {
    fn start() -> Shared {
        let (registry, s3, redis) = (Registry::start(), S3Server::start(), RedisServer::start(&[]));
        fill(&registry);
        Shared { s3, redis, registry }
    }

    fn machine(&self) -> Machine {
        let home = Home::new(&self.registry.as_docker_io());
        let entries =
            [ContextEntry::file("Dockerfile", DOCKERFILE), ContextEntry::file("in.txt", "hello\n")];
        write_context(&home.path("context"), &entries);
        Machine(home)
    }

    fn start_build(&self, on: &Machine, flags: &[&str]) -> Running {
        let (store, index) = (self.s3.url("acme"), self.redis.url());
        let context = on.0.arg("context");
        let fixed = ["build", "--progress", "plain", "--store", &store, "--index", &index];
        let mut command =
            on.0.command(fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]));
        command.envs(self.s3.environment());
        Running::start(command)
    }

    fn build(&self, on: &Machine, flags: &[&str]) -> (Image, Finished) {
        let output = on.output();
        let flags = [flags, &["--output", &output]].concat();
        let done = self.start_build(on, &flags).finish(LONG).well();
        (on.image(), done)
    }

    fn documents(&self, of: &str) -> usize {
        self.s3.keys().iter().filter(|key| key.contains(of)).count()
    }
}

impl Machine {
    fn output(&self) -> String {
        format!("type=oci,dest={}", self.0.arg("image.tar"))
    }

    fn image(&self) -> Image {
        Image::read_tar(&self.0.path("image.tar"))
    }

    /// All bytes below its state folder.
    fn state_bytes(&self) -> u64 {
        fn bytes(path: &Path) -> u64 {
            let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
            entries
                .map(|entry| match entry.metadata().unwrap() {
                    found if found.is_dir() => bytes(&entry.path()),
                    found => found.len(),
                })
                .sum()
        }
        bytes(&self.0.path("state"))
    }
}

#[test]
fn another_machine_runs_nothing_and_makes_the_same_image() {
    let shared = Shared::start();
    let (first, done) = shared.build(&shared.machine(), &[]);
    assert!(!done.stderr.contains("CACHED"), "{}", done.stderr);
    for flushed in [false, true] {
        if flushed {
            assert_eq!(shared.redis.ask(&["FLUSHALL"]), "OK");
        }
        let (again, done) = shared.build(&shared.machine(), &[]);
        assert_eq!(again.digest, first.digest, "{}", done.stderr);
        // The base and two COPYs; nobody needs the stage before.
        assert_eq!(done.stderr.matches("CACHED").count(), 3, "{}", done.stderr);
    }
}

#[test]
fn a_cache_mount_is_brought_to_another_machine() {
    let shared = Shared::start();
    let build = |command: &str, flags: &[&str]| {
        let machine = shared.machine();
        let text = format!("FROM busybox:golden\nRUN --mount=type=cache,target=/c {command}\n");
        std::fs::write(machine.0.path("context/Dockerfile"), text).unwrap();
        shared.build(&machine, flags).1.stderr
    };
    build("echo kept > /c/file", &["--cache-upload", "none"]);
    let said = build("test ! -e /c/file && echo one > /c/file", &[]);
    assert!(!said.contains("restoring"), "{said}");
    let said = build("echo it is $(cat /c/file)", &[]);
    assert!(said.contains("restoring cache mount /c") && said.contains("it is one"), "{said}");
}

/// Servers of build scripts leave them, and later RUNs change their mode or remove them.
#[test]
fn a_socket_of_a_run_is_there_in_the_next_also_on_another_machine() {
    let shared = Shared::start();
    let build = |number: u32| {
        let machine = shared.machine();
        let text = format!(
            "FROM busybox:golden\nRUN rm /bin/yes && ln -s /bin/yes /dev/log && syslogd && \
             until test -S /bin/yes; do usleep 10000; done\n\
             RUN test -S /bin/yes && rm /bin/yes && echo {number} > /number\n"
        );
        std::fs::write(machine.0.path("context/Dockerfile"), text).unwrap();
        shared.build(&machine, &[])
    };
    let (image, _) = build(1);
    assert_eq!(image.tree().text("number").unwrap(), "1\n");
    assert_eq!(image.tree().text("bin/yes"), None);
    let (image, done) = build(2);
    assert_eq!(image.tree().text("number").unwrap(), "2\n");
    assert_eq!(done.stderr.matches("CACHED").count(), 2, "{}", done.stderr);
}

#[test]
fn a_push_from_a_fresh_machine_does_not_fetch_the_base() {
    let shared = Shared::start();
    let name = format!("{}/app:1", shared.registry.host);
    let machine = shared.machine();
    shared.start_build(&machine, &["--push", "-t", &name]).finish(LONG).well();
    let base = machine.state_bytes();
    let machine = shared.machine();
    std::fs::write(machine.0.path("context/in.txt"), "another\n").unwrap();
    // What is copied from the other stage is made anew, upon a base of which only the table is there.
    let steps = "FROM busybox:golden\nCOPY in.txt /kept.txt\nCOPY in.txt /twice.txt\n";
    std::fs::write(machine.0.path("context/Dockerfile"), steps).unwrap();
    shared.start_build(&machine, &["--push", "-t", &name]).finish(LONG).well();
    let without = machine.state_bytes();
    assert!(without * 4 < base, "{without} bytes, and {base} with the base");
    let pulled = shared.registry.get("app:1");
    assert_eq!(pulled.tree().text("twice.txt").unwrap(), "another\n");
}

#[test]
fn what_is_uploaded_is_what_was_asked_for() {
    let shared = Shared::start();
    let (none, _) = shared.build(&shared.machine(), &["--cache-upload", "none"]);
    assert_eq!(shared.s3.keys(), Vec::<String>::new());
    let (outputs, _) = shared.build(&shared.machine(), &["--cache-upload", "outputs"]);
    assert_eq!(outputs.tree().text("out.txt"), none.tree().text("out.txt"));
    // The two COPYs of the last stage, and the records of these and of the base.
    assert_eq!(shared.documents("/layer/"), 2, "{:?}", shared.s3.keys());
    let records = shared.documents("/step/");
    assert!(records > 0);
    let (again, done) = shared.build(&shared.machine(), &["--cache-upload", "outputs"]);
    assert_eq!(again.digest, outputs.digest, "{}", done.stderr);
    shared.build(&shared.machine(), &["--no-cache"]);
    assert!(shared.documents("/layer/") > 2 && shared.documents("/step/") > records);
    let wrong = shared.start_build(&shared.machine(), &["--cache-upload", "some"]).finish(LONG);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_build_on_a_dead_bucket_is_done_and_the_next_one_sends_what_is_missing() {
    let mut shared = Shared::start();
    let machine = shared.machine();
    shared.s3.refuse();
    let (first, done) = shared.build(&machine, &[]);
    let said = &done.stderr;
    assert!(said.contains("were not sent") && said.contains("the next build"), "{said}");
    assert!(shared.s3.keys().is_empty());
    shared.s3.serve_again();
    let (again, done) = shared.build(&machine, &[]);
    assert_eq!(again.digest, first.digest, "{}", done.stderr);
    assert!(!done.stderr.contains("were not sent"), "{}", done.stderr);
    let (elsewhere, done) = shared.build(&shared.machine(), &[]);
    assert_eq!(elsewhere.digest, first.digest, "{}", done.stderr);
    assert_eq!(done.stderr.matches("CACHED").count(), 3, "{}", done.stderr);
}

/// How long a build takes, and what it says.
fn timed(shared: &Shared, on: &Machine) -> (Duration, String) {
    let watch = Stopwatch::start();
    let done = shared.build(on, &[]).1;
    (watch.passed(), done.stderr)
}

#[test]
fn c04_a_dead_or_silent_bucket_holds_no_build_that_is_done() {
    let mut shared = Shared::start();
    let machine = shared.machine();
    let steps = |text: &str| std::fs::write(machine.0.path("context/in.txt"), text).unwrap();
    let (well, _) = timed(&shared, &machine);
    // Of which something waits each time.
    let budget = |extra| well + Duration::from_millis(extra);
    shared.s3.refuse();
    shared.redis.kill();
    steps("refused\n");
    let (took, said) = timed(&shared, &machine);
    assert!(said.contains("were not sent") && said.contains("the next build"), "{said}");
    assert!(took < budget(2_500), "{took:?}, and {well:?} with a bucket\n{said}");
    shared.s3.serve_again();
    shared.redis.start_again();
    timed(&shared, &machine);
    shared.s3.fail(|_| Some(Fault::Stall));
    steps("silent\n");
    let (took, said) = timed(&shared, &machine);
    assert!(shared.s3.fired() > 0 && said.contains("were not sent"), "{said}");
    assert!(took < budget(4_500), "{took:?}, and {well:?} with a bucket\n{said}");
    // The next one knows.
    for text in ["silent again\n", "and again\n"] {
        steps(text);
        let (took, said) = timed(&shared, &machine);
        assert!(said.contains("were not sent"), "{said}");
        assert!(took < budget(1_500), "{took:?}, and {well:?} with a bucket\n{said}");
    }
    // One that answers is not passed over for it.
    shared.s3.heal();
    let (_, said) = timed(&shared, &machine);
    assert!(!said.contains("were not sent"), "{said}");
    let (elsewhere, done) = shared.build(&shared.machine(), &[]);
    assert_eq!(elsewhere.tree().text("kept.txt").unwrap(), "hello\n", "{}", done.stderr);
    let other = shared.machine();
    std::fs::write(other.0.path("context/in.txt"), "and again\n").unwrap();
    let (_, said) = timed(&shared, &other);
    assert_eq!(said.matches("CACHED").count(), 3, "{said}");
}

#[test]
fn c05_a_full_bucket_holds_no_build_and_is_read() {
    let shared = Shared::start();
    let (first, _) = shared.build(&shared.machine(), &[]);
    let writes = ["PutObject", "UploadPart", "CreateMultipartUpload"];
    shared.s3.fail(move |seen| writes.contains(&seen.request).then_some(Fault::QUOTA_IS_REACHED));
    let machine = shared.machine();
    let (again, done) = shared.build(&machine, &[]);
    assert_eq!(again.digest, first.digest, "{}", done.stderr);
    assert_eq!(done.stderr.matches("CACHED").count(), 3, "{}", done.stderr);
    std::fs::write(machine.0.path("context/in.txt"), "more\n").unwrap();
    let (took, said) = timed(&shared, &machine);
    assert!(shared.s3.fired() > 0 && took < Duration::from_secs(20), "{took:?}\n{said}");
    let warned = said.matches("takes nothing more").count();
    assert!(warned == 1 && said.contains("`dcbuild cache prune`"), "{said}");
    assert!(
        said.contains("once that is mended, the next build on this store sends them"),
        "{said}"
    );
    shared.s3.heal();
    let (_, said) = timed(&shared, &machine);
    assert!(!said.contains("were not sent"), "{said}");
}

#[test]
fn c04_a_mistake_of_the_configuration_is_said_by_a_build() {
    let shared = Shared::start();
    let machine = shared.machine();
    shared.s3.fail(|_| Some(Fault::NO_BUCKET));
    let (image, done) = shared.build(&machine, &[]);
    assert_eq!(image.tree().text("kept.txt").unwrap(), "hello\n");
    let said = &done.stderr;
    assert!(
        shared.s3.fired() > 0 && said.matches("`dcbuild doctor` says what is wrong").count() == 1,
        "{said}"
    );
    assert!(said.contains("create the bucket, or mend its name"), "{said}");
}

#[test]
fn ctrl_c_while_the_cache_is_sent_leaves_nothing_half() {
    let shared = Shared::start();
    let machine = shared.machine();
    // Everything but what is written is answered: the sending hangs in the middle.
    shared
        .s3
        .fail(|seen| ["PutObject", "UploadPart"].contains(&seen.request).then_some(Fault::Stall));
    let build = shared.start_build(&machine, &["--output", &machine.output()]);
    let sending = || (shared.s3.fired() > 0 && machine.0.path("image.tar").exists()).then_some(());
    wait_for("the sending hangs", Duration::from_mins(1), sending, || build.stderr());
    build.interrupt();
    let done = build.finish(Duration::from_secs(20));
    assert!(done.stderr.contains("were not sent"), "{}", done.stderr);
    assert_eq!((shared.s3.keys(), shared.s3.open_uploads()), (Vec::new(), 0));
    let first = machine.image();
    shared.s3.heal();
    shared.build(&machine, &[]);
    let (elsewhere, done) = shared.build(&shared.machine(), &[]);
    assert_eq!(elsewhere.digest, first.digest, "{}", done.stderr);
}

/// A thread that lays out what a RUN stands on waits for the bucket when the process takes its runtime down.
#[test]
fn a_build_that_is_interrupted_while_it_waits_for_the_bucket_ends_in_silence() {
    let shared = Shared::start();
    let (one, other) = (shared.machine(), shared.machine());
    shared.build(&one, &[]);
    let more = format!("{DOCKERFILE}RUN cat /out.txt\n");
    std::fs::write(other.0.path("context/Dockerfile"), more).unwrap();
    let stalls = |seen: &Seen| seen.request == "GetObject" && seen.path.contains("blob/");
    shared.s3.fail(move |seen| stalls(seen).then_some(Fault::Stall));
    let folder = format!("type=local,dest={}", other.0.arg("out"));
    let build = shared.start_build(&other, &["--output", &folder]);
    let asked = || (shared.s3.fired() > 0).then_some(());
    wait_for("a blob is asked for", LONG, asked, || build.stderr());
    build.interrupt();
    let done = build.finish(LONG);
    assert_eq!(done.status.code(), Some(130), "{}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

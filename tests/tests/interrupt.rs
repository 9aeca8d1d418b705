//! Ctrl-C at every stage of a build: it ends soon, and nothing of it is left.
#![expect(clippy::unwrap_used, reason = "test")]

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::running::{Running, process_with_argument};
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::{Stopwatch, wait_for};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

const SOON: Duration = Duration::from_secs(30);
/// What is meant is a second; a busy machine gets some more.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A registry that hears every question and answers none.
struct Silent {
    host: String,
    heard: Receiver<TcpStream>,
}

impl Silent {
    fn start() -> Silent {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (tell, heard) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if tell.send(stream).is_err() {
                    return;
                }
            }
        });
        Silent { host, heard }
    }

    /// Waits until somebody asks; the connection stays open as long as what is returned.
    fn asked(&self) -> TcpStream {
        self.heard.recv_timeout(SOON).unwrap()
    }
}

#[track_caller]
fn ends_at_once(running: Running) {
    running.interrupt();
    has_ended_at_once(running);
}

#[track_caller]
fn has_ended_at_once(running: Running) {
    let watch = Stopwatch::start();
    let done = running.finish(SOON);
    assert!(watch.passed() < AT_ONCE, "{:?}\n{}", watch.passed(), done.stderr);
    assert_eq!(done.status.code(), Some(130), "{}", done.stderr);
}

fn build(home: &Home, flags: &[&str]) -> Running {
    let context = home.arg("context");
    let fixed = ["build", "--progress", "plain"];
    home.start(fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]))
}

#[test]
fn while_a_registry_is_asked_for_an_image() {
    let silent = Silent::start();
    let story = Story::new(&format!("FROM {}/team/base:1\n", silent.host), &[]);
    let running = build(&story.home, &[]);
    let _open = silent.asked();
    ends_at_once(running);
}

#[test]
fn while_an_image_is_pushed() {
    let silent = Silent::start();
    let story = Story::new("FROM scratch\nCOPY Dockerfile /d\n", &[]);
    let name = format!("{}/team/app:1", silent.host);
    let running = build(&story.home, &["-t", &name, "--push"]);
    let _open = silent.asked();
    ends_at_once(running);
}

/// What speaks to a server for git ends too: it would not notice before the server said something.
#[test]
fn while_a_git_server_is_asked() {
    for is_context in [true, false] {
        let silent = Silent::start();
        let url = format!("http://{}/app.git", silent.host);
        let story = Story::new(&format!("FROM scratch\nADD {url} /app\n"), &[]);
        let running = if is_context {
            story.home.start(["build", "--progress", "plain", &url])
        } else {
            build(&story.home, &[])
        };
        let _open = silent.asked();
        let helper = || process_with_argument(&url).then_some(());
        wait_for("git asks", SOON, helper, || running.stderr());
        assert!(!is_context || running.stderr().contains(&format!("fetching {url}")));
        ends_at_once(running);
        let gone = || (!process_with_argument(&url)).then_some(());
        wait_for("git is gone", SOON, gone, String::new);
    }
}

/// Whatever a command asks for, from a store or a coordinator that hears every question and answers none.
#[test]
fn while_a_store_or_a_coordinator_is_asked() {
    let home = Home::new("");
    for (asked, place) in [
        ("cache ls", "--store"),
        ("cache prune --all", "--store"),
        ("doctor", "--store"),
        ("cache stats", "--coordinator"),
        ("ps", "--coordinator"),
        ("workers", "--coordinator"),
        ("cancel 01m8qs7vfa4038qystx3c0bkk5", "--coordinator"),
        ("explain 01m8qs7vfa4038qystx3c0bkk5", "--coordinator"),
        ("images", "--coordinator"),
        ("rmi app:1", "--coordinator"),
    ] {
        for signal in [Running::interrupt, Running::terminate] {
            let silent = Silent::start();
            let url = match place {
                "--store" => format!("s3://cache/some?endpoint=http://{}", silent.host),
                _ => format!("http://{}", silent.host),
            };
            let mut command = home.command(asked.split(' ').chain([place, url.as_str()]));
            command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
            command.env("AWS_EC2_METADATA_DISABLED", "true");
            let running = Running::start(command);
            let _open = silent.asked();
            signal(&running);
            has_ended_at_once(running);
        }
    }
}

/// A pipe blocks whoever opens it until there is somebody at its other end.
#[test]
fn while_a_pipe_has_nobody_at_its_other_end() {
    let story = Story::new("FROM scratch\nCOPY Dockerfile /d\n", &[]);
    let pipe = |name: &str| {
        let path = story.home.path(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    };
    for flag in ["iidfile", "metadata-file"] {
        let told = pipe(flag).display().to_string();
        let image = story.home.path(&format!("{flag}.tar"));
        let output = format!("type=oci,dest={}", image.display());
        let running = build(&story.home, &["-o", &output, &format!("--{flag}"), &told]);
        let is_there = || image.exists().then_some(());
        wait_for("the image is there", SOON, is_there, || running.stderr());
        ends_at_once(running);
    }
    for name in ["policy.json", "policy.rego"] {
        let path = pipe(name);
        let flag = format!("filename={}", path.display());
        let running = build(&story.home, &["--policy", &flag]);
        // Who opens it so is refused until somebody reads, and then lets the reader wait.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let open = || rustix::fs::open(&path, flags, Mode::empty()).ok();
        let _silent = wait_for("the policy is read", SOON, open, || running.stderr());
        ends_at_once(running);
    }
}

#[test]
fn twice_ends_it_whatever_it_does() {
    let silent = Silent::start();
    let story = Story::new("FROM scratch\nCOPY Dockerfile /d\n", &[]);
    let name = format!("{}/team/app:1", silent.host);
    let running = build(&story.home, &["-t", &name, "--push"]);
    let _open = silent.asked();
    running.interrupt();
    ends_at_once(running);
}

/// As `timeout -s INT` sends it, to the process and then to its group.
#[test]
fn a_signal_that_comes_twice_at_once_still_cancels() {
    let cluster = Cluster::start(Home::new(""), 0, 1);
    let files = [ContextEntry::file("Dockerfile", "FROM scratch\nCOPY Dockerfile /d\n")];
    write_context(&cluster.home.path("context"), &files);
    let context = cluster.home.arg("context");
    let build = cluster.client("submit", &["--progress", "plain", &context]);
    build.says("waits for a worker", SOON);
    (0..5).for_each(|_| build.interrupt());
    let done = build.finish(SOON);
    assert_eq!(done.status.code(), Some(130), "{}", done.stderr);
    assert!(done.stderr.contains("cancelled"), "{}", done.stderr);
    let listed = cluster.ask("ps", &["-a"]).well().stdout;
    assert!(listed.contains("canceled"), "{listed}");
}

#[test]
fn while_another_build_has_the_step() {
    let seconds = format!("9{}", 1_000_000 + std::process::id());
    let story = Story::new(&format!("FROM busybox:golden\nRUN sleep {seconds}\n"), &[]);
    let first = build(&story.home, &[]);
    wait_for(
        "the step sleeps",
        SOON,
        || process_with_argument(&seconds).then_some(()),
        || first.stderr(),
    );
    let second = build(&story.home, &[]);
    second.says("RUN sleep", SOON);
    ends_at_once(second);
    assert!(process_with_argument(&seconds), "the other build goes on");
    ends_at_once(first);
    assert!(!process_with_argument(&seconds));
}

#[test]
fn while_the_context_is_hashed() {
    let story = Story::new("FROM scratch\nCOPY . /c\n", &[]);
    // It takes no room on the disk, but minutes to read.
    let huge = std::fs::File::create(story.context().join("huge")).unwrap();
    huge.set_len(400 << 30).unwrap();
    assert_eq!(huge.metadata().unwrap().blocks(), 0);
    let running = build(&story.home, &[]);
    running.says("load build context", SOON);
    ends_at_once(running);
}

//! Images in a docker daemon: one daemon, started by the one test that needs it.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_tests::docker::Docker;
use dcbuild_tests::layout::digest;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::{LONG, wait_for};
use serde_json::json;

const DOCKERFILE: &str = "FROM busybox:golden\nENV GREETING=hello\nRUN echo made > /made\n\
                          COPY Dockerfile /d\nCMD [\"sh\", \"-c\", \"echo $GREETING; cat /made\"]\n";

fn build(story: &Story, docker_host: &str, flags: &[&str]) -> Finished {
    let context = story.home.arg("context");
    let fixed = ["build", "--progress", "plain"];
    let all = fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]);
    let mut command = story.home.command(all);
    command.env("DOCKER_HOST", docker_host);
    Running::start(command).finish(LONG)
}

#[test]
fn an_image_is_loaded_and_runs() {
    let docker = Docker::start();
    let story = Story::new(DOCKERFILE, &[]);
    let (host, id) = (docker.host(), story.home.arg("id"));
    let flags = ["--load", "-t", "app:1", "-t", "example.com/team/app:2", "--iidfile", &id];
    build(&story, &host, &flags).well();
    let id = std::fs::read_to_string(story.home.path("id")).unwrap();
    let image = docker.inspect("app:1");
    assert_eq!(image["Id"], json!(id.trim()));
    assert_eq!(docker.inspect("example.com/team/app:2")["Id"], image["Id"]);
    assert_eq!(image["Config"]["Cmd"], json!(["sh", "-c", "echo $GREETING; cat /made"]));
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 3);
    let history = docker.ask(&["history", "--no-trunc", "app:1"]).well().stdout;
    for instruction in
        ["ENV GREETING=hello", "RUN /bin/sh -c echo made > /made", "COPY Dockerfile /d"]
    {
        assert!(history.contains(instruction), "no {instruction:?} in\n{history}");
    }
    let ran = docker.ask(&["run", "--rm", "--network", "none", "app:1"]).well();
    assert_eq!(ran.stdout, "hello\nmade\n");

    // Loading and pushing at once: the same image, at both places.
    let pushed = format!("{}/team/app:3", story.registry.host);
    build(&story, &host, &["--load", "--push", "-t", &pushed]).well();
    assert_eq!(docker.inspect(&pushed)["Id"], image["Id"]);
    let config = story.registry.get("team/app:3").config;
    assert_eq!(config["config"]["Env"], image["Config"]["Env"]);

    // Records in its config are nothing that docker minds.
    let carrying = format!("{}/team/app:inline", story.registry.host);
    build(&story, &host, &["--push", "-t", &carrying, "--cache-to", "type=inline"]).well();
    assert!(story.registry.get("team/app:inline").config["dcbuild.cache.v2"].is_string());
    docker.ask(&["pull", &carrying]).well();
    let ran = docker.ask(&["run", "--rm", "--network", "none", &carrying]).well();
    assert_eq!(ran.stdout, "hello\nmade\n");

    // A daemon may be named by a context, as `docker context use` does it.
    let folder = story.home.path("user/.docker");
    let hex = digest(b"own").trim_start_matches("sha256:").to_owned();
    let meta = folder.join("contexts/meta").join(hex);
    std::fs::create_dir_all(&meta).unwrap();
    let told = json!({ "Name": "own", "Endpoints": { "docker": { "Host": host } } });
    std::fs::write(meta.join("meta.json"), told.to_string()).unwrap();
    std::fs::write(folder.join("config.json"), r#"{"currentContext":"own"}"#).unwrap();
    let context = story.home.arg("context");
    story.home.run(["build", "--load", "-t", "by-context:1", &context]).well();
    assert_eq!(docker.inspect("by-context:1")["Id"], image["Id"]);

    it_is_loaded_by_ssh(&story, &docker);

    // A push that fails does not keep the image out of docker.
    let closed = format!("127.0.0.1:{}/app:4", dcbuild_tests::registry::free_port());
    let done = build(&story, &host, &["--load", "--push", "-t", &closed]).failed();
    assert!(
        done.stderr.contains("delivered all the same: loaded image into docker"),
        "{}",
        done.stderr
    );
    assert_eq!(docker.inspect(&closed)["Id"], image["Id"]);
}

/// Of a daemon on another machine docker's own client is asked there, by way of ssh.
fn it_is_loaded_by_ssh(story: &Story, docker: &Docker) {
    let (host, id) = (docker.host(), docker.inspect("app:1")["Id"].clone());
    let far = Far::new(story);
    let socket = host.trim_start_matches("unix://");
    for (address, arguments) in [
        (
            format!("ssh://me@far:2222{socket}"),
            format!(
                "-l me -p 2222 -o BatchMode=yes -o ConnectTimeout=30 -T -- far docker --host=unix://{socket} system dial-stdio"
            ),
        ),
        (
            "ssh://far".to_owned(),
            "-o BatchMode=yes -o ConnectTimeout=30 -T -- far docker system dial-stdio".to_owned(),
        ),
    ] {
        far.replies(&format!("export DOCKER_HOST={host}; while [ \"$1\" != -- ]; do shift; done; shift 2; exec sh -c \"$*\""));
        far.build(&address, &["-t", "by-ssh:1"]).well();
        assert_eq!(docker.inspect("by-ssh:1")["Id"], id);
        assert_eq!(far.asked(), arguments);
        docker.ask(&["rmi", "by-ssh:1"]).well();
    }
    // What docker says of its daemon there comes through.
    far.replies("export DOCKER_HOST=unix:///none.sock; exec docker system dial-stdio");
    let said = far.build("ssh://far", &["-t", "by-ssh:1"]).failed().stderr;
    for part in [
        "ssh to the docker daemon at 'ssh://far' ended with exit code 1: ",
        "none.sock",
        "hint: the user there must reach the daemon",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
}

/// As GitLab's service docker:dind is set up.
#[test]
fn an_image_is_loaded_over_tls() {
    let docker = Docker::start_behind_tls();
    let (host, certificates) = docker.secure();
    let story = Story::new("FROM scratch\nCOPY Dockerfile /d\n", &[]);
    let load = |name: &str, variables: &[(&str, &str)]| {
        let context = story.home.arg("context");
        let mut command = story.home.command(["build", "--load", "-t", name, &context]);
        command.env("DOCKER_HOST", &host).envs(variables.iter().copied());
        Running::start(command).finish(LONG)
    };
    let path = certificates.to_str().unwrap();
    let (verify, path) = (("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", path));
    load("verified:1", &[verify, path]).well();
    let id = docker.inspect("verified:1")["Id"].clone();
    load("unverified:1", &[("DOCKER_TLS", "1"), path]).well();
    assert_eq!(docker.inspect("unverified:1")["Id"], id);

    // The same by a context.
    let folder = story.home.path("user/.docker");
    let hex = digest(b"far").trim_start_matches("sha256:").to_owned();
    let (meta, material) = ("contexts/meta", "contexts/tls");
    let (meta, material) = (folder.join(meta).join(&hex), folder.join(material).join(&hex));
    std::fs::create_dir_all(&meta).unwrap();
    std::fs::create_dir_all(material.join("docker")).unwrap();
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::copy(certificates.join(name), material.join("docker").join(name)).unwrap();
    }
    let told = json!({ "Name": "far", "Endpoints": { "docker": { "Host": host } } });
    std::fs::write(meta.join("meta.json"), told.to_string()).unwrap();
    let context = story.home.arg("context");
    story.home.run(["--context", "far", "build", "--load", "-t", "context:1", &context]).well();
    assert_eq!(docker.inspect("context:1")["Id"], id);

    // Who shows no certificate is not let in, and who trusts another authority does not go in.
    let say = |variables: &[(&str, &str)], parts: &[&str]| {
        let said = load("none:1", variables).failed().stderr;
        for part in parts {
            assert!(said.contains(part), "no {part:?} in\n{said}");
        }
    };
    let other = dcbuild_testkit::tls::Authority::new("other");
    let foreign = other.ca().parent().unwrap().to_str().unwrap().to_owned();
    say(
        &[verify, ("DOCKER_CERT_PATH", &foreign)],
        &[
            "could not speak TLS to the docker daemon at '127.0.0.1:",
            "hint: DOCKER_CERT_PATH names",
        ],
    );
    say(&[("DOCKER_TLS", "1")], &["cert.pem and key.pem, which the daemon's authority"]);
    say(&[verify], &["is to be reached over TLS (DOCKER_TLS_VERIFY), and there is no"]);
    say(&[], &["hint: if the daemon is behind TLS, set DOCKER_TLS_VERIFY=1"]);
}

#[test]
fn without_a_daemon_the_error_says_what_to_do() {
    let story = Story::new("FROM scratch\nCOPY Dockerfile /d\n", &[]);
    let host = format!("unix://{}", story.home.arg("no.sock"));
    let done = build(&story, &host, &["--load", "-t", "app:1"]).failed();
    let parts = [
        "error: could not load the image into docker: could not reach the docker daemon at",
        "no.sock",
        "hint: start docker, set DOCKER_HOST, or write the image with -o type=docker,dest=FILE",
    ];
    for part in parts {
        assert!(done.stderr.contains(part), "no {part:?} in\n{}", done.stderr);
    }
    let done = build(&story, "npipe:////./pipe/docker_engine", &["--load"]).failed();
    assert!(done.stderr.contains("is neither unix:///PATH nor tcp://"), "{}", done.stderr);
}

/// An `ssh` of a test's own, first on the PATH.
struct Far<'a> {
    story: &'a Story,
    folder: std::path::PathBuf,
}

impl Far<'_> {
    fn new(story: &Story) -> Far<'_> {
        let folder = story.home.path("far");
        std::fs::create_dir_all(&folder).unwrap();
        Far { story, folder }
    }

    /// What it does once it has noted what it was asked.
    fn replies(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.folder.join("ssh");
        let note = self.folder.join("asked");
        let text = format!("#!/bin/sh\necho \"$*\" > {}\n{script}\n", note.display());
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn asked(&self) -> String {
        std::fs::read_to_string(self.folder.join("asked")).unwrap().trim().to_owned()
    }

    fn start(&self, address: &str, flags: &[&str]) -> Running {
        let context = self.story.home.arg("context");
        let fixed = ["build", "--progress", "plain", "--load"];
        let all = fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]);
        let mut command = self.story.home.command(all);
        let path = std::env::var_os("PATH").unwrap();
        let path = format!("{}:{}", self.folder.display(), path.to_str().unwrap());
        command.env("DOCKER_HOST", address).env("PATH", path);
        Running::start(command)
    }

    fn build(&self, address: &str, flags: &[&str]) -> Finished {
        self.start(address, flags).finish(LONG)
    }
}

#[test]
fn what_ssh_says_is_said_and_one_that_hangs_keeps_nobody() {
    let story = Story::new("FROM scratch\nCOPY Dockerfile /d\n", &[]);
    let far = Far::new(&story);
    for (script, code, parts) in [
        (
            "echo 'me@far: Permission denied (publickey).' >&2; exit 255",
            1,
            &[
                "error: could not load the image into docker: ssh to the docker daemon at 'ssh://me@far' ended with exit code 255: me@far: Permission denied (publickey).",
                "hint: ssh must be let in by a key",
            ][..],
        ),
        (
            "echo 'ssh: Could not resolve hostname far: Name or service not known' >&2; exit 255",
            75,
            &["Could not resolve hostname far", "hint: see whether the host is spelt right"],
        ),
        (
            "echo 'sh: 1: docker: not found' >&2; exit 127",
            1,
            &[
                "ended with exit code 127: sh: 1: docker: not found",
                "hint: the other machine needs docker's client",
            ],
        ),
        ("exit 3", 1, &["ended with exit code 3: it said nothing"]),
    ] {
        far.replies(script);
        let done = far.build("ssh://me@far", &[]).failed();
        assert_eq!(done.status.code(), Some(code), "{}", done.stderr);
        for part in parts {
            assert!(done.stderr.contains(part), "no {part:?} in\n{}", done.stderr);
        }
    }
    // Whoever does not want to wait for it any longer ends it as well.
    far.replies(&format!("echo $$ > {}; exec sleep 1000", story.home.arg("id")));
    let running = far.start("ssh://me@far", &[]);
    let id = wait_for(
        "ssh runs",
        LONG,
        || std::fs::read_to_string(story.home.path("id")).ok().filter(|id| id.ends_with('\n')),
        || running.stderr(),
    );
    running.interrupt();
    let done = running.finish(LONG);
    assert_eq!(done.status.code(), Some(130), "{}", done.stderr);
    let gone =
        || (!std::path::Path::new("/proc").join(id.trim()).join("fd").exists()).then_some(());
    wait_for("ssh is gone", LONG, gone, String::new);
    let done = far.build("ssh://me:secret@far", &[]).failed();
    assert!(done.stderr.contains("ssh is let in by a key"), "{}", done.stderr);
}

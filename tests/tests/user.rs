//! What a user does with `dcbuild build` on one machine.
#![expect(clippy::unwrap_used, reason = "test")]

use std::time::Duration;

use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::process_with_argument;
use dcbuild_tests::story::{GO, MAVEN, Story};
use dcbuild_tests::wait::{LONG, wait_for};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

/// A number of seconds to sleep that no other test of this machine sleeps.
fn own_seconds(digit: u32) -> String {
    format!("{digit}{}", 1_000_000 + std::process::id())
}

#[test]
fn the_go_program_is_built_and_stands_alone() {
    let story = Story::new(GO, &[]);
    let built = story.build(&[]);
    let tree = built.image.tree();
    let paths: Vec<String> = tree.walk().map(|(path, _)| path).collect();
    assert_eq!(paths, ["bin", "bin/hello"]);
    assert_eq!(tree.get("bin/hello").unwrap().mode, 0o755);
    assert!(tree.text("bin/hello").unwrap().contains("echo \"hello, world\""));
    assert_eq!(built.image.config["config"]["Cmd"], json!(["/bin/hello"]));
    assert_eq!(built.image.layers.len(), 1);
    assert!(built.has_run("RUN go build"), "{:?}", built.ran);
}

#[test]
fn a_second_build_runs_nothing_and_has_the_same_digest() {
    let story = Story::new(GO, &[]);
    let first = story.build(&[]);
    let second = story.build(&[]);
    assert_eq!(second.ran, Vec::<String>::new());
    assert_eq!(second.image.digest, first.image.digest);
}

const SOURCES: &[(&str, &str)] = &[
    ("pom.xml", "<project/>\n"),
    ("src/main/java/App.java", "class App {}\n"),
    ("README.md", "nobody reads it\n"),
];

#[test]
fn the_maven_application_is_built_from_what_it_reads() {
    let story = Story::new(MAVEN, SOURCES);
    let first = story.build(&[]);
    let config = &first.image.config["config"];
    assert_eq!(config["Cmd"], json!(["java", "-jar", "/app.jar"]));
    assert_eq!(config["ExposedPorts"], json!({ "8080/tcp": {} }));
    assert!(first.image.tree().text("app.jar").unwrap().contains("src/main/java/App.java"));

    story.write("README.md", "still nobody\n");
    let second = story.build(&[]);
    assert_eq!(second.ran, Vec::<String>::new(), "no instruction reads README.md");
    assert_eq!(second.image.digest, first.image.digest);

    story.write("src/main/java/App.java", "class App { int x; }\n");
    let third = story.build(&[]);
    assert!(third.has_run("COPY src ./src") && third.has_run("RUN mvn"), "{:?}", third.ran);
    assert!(!third.has_run("COPY pom.xml") && !third.has_run("WORKDIR"), "{:?}", third.ran);
    assert_ne!(third.image.tree().text("app.jar"), first.image.tree().text("app.jar"));

    story.write("src/main/java/App.java", "class App {}\n");
    let fourth = story.build(&[]);
    assert_eq!(fourth.ran, Vec::<String>::new(), "the first build's results are still there");
    assert_eq!(fourth.image.digest, first.image.digest);
}

#[test]
fn a_file_is_copied_from_another_image() {
    let dockerfile = "FROM scratch\nCOPY --from=nginx:1.25 /etc/nginx/nginx.conf /app/nginx.conf\n";
    let tree = Story::new(dockerfile, &[]).build(&[]).image.tree();
    assert_eq!(tree.text("app/nginx.conf").unwrap(), "worker_processes auto;\n");
}

#[test]
fn a_target_ends_the_build_at_its_stage() {
    let dockerfile = "FROM busybox:golden AS builder\nRUN echo built > /out\n\
                      FROM busybox:golden\nRUN exit 3\n";
    let story = Story::new(dockerfile, &[]);
    let built = story.build(&["--target", "builder"]);
    assert_eq!(built.image.tree().text("out").unwrap(), "built\n");
}

#[test]
fn a_stage_with_the_same_bytes_does_not_run_its_dependants() {
    let dockerfile = "FROM busybox:golden AS gen\nCOPY version .\nRUN cut -c1 version > /major\n\
                      FROM busybox:golden\nCOPY --from=gen /major /major\n\
                      RUN cat /proc/sys/kernel/random/uuid > /id\n";
    let story = Story::new(dockerfile, &[("version", "1.0\n")]);
    let first = story.build(&[]);
    story.write("version", "1.1\n");
    let second = story.build(&[]);
    assert!(second.has_run("RUN cut"), "{:?}", second.ran);
    assert!(!second.has_run("RUN cat"), "{:?}", second.ran);
    assert_eq!(second.image.tree().text("id"), first.image.tree().text("id"));
    assert_eq!(second.image.digest, first.image.digest);
}

#[test]
fn no_cache_runs_everything_again() {
    let dockerfile = "FROM busybox:golden\nRUN cat /proc/sys/kernel/random/uuid > /id\n";
    let story = Story::new(dockerfile, &[]);
    let first = story.build(&[]).image.tree().text("id");
    assert_eq!(story.build(&[]).image.tree().text("id"), first);
    assert_ne!(story.build(&["--no-cache"]).image.tree().text("id"), first);
}

const SLOW: &str = "FROM busybox:golden\n\
                    RUN echo begun && sleep 2 && cat /proc/sys/kernel/random/uuid > /id\n\
                    RUN cat /proc/sys/kernel/random/uuid > /id2\n";

#[test]
fn two_builds_at_once_run_a_step_once() {
    let story = Story::new(SLOW, &[]);
    let (one, other) = (story.start("one.tar", &[]), story.start("other.tar", &[]));
    let (one, other) = (story.built("one.tar", one), story.built("other.tar", other));
    assert_eq!(one.image.digest, other.image.digest);
    assert_eq!(one.image.tree().text("id2"), other.image.tree().text("id2"));
}

#[test]
fn a_killed_build_does_not_hold_up_the_next() {
    let seconds = own_seconds(1);
    let dockerfile = format!("FROM busybox:golden\nRUN echo a > /a\nRUN sleep {seconds}\n");
    let story = Story::new(&dockerfile, &[]);
    let mut first = story.start("one.tar", &[]);
    wait_for(
        "the step sleeps",
        SOON,
        || process_with_argument(&seconds).then_some(()),
        || first.stderr(),
    );
    let second = story.start("two.tar", &[]);
    first.kill();
    wait_for(
        "the step of the killed build is gone, and runs in the other",
        SOON,
        || (sleepers(&seconds) == 1 && is_below(second.id(), &seconds)).then_some(()),
        || second.stderr(),
    );
    second.interrupt();
    second.finish(LONG).failed();
    assert_eq!(sleepers(&seconds), 0);
}

/// How many processes sleep so long.
fn sleepers(seconds: &str) -> usize {
    processes_that_sleep(seconds).len()
}

fn processes_that_sleep(seconds: &str) -> Vec<u32> {
    let sleeps = |id: &u32| {
        let arguments = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        arguments == format!("sleep\0{seconds}\0").as_bytes()
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(sleeps).collect()
}

fn is_below(id: u32, seconds: &str) -> bool {
    processes_that_sleep(seconds).into_iter().any(|mut process| {
        while process > 1 && process != id {
            let status = std::fs::read_to_string(format!("/proc/{process}/status"));
            let parent = status.ok().and_then(|text| {
                text.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
            });
            process = parent.unwrap_or(0);
        }
        process == id
    })
}

#[test]
fn ctrl_c_ends_the_build_and_leaves_no_process() {
    let seconds = own_seconds(2);
    let story = Story::new(&format!("FROM busybox:golden\nRUN sleep {seconds}\n"), &[]);
    let build = story.start("image.tar", &[]);
    wait_for(
        "the step sleeps",
        SOON,
        || process_with_argument(&seconds).then_some(()),
        || build.stderr(),
    );
    build.interrupt();
    let done = build.finish(Duration::from_secs(10)).failed();
    assert_eq!(done.status.code(), Some(130), "{}", done.stderr);
    assert!(!process_with_argument(&seconds));
    assert!(!story.home.path("image.tar").exists());
}

#[test]
fn a_failing_run_is_shown_with_its_words_and_its_place() {
    let dockerfile = "FROM busybox:golden\nWORKDIR /w\nRUN echo about to fail && exit 42\n";
    let story = Story::new(dockerfile, &[]);
    let done = story.try_build(&[]).failed();
    for part in ["about to fail", "Dockerfile:3", ">>> RUN echo about", "exit code", "42"] {
        assert!(done.stderr.contains(part), "no {part:?} in\n{}", done.stderr);
    }
}

#[test]
fn an_image_is_pushed_and_its_digest_is_written_down() {
    let story = Story::new("FROM busybox:golden\nRUN echo hi > /hi\n", &[]);
    let name = format!("{}/team/app:1", story.registry.host);
    let metadata = story.home.arg("metadata.json");
    story.try_build(&["--tag", &name, "--push", "--metadata-file", &metadata]).well();
    let image = story.registry.get("team/app:1");
    assert_eq!(image.tree().text("hi").unwrap(), "hi\n");
    let metadata = std::fs::read(metadata).unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    assert_eq!(metadata["containerimage.digest"], json!(image.digest));
    story.try_build(&["--tag", &name, "--push"]).well();
    assert_eq!(story.registry.get("team/app:1").digest, image.digest);
}

#[test]
fn an_image_goes_to_a_registry_that_has_none_of_its_layers() {
    let story = Story::new("FROM busybox:golden\nRUN echo hi > /hi\n", &[]);
    let other = Registry::start();
    let config = std::fs::read_to_string(story.home.path("config.toml")).unwrap();
    let config = format!("{config}\n[registry.\"{}\"]\nhttp = true\n", other.host);
    std::fs::write(story.home.path("config.toml"), config).unwrap();
    let name = format!("{}/app:1", other.host);
    story.try_build(&["--tag", &name, "--push"]).well();
    assert_eq!(other.get("app:1").tree().text("hi").unwrap(), "hi\n");
}

#[test]
fn another_tool_reads_the_image() {
    let story = Story::new(GO, &[]);
    let digest = story.build(&[]).image.digest;
    let read = std::process::Command::new("skopeo")
        .args(["inspect", "--format", "{{.Digest}}"])
        .arg(format!("oci-archive:{}", story.home.arg("image.tar")))
        .output()
        .expect("skopeo is installed: apt-get install skopeo, or `cargo xtask setup`");
    assert_eq!(String::from_utf8_lossy(&read.stdout).trim(), digest, "{read:?}");
}

#[test]
fn a_tree_of_files_is_written_to_a_folder() {
    let story = Story::new("FROM scratch\nCOPY a /d/a\n", &[("a", "text\n")]);
    let output = format!("type=local,dest={}", story.home.arg("out"));
    story.try_build(&["--output", &output]).well();
    assert_eq!(std::fs::read_to_string(story.home.path("out/d/a")).unwrap(), "text\n");
}

#[test]
fn a_secret_is_seen_by_its_step_and_by_nobody_else() {
    let dockerfile = "FROM busybox:golden\n\
                      RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size\n";
    let story = Story::new(dockerfile, &[]);
    std::fs::write(story.home.path("token"), "hunter2-hunter2").unwrap();
    let secret = format!("id=token,src={}", story.home.arg("token"));
    let built = story.build(&["--secret", &secret]);
    assert_eq!(built.image.tree().text("size").unwrap(), "15\n");
    let found = std::process::Command::new("grep")
        .args(["-rlF", "hunter2-hunter2"])
        .arg(story.home.path("state"))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&found.stdout),
        "",
        "files of the state that hold the secret"
    );
}

#[test]
fn a_plan_is_printed_without_running_anything() {
    let story = Story::new(GO, &[]);
    let context = story.home.arg("context");
    for (format, part) in [("text", "go build"), ("json", "go build"), ("dot", "digraph")] {
        let done = story.home.run(["plan", "--format", format, &context]).well();
        assert!(done.stdout.contains(part), "{format}:\n{}", done.stdout);
    }
    let json = story.home.run(["plan", "--format", "json", &context]).well();
    let _plan: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(story.build(&[]).has_run("RUN go build"));
}

#[test]
fn what_builds_leave_is_shown_and_removed() {
    let story = Story::new(GO, &[]);
    story.try_build(&["--tag", "hello:1"]).well();
    let images = story.home.run(["images"]).well();
    assert!(images.stdout.contains("hello"), "{}", images.stdout);
    story.home.run(["du"]).well();
    story.home.run(["rmi", "hello:1"]).well();
    let images = story.home.run(["images"]).well();
    assert!(!images.stdout.contains("hello"), "{}", images.stdout);
    story.home.run(["prune", "--all"]).well();
    assert!(story.build(&[]).has_run("RUN go build"));
}

#[test]
fn the_version_is_printed() {
    let story = Story::new("FROM scratch\n", &[]);
    assert!(story.home.run(["version"]).well().stdout.contains("0.1.0"));
}

#[test]
fn a_relative_state_folder_serves_a_run_as_well() {
    let story = Story::new("FROM busybox:golden\nRUN echo hi > /hi\n", &[]);
    let context = story.home.arg("context");
    let mut command = story.home.command(["build", "-o", "out", &context]);
    command.env("DCBUILD_STATE_DIR", "relative/state");
    dcbuild_tests::running::Running::start(command).finish(LONG).well();
    assert_eq!(std::fs::read_to_string(story.home.path("out/hi")).unwrap(), "hi\n");
}

#[test]
fn exit_codes_tell_who_is_at_fault() {
    let story = Story::new("FROM busybox:golden\nRUN exit 3\n", &[]);
    let context = story.home.arg("context");
    for (code, arguments) in [
        (0, vec!["version"]),
        (1, vec!["build", &context]),
        (1, vec!["build", "/none"]),
        (2, vec!["build", "--tarhet", "a", &context]),
        (2, vec!["build", "--output", "type=oic", &context]),
        (2, vec!["build", "--ssh", "default", &context]),
        (75, vec!["ps", "--coordinator", "http://127.0.0.1:9"]),
    ] {
        let done = story.home.run(&arguments);
        assert_eq!(done.status.code(), Some(code), "{arguments:?}\n{}", done.stderr);
        assert_eq!(done.stderr.contains("error"), code != 0, "{arguments:?}\n{}", done.stderr);
    }
}

#[test]
fn a_file_that_the_ignore_file_hides_is_said_to_be_hidden() {
    let files = [("secret.txt", "s"), (".dockerignore", "secret*\n")];
    let story = Story::new("FROM scratch\nCOPY secret.txt /\n", &files);
    let done = story.try_build(&[]).failed();
    for part in ["\"/secret.txt\": not found", ".dockerignore leaves it out", ">>> COPY secret.txt"]
    {
        assert!(done.stderr.contains(part), "no {part:?} in\n{}", done.stderr);
    }
}

#[test]
fn a_build_that_takes_all_from_the_cache_ran_nothing() {
    let story = Story::new("FROM busybox:golden\nRUN echo hi > /hi\n", &[]);
    story.try_build(&["-t", "a"]).well();
    let again = story.try_build(&["-t", "a"]).well();
    assert!(again.stderr.contains(": 0 ran, "), "{}", again.stderr);
}

#[test]
fn switches_and_flags_of_old_are_taken_as_docker_takes_them() {
    let story = Story::new("FROM scratch\nCOPY Dockerfile /\n", &[]);
    let flags = ["--push=false", "--pull=true", "--rm", "--memory", "1g", "--provenance=false"];
    let done = story.try_build(&flags).well();
    assert!(done.stderr.contains("warning: --memory has no effect"), "{}", done.stderr);
    assert!(!done.stderr.contains("--rm "), "{}", done.stderr);
}

/// Runs something as an ordinary user.
fn ordinary(story: &Story, arguments: &[&str]) -> dcbuild_tests::running::Finished {
    let command = story.home.ordinary_command(arguments);
    dcbuild_tests::running::Running::start(command).finish(LONG)
}

#[test]
fn an_ordinary_user_builds_all_but_what_runs() {
    let dockerfile = "FROM busybox:golden\nCOPY --chown=root in.txt /in.txt\n\
        COPY --from=nginx:1.25 /etc/nginx/nginx.conf /n\nWORKDIR /w\nADD in.txt .\n";
    let story = Story::new(dockerfile, &[("in.txt", "hello\n")]);
    let context = story.home.arg("context");
    let (tar, folder) = (story.home.arg("image.tar"), story.home.arg("out"));
    let (tar, folder) = (format!("type=oci,dest={tar}"), format!("type=local,dest={folder}"));
    ordinary(&story, &["build", "--output", &tar, "--output", &folder, &context]).well();
    let image = dcbuild_tests::image::Image::read_tar(&story.home.path("image.tar"));
    assert_eq!(image.tree().text("n").unwrap(), "worker_processes auto;\n");
    assert_eq!(image.tree().text("w/in.txt").unwrap(), "hello\n");
    assert!(story.home.path("out/bin/busybox").is_file());
    // The same out of what it kept.
    ordinary(&story, &["build", "--output", &folder, &context]).well();

    story.write("Dockerfile", "FROM busybox:golden\nRUN true\n");
    let said = ordinary(&story, &["build", &context]).failed().stderr;
    assert!(said.contains("root"), "{said}");
    // What root does with the same state folder stands on whole layers.
    story.write("Dockerfile", "FROM busybox:golden\nRUN ls -l /bin/busybox > /l\n");
    let listed = story.build(&[]).image.tree().text("l").unwrap();
    assert!(listed.starts_with("-rwxr-xr-x ") && listed.contains(" root "), "{listed}");
}

/// A worker without root gets what it can do, and says at its start that this is less than another could.
#[test]
fn an_ordinary_user_s_worker_gets_no_run() {
    let story = Story::new("FROM busybox:golden\nCOPY in.txt /in.txt\n", &[("in.txt", "hello\n")]);
    let Story { home, registry: _registry } = story;
    let mut cluster = dcbuild_tests::cluster::Cluster::start(home, 0, 1);
    cluster.start_ordinary_worker(4);
    let context = cluster.home.arg("context");
    cluster.ask("submit", &[&context]).well();
    assert!(cluster.said().contains("this worker takes no RUN"), "{}", cluster.said());

    let dockerfile = "FROM busybox:golden\nCOPY in.txt /in.txt\nRUN cat /in.txt > /out.txt\n";
    std::fs::write(cluster.home.path("context/Dockerfile"), dockerfile).unwrap();
    cluster.start_worker(1);
    let output = format!("type=oci,dest={}", cluster.home.arg("image.tar"));
    cluster.ask("submit", &["--output", &output, &context]).well();
    let image = dcbuild_tests::image::Image::read_tar(&cluster.home.path("image.tar"));
    assert_eq!(image.tree().text("out.txt").unwrap(), "hello\n");
}

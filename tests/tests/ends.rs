//! Outputs that fail, registries that refuse, workers that are missing: what a user is told, and what is there all the same.
#![expect(clippy::unwrap_used, reason = "test")]

use std::time::Duration;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::registry::{Registry, free_port};
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::{LONG, Stopwatch, wait_for};

const SMALL: &str = "FROM scratch\nCOPY Dockerfile /d\n";

/// How often a line begins so.
fn lines_with(text: &str, begin: &str) -> usize {
    text.lines().filter(|line| line.starts_with(begin)).count()
}

#[track_caller]
fn has(done: &Finished, parts: &[&str]) {
    for part in parts {
        assert!(done.stderr.contains(part), "no {part:?} in\n{}", done.stderr);
    }
}

#[test]
fn an_output_that_fails_leaves_the_others_alone() {
    let story = Story::new(SMALL, &[]);
    // Nobody listens there.
    let closed = format!("127.0.0.1:{}", free_port());
    let bad = format!("type=image,name={closed}/team/app:1,push=true");
    let good = format!("type=image,name={}/team/app:1,push=true", story.registry.host);
    let tar = story.home.arg("image.tar");
    let file = format!("type=oci,dest={tar}");
    let (id, metadata) = (story.home.arg("id"), story.home.arg("metadata.json"));
    let told = ["--iidfile", &id, "--metadata-file", &metadata];
    let watch = Stopwatch::start();
    let outputs = ["--output", &bad, "--output", &good, "--output", &file];
    let done = story.try_build(&[&outputs[..], &told].concat()).failed();
    assert!(watch.passed() < Duration::from_secs(45), "a refused connection is not tried again");
    let image = Image::read_tar(&story.home.path("image.tar"));
    assert_eq!(story.registry.get("team/app:1").digest, image.digest);
    assert_eq!(lines_with(&done.stderr, "error: "), 1, "{}", done.stderr);
    has(
        &done,
        &[
            &format!("push of image {closed}/team/app:1 failed: "),
            &format!("could not reach http://{closed} for "),
            &format!("hint: nothing listens at {closed}"),
            &format!(
                "note: delivered all the same: pushed {}/team/app:1; wrote OCI image to {tar}",
                story.registry.host
            ),
        ],
    );
    assert!(!done.stderr.contains("CANCELED"), "{}", done.stderr);
    assert!(!done.stderr.contains("attempt 1 of 3"), "{}", done.stderr);
    // What is there is written down, and nothing else.
    let text = |name: &str| std::fs::read_to_string(story.home.path(name)).unwrap();
    let known: serde_json::Value = serde_json::from_str(&text("metadata.json")).unwrap();
    assert_eq!(known["containerimage.digest"], image.digest);
    assert_eq!(known["image.name"], format!("{}/team/app:1", story.registry.host));
    assert_eq!(known["containerimage.config.digest"], text("id").trim());
    // An image that is nowhere has no id, nor has it an older one.
    story.try_build(&[&["--output", &bad][..], &told].concat()).failed();
    assert!(!story.home.path("id").exists());
}

#[test]
fn a_client_s_part_that_fails_leaves_the_others_alone() {
    let story = Story::new(SMALL, &[]);
    std::fs::write(story.home.path("file"), "").unwrap();
    let blocked = format!("type=local,dest={}", story.home.arg("file/below"));
    let tar = story.home.arg("image.tar");
    let file = format!("type=oci,dest={tar}");
    let done = story.try_build(&["--output", &blocked, "--output", &file]).failed();
    Image::read_tar(&story.home.path("image.tar"));
    assert_eq!(lines_with(&done.stderr, "error: "), 1, "{}", done.stderr);
    let note = format!("note: delivered all the same: wrote OCI image to {tar}");
    has(&done, &["error: could not write the files to ", &note]);
}

#[test]
fn a_pull_that_fails_names_the_registry_and_what_was_asked() {
    let closed = format!("127.0.0.1:{}", free_port());
    let story = Story::new(&format!("FROM {closed}/team/base:1\n"), &[]);
    let done = story.try_build(&[]).failed();
    let asked = format!("could not reach http://{closed} for GET /v2/team/base/manifests/1");
    has(&done, &["Dockerfile:1", &asked]);
    let host = &story.registry.host;
    story.write("Dockerfile", &format!("FROM {host}/team/none:1\n"));
    let done = story.try_build(&[]).failed();
    let answered = format!("http://{host} answered GET /v2/team/none/manifests/1 with 404");
    has(&done, &[&answered]);
}

#[test]
fn build_arguments_that_nothing_reads_are_warned_of() {
    let story = Story::new("FROM scratch\nARG USED\nCOPY Dockerfile /d\n", &[]);
    let warning = "[Warning] One or more build-args [NONE] were not consumed";
    let flags = ["--build-arg", "NONE=1", "--build-arg", "USED=1", "--build-arg", "no_proxy=x"];
    let plain = story.try_build(&flags).well();
    has(&plain, &[warning]);
    let raw = story.start("image.tar", &flags).finish(LONG).well();
    let shorts = raw.stderr.lines().filter_map(|line| {
        let status: serde_json::Value = serde_json::from_str(line).ok()?;
        let warnings = status["warnings"].as_array()?.clone();
        Some(warnings.into_iter().map(|warning| warning["short"].clone()).collect::<Vec<_>>())
    });
    let shorts: Vec<serde_json::Value> = shorts.flatten().collect();
    // Bytes travel as base64 in that form.
    assert_eq!(shorts.len(), 1, "{}", raw.stderr);
}

#[test]
fn a_build_without_a_worker_says_so_and_goes_on_when_one_comes() {
    let mut cluster = Cluster::start(Home::new(""), 0, 1);
    write_context(&cluster.home.path("context"), &[ContextEntry::file("Dockerfile", SMALL)]);
    let (context, tar) = (cluster.home.arg("context"), cluster.home.arg("image.tar"));
    let output = format!("type=oci,dest={tar}");
    let arguments = ["--progress", "plain", "--output", &output, &context];
    let build = cluster.client("submit", &arguments);
    build.says("waits for a worker; none is connected", Duration::from_secs(20));
    cluster.start_worker(1);
    build.finish(LONG).well();
    Image::read_tar(&cluster.home.path("image.tar"));
}

#[test]
fn a_coordinator_that_is_restarted_is_waited_for() {
    let mut cluster = Cluster::start(Home::new(""), 1, 1);
    write_context(&cluster.home.path("context"), &[ContextEntry::file("Dockerfile", SMALL)]);
    let (context, tar) = (cluster.home.arg("context"), cluster.home.arg("image.tar"));
    let output = format!("type=oci,dest={tar}");
    let arguments = ["--progress", "plain", "--output", &output, &context];
    cluster.kill_coordinator();
    let (ended, waits) =
        (cluster.client("submit", &arguments), cluster.client("submit", &arguments));
    for client in [&ended, &waits] {
        client.says("it is tried again for a while", LONG);
    }
    ended.interrupt();
    let ended = ended.finish(LONG);
    assert_eq!(ended.status.code(), Some(130), "{}", ended.stderr);
    cluster.start_coordinator();
    let done = waits.finish(LONG).well();
    assert_eq!(lines_with(&done.stderr, "warning: could not reach the coordinator"), 1);
    Image::read_tar(&cluster.home.path("image.tar"));
}

/// A home whose docker configuration is this.
fn with_docker(home: &Home, config: &str) {
    std::fs::create_dir_all(home.path("docker")).unwrap();
    std::fs::write(home.path("docker/config.json"), config).unwrap();
}

/// A build that is pushed to `host`, with the docker configuration of its home.
fn push(home: &Home, host: &str) -> Finished {
    write_context(&home.path("context"), &[ContextEntry::file("Dockerfile", SMALL)]);
    let name = format!("{host}/team/app:1");
    let context = home.arg("context");
    let mut command =
        home.command(["build", "--progress", "plain", "-t", &name, "--push", &context]);
    let mut path = home.path("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command.env("DOCKER_CONFIG", home.path("docker")).env("PATH", path);
    Running::start(command).finish(LONG)
}

/// Puts a credential helper on the path, which knows one host.
fn helper(home: &Home, name: &str, host: &str, answer: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(home.path("bin")).unwrap();
    let file = home.path(&format!("bin/docker-credential-{name}"));
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = get ] || exit 2\nread -r host\n\
         if [ \"$host\" = {host} ]; then echo '{answer}'; exit 0; fi\n\
         echo 'credentials not found in native keychain'; exit 1\n"
    );
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

const RIGHT: &str = r#"{"ServerURL":"x","Username":"bob","Secret":"hunter2"}"#;

#[test]
fn credentials_come_from_the_file_and_from_helpers() {
    let registry = Registry::with_login();
    let host = &registry.host;
    let port = host.rsplit(':').next().unwrap();
    let home = Home::new("");
    helper(&home, "store", host, RIGHT);
    let right = r#"{"auth":"Ym9iOmh1bnRlcjI="}"#;
    for config in [
        format!(r#"{{"auths":{{"{host}":{right}}}}}"#),
        format!(r#"{{"auths":{{"http://{host}/v1/":{right}}}}}"#),
        r#"{"credsStore":"store"}"#.to_owned(),
        format!(r#"{{"credHelpers":{{"{host}":"store"}},"credsStore":"missing"}}"#),
        // A helper that does not know the host leaves it to the file.
        format!(r#"{{"auths":{{"{host}":{right}}},"credsStore":"other"}}"#),
    ] {
        helper(&home, "other", "nobody", RIGHT);
        with_docker(&home, &config);
        push(&home, host).well();
    }
    // A port is part of the name.
    for config in [
        format!(r#"{{"auths":{{"127.0.0.1":{right}}}}}"#),
        format!(r#"{{"auths":{{"127.0.0.2:{port}":{right}}}}}"#),
        "{}".to_owned(),
    ] {
        with_docker(&home, &config);
        let done = push(&home, host).failed();
        let login = format!("hint: log in with `docker login {host}`");
        has(&done, &["push access denied", "asked without credentials", &login]);
    }
}

#[test]
fn a_refused_login_is_named_without_its_secret() {
    let registry = Registry::with_login();
    let host = &registry.host;
    let home = Home::new("");
    helper(&home, "wrong", host, r#"{"ServerURL":"x","Username":"eve","Secret":"s3cret-s3cret"}"#);
    with_docker(&home, r#"{"credsStore":"wrong"}"#);
    let done = push(&home, host).failed();
    has(
        &done,
        &[
            &format!("http://{host} answered"),
            "with 401",
            "asked as user 'eve', from docker-credential-wrong",
            &format!("docker login {host}"),
        ],
    );
    // base64 of eve:wr0ng
    with_docker(&home, &format!(r#"{{"auths":{{"{host}":{{"auth":"ZXZlOndyMG5n"}}}}}}"#));
    let done = push(&home, host).failed();
    let file = home.arg("docker/config.json");
    has(&done, &[&format!("asked as user 'eve', from {file}")]);
    for secret in ["s3cret-s3cret", "wr0ng", "ZXZlOndyMG5n"] {
        assert!(!done.stderr.contains(secret), "{}", done.stderr);
    }
}

#[test]
fn an_output_is_begun_anew_when_the_coordinator_is_back() {
    let mut cluster = Cluster::start(Home::new(""), 1, 1);
    let context = cluster.home.path("context");
    write_context(&context, &[ContextEntry::file("Dockerfile", "FROM scratch\nCOPY big /big\n")]);
    std::fs::write(context.join("big"), vec![b'x'; 300 << 20]).unwrap();
    let (folder, context) = (cluster.home.path("out"), cluster.home.arg("context"));
    std::fs::create_dir(&folder).unwrap();
    let output = format!("type=tar,dest={}", cluster.home.arg("out/files.tar"));
    let client = cluster.client("submit", &["--progress", "plain", "--output", &output, &context]);
    let begun = || {
        let mut files = std::fs::read_dir(&folder).unwrap().flatten();
        files.any(|file| file.metadata().is_ok_and(|file| file.len() > 0)).then_some(())
    };
    wait_for("the output has begun", LONG, begun, String::new);
    cluster.kill_coordinator();
    cluster.start_coordinator();
    let done = client.finish(LONG).well();
    assert!(done.stderr.matches("writing files to").count() > 1, "{}", done.stderr);
    assert!(folder.join("files.tar").metadata().unwrap().len() > 300 << 20);
}

//! Flags and variables of docker's by which a build is told of: what comes of each in a whole build.
#![expect(clippy::unwrap_used, reason = "test")]

use std::process::{Command, Stdio};

use dcbuild_tests::base::busybox_with;
use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::layout::LayerTar;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::{LONG, wait_for};
use serde_json::Value;

/// Builds with these variables set.
fn with(story: &Story, variables: &[(&str, &str)], flags: &[&str]) -> Finished {
    let context = story.home.arg("context");
    let fixed = ["build", "--progress", "plain"];
    let all = fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]);
    let mut command = story.home.command(all);
    command.envs(variables.iter().copied());
    Running::start(command).finish(LONG)
}

fn read(story: &Story, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(story.home.path(name)).unwrap()).unwrap()
}

fn git(story: &Story, arguments: &[&str]) {
    let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
    let mut command = Command::new("git");
    command.arg("-C").arg(story.context()).args(who).args(arguments);
    command.env("HOME", story.home.path("user"));
    let done = command.output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

#[test]
fn the_metadata_file_tells_warnings_where_that_is_asked() {
    let text = "FROM scratch as base\nCOPY Dockerfile /$no\n";
    let story = Story::new(text, &[]);
    let file = story.home.arg("meta.json");
    let flags = ["-t", "app", "--metadata-file", file.as_str()];
    with(&story, &[], &flags).well();
    assert_eq!(read(&story, "meta.json").get("buildx.build.warnings"), None);
    with(&story, &[("BUILDX_METADATA_WARNINGS", "true")], &flags).well();
    let told = read(&story, "meta.json");
    let keys: Vec<&String> = told.as_object().unwrap().keys().collect();
    assert!(keys.is_sorted(), "{keys:?}");
    let warnings = told["buildx.build.warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    // What `docker/build-push-action` reads of each, in base64 as Go writes bytes.
    let decoded = |value: &Value| {
        let mut command = Command::new("base64");
        command.arg("-d").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, value.as_str().unwrap().as_bytes()).unwrap();
        drop(stdin);
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    let second = warnings.iter().find(|it| it["range"][0]["start"]["line"] == 2).unwrap();
    assert_eq!(
        decoded(&second["short"]),
        "UndefinedVar: Usage of undefined variable '$no' (line 2)"
    );
    assert_eq!(decoded(&second["detail"][0]), "Variables should be defined before their use");
    assert_eq!(second["url"], "https://docs.docker.com/go/dockerfile/rule/undefined-var/");
    assert_eq!(second["sourceInfo"]["filename"], "Dockerfile");
    assert_eq!(decoded(&second["sourceInfo"]["data"]), text);
    let said = with(&story, &[("BUILDX_METADATA_WARNINGS", "perhaps")], &flags).failed().stderr;
    assert!(said.contains("BUILDX_METADATA_WARNINGS cannot be 'perhaps'"), "{said}");
}

#[test]
fn an_image_has_labels_of_its_repository_where_that_is_asked() {
    let story = Story::new("FROM scratch\nLABEL own=1\nCOPY a /a\n", &[("a", "a\n")]);
    git(&story, &["init", "-q"]);
    git(&story, &["add", "."]);
    git(&story, &["commit", "-q", "-m", "one"]);
    git(&story, &["remote", "add", "origin", "https://user:word@host/team/app.git"]);
    let output = format!("type=oci,dest={}", story.home.arg("image.tar"));
    let labels = |variables: &[(&str, &str)], flags: &[&str]| {
        let fixed = ["-o", output.as_str()];
        with(&story, variables, &[&fixed, flags].concat()).well();
        let image = dcbuild_tests::image::Image::read_tar(&story.home.path("image.tar"));
        image.config["config"]["Labels"].clone()
    };
    assert_eq!(labels(&[], &[]), serde_json::json!({ "own": "1" }));
    let asked = [("BUILDX_GIT_LABELS", "full")];
    let found = labels(&asked, &[]);
    assert_eq!(found["org.opencontainers.image.revision"].as_str().unwrap().len(), 40);
    assert_eq!(found["org.opencontainers.image.source"], "https://host/team/app.git");
    assert_eq!(found["com.docker.image.source.entrypoint"], "Dockerfile");
    assert_eq!(found["own"], "1");
    std::fs::write(story.context().join("a"), "changed\n").unwrap();
    let dirty = [asked[0], ("BUILDX_GIT_CHECK_DIRTY", "1")];
    let found = labels(&dirty, &["--label", "org.opencontainers.image.source=mine"]);
    assert!(found["org.opencontainers.image.revision"].as_str().unwrap().ends_with("-dirty"));
    assert_eq!(found["org.opencontainers.image.source"], "mine");
    // A repository that is broken is named; the build goes on.
    std::fs::write(story.context().join(".git/HEAD"), "nonsense").unwrap();
    let said = with(&story, &asked, &[]).well().stderr;
    assert!(said.contains("warning: BUILDX_GIT_LABELS is set, and git does not read"), "{said}");
}

#[test]
fn a_run_finds_the_machine_that_runs_it() {
    let story = Story::new(
        "FROM busybox:golden\nRUN grep -e postgres -e gateway /etc/hosts | tr '\\t' ' ' > /hosts\n",
        &[],
    );
    let flags = ["--add-host", "postgres:10.0.0.7,gateway:host-gateway"];
    let tree = story.build(&flags).image.tree();
    assert_eq!(tree.text("hosts").as_deref(), Some("10.0.0.7 postgres\n127.0.0.1 gateway\n"));
    assert!(story.build(&flags).ran.is_empty());
}

#[test]
fn what_docker_is_told_and_dcbuild_does_not_do_is_named() {
    let story = Story::new("FROM scratch\nCOPY Dockerfile /\n", &[]);
    let said = with(&story, &[("BUILDX_BUILDER", "ci"), ("BUILDX_EXPERIMENTAL", "1")], &[]).well();
    for name in ["BUILDX_BUILDER=ci", "BUILDX_EXPERIMENTAL=1"] {
        assert!(said.stderr.contains(&format!("warning: {name} is skipped: ")), "{}", said.stderr);
    }
    let said = with(&story, &[], &["--print", "targets"]).well();
    assert!(said.stderr.contains("warning: --print is the old name of --call"), "{}", said.stderr);
    assert!(said.stdout.starts_with("TARGET"), "{}", said.stdout);
    let said = with(&story, &[], &["--detach"]).failed();
    assert_eq!(said.status.code(), Some(2));
    assert!(said.stderr.contains("`dcbuild submit --detach`"), "{}", said.stderr);
    for words in [&["bake"][..], &["compose", "build"], &["buildx", "create"]] {
        let said = story.home.run(words).failed();
        assert_eq!(said.status.code(), Some(2), "{words:?}");
        assert!(said.stderr.starts_with("error: there is no `dcbuild "), "{}", said.stderr);
    }
}

#[test]
fn the_methods_of_call_are_listed_without_a_dockerfile() {
    let cluster = Cluster::start(Home::new(""), 0, 1);
    std::fs::create_dir(cluster.home.path("context")).unwrap();
    let context = cluster.home.arg("context");
    let flags = ["--call=subrequests.describe", context.as_str()];
    let here = cluster.home.run(["build", flags[0], flags[1]]).well();
    let there = cluster.client("submit", &flags).finish(LONG).well();
    assert_eq!(here.stdout, there.stdout);
    assert!(here.stdout.contains("\noutline              1.0.0   List all"), "{}", here.stdout);
}

/// A client that leaves does so when nothing more is asked of it: here the context is asked for after the base images of
/// several platforms.
#[test]
fn a_build_of_several_platforms_can_be_left_to_a_cluster() {
    let story = Story::new("", &[]);
    let cluster = Cluster::start(Home::new(&story.registry.as_docker_io()), 1, 2);
    let text = "FROM --platform=$BUILDPLATFORM busybox:golden AS build\nCOPY in /in\nRUN cat /in > /out\n\
                FROM scratch\nCOPY --from=build /out /out\n";
    let entries = [ContextEntry::file("Dockerfile", text), ContextEntry::file("in", "here\n")];
    write_context(&cluster.home.path("context"), &entries);
    let context = cluster.home.arg("context");
    let flags = ["--detach", "--platform", "linux/amd64,linux/arm64", "-t", "app", &context];
    let left = cluster.ask("submit", &flags).well();
    let id = left.stdout.trim();
    let log = cluster.ask("logs", &[id]).well();
    assert!(log.stderr.contains("RUN cat /in") || log.stdout.contains("RUN cat /in"), "{log:?}");
    assert!(cluster.ask("images", &[]).well().stdout.contains("app:latest"));
}

/// Whoever has a base's layers unpacked, or knows them by their diff ids, finds them in an image of any form.
#[test]
fn a_base_keeps_its_diff_ids_in_every_compression() {
    let story = Story::new("FROM odd:1\nCOPY f /f\n", &[("f", "x")]);
    // No writer of ours would have them in this order.
    let layer = LayerTar::default().file("z", 0o644, b"z").file("a", 0o600, b"a");
    let base = busybox_with(layer);
    story.registry.put("library/odd:1", &base);
    let build = |attributes: &str| {
        let output = format!("type=oci,dest={}{attributes}", story.home.arg("image.tar"));
        story.try_build(&["--output", &output]).well();
        Image::read_tar(&story.home.path("image.tar"))
    };
    let usual = build("");
    for (compression, suffix) in
        [("zstd", "tar+zstd"), ("uncompressed", "tar"), ("gzip", "tar+gzip")]
    {
        for _ in 0..2 {
            let image = build(&format!(",compression={compression},force-compression=true"));
            assert_eq!(image.diff_ids(), usual.diff_ids(), "{compression}");
            let layers = image.manifest["layers"].as_array().unwrap();
            assert_eq!(layers.len(), 3);
            for layer in layers {
                assert!(layer["mediaType"].as_str().unwrap().ends_with(suffix), "{layer}");
            }
        }
    }
}

/// What was to be said is only the id: the image is made, and docker too ends well.
#[test]
fn a_reader_that_is_gone_fails_no_build() {
    let story = Story::new("FROM scratch\nCOPY Dockerfile /d\n", &[]);
    let context = story.home.arg("context");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = story.home.command(["build", "--quiet", "-t", "app", &context]);
    let mut build = command.stdin(Stdio::null()).stdout(writer).spawn().unwrap();
    let ended = || build.try_wait().unwrap();
    let status = wait_for("the build ends", LONG, ended, String::new);
    assert!(status.success(), "{status}");
}

#[test]
fn an_id_goes_into_a_device_and_not_in_its_place() {
    let story = Story::new("FROM scratch\nCOPY Dockerfile /d\n", &[]);
    let before = std::fs::read_link("/dev/stdout").unwrap();
    let done = story.try_build(&["--iidfile", "/dev/stdout", "-t", "app"]).well();
    assert!(done.stdout.starts_with("sha256:"), "{}", done.stdout);
    assert_eq!(std::fs::read_link("/dev/stdout").unwrap(), before);
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let id = memory.path().join("id").to_str().unwrap().to_owned();
    story.try_build(&["--iidfile", &id, "-t", "app"]).well();
    assert!(std::fs::read_to_string(id).unwrap().starts_with("sha256:"));
    // A link of somebody else is replaced, and what it leads to left alone.
    let (link, other) = (story.home.path("link"), story.home.path("other"));
    std::fs::write(&other, "theirs").unwrap();
    std::os::unix::fs::symlink(&other, &link).unwrap();
    story.try_build(&["--iidfile", &story.home.arg("link"), "-t", "app"]).well();
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "theirs");
    assert!(std::fs::read_to_string(&link).unwrap().starts_with("sha256:"));
}

/// As a container has single files of its host.
#[test]
fn a_file_that_is_mounted_is_written_anew_in_its_place() {
    let story = Story::new("FROM scratch\nCOPY Dockerfile /d\n", &[]);
    let [id, image, context] = ["id", "image.tar", "context"].map(|name| story.home.arg(name));
    for file in [&id, &image] {
        std::fs::write(file, "what was there before, which is longer than what comes".repeat(9))
            .unwrap();
    }
    let mut by = Command::new("unshare");
    let mounts = r#"mount --bind "$1" "$1" && mount --bind "$2" "$2" && shift 2 && exec "$@""#;
    by.args(["--mount", "sh", "-ec", mounts, "sh", &id, &image]);
    let output = format!("type=tar,dest={image}");
    let words =
        ["build", "-t", "app", "--iidfile", &id, "-o", "type=image", "-o", &output, &context];
    Running::start(story.home.command_by(by, &words)).finish(LONG).well();
    let said = std::fs::read_to_string(&id).unwrap();
    assert!(said.starts_with("sha256:") && said.len() < 80, "{said}");
    let mut archive = tar::Archive::new(std::fs::File::open(&image).unwrap());
    let path = |entry: std::io::Result<tar::Entry<'_, std::fs::File>>| {
        entry.unwrap().path().unwrap().into_owned()
    };
    let paths: Vec<_> = archive.entries().unwrap().map(path).collect();
    assert_eq!(paths, [std::path::Path::new("d")]);
}

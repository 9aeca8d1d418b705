//! Builds for several platforms at once: indexes, folders, and what only runs where its programs run.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::Path;
use std::process::Command;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::story::Story;
use serde_json::{Value, json};

const BOTH: &str = "linux/amd64,linux/arm64";

/// One stage that both platforms share, one that differs.
const DOCKERFILE: &str = "FROM --platform=$BUILDPLATFORM scratch AS shared\nCOPY a /a\n\
                          FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\n\
                          COPY --from=shared /a /a\nCOPY $TARGETARCH /arch\n";

const FILES: &[(&str, &str)] = &[("a", "shared\n"), ("amd64", "x86\n"), ("arm64", "arm\n")];

fn skopeo(arguments: &[&str]) -> Value {
    let done = Command::new("skopeo")
        .args(arguments)
        .output()
        .expect("skopeo is installed: apt-get install skopeo, or `cargo xtask setup`");
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).unwrap()
}

fn platforms(index: &Value) -> Vec<String> {
    let manifests = index["manifests"].as_array().unwrap();
    let arch = |entry: &Value| entry["platform"]["architecture"].as_str().unwrap().to_owned();
    manifests.iter().map(arch).collect()
}

fn inspected(image: &str, architecture: &str) -> Value {
    skopeo(&["--override-arch", architecture, "inspect", "--tls-verify=false", image])
}

#[test]
fn an_index_is_pushed_and_read_by_another_tool() {
    let story = Story::new(DOCKERFILE, FILES);
    let name = format!("{}/app:1", story.registry.host);
    let metadata = story.home.arg("metadata.json");
    let flags = ["--platform", BOTH, "--tag", &name, "--push", "--metadata-file", &metadata];
    let done = story.try_build(&flags).well();
    for line in ["[linux/amd64 shared 1/1] COPY a /a", "[linux/arm64 stage-1 2/2] COPY arm64 /arch"]
    {
        assert!(done.stderr.contains(line), "{line} is not in {}", done.stderr);
    }
    let shared = done.stderr.matches("shared 1/1] COPY a /a\n").count();
    assert_eq!(shared, 1, "both platforms read it, and it is there once: {}", done.stderr);

    let image = format!("docker://{name}");
    let index = skopeo(&["inspect", "--raw", "--tls-verify=false", &image]);
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(platforms(&index), ["amd64", "arm64"]);
    for architecture in ["amd64", "arm64"] {
        let found = inspected(&image, architecture);
        assert_eq!(found["Architecture"], architecture);
        assert_eq!(found["Labels"], json!({ "arch": architecture }));
    }
    let told: Value =
        serde_json::from_slice(&std::fs::read(story.home.path("metadata.json")).unwrap()).unwrap();
    let digest = inspected(&image, "arm64")["Digest"].clone();
    assert_eq!(told["containerimage.digest"], digest, "what the name stands for is the index");
    assert_eq!(told["containerimage.config.digest"], Value::Null);

    // Each platform of the next build stands on its own part of the index.
    let next = format!("{}/next:1", story.registry.host);
    story.write("Dockerfile", &format!("FROM {name}\nCOPY a /b\n"));
    story.try_build(&["--platform", BOTH, "--tag", &next, "--push"]).well();
    for architecture in ["amd64", "arm64"] {
        let found = inspected(&format!("docker://{next}"), architecture);
        assert_eq!(found["Labels"], json!({ "arch": architecture }));
        assert_eq!(found["Layers"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn an_index_is_written_and_kept_by_name() {
    let story = Story::new(DOCKERFILE, FILES);
    let output = format!("type=oci,dest={}", story.home.arg("both.tar"));
    let id = story.home.arg("id");
    let note = "annotation-index.who=me,annotation-manifest[linux/arm64].only=arm";
    let output = format!("{output},{note}");
    let flags =
        ["--platform", BOTH, "-t", "app", "-o", &output, "-o", "type=image", "--iidfile", &id];
    story.try_build(&flags).well();
    let archive = format!("oci-archive:{}", story.home.arg("both.tar"));
    let index = skopeo(&["inspect", "--raw", &archive]);
    assert_eq!(platforms(&index), ["amd64", "arm64"]);
    assert_eq!(index["annotations"], json!({ "who": "me" }));
    let copied = story.home.arg("copied");
    let done = Command::new("skopeo")
        .args(["copy", "--all", "--insecure-policy", &archive, &format!("dir:{copied}")])
        .output()
        .unwrap();
    assert!(done.status.success(), "every blob is there: {done:?}");
    let manifest = index["manifests"][1]["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let manifest =
        std::fs::read(Path::new(&copied).join(format!("{manifest}.manifest.json"))).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["annotations"], json!({ "only": "arm" }));

    // A name stands for the index, and a build finds the platform that it wants in it.
    let first = std::fs::read_to_string(story.home.path("id")).unwrap();
    story.try_build(&["--platform", BOTH, "-t", "app", "--iidfile", &id]).well();
    let again = std::fs::read_to_string(story.home.path("id")).unwrap();
    assert!(again.starts_with("sha256:") && again != first, "annotations count: {first} {again}");
    let listed = story.home.run(["images"]).well().stdout;
    assert!(listed.contains(&again[..19]), "{again} is not in {listed}");
    story.write("Dockerfile", "FROM app\nCOPY a /b\n");
    let built = story.build(&["--platform", "linux/arm64"]);
    assert_eq!(built.image.config["architecture"], "arm64");
    assert_eq!(built.image.tree().text("arch").as_deref(), Some("arm\n"));
}

/// As it is with buildx, whose provenance makes an index of every image.
#[test]
fn an_annotation_of_an_index_makes_one_of_one_platform() {
    let story = Story::new("FROM scratch\nCOPY a /a\n", FILES);
    let output = format!("type=oci,dest={}", story.home.arg("one.tar"));
    story.try_build(&["-t", "app", "-o", &output, "--annotation", "index:who=me"]).well();
    let archive = format!("oci-archive:{}", story.home.arg("one.tar"));
    let index = skopeo(&["inspect", "--raw", &archive]);
    assert_eq!(index["annotations"], json!({ "who": "me" }), "{index}");
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1), "{index}");
}

#[test]
fn files_of_each_platform_lie_in_a_folder_of_their_own() {
    let story = Story::new(DOCKERFILE, FILES);
    let output = format!("type=local,dest={}", story.home.arg("out"));
    story.try_build(&["--platform", BOTH, "--output", &output]).well();
    let text = |path: &str| std::fs::read_to_string(story.home.path("out").join(path)).unwrap();
    assert_eq!(text("linux_amd64/arch"), "x86\n");
    assert_eq!(text("linux_arm64/arch"), "arm\n");
    assert_eq!(text("linux_arm64/a"), "shared\n");

    let together = format!("{output},platform-split=false");
    let done = story.try_build(&["--platform", BOTH, "--output", &together]).failed();
    let reason =
        "cannot overwrite /a from linux/amd64 with linux/arm64 when split option is disabled";
    assert!(done.stderr.contains(reason), "{}", done.stderr);
    story.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /only/$TARGETARCH\n");
    let together = format!("type=local,dest={},platform-split=false", story.home.arg("one"));
    story.try_build(&["--platform", BOTH, "--output", &together]).well();
    let text = |path: &str| std::fs::read_to_string(story.home.path("one").join(path)).unwrap();
    assert_eq!((text("only/amd64"), text("only/arm64")), ("x86\n".into(), "arm\n".into()));
}

#[test]
fn docker_is_not_handed_an_index() {
    let story = Story::new(DOCKERFILE, FILES);
    let output = format!("type=docker,dest={}", story.home.arg("x.tar"));
    let done = story.try_build(&["--platform", BOTH, "--output", &output]).failed();
    assert!(done.stderr.contains("does not support manifest lists"), "{}", done.stderr);
}

#[test]
fn a_program_of_a_platform_without_an_interpreter_is_refused() {
    // No interpreter is known for it, so no machine has one.
    let dockerfile = "FROM scratch\nCOPY a /a\nRUN [\"/a\"]\n";
    let story = Story::new(dockerfile, FILES);
    let done = story.try_build(&["--platform", "linux/amd64,linux/sparc64"]).failed();
    for words in [
        "a RUN for linux/sparc64 cannot run on this machine",
        "has no interpreter for linux/sparc64",
        "apt-get install qemu-user-static",
        "3 | >>> RUN [\"/a\"]",
    ] {
        assert!(done.stderr.contains(words), "{words} is not in {}", done.stderr);
    }
    // What only copies needs no interpreter.
    story.write("Dockerfile", "FROM scratch\nCOPY a /a\nWORKDIR /w\n");
    story.try_build(&["--platform", "linux/sparc64"]).well();
}

#[test]
fn a_cluster_builds_an_index() {
    let registry = Registry::start();
    let cluster = Cluster::start(Home::new(&registry.as_docker_io()), 2, 1);
    let files = FILES.iter().map(|(path, text)| ContextEntry::file(path, text));
    let entries = [ContextEntry::file("Dockerfile", DOCKERFILE)].into_iter().chain(files);
    write_context(&cluster.home.path("context"), &entries.collect::<Vec<_>>());
    let name = format!("{}/app:1", registry.host);
    let context = cluster.home.arg("context");
    cluster.ask("submit", &["--platform", BOTH, "-t", &name, "--push", &context]).well();
    let image = format!("docker://{name}");
    for architecture in ["amd64", "arm64"] {
        assert_eq!(inspected(&image, architecture)["Labels"], json!({ "arch": architecture }));
    }
    cluster.ask("submit", &["--platform", BOTH, "-t", "kept", &context]).well();
    let listed = cluster.ask("images", &[]).well().stdout;
    let index = skopeo(&["inspect", "--raw", "--tls-verify=false", &image]);
    assert_eq!(platforms(&index), ["amd64", "arm64"]);
    let digest = inspected(&image, "amd64")["Digest"].as_str().unwrap().to_owned();
    assert!(listed.contains(&digest[..19]), "{digest} is not in {listed}");
}

/// A processor of amd64 runs programs of 386 by itself, where its kernel was built and started with them.
#[test]
fn programs_of_386_need_no_interpreter() {
    if dcbuild_tests::layout::architecture() != "amd64" {
        return;
    }
    let story = Story::new("FROM scratch\nCOPY program /program\nRUN [\"/program\"]\n", &[]);
    std::fs::write(story.context().join("program"), i386()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(story.context().join("program"), mode).unwrap();
    let runs = Command::new(story.context().join("program")).status().is_ok_and(|it| it.success());
    let done = story.try_build(&["--platform", "linux/386"]);
    if !runs {
        assert!(done.failed().stderr.contains("has no interpreter for linux/386"));
        return;
    }
    done.well();
    let doctor = story.home.run(["doctor"]);
    assert!(doctor.stdout.contains("linux/386"), "{}", doctor.stdout);
}

/// A program of 386 that ends well.
fn i386() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    // mov eax, 1; xor ebx, ebx; int 0x80
    const CODE: [u8; 9] = [0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80];
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    for word in [1, BASE + 84, 52, 0, 0] {
        file.extend(u32::to_le_bytes(word));
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [1, 0, BASE, BASE, 93, 93, 5, 0x1000] {
        file.extend(u32::to_le_bytes(word));
    }
    file.extend(CODE);
    file
}

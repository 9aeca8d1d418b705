//! The same Dockerfiles built by dcbuild and by a reference builder of this machine: same trees, layers, configs, history.
//!
//! The reference is the BuildKit of Debian's docker.io, of 2021, so that the cases keep to the language of its day; what
//! came since is for the golden cases to judge.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use dcbuild_tests::docker::Docker;
use dcbuild_tests::files::{ContextEntry, EntryKind, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::image::Image;
use dcbuild_tests::layout::LayerTar;
use dcbuild_tests::registry::Registry;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::story::fill;
use dcbuild_tests::wait::LONG;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

#[path = "differential/projects.rs"]
mod projects;

/// Cases in which we are as today's BuildKit is, which the golden cases record, and the old one is not.
const DIFFERENT: [(&str, &str); 9] = [
    ("copy-chmod", "a folder's own mode was left alone"),
    ("add-an-archive-with-an-owner", "--chown did not count for what was unpacked"),
    ("run-mount-bind", "the folder that a mount needed stayed"),
    ("run-mount-from-stage", "the folder that a mount needed stayed"),
    ("run-mount-cache", "the folder that a mount needed stayed"),
    ("run-mount-tmpfs", "the folder that a mount needed stayed"),
    ("python", "the folder that a mount needed stayed"),
    ("node", "ARG was not handed on to the stages that stand on its own"),
    ("rails", "ARG was not handed on to the stages that stand on its own"),
];

struct Case {
    name: &'static str,
    flags: Vec<&'static str>,
    dockerfile: String,
}

/// Each title is a name and the flags of docker's that the case is built with; its Dockerfile follows as it is.
fn cases(text: &'static str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.split_terminator('\n') {
        if let Some(title) = line.strip_prefix("== ") {
            let mut words = title.split(' ');
            let name = words.next().unwrap_or_default();
            cases.push(Case { name, flags: words.collect(), dockerfile: String::new() });
        } else {
            let case = cases.last_mut().expect("a title comes first");
            case.dockerfile.push_str(line);
            case.dockerfile.push('\n');
        }
    }
    cases
}

fn archive() -> Vec<u8> {
    let tar = LayerTar::default().dir("in", 0o750).file("in/one", 0o644, b"1");
    tar.file("in/tool", 0o4711, b"2").hard_link("in/other", "in/one").finish()
}

/// What every case may copy.
fn entries() -> Vec<ContextEntry> {
    let file = ContextEntry::file;
    let mode = |path: &str, mode: &str| ContextEntry {
        mode: Some(mode.to_owned()),
        ..file(path, &format!("#!/bin/sh\necho {path}\n"))
    };
    let link = |kind, path: &str, link: &str| ContextEntry {
        kind,
        link: Some(link.to_owned()),
        ..file(path, "")
    };
    let bytes = |path: &str, bytes: &[u8]| ContextEntry {
        content_hex: Some(hex::encode(bytes)),
        ..file(path, "")
    };
    let mut zipped = GzEncoder::new(Vec::new(), Compression::default());
    zipped.write_all(&archive()).expect("memory takes it");
    vec![
        file(".dockerignore", "ignored.txt\n**/*.log\n!dir/keep.log\nDockerfile*\n"),
        file("a.txt", "a\n"),
        file("b.txt", "b\n"),
        file("c.md", "c\n"),
        file("sp ace.txt", "space\n"),
        file("ignored.txt", "ignored\n"),
        mode("run.sh", "755"),
        mode("setuid", "4755"),
        file("dir/one", "1\n"),
        file("dir/two.txt", "2\n"),
        file("dir/.hidden", "hidden\n"),
        file("dir/sub/three.txt", "3\n"),
        file("dir/sub/deep/four", "4\n"),
        file("dir/left.log", "left\n"),
        file("dir/keep.log", "kept\n"),
        ContextEntry {
            kind: EntryKind::Dir,
            mode: Some("700".to_owned()),
            ..file("dir/empty", "")
        },
        file("more/one", "another 1\n"),
        file("more/sub/five", "5\n"),
        link(EntryKind::Symlink, "link", "a.txt"),
        link(EntryKind::Symlink, "dirlink", "dir"),
        link(EntryKind::Symlink, "links/up", "../a.txt"),
        link(EntryKind::Symlink, "links/broken", "nowhere"),
        file("hard/one", "hard\n"),
        link(EntryKind::Hardlink, "hard/two", "hard/one"),
        bytes("archive.tar", &archive()),
        bytes("archive.tar.gz", &zipped.finish().expect("memory takes it")),
    ]
}

/// All that a user of an image can see of it, line by line; times are each builder's own.
fn lines(image: &Image) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for (path, node) in image.tree().walk() {
        let link = node.link.as_deref().unwrap_or_default();
        let hash = node.hash.as_deref().and_then(|hash| hash.get(..12)).unwrap_or_default();
        let (kind, mode, uid, gid) = (node.kind, node.mode, node.uid, node.gid);
        let text = node.text.as_ref().filter(|text| text.len() < 200);
        let text = text.map(|text| String::from_utf8_lossy(text).into_owned());
        lines.insert(format!("{path} {kind} {mode:o} {uid}:{gid} {link} {hash} {text:?}"));
    }
    lines.insert(format!("layers {}", image.layers.len()));
    for (name, value) in image.config["config"].as_object().into_iter().flatten() {
        // Docker writes what was not asked for, too; to it, null and absent are the same.
        let unset = [json!(null), json!(""), json!({}), json!([]), json!(false)].contains(value);
        if !unset && name != "Image" {
            lines.insert(format!("config {name} {value}"));
        }
    }
    let history = image.config["history"].as_array().cloned().unwrap_or_default();
    for (place, line) in history.iter().enumerate() {
        let empty = line["empty_layer"] == Value::Bool(true);
        let made = line["created_by"].as_str().unwrap_or_default();
        lines.insert(format!("history {place} {} empty:{empty}", timeless(made)));
    }
    lines
}

/// What a line of history has said since 2021: flags of COPY and values of ARG came later, and two took another form.
fn timeless(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    match words.first() {
        Some(&("COPY" | "ADD")) => {
            let kept = words.iter().filter(|word| !word.starts_with("--ch"));
            kept.copied().collect::<Vec<_>>().join(" ")
        }
        Some(&"ARG") => line.split('=').next().unwrap_or_default().to_owned(),
        Some(&word @ ("EXPOSE" | "HEALTHCHECK")) => word.to_owned(),
        _ => line.to_owned(),
    }
}

fn difference(ours: &Image, theirs: &Image) -> Option<String> {
    let (ours, theirs) = (lines(ours), lines(theirs));
    let mut out = String::new();
    for line in theirs.difference(&ours) {
        out.push_str(&format!("  - {line}\n"));
    }
    for line in ours.difference(&theirs) {
        out.push_str(&format!("  + {line}\n"));
    }
    (!out.is_empty()).then_some(out)
}

struct Theirs(Docker);

impl Theirs {
    /// A daemon that has these images of the registry by their names.
    fn start(registry: &Registry, bases: &[&str]) -> Theirs {
        let docker = Docker::start();
        for name in bases {
            let base = format!("{}/library/{name}", registry.host);
            docker.ask(&["pull", &base]).well();
            docker.ask(&["tag", &base, name]).well();
        }
        Theirs(docker)
    }

    fn build(&self, case: &Case, context: &Path, file: &Path, image: &str) -> Finished {
        let mut command = Command::new("/usr/bin/docker");
        command
            .args(["build", "--network=host", "--tag", image, "--file"])
            .arg(file)
            .args(&case.flags)
            .arg(context)
            .env("DOCKER_HOST", self.0.host())
            .env("DOCKER_BUILDKIT", "1");
        Running::start(command).finish(LONG)
    }
}

#[test]
fn dcbuild_makes_what_docker_makes() {
    let registry = Registry::start();
    fill(&registry);
    let theirs = Theirs::start(&registry, &["busybox:golden"]);
    let cases = cases(include_str!("differential/cases.txt"));
    assert!(cases.len() > 90, "{} cases", cases.len());
    compare(&registry, &theirs, &cases, |context| write_context(context, &entries()));
}

/// Builds each case with both.
fn compare(registry: &Registry, theirs: &Theirs, cases: &[Case], write_files: impl Fn(&Path)) {
    let home = Home::new(&registry.as_docker_io());
    let context = home.path("context");
    write_files(&context);
    let mut report = String::new();
    for case in cases {
        let file = home.path(&format!("Dockerfile.{}", case.name));
        std::fs::write(&file, &case.dockerfile).expect("a file is written");
        let name = |whose: &str| format!("{whose}/{}:1", case.name);
        let pushed = |whose: &str| format!("{}/{}", registry.host, name(whose));
        let built = theirs.build(case, &context, &file, &pushed("theirs"));
        let (ours, file) = (pushed("ours"), file.display().to_string());
        let fixed = ["build", "--progress", "plain", "--push", "-t", &ours, "--file", &file];
        let (flags, place) = (case.flags.iter().copied(), context.display().to_string());
        let done = home.run(fixed.into_iter().chain(flags).chain([place.as_str()]));
        let found = if built.status.success() && done.status.success() {
            theirs.0.ask(&["push", &pushed("theirs")]).well();
            difference(&registry.get(&name("ours")), &registry.get(&name("theirs")))
        } else {
            Some(format!("  - {}\n  + {}\n", built.stderr, done.stderr))
        };
        let known = DIFFERENT.iter().find(|(name, _)| *name == case.name);
        match (found, known) {
            (Some(difference), None) => report.push_str(&format!("{}\n{difference}\n", case.name)),
            (None, Some(_)) => {
                report.push_str(&format!("{} is not different any more\n", case.name));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    assert!(report.is_empty(), "- theirs, + ours\n{report}");
}

//! The drawing of the layers, as a table: an arrow between crates that goes up, or along a line, fails the test.
#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// From below: who stands on which line.
const LINES: &[(&str, &[&str])] = &[
    ("words", &["model", "dockerfile", "oci"]),
    ("pure", &["plan", "scheduler", "tree", "progress", "explain", "attest"]),
    ("ground", &["trust"]),
    (
        "effects",
        &[
            "proto", "store", "registry", "sandbox", "snapshot", "layer", "parcel", "context",
            "process", "fetch", "agent", "rego",
        ],
    ),
    ("joined effects", &["remote", "s3", "redis"]),
    ("carriage", &["carry"]),
    ("shells", &["coordinator", "worker", "client"]),
    ("binary", &["dcbuild"]),
];

/// Arrows along a line that are meant.
const MEANT: &[(&str, &str, &str)] = &[
    ("oci", "model", "an image is made of digests and platforms"),
    ("plan", "tree", "one reading of .dockerignore says what is copied and what is checked"),
    ("snapshot", "layer", "a snapshot is made of layers and becomes one"),
    ("bench", "tests", "measuring takes the same registry, base image and cluster as testing"),
    ("tests", "testkit", "both start Redis in the same way"),
    ("s3", "tests", "a server of S3 that fails as told serves both kinds of tests"),
    ("carry", "tests", "a real registry serves both kinds of tests"),
    ("testkit", "model", "fakes speak the words"),
    ("testkit", "store", "fakes implement its traits"),
];

/// Stand beside the drawing: nobody may need them to run.
const BESIDE: &[&str] = &["testkit", "tests", "xtask", "bench"];

/// What the pure crates and the words may not know: clocks, networks, chance.
const IMPURE: &[&str] = &["tokio", "rand", "reqwest", "tonic", "hyper", "rustix", "nix", "libc"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn short(package: &str) -> &str {
    package.strip_prefix("dcbuild-").unwrap_or(package)
}

fn line(package: &str) -> Option<usize> {
    LINES.iter().position(|(_, packages)| packages.contains(&package))
}

struct Package {
    name: String,
    needs: Vec<String>,
    tests_with: Vec<String>,
}

fn names(manifest: &toml::Value, table: &str) -> Vec<String> {
    let own = manifest.get(table);
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let targets = targets.into_iter().flatten().filter_map(|(_, target)| target.get(table));
    let tables = own.into_iter().chain(targets).filter_map(toml::Value::as_table);
    tables.flat_map(|table| table.keys().cloned()).collect()
}

fn packages() -> BTreeMap<String, Package> {
    let folders = ["cli", "coordinator", "worker", "proto", "tests", "xtask", "xtask/bench"];
    let folders = folders.map(PathBuf::from);
    let crates = std::fs::read_dir(root().join("crates")).unwrap();
    let crates = crates.map(|entry| Path::new("crates").join(entry.unwrap().file_name()));
    let manifests = folders.into_iter().chain(crates).map(|folder| {
        let text = std::fs::read_to_string(root().join(&folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Value = toml::from_str(&text).unwrap();
        let name = short(manifest["package"]["name"].as_str().unwrap()).to_owned();
        let folder = folder.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name == folder || (name == "dcbuild" && folder == "cli"), "{folder} holds {name}");
        let mut needs = names(&manifest, "dependencies");
        needs.extend(names(&manifest, "build-dependencies"));
        let tests_with = names(&manifest, "dev-dependencies");
        (name.clone(), Package { name, needs, tests_with })
    });
    manifests.collect()
}

/// Why the arrow may not be; none where it may.
fn objection(from: &str, to: &str) -> Option<String> {
    if MEANT.iter().any(|(one, other, _)| (*one, *other) == (from, to)) {
        return None;
    }
    if BESIDE.contains(&to) {
        return Some(format!("{from} needs {to}, which stands beside the drawing"));
    }
    if BESIDE.contains(&from) {
        return Some(format!("{from} needs {to}, and no such arrow is meant"));
    }
    match (line(from), line(to)) {
        (None, _) => Some(format!("{from} has no line in the drawing")),
        (_, None) => Some(format!("{to} has no line in the drawing")),
        (Some(above), Some(below)) => {
            (below >= above).then(|| format!("{from} needs {to}: the arrow does not go down"))
        }
    }
}

#[test]
fn every_arrow_goes_down() {
    let packages = packages();
    // A crate of the registry may have the name that one of ours has after the dash.
    let is_ours = |name: &str| name != short(name) || name == "dcbuild" || name == "xtask";
    let ours = |name: &String| {
        (is_ours(name) && packages.contains_key(short(name))).then(|| short(name).to_owned())
    };
    let mut objections = Vec::new();
    for package in packages.values() {
        let needs = package.needs.iter().filter_map(ours);
        objections.extend(needs.filter_map(|to| objection(&package.name, &to)));
        let tests_with = package.tests_with.iter().filter_map(ours).filter(|to| to != "testkit");
        objections.extend(tests_with.filter_map(|to| objection(&package.name, &to)));
    }
    assert!(objections.is_empty(), "{objections:#?}");
}

#[test]
fn every_crate_has_a_line_and_every_line_its_crates() {
    let packages = packages();
    for name in packages.keys() {
        assert!(line(name).is_some() || BESIDE.contains(&name.as_str()), "{name} has no line");
    }
    let drawn = LINES.iter().flat_map(|(_, packages)| packages.iter());
    for name in drawn.chain(BESIDE) {
        assert!(packages.contains_key(*name), "there is no crate {name}");
    }
}

#[test]
fn the_lower_lines_stay_pure() {
    for package in packages().values().filter(|it| line(&it.name).is_some_and(|line| line < 2)) {
        let impure = package.needs.iter().find(|need| IMPURE.contains(&need.as_str()));
        assert_eq!(impure, None, "{} is to be pure", package.name);
    }
}

#[test]
fn arrows_that_go_up_are_seen() {
    assert!(objection("scheduler", "proto").is_some());
    assert!(objection("worker", "coordinator").is_some());
    assert!(objection("client", "testkit").is_some());
    assert!(objection("plan", "oci").is_none());
}

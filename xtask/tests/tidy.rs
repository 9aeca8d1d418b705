//! What no lint knows: how files begin, how long they may be, and who may name generated code.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::{Path, PathBuf};

/// No file is longer.
const LINES_MAX: usize = 800;

/// How many packages of others the lock file may hold; more need an argument. S3 by the makers' own client takes about sixty, and a
/// server of S3 for the tests as many again. Policies in Rego take six, the sign-in that a profile of AWS may name four.
const LOCKED_MAX: usize = 420;

const GENERATED: &str = "proto/src/generated";

/// The shells: only their `rpc` modules may name the wire's types.
const SHELLS: &[&str] = &["coordinator/src", "worker/src", "crates/client/src"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file of the workspace but the generated ones: its path from the root, and its text.
fn sources() -> Vec<(String, String)> {
    let is_ours = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().to_string_lossy();
        let made = entry.depth() == 1 && (name == "target" || name.starts_with('.'));
        !made && !entry.path().ends_with("fuzz/target")
    };
    let files = walkdir::WalkDir::new(root()).into_iter().filter_entry(is_ours);
    let files = files.map(|entry| entry.unwrap().into_path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            (path, text)
        })
        .filter(|(path, _)| !path.starts_with(GENERATED))
        .collect()
}

/// Fails with the paths of the files that the check objects to.
fn check(what: &str, objects: impl Fn(&str, &str) -> bool) {
    let sources = sources();
    assert!(sources.len() > 100, "only {} files were found", sources.len());
    let bad = sources.iter().filter(|(path, text)| objects(path, text)).map(|(path, _)| path);
    let bad: Vec<&String> = bad.collect();
    assert!(bad.is_empty(), "{what}: {bad:#?}");
}

#[test]
fn every_module_says_what_it_is_for() {
    check("no //! at the top", |path, text| {
        !path.ends_with("/tests.rs") && !text.starts_with("//! ")
    });
}

#[test]
fn no_file_is_too_long() {
    check("too long", |_, text| text.lines().count() > LINES_MAX);
}

#[test]
fn no_test_is_ignored() {
    let attribute = concat!("#[", "ignore");
    check("ignored tests", |_, text| text.contains(attribute));
}

#[test]
fn only_rpc_names_the_wire() {
    check("names pb", |path, text| {
        let in_shell = SHELLS.iter().any(|shell| path.starts_with(shell));
        let is_rpc = path.ends_with("/rpc.rs") || path.contains("/rpc/");
        let names = text.contains("pb::") || text.contains("dcbuild_proto::pb");
        in_shell && !is_rpc && names
    });
}

#[test]
fn the_lock_file_has_a_ceiling() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let count = lock.lines().filter(|line| line.starts_with("source = ")).count();
    assert!(count <= LOCKED_MAX, "{count} packages are locked; {LOCKED_MAX} may be");
}

//! Dockerfiles and ignore files in real folders.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType};

use super::*;

/// What was found, by its first lines, or the error.
fn found(folder: &Path, file: Option<&str>) -> String {
    let context = Context::open(&folder.join("ctx"), 0).unwrap();
    let origins = Origins { context: &context, file: file.map(Path::new), working: folder };
    let text = |source: &Source| String::from_utf8(source.bytes.clone()).unwrap();
    match find(origins) {
        Ok(Found { dockerfile, ignore }) => {
            format!("{} {}", text(&dockerfile), ignore.as_ref().map_or("-".into(), text))
        }
        Err(FindError::NotFound { .. }) => "not found".into(),
        Err(FindError::Special { .. }) => "special".into(),
        Err(FindError::Read { .. }) => "unreadable".into(),
        Err(FindError::TooLarge { .. }) => "too large".into(),
    }
}

fn folder(files: &[&str]) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("ctx")).unwrap();
    for name in files {
        let path = temp.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    temp
}

#[test]
fn the_named_file_or_the_usual_one_is_found() {
    for (files, named, want) in [
        (&["ctx/Dockerfile"][..], None, "ctx/Dockerfile -"),
        (&["ctx/dockerfile"], None, "ctx/dockerfile -"),
        (&[], None, "not found"),
        (&["ctx/Dockerfile", "ctx/.dockerignore"], None, "ctx/Dockerfile ctx/.dockerignore"),
        (
            &["ctx/Dockerfile", "ctx/.dockerignore", "ctx/Dockerfile.dockerignore"],
            None,
            "ctx/Dockerfile ctx/Dockerfile.dockerignore",
        ),
        (
            &["ctx/d/My.df", "ctx/.dockerignore", "ctx/d/My.df.dockerignore"],
            Some("ctx/d/My.df"),
            "ctx/d/My.df ctx/d/My.df.dockerignore",
        ),
        (
            &["ctx/d/My.df", "ctx/.dockerignore"],
            Some("ctx/d/My.df"),
            "ctx/d/My.df ctx/.dockerignore",
        ),
        (
            &["else/Dockerfile", "ctx/.dockerignore", "else/.dockerignore"],
            Some("else/Dockerfile"),
            "else/Dockerfile ctx/.dockerignore",
        ),
        (&["ctx/Dockerfile"], Some("Dockerfile"), "not found"),
        (&["ctx/Dockerfile/x"], None, "special"),
        (&["ctx/Dockerfile"], Some("ctx"), "special"),
        (&["ctx/Dockerfile"], Some("ctx/Dockerfile/x"), "not found"),
        (&["ctx/Dockerfile", "ctx/.dockerignore/x"], None, "special"),
    ] {
        assert_eq!(found(folder(files).path(), named), want, "{files:?} {named:?}");
    }
}

#[test]
fn links_may_not_lead_out() {
    let temp = folder(&["ctx/real", "outside", "ctx/d/x"]);
    let ctx = temp.path().join("ctx");
    for (target, want) in [
        ("real", "ctx/real -"),
        ("d/../real", "ctx/real -"),
        ("../outside", "not found"),
        ("/etc/passwd", "not found"),
        ("Dockerfile", "not found"),
        ("none", "not found"),
    ] {
        symlink(target, ctx.join("Dockerfile")).unwrap();
        assert_eq!(found(temp.path(), None), want, "{target}");
        fs::remove_file(ctx.join("Dockerfile")).unwrap();
    }
    symlink("../real", ctx.join("d/Dockerfile")).unwrap();
    assert_eq!(found(temp.path(), Some("ctx/d/Dockerfile")), "ctx/real -");
}

#[test]
fn special_and_huge_files_are_refused() {
    let temp = folder(&[]);
    let path = temp.path().join("ctx/Dockerfile");
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    assert_eq!(found(temp.path(), None), "special");
    fs::remove_file(&path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(found(temp.path(), None), "special");
    fs::remove_file(&path).unwrap();
    let file = fs::File::create(&path).unwrap();
    file.set_len(4 << 20).unwrap();
    assert!(found(temp.path(), None).starts_with('\0'));
    file.set_len((4 << 20) + 1).unwrap();
    assert_eq!(found(temp.path(), None), "too large");
    file.set_len(0).unwrap();
    fs::File::create(temp.path().join("ctx/.dockerignore")).unwrap().set_len(2 << 20).unwrap();
    assert_eq!(found(temp.path(), None), "too large");
}
